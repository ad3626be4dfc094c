"""Embeddings of frozen networks on disk, for patches that repeat."""
