"""Kept networks as files that answer without JAX."""
