"""Bundle + slides -> embeddings, without torch: what `embed.pyz` carries into a hospital."""
