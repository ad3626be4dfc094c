"""Rows -> embeddings on disk, computed once."""
