"""A binary transformer that predicts the next character of a text."""
