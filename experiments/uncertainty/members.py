"""The networks that are compared: each is a run of image classification in a folder of its own."""

import dataclasses
from functools import partial
from pathlib import Path

from experiments.common import classifier, command, data, image_config, prediction
from experiments.common.presets import PRESETS

TRAINING = command.Experiment(
    classifier.EXPERIMENT,
    image_config.Config,
    PRESETS,
    prepare=classifier.prepare,
    run=lambda *prepared: classifier.run(*prepared).results,
    show=lambda results: None,
    finished=classifier.finished,
)


def train(config: image_config.Config, dataset: data.Dataset, out: Path, resume: bool) -> Path:
    """Trains a network, or with resume what is not trained of it yet, in a folder of its own; returns its file."""
    training = TRAINING._replace(prepare=partial(classifier.prepare, dataset=dataset))
    command.execute(training, dataclasses.replace(config, out=out, resume=resume, overwrite=not resume))
    return out / f"network-{config.seed}.safetensors"


def load(path: Path, dataset: data.Dataset) -> prediction.Network:
    """A network that `train` has kept; raises ValueError if its file is damaged or gone."""
    try:
        return classifier.load_network(path, dataset)
    except (OSError, ValueError) as error:
        raise ValueError(f"{error}; remove the folder {path.parent}, and --resume trains that network again") from error
