"""Embeddings -> predictions on a test part that chose nothing."""
