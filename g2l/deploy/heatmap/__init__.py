"""Pictures and QuPath annotations of what a slide's embeddings say."""
