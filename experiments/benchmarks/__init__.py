"""How long the library takes."""
