"""A network trained on images."""
