"""Networks that answer where no JAX is installed, proved against JAX before their file is in its place.

Needs the extra ``export``; nothing else in the library imports this package.
"""
