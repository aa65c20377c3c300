"""Probabilities and their labels: checked, of which precision, and what the logarithm of 0 is."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from bbinn_jax._checks import check_number
from bbinn_jax._dtypes import at_least_float32

Metric = TypeVar("Metric", bound=Callable[..., Any])


def in_double(metric: Metric) -> Metric:
    """The metric, computed in float64 and int64 wherever its arrays have values, and given back in JAX's own width.

    In float32 sums over examples stop growing, and scores that differ become ties. NumPy makes the arrays: JAX
    would round those of NumPy first, and take the smallest floats for 0.
    """

    def wide(x: Any) -> Any:
        if isinstance(x, tuple) and hasattr(x, "probabilities"):
            raise TypeError("probabilities must be an array, got a Prediction: give prediction.probabilities")
        if isinstance(x, str) or np.ndim(x) == 0:
            return x
        x = np.asarray(x)
        if x.dtype.kind in "OSUMm":
            raise TypeError(f"arrays must hold numbers, got {x.dtype}")
        if jnp.issubdtype(x.dtype, jnp.floating):
            return x.astype(np.float64, copy=False)
        fits = x.dtype.kind == "i" or (x.dtype.kind == "u" and x.max(initial=0) < 2**63)
        return x.astype(np.int64, copy=False) if fits else x

    def narrow(value: jax.Array) -> jax.Array:
        x = np.asarray(value)
        return jnp.asarray(x if jax.config.jax_enable_x64 else x.astype(f"{x.dtype.kind}4"))  # type: ignore[attr-defined]

    @wraps(metric)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            if any(isinstance(x, jax.core.Tracer) for x in (*args, *kwargs.values())):
                return metric(*args, **kwargs)
            wider, named = [wide(x) for x in args], {name: wide(x) for name, x in kwargs.items()}
            with jax.enable_x64(True):
                try:
                    result = metric(*wider, **named)
                except TypeError:
                    result = None
                if result is None:  # a dtype is refused: once more, so that the message has the one that was given
                    result = metric(*args, **kwargs)
        return jax.tree.map(narrow, result)

    return wrapped  # type: ignore[return-value]


def check_probabilities(probabilities: jax.Array) -> jax.Array:
    """They as an array in float32 or wider; raises ValueError if they are none."""
    probabilities = jnp.asarray(probabilities)
    if probabilities.ndim != 2 or probabilities.size == 0:
        raise ValueError(f"probabilities must be [batch, class] and not empty, got shape {probabilities.shape}")
    if not jnp.issubdtype(probabilities.dtype, jnp.floating):
        raise TypeError(f"probabilities must be floating-point, got {probabilities.dtype}")
    probabilities = probabilities.astype(at_least_float32(probabilities.dtype))
    error = jnp.max(jnp.abs(jnp.sum(probabilities, axis=1) - 1))
    if not isinstance(error, jax.core.Tracer) and not error < 0.05:  # bfloat16 is off by 0.02
        raise ValueError(f"probabilities must have rows that sum to 1, got one that is off by {float(error):.3g}")
    lowest = jnp.min(probabilities)
    if not isinstance(lowest, jax.core.Tracer) and lowest < -1e-3:
        raise ValueError(f"probabilities must be at least 0, got {float(lowest):.3g}")
    return probabilities


def check_labels(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """They as an array; raises ValueError or TypeError if they do not fit the probabilities."""
    labels = jnp.asarray(labels)
    num_examples, num_classes = probabilities.shape
    if labels.shape != (num_examples,):
        raise ValueError(f"labels must be [batch={num_examples}], got shape {labels.shape}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if not isinstance(labels, jax.core.Tracer):
        values = np.asarray(labels)  # of NumPy: beside a traced argument jax.numpy would trace them too
        highest, lowest = int(values.max()), int(values.min())
        check_number("labels", highest, f"< {num_classes}, the number of classes", lambda v: v < num_classes)
        check_number("labels", lowest, ">= 0", lambda v: v >= 0)
    return labels.astype(int)  # in fewer bits it could not be told from all classes


def log(probabilities: jax.Array) -> jax.Array:
    """The logarithm, in which 0 counts as the smallest normal number of float32."""
    return jnp.log(jnp.where(probabilities > 0, probabilities, jnp.finfo(jnp.float32).tiny))
