"""File -> pixels, in physical units. Nothing in this folder imports torch: a hospital's runtime uses it as it is."""
