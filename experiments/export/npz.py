"""A network as a file that NumPy reads, with nothing but the bits and the other numbers in it.

    with np.load("network_0.npz") as file:
        about, weights = json.loads(str(file["about"])), {}
        for name, shape in about["shapes"].items():
            bits = np.unpackbits(file[name], axis=-1, bitorder="little", count=math.prod(shape))
            weights[name] = 2.0 * bits.reshape([*bits.shape[:-1], *shape]) - 1

The other arrays are real parameters, statistics of batch norms, and by which mean and deviation
pixels are standardized.
"""

import io
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

import bbinn_jax as bb
from experiments.common import runs
from experiments.export.functions import Exported

ORDER = "row-major, least significant bit first, 1 is +1, the last byte filled with zeros"


def bits(weights: Any) -> dict[str, bb.Packed]:
    """The packed leaves by name, ``weights/PATH``."""
    leaves = jax.tree_util.tree_leaves_with_path(weights, is_leaf=lambda x: isinstance(x, bb.Packed))
    return {f"weights/{_name(path)}": leaf for path, leaf in leaves}


def write(path: Path, exported: Exported) -> None:
    """Writes the arrays: bits [..., bytes] of each leaf of weights, the others as float32, and text under "about".

    Raises:
        ValueError: what is read again is not what was written.
        OSError: the file cannot be written.
    """
    packed = bits(exported.weights)
    others = {_name(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(exported.real)}
    shapes = {name: leaf.shape for name, leaf in packed.items()}
    about = json.dumps(exported.about | {"shapes": shapes, "bit_order": ORDER})
    arrays = {name: np.asarray(leaf.bits) for name, leaf in packed.items()} | others
    if path.is_dir():
        raise IsADirectoryError(f"--out must name a file, got the folder {path}")
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, about=np.array(about), **arrays)
    content.seek(0)
    with np.load(content) as again:
        for name, array in arrays.items():
            if not np.array_equal(again[name], array):
                raise ValueError(f"{path} would not hold {name} as it is")
    with runs.whole(path) as file:
        file.write(content.getvalue())


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
