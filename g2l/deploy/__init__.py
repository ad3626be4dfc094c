"""Student -> bundle -> slides in a hospital."""
