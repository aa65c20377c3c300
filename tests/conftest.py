import ctypes
import gc
import os
from importlib.metadata import version
from pathlib import Path

# Programs that take long to compile are kept for the next test, or process, that needs the same one.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
# The tests compare algorithms, not the short products that an accelerator multiplies matrices with by default. In the
# environment: processes that tests start compile the same programs, and find them.
os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
# Most programs of tests run for milliseconds and would compile for seconds: XLA is told not to try hard, in the
# processes that tests start too. `XLA_FLAGS= make quick` compiles as users do, and so do tests in commands.optimized().
if "XLA_FLAGS" not in os.environ:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    if tuple(map(int, version("jaxlib").split(".")[:2])) <= (0, 10):  # a newer one does not know the flag and ends
        os.environ["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

import jax
import jax.numpy as jnp
import pytest

# The tests of the library: those that have the name of one of its modules, and those of several.
LIBRARY = {path.stem.strip("_") for path in (Path(__file__).parents[1] / "bbinn_jax").glob("*.py")}
LIBRARY |= {"claims", "errors", "exported", "optimizers", "saving_packed", "trajectories"}
# Where optax promotes dtypes, in its bias correction: there test_nothing_is_promoted_in_silence tests what is ours.
PROMOTING = {"bayesbinn", "claims", "nnx", "optimizers", "pmf", "trajectories"}


@pytest.fixture(autouse=True)
def strict(request):
    """The library computes where JAX is told to promote nothing: neither ranks nor dtypes."""
    subject = request.path.stem.removeprefix("test_")
    ranks = "raise" if subject in LIBRARY else "allow"
    dtypes = "strict" if subject in LIBRARY - PROMOTING else "standard"
    with jax.numpy_rank_promotion(ranks), jax.numpy_dtype_promotion(dtypes):
        yield


@pytest.fixture(autouse=True)
def forget_programs():
    """JAX keeps every program that it has compiled. Beyond 1.5 GB they go, and glibc gives the memory back."""
    yield
    memory = Path("/proc/self/statm")  # of Linux: pages
    if memory.exists() and int(memory.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > 1.5e9:
        jax.clear_caches()
        gc.collect()
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)


@pytest.fixture
def undrawn(monkeypatch):
    """For image runs whose figures nobody looks at: drawing takes as long as two epochs of digits."""
    monkeypatch.setattr("experiments.image_classification.figure.draw", lambda path, *_: path.touch())


@pytest.fixture
def promoting():
    """For one test of which other libraries promote dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def x64():
    """float64 for the length of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(params=["dict", "nested with None", "array"])
def natural(request):
    """The same values in differently shaped trees."""
    a = jnp.array([-3.0, -0.2, 0.0, 0.7, 2.5, 9.0])
    return {
        "dict": {"kernel": a.reshape(2, 3), "bias": a[:3]},
        "nested with None": [{"a": {"b": (a[:3], {}), "c": None}}, a[3], None, a[3:]],
        "array": a,
    }[request.param]


def pytest_collection_modifyitems(items):
    """The guides train networks, too."""
    for item in items:
        if "docs" in item.path.relative_to(item.config.rootpath).parts[:1]:
            item.add_marker(pytest.mark.long)


def pytest_report_header():
    return f"jax {jax.__version__} on {jax.default_backend()}, trajectories: {os.environ.get('BBINN_TRAJECTORIES')}"
