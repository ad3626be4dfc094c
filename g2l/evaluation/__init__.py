"""Embeddings -> numbers -> report."""
