"""What `g2l index` does."""
