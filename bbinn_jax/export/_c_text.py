"""The texts of the files in C, from the statements of a program. PREFIX in them stands for the name of the file."""

import math
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bbinn_jax import __version__
from bbinn_jax.export._c_lowering import Program, Step
from bbinn_jax.export._c_values import number_text

_KERNELS = Path(__file__).with_name("kernels.c")


def header(program: Program, proof: str, about: dict[str, str]) -> str:
    """The ``.h`` file: how to call it, what it takes, and how it was proved."""
    weight_bytes, real_bytes, memory_bytes = program.bytes()
    arrays = [*_arrays(program.inputs, "input"), *_arrays(program.outputs, "output")]
    test = 4 * sum(size for _, size, _ in arrays)
    said = "".join(f" * {name}: {text}\n" for name, text in about.items())
    said = said.replace("*/", "* /").encode("ascii", "replace").decode()
    return f"""\
/* PREFIX: a network of binary weights, written by bbinn_jax {__version__}.
 *
{"".join(f" * {name}: {list(shape)} float{chr(10)}" for name, _, shape in arrays)}{said} *
 * Flash: {weight_bytes} bytes of weights and {real_bytes} bytes of real parameters. RAM: {memory_bytes} bytes.
 * Further the instructions, 1 kB of stack, and for the self-test {test} bytes of flash, which are left out where
 * PREFIX_NO_SELF_TEST is defined. Compile it with -O2, and with -mavx2 where there is AVX2; link math (-lm).
 *
 * {proof}
 */
#ifndef PREFIX_H
#define PREFIX_H

#ifdef __cplusplus
extern "C" {{
#endif

/* Computes the outputs for one input; arrays are row-major. Two calls at once would share their memory. */
void PREFIX_run({_parameters(arrays)});

/* The same for one input after the other. */
void PREFIX_run_batch(long count, {_parameters(arrays)});

#ifndef PREFIX_NO_SELF_TEST
/* 0 if the network answers a recorded input as it did in JAX, 1 if not. */
int PREFIX_self_test(void);
#endif

#ifdef __cplusplus
}}
#endif

#endif
"""


def source(program: Program, example: np.ndarray, expected: dict[str, tuple[np.ndarray, float]]) -> str:
    steps = "\n".join(line for step in program.steps for line in _block(step))
    inputs, outputs = _arrays(program.inputs, "input"), _arrays(program.outputs, "output")
    parts = re.split(r"/\* kernel: (\w+) \*/\n", _KERNELS.read_text(encoding="ascii"))
    kernels = dict(zip(parts[1::2], parts[2::2], strict=True))
    data = [
        f"/* {_plain(title)} */\n{_array('uint8_t', name, packed, str)}"
        for name, (title, packed) in program.bits.items()
    ]
    data += [_array("float", name, numbers, number_text) for name, numbers in program.reals.items()]
    if program.memory:
        data.append(f"static float PREFIX_memory[{program.memory}];\n")
    recorded = [_array("float", f"PREFIX_test_{inputs[0][0]}", example.reshape(-1), number_text)]
    checks = []
    for (name, size, _), (numbers, tolerance) in zip(outputs, expected.values(), strict=True):
        recorded.append(_array("float", f"PREFIX_test_{name}", numbers.reshape(-1), number_text))
        difference = f"fabsf({name}[i] - PREFIX_test_{name}[i]) <= {number_text(tolerance)}"
        checks += [f"for (i = 0; i < {size}; ++i) {{", f"    wrong |= !({difference});", "}"]
    locals_ = ", ".join(f"{name}[{size}]" for name, size, _ in outputs)
    call = ", ".join([f"PREFIX_test_{inputs[0][0]}", *(name for name, _, _ in outputs)])
    each = ", ".join(f"{name} + i * {size}" for name, size, _ in inputs + outputs)
    lines = "\n".join(f"    {line}" for line in checks)
    used = [text for name, text in kernels.items() if f"PREFIX_{name}(" in steps]
    return f"""\
/* See PREFIX.h. */
#include "PREFIX.h"

#include <math.h>
#include <stdint.h>

{"".join(used).replace("bbinn_", "PREFIX_").replace("PREFIX_jax", "bbinn_jax").replace("BBINN_", "PREFIX_")}
{chr(10).join(data)}
void PREFIX_run({_parameters(inputs + outputs)})
{{
{steps}
}}

void PREFIX_run_batch(long count, {_parameters(inputs + outputs)})
{{
    long i;
    for (i = 0; i < count; ++i) {{
        PREFIX_run({each});
    }}
}}

#ifndef PREFIX_NO_SELF_TEST
{chr(10).join(recorded)}
int PREFIX_self_test(void)
{{
    float {locals_};
    int wrong = 0;
    long i;
    PREFIX_run({call});
{lines}
    return wrong;
}}
#endif
"""


def _block(step: Step) -> list[str]:
    """The statements of a step, with the names that they use."""
    rooms = [(f"const float *x{k}", buffer) for k, buffer in enumerate(step.reads)]
    rooms += [("float *y", step.y), *([("float *row", step.row)] if step.row else [])]
    names = [f"{kind} = {_argument(b.argument) if b.argument else f'PREFIX_memory + {b.offset}'};" for kind, b in rooms]
    return [f"    {{ /* {_plain(step.title)} */", *(f"        {line}" for line in names + step.lines), "    }"]


def _arrays(shapes: dict[str, tuple[int, ...]], kind: str) -> list[tuple[str, int, tuple[int, ...]]]:
    """For one input: the names of arguments in C, their sizes and their shapes."""
    return [(_argument(name), math.prod(shape), shape[1:]) for name, shape in shapes.items()]


def _argument(name: str) -> str:
    """The name that an array of the graph has in C, which is no word of the language."""
    return {"inputs": "input", "output": "output"}.get(name) or f"output_{re.sub('[^A-Za-z0-9_]', '_', name)}"


def _parameters(arrays: list[tuple[str, int, tuple[int, ...]]]) -> str:
    return ", ".join(f"{'const ' * (name == 'input')}float *{name}" for name, _, _ in arrays)


def _array(kind: str, name: str, numbers: np.ndarray, text: Callable[[Any], str]) -> str:
    lines = textwrap.wrap(", ".join(map(text, numbers.tolist())), 118, break_on_hyphens=False)
    return f"static const {kind} {name}[{numbers.size}] = {{\n" + "\n".join(lines) + "\n};\n"


def _plain(title: str) -> str:
    """A text that ends no comment."""
    return re.sub(r"[^\w ./,\[\]-]", "_", title, flags=re.ASCII)


def main(program: Program) -> str:
    """A program that reads inputs, writes outputs, and ends as the self-test does."""
    inputs, outputs = _arrays(program.inputs, "input"), _arrays(program.outputs, "output")
    arrays = "\n".join(f"static float {name}[{size}];" for name, size, _ in inputs + outputs)
    writes = "\n".join(f"        fwrite({name}, sizeof(float), {size}, stdout);" for name, size, _ in outputs)
    name, size, _ = inputs[0]
    return f"""\
#include <stdio.h>
#include "PREFIX.h"
{arrays}
int main(void)
{{
    const int wrong = PREFIX_self_test();
    while (fread({name}, sizeof(float), {size}, stdin) == {size}) {{
        PREFIX_run({", ".join(name for name, _, _ in inputs + outputs)});
{writes}
    }}
    return wrong;
}}
"""
