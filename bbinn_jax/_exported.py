"""Types of results that a program may return which `jax.export` writes into a file."""

from typing import TypeVar

import jax
import jax.export

Kind = TypeVar("Kind", bound=type)


def exported(kind: Kind) -> Kind:
    """A class decorator: the NamedTuple is known to `jax.export`, by the name of the class."""
    jax.export.register_namedtuple_serialization(kind, serialized_name=f"bbinn_jax.{kind.__name__}")
    return kind
