"""Several devices, and several processes: one program, whose steps are divided; and programs kept for the next run.

Over a mesh of devices the images of a batch are divided along one axis, and the samples of the weights along the
other. XLA does the rest: parameters and random keys are the same on every device, each draws the noise of its own
part, and gradients and batch-norm statistics are summed over all. The numbers are those of one device, to rounding.

Several processes, started by the same command, compute alike. The run folder is that of the first.
"""

import builtins
import json
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.common.config import LARGEST, check_ranges
from experiments.common.endings import first_line, printable

DATA, SAMPLE = "data", "sample"
Result = TypeVar("Result")

# Devices --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Devices:
    """Where a run computes."""

    data_parallel: int = 1
    """Divides each batch over this many devices."""
    sample_parallel: int = 1
    """Divides the relaxed samples of a step over this many devices, for each part of the batch (bayesbinn)."""
    distributed: bool = False
    """Says that this is one of several processes of a run, which JAX finds by itself on Slurm and TPU pods."""
    coordinator_address: str | None = None
    """Gives HOST:PORT of the first of several processes, where JAX cannot find it."""
    num_processes: int | None = None
    """Says how many processes there are, where JAX cannot find out."""
    process_id: int | None = None
    """Says which of them this is, counted from 0, where JAX cannot find out."""

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of its range."""
        at_least = {"data_parallel": 1, "sample_parallel": 1, "num_processes": 1, "process_id": 0}
        check_ranges(self, [(name, low, LARGEST) for name, low in at_least.items()])


def make_mesh(config: Any) -> Mesh | None:
    """The devices that a config asks for; None for the one that needs no mesh.

    Raises:
        ValueError: there are fewer devices, or the batch or the samples cannot be divided.
    """
    shape = data, sample = config.devices.data_parallel, config.devices.sample_parallel
    if config.batch_size % data:
        raise ValueError(f"--data-parallel must divide --batch-size {config.batch_size}, got {data}")
    num_samples = config.method.noise.num_samples if hasattr(config.method, "noise") else 0
    if sample > 1 and (num_samples < sample or num_samples % sample):
        raise ValueError(f"--sample-parallel must divide --num-samples {num_samples}, got {sample}")
    if data * sample == 1 and not jax.distributed.is_initialized():
        return None
    devices, processes = jax.devices(), jax.process_count()
    asked = f"--data-parallel {data} times --sample-parallel {sample}"
    if data * sample > len(devices):
        raise ValueError(f"{asked} must be at most {len(devices)}, the number of devices, got {data * sample}")
    if processes > 1 and data * sample < len(devices):
        raise ValueError(f"{asked} must be {len(devices)}, the devices of {processes} processes, got {data * sample}")
    return jax.make_mesh(shape, (DATA, SAMPLE), (AxisType.Auto,) * 2, devices=devices[: data * sample])


def compiled(function: Callable[..., Any], mesh: Mesh | None, *args: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A program for arguments like these, and the arguments where it wants them: on every device of the mesh.

    Args:
        function: it is given its first argument away, to write its result there.
        mesh: from `make_mesh`.
        args: the same in every process.
    """
    if mesh is None:
        return jax.jit(function, donate_argnums=0).lower(*args).compile(), args
    everywhere = NamedSharding(mesh, PartitionSpec())

    def placed(x: jax.Array) -> jax.Array:
        copies = [jax.device_put(x, device) for device in everywhere.addressable_devices_indices_map(x.shape)]
        return jax.make_array_from_single_device_arrays(x.shape, everywhere, copies)

    args = jax.tree.map(placed, args)
    with jax.set_mesh(mesh):
        return jax.jit(function, donate_argnums=0, out_shardings=everywhere).lower(*args).compile(), args


def here(tree: Any) -> Any:
    """What every device has, as arrays of one device of this process."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def over_data(x: jax.Array) -> jax.Array:
    """Divides the first axis, that of a batch, over the devices of the mesh that a program is compiled for, if any."""
    return x if _size(DATA) == 1 else jax.lax.with_sharding_constraint(x, PartitionSpec(DATA))


def over_samples(tree: Any) -> Any:
    """Divides the axis that `jax.vmap` over samples will add, over the devices of the mesh, if any."""
    return tree if _size(SAMPLE) == 1 else _of_one_sample(tree)


@jax.custom_batching.custom_vmap
def _of_one_sample(tree: Any) -> Any:
    return tree


@_of_one_sample.def_vmap
def _of_all_samples(axis_size: int, in_batched: list[Any], tree: Any) -> tuple[Any, Any]:
    divided = jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec(SAMPLE)), tree)
    return divided, in_batched[0]


def _size(axis: str) -> int:
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1)


# Processes ------------------------------------------------------------------------------------------------------------


def join(devices: Devices) -> None:
    """Finds the other processes of a run, if there are said to be some; all but the first print errors only.

    Raises:
        ValueError: they cannot be found.
    """
    address = devices.coordinator_address
    given = (address, devices.num_processes, devices.process_id)
    if not devices.distributed and given == (None, None, None):
        return
    if address is not None and not address.rpartition(":")[2].isdecimal():
        raise ValueError(f"--coordinator-address must be HOST:PORT, got {address!r}")
    try:
        jax.distributed.initialize(*given)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the other processes cannot be found: {first_line(error)} (where JAX does not know them, give "
            f"--coordinator-address, --num-processes and --process-id)"
        ) from error
    sys.excepthook = _end_at_once
    if jax.process_index() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process runs)


def _end_at_once(*error: Any) -> None:
    """Ends this process, and with it the others: JAX would wait for them first, and they wait for this one."""
    sys.__excepthook__(*error)
    sys.stderr.flush()
    os._exit(1)


def on_first(function: Callable[[], Result]) -> Result:
    """What a function returns in the first process, which alone calls it; what it raises there, all processes raise.

    All of them must come here, in the same order. It is how a run folder is read and written. What is sent is JSON, so
    nothing that arrives is run: paths become text, and an error one of Python's own of that name, or a RuntimeError.
    """
    if not jax.distributed.is_initialized():
        return function()
    result: Any = None
    error: Exception | None = None
    if jax.process_index() == 0:
        try:
            result = function()
        except Exception as raised:  # whatever it is: the others wait to hear of it
            error = raised
    told = None if error is None else (type(error).__name__, str(error))
    content = np.frombuffer(json.dumps((result, told), default=str).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    content = multihost_utils.broadcast_one_to_all(content if jax.process_index() == 0 else np.zeros(size, np.uint8))
    result, told = json.loads(content.astype(np.uint8).tobytes())
    if error is not None:
        raise error
    if told is not None:
        kind = getattr(builtins, told[0], None)
        raise (kind if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError)(told[1])
    return result


def state_on_first(function: Callable[[], tuple[Any, ...]], like: Any) -> tuple[Any, ...]:
    """As `on_first`, of a function that returns a tree of arrays, like those of like, and what JSON can say."""
    if not jax.distributed.is_initialized():
        return function()
    state: Any = like

    def others() -> tuple[Any, ...]:
        nonlocal state
        state, *rest = function()
        return tuple(rest)

    rest = on_first(others)
    return jax.tree.map(jax.numpy.asarray, multihost_utils.broadcast_one_to_all(state)), *rest


# Compiled programs ----------------------------------------------------------------------------------------------------


def keep_compiled_programs() -> None:
    """Keeps compiled programs for the next run of the same, in JAX_COMPILATION_CACHE_DIR or in ~/.cache/bbinn_jax.

    Not with JAX_ENABLE_COMPILATION_CACHE=false. Each host has a folder: another's CPU may not know the instructions.
    What lies in that folder is run as it is and nothing checks where it came from: whoever can write there can run
    code as you. So it must be yours alone.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bbinn_jax" / platform.node()
        cache.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # no such place, or no home
        print(f"compiled programs are not kept: {printable(str(error))}", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    warnings.showwarning = partial(_show_or_mend, warnings.showwarning, cache)


def _show_or_mend(show: Callable[..., None], cache: Path, message: Warning | str, *where: Any) -> None:
    """Removes a program that was written in part, so that it is compiled and kept anew; shows any other warning.

    But for one that says that the disk is full: a run does without.
    """
    if str(message).startswith("Error writing persistent compilation cache entry"):
        return
    damaged = re.match(r"Error reading persistent compilation cache entry for '(\w+)'", str(message))
    if damaged is None:
        show(message, *where)
        return
    for path in cache.glob(f"{damaged[1]}-*"):
        path.unlink(missing_ok=True)
