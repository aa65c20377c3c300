"""Compiled programs are kept between runs of the experiments, and a file that cannot be read stops nothing."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import jax
from experiments.common import devices
devices.keep_compiled_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
assert jax.jit(lambda x: x + 1)(1.0) == 2.0
"""


def run(cache):
    """What a small program prints to stderr, in a process whose cache is that folder."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    env |= {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], env=env, capture_output=True, text=True, check=True)
    return done.stderr


def kept(cache):
    return {path.name: path.stat().st_size for path in cache.glob("bbinn_jax/*/*-cache")}


def test_compiled_programs_are_kept_and_damaged_ones_replaced(tmp_path):
    """A process that is killed may leave a file that ends too early."""
    assert run(tmp_path) == ""
    sizes = kept(tmp_path)
    assert sizes
    for path in tmp_path.glob("bbinn_jax/*/*-cache"):
        os.truncate(path, path.stat().st_size // 2)
    assert run(tmp_path) == ""
    assert kept(tmp_path) == sizes


def test_folder_that_cannot_be_made_is_said_in_one_line(tmp_path):
    (tmp_path / "bbinn_jax").write_text("in the way")
    error = run(tmp_path)
    assert error.startswith("compiled programs are not kept: ") and error.count("\n") == 1
