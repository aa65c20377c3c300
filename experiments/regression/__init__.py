"""A curve, and where it is unknown."""
