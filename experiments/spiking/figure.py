"""What spiking networks say of the plane, and how one tells a digit, as PNG files."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import bbinn_jax as bb
from experiments.common.colours import BLUE, GREY, ORANGE
from experiments.spiking import model, neuron
from experiments.spiking.data import Data
from experiments.spiking.presets import Config

POINTS = 51  # of the map, in each direction


def draw(out: Path, config: Config, rows: list[dict[str, Any]], examples: Data) -> None:
    """Draws figure.png by the networks that the first seed of a run has kept; examples are those of that seed."""
    of_seed = [row for row in rows if row["seed"] == config.seed]
    drawn = _maps(out, of_seed, examples) if config.dataset == "moons" else _raster(out, config, of_seed, examples)
    drawn.savefig(out / "figure.png", dpi=110)


def _maps(out: Path, rows: list[dict[str, Any]], examples: Data) -> Figure:
    """The entropy of the prediction in the plane, for each predictor."""
    x = np.linspace(-0.05, 1.05, POINTS)
    plane = np.stack(np.meshgrid(x, x), axis=-1).reshape(-1, 2)
    figure = Figure(figsize=(3.6 * len(rows) + 0.7, 4.2), layout="compressed")
    panels = figure.subplots(1, len(rows), squeeze=False, sharex=True, sharey=True)[0]
    for axes, row in zip(panels, rows, strict=True):
        said = _answer(out, row, plane * examples.size + examples.low)
        shape = (POINTS, POINTS)
        image = axes.pcolormesh(
            x, x, said.entropy.reshape(shape), cmap="Blues", vmin=0, vmax=np.log(2), rasterized=True
        )
        axes.contour(x, x, said.probabilities[:, 1].reshape(shape), levels=[0.5], colors="black", linewidths=1.4)
        for label, marker, color in ((0, "o", "#5a2a00"), (1, "^", ORANGE)):
            chosen = examples.train[examples.train_labels == label]
            axes.scatter(
                chosen[:, 0], chosen[:, 1], s=12, marker=marker, color=color, edgecolors="white", linewidths=0.4
            )
        accuracy = f"test accuracy {row['test_accuracy']:.1%}"
        axes.set_title(f"{model.title(row)}\n", fontsize=12, fontweight="bold")
        axes.text(
            0.5,
            1.03,
            f"{accuracy}, entropy far away {row['far_entropy']:.2f}",
            ha="center",
            fontsize=9,
            transform=axes.transAxes,
        )
        axes.set(aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    bar = figure.colorbar(image, ax=list(panels), pad=0.015)
    bar.set_label("entropy of the prediction (nats)")
    return figure


def _answer(out: Path, row: dict[str, Any], examples: Any) -> bb.Prediction:
    """What a predictor of the run says of examples."""
    kind = "committee" if row["predictor"] == "committee" else "network"
    name = model.file_name(row["method"], row["seed"])
    packed = out / f"{kind}-{name}.packed.safetensors"
    if packed.exists():
        network = model.load_packed(packed)
        return network.predict(network.preprocess(examples))
    posterior, apply_fn, preprocess, _ = model.load_network(out / f"network-{name}.safetensors")
    if kind == "network":
        return bb.mode_predictive(lambda w, x: apply_fn(posterior.natural, x), posterior.natural, preprocess(examples))
    key, number = model.keys_of(row["seed"]).committee, posterior.config["eval_samples"]
    return bb.posterior_predictive(
        apply_fn, posterior.natural, key, preprocess(examples), num_samples=number, chunk_size=1
    )


def _raster(out: Path, config: Config, rows: list[dict[str, Any]], examples: Data) -> Figure:
    """The spikes of one test image on their way through the first network of the run, and its answer in time."""
    row = rows[0]
    network = model.load_network(out / f"network-{model.file_name(row['method'], config.seed)}.safetensors")
    natural, readouts = network.posterior.natural, list(network.posterior.batch_stats.values())
    weights = natural if row["method"] == "full_precision" else bb.mode(natural)
    spikes = network.preprocess(examples.test[:1]).astype(jnp.float32)

    def look(layers: list[neuron.Neurons]) -> tuple[list[jax.Array], jax.Array]:
        return [x.spikes[0] for x in layers], jax.nn.softmax(neuron.logits(layers[-1], readouts[-1]))[0]

    layers, probabilities = neuron.over_time(neuron.Network(config.hidden), weights, spikes, look)
    trains = [("pixels", spikes[:, 0]), *((f"layer {i}", x) for i, x in enumerate(layers, start=1))]
    figure = Figure(figsize=(10, 2 + 1.7 * len(trains)), layout="constrained")
    label = int(examples.test_labels[0])
    what = f"A {label} in {config.time_steps} steps on its way through one network ({model.title(row)})"
    figure.suptitle(what, fontsize=13, fontweight="bold")
    names = [*(name for name, _ in trains), "answer"]
    panels = figure.subplot_mosaic([["image", name] for name in names], width_ratios=[1, 4])
    panels["image"].imshow(examples.test[0].reshape(8, 8), cmap="Greys")
    panels["image"].set(xticks=[], yticks=[], title="pixels: rates")
    for name, train in trains:
        _spikes(panels[name], f"{name}: {float(train.mean()):.2f} spikes a neuron and step", np.asarray(train))
        panels[name].set(xlim=(-0.5, config.time_steps + 2), xticklabels=[])
    _answers(panels["answer"], probabilities, label, config.burn_in)
    return figure


def _spikes(axes: Axes, title: str, train: np.ndarray) -> None:
    """A dot for each spike; the train is [time, neuron]."""
    times, neurons = np.nonzero(train)
    axes.scatter(times, neurons, s=3, color="black", linewidths=0)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set(ylim=(-1, train.shape[1]), ylabel="neuron")


def _answers(axes: Axes, probabilities: jax.Array, label: int, burn_in: int) -> None:
    """The mean of the class probabilities up to each step, as the network would answer there."""
    steps = np.arange(burn_in, len(probabilities))
    so_far = np.cumsum(probabilities[burn_in:], axis=0) / (steps - burn_in + 1)[:, None]
    for digit in range(so_far.shape[1]):
        right = digit == label
        axes.plot(steps, so_far[:, digit], color=BLUE if right else GREY, linewidth=2 if right else 0.8)
    axes.annotate(f"P({label})", (steps[-1], so_far[-1, label]), color=BLUE, xytext=(4, -4), textcoords="offset points")
    axes.axvspan(-0.5, burn_in - 0.5, color=GREY, alpha=0.25, linewidth=0)
    axes.set_title(
        "probability of each class, averaged so far (grey: burn-in, which does not count)", fontsize=10, loc="left"
    )
    axes.set(xlabel="time step", xlim=(-0.5, len(probabilities) + 2), ylim=(0, 1.02), ylabel="probability")
