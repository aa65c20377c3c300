"""Networks that are trained on images: what the experiments agree on.

A preset is the record of an experiment; its command and numbers are in experiments/image_classification/RESULTS.md.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from experiments.common.image_config import Config
from experiments.common.methods import METHODS, Activations, Weights, choose
from experiments.common.networks import CNN, MLP, VGG

_method = partial(choose, METHODS)
# The authors start at 10, where tanh is 1 in float32 and their Fisher information 0. It is 8e-9 without that
# cancellation, and would shorten the first step 80 times. At 20 it is far below eps, as it was for them.
_SATURATED = {"init_scale": 20.0, "eval_samples": 10}
_LIVING_CONVOLUTIONS = {
    "noise": Activations(shared_variance=True),
    "kl_weight": 0.03,
    "init_scale": 1.0,
    "eval_samples": 30,
}


def digits(method: str) -> Config:
    """1,797 images of 8x8 pixels, seconds on a CPU, nothing to download; the paper's way: the posterior saturates."""
    return Config(
        preset="digits",
        dataset="digits",
        method=_method(method, bop={"gamma": 1e-2}),
        epochs=200,
        batch_size=50,
        network=MLP(hidden=(512, 512), batch_norm_decay=0.98, output_scale=True),
    )


def digits_bayes(method: str) -> Config:
    """The same with a posterior whose weights stay undecided: it keeps its uncertainty."""
    undecided = {"noise": Activations(), "learning_rate": 1.0, "kl_weight": 0.001, "init_scale": 3.0}
    return _changed(digits(method), "digits-bayes", method=_method(method, bop={"gamma": 1e-2}, bayesbinn=undecided))


def mnist(method: str) -> Config:
    """The paper's setting (arXiv 2002.10778, table 10): the posterior saturates in one step."""
    return Config(
        preset="mnist",
        dataset="mnist",
        method=_method(method, bayesbinn=_SATURATED, bop={"gamma": 1e-5}),
        epochs=500,
        batch_size=100,
        batch_norm_images=0,
        network=MLP(hidden=(2048, 2048, 2048), dropout=0.2),
    )


def mnist_short(method: str) -> Config:
    """The paper's setting in 20 epochs, with a rate for Bop that averages over no more than them."""
    short = _method(method, bayesbinn=_SATURATED, bop={"gamma": 1e-4})
    return _changed(mnist(method), "mnist-short", epochs=20, method=short)


def mnist_fast(method: str) -> Config:
    """Minutes instead of hours: a small convolutional network with an output scale and batch norms set anew."""
    network = CNN(channels=(32, 64), hidden=(128,), output_scale=True)
    return _changed(mnist_short(method), "mnist-fast", epochs=10, network=network, batch_norm_images=5000)


def mnist_fast_bayes(method: str) -> Config:
    """The same with a posterior that keeps its uncertainty."""
    undecided = {**_LIVING_CONVOLUTIONS, "learning_rate": 0.02}
    return _changed(
        mnist_fast(method), "mnist-fast-bayes", method=_method(method, bayesbinn=undecided, bop={"gamma": 1e-4})
    )


def mnist_bayes(method: str) -> Config:
    """Half as wide, with an output scale, batch norms set anew and no dropout; the posterior keeps its uncertainty."""
    undecided = {"noise": Activations(), "learning_rate": 0.1, "kl_weight": 0.01, "init_scale": 3.0, "eval_samples": 30}
    return _changed(
        mnist(method),
        "mnist-bayes",
        epochs=20,
        method=_method(method, bayesbinn=undecided, bop={"gamma": 1e-4}),
        network=MLP(hidden=(1024, 1024, 1024), output_scale=True),
        batch_norm_images=5000,
    )


def cifar10(method: str) -> Config:
    """The paper's setting, with its VGG-like network."""
    return Config(
        preset="cifar10",
        dataset="cifar10",
        method=_of_cifar(method, temperature=1e-10, threshold=1e-8),
        epochs=500,
        batch_size=50,
        batch_norm_images=0,
        crop_and_flip=True,
        network=VGG(channels=(128, 256, 512), hidden=(1024, 1024), batch_norm_decay=0.8, batch_norm_eps=1e-5),
    )


def cifar100(method: str) -> Config:
    """The paper's setting: that of CIFAR-10 but for the temperature, and Bop's threshold."""
    of_100 = _of_cifar(method, temperature=1e-8, threshold=1e-9)
    return _changed(cifar10(method), "cifar100", dataset="cifar100", method=of_100)


def cifar10_short(method: str) -> Config:
    """The paper's setting in 50 epochs."""
    return _changed(cifar10(method), "cifar10-short", epochs=50)


def cifar100_short(method: str) -> Config:
    """The paper's setting in 50 epochs."""
    return _changed(cifar100(method), "cifar100-short", epochs=50)


def cifar10_small(method: str) -> Config:
    """Minutes instead of days: a small convolutional network with an output scale and batch norms set anew."""
    network = CNN(channels=(16, 32, 64), hidden=(256,), output_scale=True)
    return _changed(
        cifar10(method),
        "cifar10-small",
        epochs=6,
        batch_size=100,
        crop_and_flip=False,
        network=network,
        batch_norm_images=5000,
    )


def cifar10_small_bayes(method: str) -> Config:
    """The same with a posterior that keeps its uncertainty."""
    undecided = {**_LIVING_CONVOLUTIONS, "learning_rate": 0.1}
    return _changed(cifar10_small(method), "cifar10-small-bayes", method=_method(method, bayesbinn=undecided))


def _of_cifar(method: str, temperature: float, threshold: float) -> Any:
    posterior = {
        "learning_rate": 3e-4,
        "train_set_factor": 10.0,
        "noise": Weights(temperature=temperature),
        "eval_samples": 10,
    }
    return _method(method, bayesbinn=posterior, bop={"gamma": 1e-4, "threshold": threshold})


def _changed(config: Config, preset: str, **changes: Any) -> Config:
    return dataclasses.replace(config, preset=preset, **changes)


PRESETS: dict[str, Callable[[str], Config]] = {
    "digits": digits,
    "digits-bayes": digits_bayes,
    "mnist": mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "mnist-short": mnist_short,
    "mnist-fast": mnist_fast,
    "mnist-fast-bayes": mnist_fast_bayes,
    "mnist-bayes": mnist_bayes,
    "cifar10-short": cifar10_short,
    "cifar100-short": cifar100_short,
    "cifar10-small": cifar10_small,
    "cifar10-small-bayes": cifar10_small_bayes,
}
