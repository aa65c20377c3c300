"""Checkpoints of a run: the folder ``checkpoints/EPOCH``, which is whole or is not there.

Orbax writes a checkpoint under another name and renames it when it is complete, so a
process may be killed at any moment. A checkpoint holds every leaf of the state under
its path, the time spent so far, and a digest of these and of the run's config: what
is damaged, or of another run, is refused.
"""

import hashlib
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cli import first_line

State = TypeVar("State")


def save(folder: Path, epoch: int, state: Any, seconds: float, identity: str) -> None:
    """Writes the checkpoint of an epoch, then removes older ones.

    Args:
        folder: of the run.
        epoch: how many are done.
        state: any pytree of arrays.
        seconds: spent on them.
        identity: what tells this run from others, as text.

    Raises:
        OSError: it cannot be written; the one before is kept.
    """
    leaves = {name: np.asarray(leaf) for name, leaf in _named_leaves(state)}
    _clean(folder, keep=latest(folder))  # what a killed process left half written
    content = {"state": leaves, "seconds": np.float64(seconds), "digest": _digest(leaves, seconds, identity)}
    path = (_parent(folder) / str(epoch)).resolve()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # orbax's advice to its own developers
            _checkpointer().save(path, content)
    except Exception as error:  # orbax and tensorstore raise whatever they like
        raise OSError(f"checkpoint {path} cannot be written: {first_line(error)}") from error
    _clean(folder, keep=epoch)


def latest(folder: Path) -> int | None:
    """The epoch of the newest checkpoint in a run folder; None where there is none."""
    epochs = [int(path.name) for path in _parent(folder).glob("*") if path.name.isdecimal()]
    return max(epochs, default=None)


def restore(folder: Path, epoch: int, like: State, identity: str) -> tuple[State, float]:
    """Reads a checkpoint: the state and the seconds spent on it.

    Args:
        folder: of the run.
        epoch: of the checkpoint.
        like: a state of the same run, for its structure.
        identity: as given to `save`.

    Raises:
        ValueError: a checkpoint that is damaged, or that is not of this run.
    """
    path = (_parent(folder) / str(epoch)).resolve()
    advice = "nothing was changed; choose another --out, or start again with --overwrite"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = _checkpointer().restore(path)
        found, seconds = dict(content["state"]), float(content["seconds"])
        digest = np.asarray(content["digest"])
    except Exception as error:  # orbax and tensorstore raise whatever they like
        raise ValueError(f"checkpoint {path} is damaged: {first_line(error)}; {advice}") from error
    expected = {name: f"{leaf.dtype}{leaf.shape}" for name, leaf in _named_leaves(like)}
    actual = {name: f"{leaf.dtype}{leaf.shape}" for name, leaf in found.items()}
    for name in sorted(expected | actual):
        if (there := actual.get(name, "no leaf")) != (here := expected.get(name, "no leaf")):
            raise ValueError(
                f"checkpoint {path} is of another run: it has {there} at {name!r} and this one {here}; {advice}"
            )
    leaves = {name: np.asarray(found[name]) for name in expected}
    if not np.array_equal(digest, _digest(leaves, seconds, identity)):
        raise ValueError(f"checkpoint {path} is damaged or of another run: its digest is wrong; {advice}")
    # Copies: on a CPU JAX would go on using the memory of the NumPy arrays, and training gives its state away.
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.array(x, copy=True) for x in leaves.values()]), seconds


def remove(folder: Path) -> None:
    """Removes all checkpoints of a run."""
    if _parent(folder).exists():
        trash = folder / "checkpoints.removed"
        shutil.rmtree(trash, ignore_errors=True)
        _parent(folder).rename(trash)  # at once, so that no half of a checkpoint is found
        shutil.rmtree(trash)


def _clean(folder: Path, keep: int | None) -> None:
    for path in _parent(folder).glob("*"):
        if path.name != str(keep):
            shutil.rmtree(path, ignore_errors=True)


def _parent(folder: Path) -> Path:
    return folder / "checkpoints"


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _digest(leaves: dict[str, np.ndarray], seconds: float, identity: str) -> np.ndarray:
    """SHA-256 of everything in a checkpoint and of what it belongs to."""
    digest = hashlib.sha256(f"{identity} {seconds!r}".encode())
    for name, leaf in leaves.items():
        digest.update(f"{name} {leaf.dtype} {leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp  # a second to import, and not needed to say what is wrong with a command line

    logging.getLogger("absl").setLevel(logging.ERROR)
    alone = ocp.options.MultiprocessingOptions(active_processes={0}, barrier_sync_key_prefix="first")  # it alone writes
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone)
