"""Networks that answer where no JAX is installed, proved against JAX before their file is in its place.

Needs the extra ``export``; nothing else in the library imports this package.
"""

from bbinn_jax.export.c import c as c
from bbinn_jax.export.onnx import onnx as onnx
