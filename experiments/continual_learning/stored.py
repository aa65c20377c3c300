r"""Posteriors that are stored, one after each task, and which of them an image of an unknown task belongs to.

A posterior is stored at five bits a weight: its sign, and one of 16 magnitudes of lambda,

    |lambda| ~ (l + 1/2) / 4,    l = min(floor(4 |lambda|), 15)

A weight whose new posterior q_t is close to a stored one, the closest of which is k,

    KL(q_t || q_k) <= share_below

shares that one, and only a number of the earlier task is stored in place of five bits. In tests each
stored posterior judges a batch of images, all of one task that nobody names, and the one with the least
mean mutual information (or entropy) over the batch answers. Nothing of the data is kept.
Source: Li, Barnaghi, Enshaeifar and Ganz, arXiv 1910.04112, which has Gaussian weights; bits are ours.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import entropy

import bbinn_jax as bb
from experiments.common.data import Split
from experiments.continual_learning import tasks

CERTAINTY_BITS = 4
BATCHES = (1, 10, 100)  # images of one task that are judged together
# What is least where a posterior knows the task, and whose answer is then taken: of the mean, or of the mode alone.
RULES = {"mutual_information": "mean", "entropy": "mean", "mode_entropy": "mode"}

BITS = (
    "components_per_weight mode_bits_per_weight certainty_bits_per_weight index_bits_per_weight real_bits_per_weight "
    "bits_per_weight"
).split()
NAMES = [f"{name}_{rule}" for rule in RULES for name in ("task_rate", "untold_accuracy", "chosen")] + BITS


def rounded(natural: jax.Array) -> jax.Array:
    """Natural parameters as they are stored; the mode stays.

    >>> print(rounded(jnp.array([-0.3, 0.0, 0.1, 50.0])))
    [-0.375 -0.125  0.125  3.875]
    """
    level = jnp.clip(jnp.floor(4 * jnp.abs(natural)), 0, 2**CERTAINTY_BITS - 1)
    return bb.mode(natural) * (level + 0.5) / 4


def store(share_below: float, stored: Any, task: jax.Array, params: Any) -> Any:
    """Keeps the posterior of a task beside those of the tasks before.

    Args:
        share_below: nats.
        stored: (natural, real), leaves [task, ...].
        task: counted from 0.
        params: (natural, real) after the task. The real parameters are never shared.
    """

    def share(stored: jax.Array, natural: jax.Array) -> jax.Array:
        new = rounded(natural)
        of_weights = jax.vmap(bb.bernoulli.kl_divergence)
        kl = jax.vmap(lambda old: of_weights(new.ravel(), old.ravel()))(stored).reshape(stored.shape)
        kl = jnp.where(jnp.arange(len(stored)).reshape(-1, *[1] * new.ndim) < task, kl, jnp.inf)
        closest = jnp.take_along_axis(stored, jnp.argmin(kl, axis=0, keepdims=True), axis=0)[0]
        return stored.at[task].set(jnp.where(jnp.min(kl, axis=0) <= share_below, closest, new))

    natural, real = params
    set_real = jax.tree.map(lambda x, value: x.at[task].set(value), stored[1], real)
    return jax.tree.map(share, stored[0], natural), set_real


def pack(key: jax.Array, natural: Any, batch_stats: Any, num_samples: int) -> dict[str, tuple[Any, Any]]:
    """What is kept at one bit a weight, as `kept.save` takes it: the mode of each task, and networks drawn of each.

    Args:
        key: with which networks are drawn, the same for each task, as in `tasks.evaluate`.
        natural, batch_stats: as stored, leaves [task, ...].
        num_samples: networks drawn of each task; they come one task after the other.
    """
    modes = jax.vmap(bb.pack)(bb.mode(natural))
    drawn = jax.jit(jax.vmap(lambda natural: bb.sample_packed(key, natural, num_samples)))(natural)
    drawn = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), drawn)
    of_drawn = jax.tree.map(lambda x: jnp.repeat(x, num_samples, axis=0), batch_stats)
    return {"network": (modes, batch_stats), "committee": (drawn, of_drawn)}


def bits(natural: np.ndarray, num_real: int) -> dict[str, float]:
    """What the posteriors of some tasks take, in bits for each weight of one network.

    Args:
        natural: as stored, [task, weight]; equal ones of a weight are stored once.
        num_real: numbers of 32 bits that each task stores as well: real parameters, statistics of batch norms.

    Returns:
        How many components a weight has, and bits: of modes and certainties, of the numbers that say which
        component a task has (their entropy, the least that a code which treats all weights alike can reach), of real
        numbers, and of all.

    >>> bits(np.array([[0.125, 0.125], [0.125, -0.375]]), 0)["components_per_weight"]
    1.5
    """
    num_tasks, num_weights = natural.shape
    first = np.argmax(natural[:, None] == natural[None], axis=1)  # [task, weight]: the first that has the same
    components = float(np.mean(first == np.arange(num_tasks)[:, None]) * num_tasks)
    parts = {
        "mode_bits_per_weight": components,
        "certainty_bits_per_weight": CERTAINTY_BITS * components,
        "index_bits_per_weight": float(sum(entropy(np.bincount(row), base=2) for row in first)),
        "real_bits_per_weight": 32 * num_tasks * num_real / num_weights,
    }
    return {"components_per_weight": components, **parts, "bits_per_weight": sum(parts.values())}


def compare(
    predictors: dict[str, Callable[..., bb.Prediction]],
    network_of: Callable[..., bb.ApplyFn],
    test: Split,
    num_tasks: jax.Array,
    learned: tasks.Learned,
    key: jax.Array,
) -> dict[str, jax.Array]:
    """What every stored posterior says of the images of every task, so far.

    Args:
        predictors, network_of, test, num_tasks, learned, key: as in `tasks.evaluate`.

    Returns:
        Arrays [task, posterior, image]: those named in `RULES`, and whether "mode" and "mean" are right.
    """

    def add(i: jax.Array, found: dict[str, jax.Array]) -> dict[str, jax.Array]:
        task, posterior = i // num_tasks, i % num_tasks
        images, labels = tasks.examples(test, learned.orders[task])
        now = tasks.as_left_by(learned, posterior)
        said = {name: f(network_of(now, posterior), now.state, key, images) for name, f in predictors.items()}
        values = {name: jnp.argmax(x.probabilities, axis=1) == labels for name, x in said.items()}
        values |= {
            "mutual_information": said["mean"].mutual_information,
            "entropy": said["mean"].entropy,
            "mode_entropy": said["mode"].entropy,
        }
        return {name: x.at[task, posterior].set(values[name]) for name, x in found.items()}

    shape = 2 * (len(learned.orders),) + test.labels.shape[-1:]
    zeros = {name: jnp.zeros(shape) for name in RULES} | {name: jnp.zeros(shape, bool) for name in predictors}
    return jax.lax.fori_loop(0, num_tasks**2, add, zeros)


def choose(found: dict[str, np.ndarray], num_tasks: int) -> dict[str, list[Any]]:
    """Which posterior answers for each batch of images, and how often that is right.

    Args:
        found: what `compare` gives.
        num_tasks: so far.

    Returns:
        For each of `RULES` a list with an item for each of `BATCHES`, None for more images than a task has: the
        shares ``chosen_RULE`` [task, posterior], the share of batches that get their task ``task_rate_RULE``, and
        ``untold_accuracy_RULE``. Of posteriors that are equally sure the first is taken.
    """
    result: dict[str, list[Any]] = {}
    for rule, predictor in RULES.items():
        of_batches = [_of_batches(found[rule], found[predictor], num_tasks, size) for size in BATCHES]
        for name, values in zip(("chosen", "task_rate", "untold_accuracy"), zip(*of_batches, strict=True), strict=True):
            result[f"{name}_{rule}"] = list(values)
    return result


def _of_batches(doubt: np.ndarray, right: np.ndarray, num_tasks: int, size: int) -> tuple[Any, Any, Any]:
    """What was chosen, how often it was the task, and the accuracy; a last incomplete batch is left out."""
    num_batches = doubt.shape[-1] // size
    if num_batches == 0:
        return None, None, None
    shape = (num_tasks, num_tasks, num_batches, size)
    doubt, right = (
        np.asarray(x, float)[:num_tasks, :num_tasks, : num_batches * size].reshape(shape).mean(-1)
        for x in (doubt, right)
    )
    choice = np.argmin(doubt, axis=1)  # [task, batch]
    chosen = np.mean(choice[:, None] == np.arange(num_tasks)[:, None], axis=-1)
    accuracy = np.take_along_axis(right, choice[:, None], axis=1).mean()
    return chosen.tolist(), float(np.trace(chosen)) / num_tasks, float(accuracy)
