"""What trained networks say of text: scores of the mode and of means, what they are unsure of, what they write."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bbinn_jax as bb
from experiments.common import classifier, prediction
from experiments.language_model.text import Vocabulary, windows

FEWER = (1, 10)  # networks, of which there are means besides that of eval_samples
PARTS = ("validation", "test")
BITS = 1 / np.log(2)


class Asked(NamedTuple):
    """A trained network, or posterior, that can be asked."""

    apply_fn: bb.ApplyFn
    shipped: Any  # weights of the mode
    natural: Any  # None where there is no posterior
    key: jax.Array  # of the networks that are drawn


def ask(prepared: classifier.Prepared, fitted: classifier.Fitted, i: int, half: bool = False) -> Asked:
    """That of the i-th seed; with half as it is after `rounded`."""
    method, state = prepared.problem.method, prediction.part(fitted.states, i)
    state = rounded(state) if half else state
    apply_fn = prediction.network(prepared.problem.model, state, jnp.zeros(0))
    natural = state.params[0] if method.is_posterior else None
    return Asked(apply_fn, prediction.shipped(method, state), natural, fitted.keys[i])


def rounded(state: Any) -> Any:
    """A state whose parameters have been kept in 16 bits each, as float16."""
    return state._replace(params=jax.tree.map(lambda x: x.astype(jnp.float16).astype(x.dtype), state.params))


def predict(asked: Asked, rows: dict[str, Any], num_samples: int | None) -> dict[str, bb.Prediction]:
    """What the mode (None), or a mean of networks, says of each text."""
    every = jnp.concatenate([split.images for split in rows.values()])
    if num_samples is None:
        said = jax.jit(lambda weights, x: bb.mode_predictive(lambda _, x: asked.apply_fn(weights, x), weights, x))(
            asked.shipped, every
        )
    else:
        mean = partial(bb.posterior_predictive, asked.apply_fn, num_samples=num_samples, chunk_size=1)
        said = jax.jit(mean)(asked.natural, asked.key, every)
    ends = np.cumsum([split.labels.size for split in rows.values()])[:-1]
    parts = zip(*(jnp.split(field, ends) for field in said), strict=True)
    return dict(zip(rows, map(bb.Prediction._make, parts), strict=True))


def surprise(said: bb.Prediction, labels: jax.Array) -> jax.Array:
    """``-log2 p`` of each character, in bits."""
    p = jnp.take_along_axis(said.probabilities, labels.reshape(-1, 1), axis=-1)[:, 0]
    return -jnp.log2(jnp.maximum(p, 1.2e-38))


def scores(said: dict[str, bb.Prediction], rows: dict[str, Any], name: str) -> dict[str, float]:
    """What one predictor scores on each text, and how it tells the other kinds from the test text, in bits.

    The three signals are those of a character; ``of_windows`` are their means over the characters of a row.
    """
    return {f"{key}_{name}": float(value) for key, value in sorted(_scores(said, rows).items())}


@jax.jit  # one program instead of a hundred
def _scores(said: dict[str, bb.Prediction], rows: dict[str, Any]) -> dict[str, jax.Array]:
    values, signals = {}, {}
    for kind, split in rows.items():
        p, labels = said[kind], split.labels.ravel()
        signals[kind] = {
            "entropy": p.entropy * BITS,
            "mutual_information": p.mutual_information * BITS,
            "surprise": surprise(p, labels),
        }
        values[f"{kind}_bits_per_character"] = signals[kind]["surprise"].mean()
        for signal in ("entropy", "mutual_information"):
            values[f"{kind}_{signal}_bits"] = signals[kind][signal].mean()
        values[f"{kind}_accuracy"] = bb.metrics.accuracy(p.probabilities, labels)
        values[f"{kind}_ece"] = bb.metrics.expected_calibration_error(p.probabilities, labels)
    auroc = jax.vmap(bb.metrics.auroc)  # of each signal
    for kind in (kind for kind in rows if kind not in PARTS):
        pair = [jnp.stack(list(signals[x].values())) for x in (kind, "test")]
        of_windows = [x.reshape(len(x), -1, rows[kind].labels.shape[1]).mean(axis=2) for x in pair]
        for name, of_signals in (("", auroc(*pair)), ("_of_windows", auroc(*of_windows))):
            values |= {f"{kind}_auroc_{x}{name}": y for x, y in zip(signals[kind], of_signals, strict=True)}
    return values


def of_seed(asked: Asked, rows: dict[str, Any], num_samples: int | None) -> tuple[dict[str, Any], bb.Prediction]:
    """The scores of all predictors, and what the best one, the mean if there is one, says of the test text."""
    said = predict(asked, rows, None)
    values, shown = scores(said, rows, "mode"), said["test"]
    if num_samples:
        known = {kind: rows[kind] for kind in PARTS}
        for fewer in (n for n in FEWER if n < num_samples):
            values |= scores(predict(asked, known, fewer), known, f"mean_{fewer}")
        said = predict(asked, rows, num_samples)
        values, shown = values | scores(said, rows, "mean"), said["test"]
    return values, shown


def rows_of(texts: dict[str, str], vocabulary: Vocabulary, context: int) -> dict[str, Any]:
    """Each text in rows of the context, one after the other."""
    return {kind: windows(vocabulary.encode(text), context, context) for kind, text in texts.items()}


def write(asked: Asked, prompt: jax.Array, num_characters: int, temperature: float, drawn: int) -> jax.Array:
    """What the mode, and networks drawn from the posterior, write after a prompt [context]: symbols [network, n].

    Each character is drawn from the probabilities to the power 1 / temperature.
    """

    def continue_by(weights: Any, key: jax.Array) -> jax.Array:
        def step(window: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = asked.apply_fn(weights, window[None])[-1]
            symbol = jax.random.categorical(key, logits / temperature).astype(window.dtype)
            return jnp.append(window[1:], symbol), symbol

        return jax.lax.scan(step, prompt, jax.random.split(key, num_characters))[1]

    write_with = jax.jit(continue_by)
    written = [write_with(asked.shipped, asked.key)]
    if asked.natural is not None:
        keys = jax.random.split(asked.key, drawn)
        written += [write_with(bb.sample(key, asked.natural), asked.key) for key in keys]
    return jnp.stack(written)
