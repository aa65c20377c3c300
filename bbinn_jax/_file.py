"""Records of trees of arrays, each in one file: written as a whole or not at all, and refused when damaged.

The format is safetensors: arrays under their names and text beside them, no code. A SHA-256 of
everything lies in the text, so that a damaged file is refused. It guards against damage and not
against forgery: whoever changes a file can change the SHA-256 as well.

A record is a NamedTuple of trees, and last its config. The first two trees have ``None`` where the other
has a leaf, as `partition` gives them.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.flax

from bbinn_jax._checks import in_one_line, path_name

Record = TypeVar("Record", bound=tuple[Any, ...])

_DTYPES = "bool bfloat16 float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64".split()


def write(path: str | Path, record: Any, name: str, text: dict[str, str]) -> None:
    """Writes a record, called by its name in errors, and text beside it, such as the format."""
    leaves: dict[str, jax.Array] = {}
    for leaf_name, leaf in _named_leaves(record):
        if leaf_name in leaves:
            raise ValueError(f"{name} must have leaves of different names, got {leaf_name!r} twice")
        leaves[leaf_name] = _storable(leaf, leaf_name, name)
    try:
        config = json.dumps(record.config)
    except (ValueError, RecursionError) as error:  # a loop, too deep, too long an integer: it may have no repr
        raise TypeError(f"config must be what JSON can say, got {type(record.config).__name__}: {error}") from None
    except TypeError as error:
        raise TypeError(f"config must be what JSON can say, got {in_one_line(record.config)}") from error
    # Whether the names of the leaves tell the trees. They do not tell lists, boxes, integers or names with "/".
    of_dicts = _of_dicts(type(record), leaves)
    is_of_dicts = (
        of_dicts is not None
        and all(
            not jax.tree.leaves(tree) or jax.tree.structure(tree) == jax.tree.structure(again)  # type: ignore[operator]
            for tree, again in zip(record[:-1], of_dicts[:-1], strict=True)
        )
    )
    text = {"config": config, "nested_dicts": json.dumps(is_of_dicts), **text}
    content = _signed(safetensors.flax.save(leaves, text))
    with unfinished(path) as place:
        place.write_bytes(content)


@contextlib.contextmanager
def unfinished(path: str | Path) -> Iterator[Path]:
    """A place for a file beside path, which takes the place of path at the end, and is gone where that fails.

    Raises:
        IsADirectoryError: path is a folder.
        FileNotFoundError: there is no folder for it.
    """
    path = _no_folder(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path must be in a folder that is there, got {path}")
    place = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        yield place
        place.replace(path)
    finally:
        place.unlink(missing_ok=True)


def read(
    path: str | Path, kind: type[Record], name: str, format: str, like: Record | None
) -> tuple[Record, dict[str, str]]:
    """A record of this kind and the text beside it, of a file that is whole and in this format."""
    content = _no_folder(path).read_bytes()  # first: it says plainly that there is no such file
    try:
        with safetensors.safe_open(path, framework="flax") as file:
            text = file.metadata() or {}
            leaves = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        header = _header(content)
    except Exception as error:  # the parser raises whatever it likes
        raise ValueError(f"{path} is damaged or no safetensors file: {str(error)[:200]}") from error
    if text.get("format") != format:
        raise ValueError(f"{path} must be a {name} in the format {format!r}, got {in_one_line(text.get('format'))}")
    if text.get("sha256") != _digest(content):
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one it was written with")
    for leaf_name, entry in header.items():
        if leaf_name in leaves and str(entry.get("dtype")).endswith("64") and leaves[leaf_name].dtype.itemsize < 8:
            raise ValueError(f"{path} has 64 bits in {leaf_name!r}: set jax_enable_x64 to read it")
    try:
        config = json.loads(text["config"])
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} must have a config that is JSON, got {type(error).__name__}: {error}") from None
    trees = kind._fields[:-1]  # type: ignore[attr-defined]
    found_trees = {leaf_name.partition("/")[0] for leaf_name in leaves}
    if trees[0] not in found_trees or not found_trees <= set(trees):
        raise ValueError(
            f"{path} must hold {trees[0]}, and no trees but {trees}, got leaves {in_one_line(sorted(leaves))}"
        )
    if like is None:
        record: Any = _of_dicts(kind, leaves) if text.get("nested_dicts", "true") == "true" else None
        if record is None:
            raise ValueError(f"{path} holds trees that are no nested dicts: give like to load it")
    else:
        record = _like(path, like, leaves)
    return record._replace(config=config), text


def _storable(leaf: Any, leaf_name: str, name: str) -> jax.Array:
    """A leaf as safetensors keeps it, which comes back as it is."""
    if isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct):
        raise TypeError(f"{name} must have leaves with values, got {type(leaf).__name__} at {leaf_name!r}")
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    # safetensors writes the memory as it lies, and would call it row-major
    array = np.array(leaf, order="C") if str(dtype) in _DTYPES else None
    if array is None or (kept := jnp.asarray(array)).dtype != dtype:
        raise TypeError(f"{name} must have leaves that JAX and safetensors can keep, got {dtype} at {leaf_name!r}")
    if jnp.issubdtype(dtype, jnp.floating) and np.isnan(array).any():
        raise ValueError(f"{name} must have leaves without NaN, got one at {leaf_name!r}")
    return kept


def _like(path: str | Path, like: Any, leaves: dict[str, jax.Array]) -> Any:
    """The leaves in the trees of like, whose names, shapes and dtypes they must have."""
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
    return jax.tree.unflatten(structure, [leaves[name] for name in wanted_leaves])


def _no_folder(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"path must name a file, got the folder {path}")
    return path


def _named_leaves(record: Any) -> list[tuple[str, Any]]:
    paths_and_leaves = jax.tree_util.tree_leaves_with_path(record._replace(config=None))
    return [(path_name(path), leaf) for path, leaf in paths_and_leaves]


def _of_dicts(kind: type, leaves: dict[str, jax.Array]) -> Any:
    """The record whose trees are nested dicts with leaves of these names, or None if there is none."""
    halves = kind._fields[:2]  # type: ignore[attr-defined]  # each has None where the other has a leaf
    trees: dict[str, Any] = {}
    for name, leaf in leaves.items():
        tree, *path = name.split("/")
        for other in halves if tree in halves else (tree,):
            node, key = trees, other
            for part in path:
                node, key = node.setdefault(key, {}), part
                if not isinstance(node, dict):
                    return None  # a leaf and a tree at one name
            if isinstance(node.get(key), dict):
                return None
            node[key] = leaf if other == tree else node.get(key)
    return kind(**trees)


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
