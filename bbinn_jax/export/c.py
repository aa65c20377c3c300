"""A function of binary weights as one file of C99, for where there is nothing but a C compiler."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bbinn_jax._checks import PyTree, check_non_negative
from bbinn_jax._file import unfinished
from bbinn_jax.export import _c_text
from bbinn_jax.export._c_lowering import lower, run
from bbinn_jax.export._graph import check_inputs, graph
from bbinn_jax.export._proof import check_installed, check_texts, expected, largest_difference


class Footprint(NamedTuple):
    """What a network in C takes, without its instructions and its self-test.

    Attributes:
        weight_bytes: of flash, for the weights; their outputs are filled up to a multiple of 8.
        real_bytes: of flash, for real parameters.
        memory_bytes: of RAM, for activations. The stack takes about 1 kB besides.
        largest_difference: from JAX, as `c` measures it; None where there was no compiler.
    """

    weight_bytes: int
    real_bytes: int
    memory_bytes: int
    largest_difference: float | None


def c(
    path: str | Path,
    fn: Callable[[PyTree, jax.Array], Any],
    weights: PyTree,
    inputs: jax.Array,
    *,
    tolerance: float = 1e-4,
    metadata: Mapping[str, str] | None = None,
) -> Footprint:
    """Writes a function of binary weights as a file of C99 with its header, and proves that it answers as JAX does.

    The files need math.h and no other library, no malloc and no start-up. Of ``digits.c`` can be called:

        void digits_run(const float *input, float *output);     one input; an argument for each output of fn
        void digits_run_batch(long count, const float *input, float *output);      one input after the other
        int digits_self_test(void);                             0 if the first of inputs gets the answer of JAX

    The header says which shapes these have, and how many bytes of flash and of RAM they take. The weights are read
    as bits: what a few inputs can add up to, a sign for each, is computed once, and every output looks up the sums
    that its bits name. With AVX2 (``-mavx2``) one instruction looks up a sum of 3 inputs for 8 outputs. A batch is
    computed one input after the other; without AVX2 a library of float products is faster from a few inputs on.

    What fn computes is taken from its ONNX graph, for one input: products of matrices and convolutions, pooling,
    reductions, softmax, and functions of each number by itself. Constants that multiply and are added, as batch norms
    do, become one scale and one shift. A committee, whose leaves are ``[S, ...]``, is a function like others.

    **The proof.** Before the files are in their place they are compiled by ``$CC``, or cc, gcc or clang, as they are
    and, where the machine has it, with AVX2. Both must give what JAX gives for all of inputs, and pass the self-test.
    Where there is no compiler, only the ONNX graph is run against JAX; the C is then *not proved*, and the header
    says so: call the self-test where it is compiled.

    Args:
        path: of the ``.c`` file; the header lies beside it. Files that are there are replaced. All names in the file
            begin with its own, which must be one in C.
        fn: ``fn(weights, inputs)`` gives an array [batch, ...] of float32, or a NamedTuple of them, whose fields name
            the outputs. What else it needs, such as real parameters and statistics of batch norms, it has in itself.
        weights: any pytree of arrays of -1 and +1, or of what `pack` and `sample_packed` make of them. A leaf may be
            moved about and multiplied with activations; what computes with the weights themselves is refused.
        inputs: float32 [batch, ...]: of these shapes are the inputs, and these are tried.
        tolerance: the largest difference from JAX that is accepted, for each output in units of the larger of 1 and
            its own largest number.
        metadata: text by name, a line each in the header: what the numbers that go in mean, say.

    Returns:
        The `Footprint`.

    Raises:
        ValueError: a path that does not end in ``.c`` or whose name is none in C; weights that are not -1 or +1, or
            that fn does not use; an operator that C is not written for, by name; a compiler that refuses the file; a
            difference above the tolerance. No file is written then.
        TypeError: an fn that is no function or returns something else than arrays.
        ImportError: the extra ``export`` is not installed.
        OSError: a file cannot be written.

    >>> path = Path(tempfile.mkdtemp()) / "linear.c"
    >>> weights = {"w": np.float32([[1, -1], [1, 1]])}
    >>> footprint = c(path, lambda weights, x: x @ weights["w"], weights, np.eye(2, dtype=np.float32))
    >>> print(footprint.weight_bytes, footprint.real_bytes)
    8 0
    >>> print(*sorted(file.name for file in path.parent.iterdir()))
    linear.c linear.h
    """
    path, batch = Path(path), check_inputs(inputs)
    check_non_negative("tolerance", tolerance)
    about = check_texts(metadata)
    if path.suffix != ".c":
        raise ValueError(f"path must end in .c, got {str(path)!r}")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", path.stem):
        raise ValueError(f"path must have a name of letters, digits and _ that begins with a letter, got {path.name!r}")
    if batch.dtype != np.float32:
        raise ValueError(f"inputs must be float32 to go into C, got {batch.dtype}")
    check_installed()
    with unfinished(path.with_suffix(".h")) as place_h, unfinished(path) as place_c:
        model, binary = graph(fn, weights, batch)
        examples, (wanted, _) = np.asarray(batch), expected(fn, weights, batch)
        largest_difference(wanted, run(model, list(wanted), examples), tolerance)
        for name, output in wanted.items():
            if output.dtype != np.float32 or output.shape[:1] != examples.shape[:1]:
                got = f"{output.dtype}{list(output.shape)} as {name!r}"
                raise ValueError(f"fn must return float32 [batch, ...] to go into C, got {got}")
            if not np.isfinite(output).all():
                raise ValueError(f"fn must return finite numbers to be compared with, got others as {name!r}")
        program = lower(model, binary, examples[:1])
        recorded = {name: (output[0], tolerance * max(1, abs(output).max())) for name, output in wanted.items()}
        texts = {
            f"{path.stem}.c": _c_text.source(program, examples[0], recorded),
            f"{path.stem}.h": _c_text.header(program, "", about),
            f"{path.stem}_main.c": _c_text.main(program),
        }
        texts = {name: text.replace("PREFIX", path.stem) for name, text in texts.items()}
        difference, proof = _proof(path.stem, texts, examples, wanted, tolerance)
        place_c.write_text(texts[f"{path.stem}.c"], encoding="ascii")
        place_h.write_text(_c_text.header(program, proof, about).replace("PREFIX", path.stem), encoding="ascii")
    return Footprint(*program.bytes(), difference)


def _proof(
    stem: str, texts: dict[str, str], examples: np.ndarray, wanted: dict[str, np.ndarray], tolerance: float
) -> tuple[float | None, str]:
    """The largest difference of what the compiled files say, and how that was found out, in a line."""
    chosen = os.environ.get("CC")
    compiler = next(filter(None, map(shutil.which, [chosen] if chosen else ["cc", "gcc", "clang"])), None)
    if chosen and compiler is None:
        raise ValueError(f"CC must name a C compiler, without flags, got {chosen!r}")
    if compiler is None:
        return None, f"NOT PROVED: there was no C compiler. Call {stem}_self_test() where it is compiled."
    differences = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            Path(folder, name).write_text(text, encoding="ascii")
        for way, flags in (("portable", []), ("AVX2", ["-mavx2"])):
            command = [compiler, "-std=c99", "-O2", *flags, f"{stem}.c", f"{stem}_main.c", "-o", "main", "-lm"]
            compiled = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if compiled.returncode and not flags:
                said = next(iter(compiled.stderr.splitlines()), "nothing")
                raise ValueError(f"path must be a file that {compiler} compiles, which says {said[:200]}")
            if compiled.returncode:
                continue  # another architecture
            try:
                ran = subprocess.run([Path(folder, "main")], input=examples.tobytes(), capture_output=True)
            except OSError as error:
                raise ValueError(f"CC must compile for this machine, which cannot run what {compiler} makes") from error
            if flags and ran.returncode == -signal.SIGILL:
                continue  # the machine has no AVX2
            differences[way] = largest_difference(wanted, _outputs(ran.stdout, wanted), tolerance)
            if ran.returncode:
                raise ValueError(f"the export must pass its self-test, got {ran.returncode} ({way})")
    largest = max(differences.values())
    return largest, (
        f"Proved: compiled by {Path(compiler).name} ({' and '.join(differences)}) and run on {len(examples)} inputs, "
        f"it differs from\n * JAX by {largest:.1e} at most, in units of the larger of 1 and the largest output."
    )


def _outputs(written: bytes, wanted: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the program has written, by output; nothing if it is not all."""
    examples, sizes = len(next(iter(wanted.values()))), [output[0].size for output in wanted.values()]
    if len(written) != 4 * examples * sum(sizes):
        return {}
    parts = np.split(np.frombuffer(written, np.float32).reshape(examples, -1), np.cumsum(sizes)[:-1], axis=1)
    return {name: part.reshape(wanted[name].shape) for name, part in zip(wanted, parts, strict=True)}
