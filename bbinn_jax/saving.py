"""A posterior in one file, to be used in another process, on another machine, in another year.

The format is safetensors: arrays under their names and text beside them, no code. A SHA-256 of
everything lies in the text, so that a damaged file is refused. It guards against damage and not
against forgery: whoever changes a file can change the SHA-256 as well.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.flax

from bbinn_jax._checks import PyTree, check_floating, in_one_line, path_name

_FORMAT = "bbinn_jax posterior 1"
_DTYPES = "bool bfloat16 float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64".split()


class Posterior(NamedTuple):
    """All that it takes to predict.

    Attributes:
        natural: lambda, ``None`` where a parameter is real, as `partition` gives it.
        real: the other parameters, ``None`` where one is binary.
        batch_stats: statistics of batch norms, those of one network or as kept in training.
        config: what tells how to build the network again; whatever JSON can say.
    """

    natural: PyTree
    real: PyTree = None
    batch_stats: PyTree = None
    config: Any = None


def save_posterior(path: str | Path, posterior: Posterior) -> None:
    """Writes a posterior into a file, all of it or nothing.

    Args:
        path: of the file; one that is there is replaced.
        posterior: its trees may be any pytrees of arrays, see `load_posterior`.

    Raises:
        ValueError: two leaves of one name, no weight, or a leaf that holds a NaN. (An infinite natural parameter
            is a certain weight.)
        TypeError: a posterior that is none, natural parameters that are not floating-point, a dtype that would not
            come back (such as float64 without jax_enable_x64), or a config that JSON cannot say.
        OSError: the file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "coin.safetensors"
    >>> save_posterior(path, Posterior({"coin": jnp.array([0.5, -0.5])}, config={"sides": 2}))
    >>> loaded = load_posterior(path)
    >>> print(loaded.natural["coin"], loaded.config)
    [ 0.5 -0.5] {'sides': 2}
    """
    if not isinstance(posterior, Posterior):
        raise TypeError(f"posterior must be a Posterior, as Posterior(natural, real), got {type(posterior).__name__}")
    check_floating("natural", posterior.natural)
    if not jax.tree.leaves(posterior.natural):
        raise ValueError(f"natural must have at least one weight, got {posterior.natural!r}")
    leaves: dict[str, jax.Array] = {}
    for name, leaf in _named_leaves(posterior):
        if name in leaves:
            raise ValueError(f"posterior must have leaves of different names, got {name!r} twice")
        if isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct):
            raise TypeError(f"posterior must have leaves with values, got {type(leaf).__name__} at {name!r}")
        dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        if str(dtype) in _DTYPES:
            array = np.array(leaf, order="C")  # safetensors writes the memory as it lies, and would call it row-major
            leaves[name] = jnp.asarray(array)
        if name not in leaves or leaves[name].dtype != dtype:
            raise TypeError(f"posterior must have leaves that JAX and safetensors can keep, got {dtype} at {name!r}")
        if jnp.issubdtype(dtype, jnp.floating) and np.isnan(array).any():
            raise ValueError(f"posterior must have leaves without NaN, got one at {name!r}")
    try:
        config = json.dumps(posterior.config)
    except (ValueError, RecursionError) as error:  # a loop, too deep, too long an integer: it may have no repr
        raise TypeError(f"config must be what JSON can say, got {type(posterior.config).__name__}: {error}") from None
    except TypeError as error:
        raise TypeError(f"config must be what JSON can say, got {in_one_line(posterior.config)}") from error
    # Whether the names of the leaves tell the trees. They do not tell lists, boxes, integers or names with "/".
    of_dicts = _of_dicts(leaves)
    is_of_dicts = (
        of_dicts is not None
        and all(
            not jax.tree.leaves(tree) or jax.tree.structure(tree) == jax.tree.structure(again)  # type: ignore[operator]
            for tree, again in zip(posterior[:3], of_dicts[:3], strict=True)
        )
    )
    text = {"format": _FORMAT, "config": config, "nested_dicts": json.dumps(is_of_dicts)}
    content = _signed(safetensors.flax.save(leaves, text))
    path = _no_folder(path)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load_posterior(path: str | Path, like: Posterior | None = None) -> Posterior:
    """Reads a posterior that `save_posterior` has written, equal to the bit.

    Args:
        path: of the file.
        like: a posterior of the same trees, for their structure; its leaves may be shapes, as `jax.eval_shape`
            gives them. Without it they come back as nested dicts, as Flax linen has them.

    Returns:
        The posterior.

    Raises:
        OSError: the file cannot be read.
        ValueError: a file that is damaged or no posterior, one with 64 bits while jax_enable_x64 is off, leaves
            that are not those of like (names, shapes, dtypes), or trees that are no nested dicts without it.
        TypeError: a like that is no posterior.

    >>> import tempfile
    >>> path, posterior = Path(tempfile.mkdtemp()) / "coins.safetensors", Posterior([jnp.array([0.5, -0.5])])
    >>> save_posterior(path, posterior)
    >>> print(load_posterior(path, like=posterior).natural)  # a list, which the file alone does not tell
    [Array([ 0.5, -0.5], dtype=float32)]
    """
    if not isinstance(like, Posterior | None):
        raise TypeError(f"like must be a Posterior, as Posterior(natural, real), got {type(like).__name__}")
    content = _no_folder(path).read_bytes()  # first: it says plainly that there is no such file
    try:
        with safetensors.safe_open(path, framework="flax") as file:
            text = file.metadata() or {}
            leaves = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        header = _header(content)
    except Exception as error:  # the parser raises whatever it likes
        raise ValueError(f"{path} is damaged or no safetensors file: {str(error)[:200]}") from error
    if text.get("format") != _FORMAT:
        raise ValueError(f"{path} must be a posterior in the format {_FORMAT!r}, got {in_one_line(text.get('format'))}")
    if text.get("sha256") != _digest(content):
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one it was written with")
    for name, entry in header.items():
        if name in leaves and str(entry.get("dtype")).endswith("64") and leaves[name].dtype.itemsize < 8:
            raise ValueError(f"{path} has 64 bits in {name!r}: set jax_enable_x64 to read it")
    try:
        config = json.loads(text["config"])
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} must have a config that is JSON, got {type(error).__name__}: {error}") from None
    natural = [leaf for name, leaf in leaves.items() if name.partition("/")[0] == "natural"]
    others = {name.partition("/")[0] for name in leaves} - {"natural", "real", "batch_stats"}
    if others or not natural or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in natural):
        raise ValueError(
            f"{path} must hold floating-point natural parameters, and no trees but natural, real and batch_stats, "
            f"got leaves {in_one_line(sorted(leaves))}"
        )
    if like is None:
        posterior = _of_dicts(leaves) if text.get("nested_dicts", "true") == "true" else None
        if posterior is None:
            raise ValueError(f"{path} holds trees that are no nested dicts: give like to load_posterior")
        return posterior._replace(config=config)
    wanted_leaves = {
        name: leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.asarray(leaf)
        for name, leaf in _named_leaves(like)
    }
    structure: Any = jax.tree.structure(like._replace(config=None))
    if structure.num_leaves != len(wanted_leaves):
        raise ValueError(f"like must have leaves of different names to read {path}, got some name twice")
    expected = {name: f"{leaf.dtype}{leaf.shape}" for name, leaf in wanted_leaves.items()}
    found = {name: f"{leaf.dtype}{leaf.shape}" for name, leaf in leaves.items()}
    for name in sorted(expected | found):
        if (there := found.get(name, "no leaf")) != (wanted := expected.get(name, "no leaf")):
            raise ValueError(f"like must have the leaves of {path}: it has {wanted} at {name!r}, the file {there}")
    return jax.tree.unflatten(structure, [leaves[name] for name in wanted_leaves])._replace(config=config)


def _no_folder(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"path must name a file, got the folder {path}")
    return path


def _named_leaves(posterior: Posterior) -> list[tuple[str, Any]]:
    paths_and_leaves = jax.tree_util.tree_leaves_with_path(posterior._replace(config=None))
    return [(path_name(path), leaf) for path, leaf in paths_and_leaves]


def _of_dicts(leaves: dict[str, jax.Array]) -> Posterior | None:
    """The posterior whose trees are nested dicts with leaves of these names, or None if there is none."""
    try:
        return Posterior(**_nested(leaves))
    except TypeError:
        return None


def _nested(leaves: dict[str, jax.Array]) -> dict[str, PyTree]:
    """The trees as dicts; natural and real have ``None`` where the other has a leaf."""
    trees: dict[str, Any] = {}
    for name, leaf in leaves.items():
        kind, *path = name.split("/")
        kinds = ("natural", "real") if kind in ("natural", "real") else (kind,)
        for other in kinds:
            node, key = trees, other
            for part in path:
                node, key = node.setdefault(key, {}), part
                if not isinstance(node, dict):
                    raise TypeError(f"a leaf and a tree at {name}")
            if isinstance(node.get(key), dict):
                raise TypeError(f"a leaf and a tree at {name}")
            node[key] = leaf if other == kind else node.get(key)
    return trees


def _header(content: bytes) -> dict[str, Any]:
    """The header of a safetensors file: its length in 8 bytes, then JSON in which no name stands twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name stands twice in the header")
        return dict(pairs)

    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")], object_pairs_hook=once)


def _signed(content: bytes) -> bytes:
    """The same file with its SHA-256, and its header in one order: safetensors has another in each process."""
    entries = _header(content)
    entries["__metadata__"]["sha256"] = _digest(content)
    header = json.dumps(entries, sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + int.from_bytes(content[:8], "little") :]


def _digest(content: bytes) -> str:
    """SHA-256 of a safetensors file without the one that lies in it."""
    header = _header(content)
    header["__metadata__"].pop("sha256", None)
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    digest.update(content[8 + int.from_bytes(content[:8], "little") :])
    return digest.hexdigest()
