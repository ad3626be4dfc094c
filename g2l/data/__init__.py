"""Pixels -> batches."""
