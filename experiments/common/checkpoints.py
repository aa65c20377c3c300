"""Checkpoints of a run: the folder ``checkpoints/EPOCH``, which is whole or is not there.

Orbax writes a checkpoint under another name and renames it when it is complete, so a
process may be killed at any moment. A checkpoint holds every leaf of the state under
its path, the time spent so far, the text of metrics.jsonl up to it, and a SHA-256 digest of
these and of the run's config: what is damaged, or of another run, is refused. The digest
guards against damage and mistakes, not against forgery: it has no secret, and who can write a
checkpoint can write its digest, too.
"""

import contextlib
import hashlib
import io
import logging
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.endings import first_line

State = TypeVar("State")


def save(folder: Path, epoch: int, state: Any, seconds: float, identity: str, metrics: str = "") -> None:
    """Writes the checkpoint of an epoch, then removes older ones.

    Args:
        folder: of the run.
        epoch: how many are done.
        state: any pytree of arrays.
        seconds: spent on them.
        identity: what tells this run from others, as text.
        metrics: the text of metrics.jsonl so far.

    Raises:
        OSError: it cannot be written; the one before is kept.
    """
    leaves = {name: np.asarray(leaf) for name, leaf in _named_leaves(state)}
    _clean(folder, keep=latest(folder))  # what a killed process left half written
    text = np.frombuffer(f"{metrics}\n".encode(), np.uint8)  # one byte at least: orbax keeps no empty array
    digest = _digest(leaves | {"metrics.jsonl": text}, seconds, identity)
    content = {"state": leaves, "seconds": np.float64(seconds), "metrics": text, "digest": digest}
    path = (_parent(folder) / str(epoch)).resolve()
    try:
        with _quiet():
            _checkpointer().save(path, content)
    except Exception as error:  # orbax and tensorstore raise whatever they like
        raise OSError(f"checkpoint {path} cannot be written: {first_line(error)}") from error
    _clean(folder, keep=epoch)


def latest(folder: Path) -> int | None:
    """The epoch of the newest checkpoint in a run folder; None where there is none."""
    epochs = [int(path.name) for path in _parent(folder).glob("*") if path.name.isdecimal()]
    return max(epochs, default=None)


def restore(folder: Path, epoch: int, like: State, identity: str) -> tuple[State, float, str | None]:
    """Reads a checkpoint: the state, the seconds spent on it, and the text of metrics.jsonl (None: it was not kept).

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
        with _quiet():
            content = _checkpointer().restore(path)
        found, seconds = dict(content["state"]), float(content["seconds"])
        digest, text = np.asarray(content["digest"]), content.get("metrics")
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
    digested = leaves if text is None else leaves | {"metrics.jsonl": np.asarray(text)}
    if not np.array_equal(digest, _digest(digested, seconds, identity)):
        raise ValueError(
            f"checkpoint {path} is damaged, of another run or of other data: its digest is wrong; {advice}"
        )
    # Copies: on a CPU JAX would go on using the memory of the NumPy arrays, and training gives its state away.
    state = jax.tree.unflatten(jax.tree.structure(like), [jnp.array(x, copy=True) for x in leaves.values()])
    return state, seconds, None if text is None else np.asarray(text).tobytes().decode()[:-1]


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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without orbax's advice to its own developers, and what its threads say of an error that is raised anyway."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception:
            time.sleep(0.5)  # for the last words of threads
            raise


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp  # a second to import, and not needed to say what is wrong with a command line

    logging.getLogger("absl").setLevel(logging.CRITICAL)
    alone = ocp.options.MultiprocessingOptions(active_processes={0}, barrier_sync_key_prefix="first")  # it alone writes
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone)
