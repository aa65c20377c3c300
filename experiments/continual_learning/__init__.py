"""One task after the other."""
