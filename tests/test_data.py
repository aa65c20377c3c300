"""Loading of data sets: the digits, and prepared TFDS folders good and damaged."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import data, prepare


def write_mnist(folder: Path, num_train: int = 600, num_test: int = 100) -> Path:
    """A small MNIST as TFDS prepares it, with random pixels; returns the folder of its files."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from PIL import Image

    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
    )
    folder = folder / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    splits = []
    for split, size in (("train", num_train), ("test", num_test)):
        writer = ArrayRecordWriter(str(folder / f"mnist-{split}.array_record-00000-of-00001"), "group_size:1")
        for i in range(size):
            png = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)).save(png, "PNG")
            png.seek(0)
            writer.write(features.serialize_example(features.encode_example({"image": png, "label": i % 10})))
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        splits.append({"name": split, "shardLengths": [str(size)], "numBytes": "1", "filepathTemplate": template})
    features.save_config(folder)
    info = {"name": "mnist", "version": "3.0.1", "fileFormat": "array_record", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


@pytest.fixture
def mnist_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return write_mnist(tmp_path)


def test_digits_split_is_fixed_stratified_and_complete():
    first = data.load("digits", validation_fraction=0.1, seed=0)
    second = data.load("digits", validation_fraction=0.1, seed=1)
    assert [len(part.labels) for part in first[:3]] == [1293, 144, 360]
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert not np.array_equal(first.validation.labels, second.validation.labels)
    assert np.bincount(first.test.labels).min() >= 34  # 10 classes in 360 images


def test_digits_parts_do_not_overlap():
    parts = data.load("digits", validation_fraction=0.1, seed=0)[:3]
    images = np.concatenate([part.images.reshape(len(part.images), -1) for part in parts])
    assert len(np.unique(images, axis=0)) == len(images) == 1797


def test_training_images_are_normalized():
    dataset = data.load("digits", validation_fraction=0.1, seed=0)
    pixels = np.concatenate([dataset.train.images, dataset.validation.images])
    assert pixels.dtype == np.float32
    assert abs(pixels.mean()) < 1e-5
    assert abs(pixels.std() - 1) < 1e-5
    assert (dataset.test.images * dataset.std + dataset.mean).max() == pytest.approx(1)


def test_prepared_folder_is_read_without_tensorflow(mnist_folder):
    dataset = data.load("mnist", validation_fraction=0.1, seed=0)
    assert [part.images.shape for part in dataset[:3]] == [(540, 28, 28, 1), (60, 28, 28, 1), (100, 28, 28, 1)]
    np.testing.assert_array_equal(dataset.test.labels, np.arange(100) % 10)
    assert "tensorflow" not in sys.modules


def test_pixels_of_a_prepared_folder_are_those_written(mnist_folder):
    dataset = data.load("mnist", validation_fraction=0.1, seed=0)
    rng = np.random.default_rng(0)
    written = [rng.integers(0, 256, (28, 28), dtype=np.uint8) for _ in range(700)][600:]
    pixels = (dataset.test.images[..., 0] * dataset.std + dataset.mean) * 255
    np.testing.assert_allclose(pixels, written, atol=1e-3)


def test_unprepared_data_set_names_the_command_and_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        data.load("mnist", validation_fraction=0.1, seed=0)
    assert "python -m experiments.prepare mnist" in str(error.value)
    assert str(tmp_path / "mnist") in str(error.value)
    assert "\n" not in str(error.value)


def truncate(folder):
    path = folder / "mnist-train.array_record-00000-of-00001"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite_middle(folder):
    path = folder / "mnist-train.array_record-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[100_000:200_000] = bytes(100_000)
    path.write_bytes(content)


def remove_records(folder):
    (folder / "mnist-test.array_record-00000-of-00001").unlink()


def break_info(folder):
    (folder / "dataset_info.json").write_text("{")


def lose_a_split(folder):
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"] = info["splits"][:1]
    (folder / "dataset_info.json").write_text(json.dumps(info))


@pytest.mark.parametrize("damage", [truncate, overwrite_middle, remove_records, break_info, lose_a_split])
def test_damaged_folder_is_refused_in_one_line(mnist_folder, damage):
    damage(mnist_folder)
    with pytest.raises(ValueError, match="cannot be read") as error:
        data.load("mnist", validation_fraction=0.1, seed=0)
    assert "mnist" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fraction", [0.0, 1e-6, 0.9999999])
def test_validation_fraction_that_leaves_a_side_empty_is_refused(fraction):
    with pytest.raises(ValueError, match="validation_fraction"):
        data.load("digits", validation_fraction=fraction, seed=0)


def test_unknown_data_set_is_refused():
    with pytest.raises(ValueError, match="'fashion'"):
        data.load("fashion", validation_fraction=0.1, seed=0)


def test_prepare_without_tensorflow_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(SystemExit) as stop:
        prepare.main(["mnist"])
    assert "pip install '.[prepare]'" in stop.value.code
