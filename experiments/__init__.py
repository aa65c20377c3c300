"""Experiments with bbinn_jax: config in, a run folder out."""
