"""Where a patch lies, as a function of its number."""
