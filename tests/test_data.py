"""Loading of data sets: the digits, and prepared TFDS folders good and damaged."""

import io
import json
import pwd
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import prepare
from experiments.common import data
from experiments.regression.data import read_column

DATA_SETS = {  # name: version, shape and file format of the images, classes
    "mnist": ("3.0.1", (28, 28, 1), "PNG", 10),
    "cifar10": ("3.0.2", (32, 32, 3), "PNG", 10),
    "cifar100": ("3.0.2", (32, 32, 3), "PNG", 100),
}


def write_tfds(folder: Path, name: str, num_train: int = 600, num_test: int = 100, label: float | None = None) -> Path:
    """A small data set as TFDS prepares it, with random pixels; returns the folder of its files.

    With a label it is that of the last test image, and the labels are numbers of its type.
    """
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from PIL import Image

    version, shape, image_format, num_classes = DATA_SETS[name]
    labels = tfds.features.ClassLabel(num_classes=num_classes)
    if label is not None:
        labels = tfds.features.Scalar(np.int64 if isinstance(label, int) else np.float32)
    features = {"image": tfds.features.Image(shape=shape), "label": labels}
    if name == "cifar100":
        features["coarse_label"] = tfds.features.ClassLabel(num_classes=20)
    if name != "mnist":
        features["id"] = tfds.features.Text()
    features = tfds.features.FeaturesDict(features)
    folder = folder / name / version
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    splits = []
    for split, size in (("train", num_train), ("test", num_test)):
        writer = ArrayRecordWriter(str(folder / f"{name}-{split}.array_record-00000-of-00001"), "group_size:1")
        for i in range(size):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8).squeeze()).save(file, image_format)
            file.seek(0)
            example = {"image": file, "label": i % num_classes, "coarse_label": i % 20, "id": f"{split}_{i}"}
            if label is not None and (split, i) == ("test", size - 1):
                example["label"] = label
            example = {key: example[key] for key in features}
            writer.write(features.serialize_example(features.encode_example(example)))
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        splits.append({"name": split, "shardLengths": [str(size)], "numBytes": "1", "filepathTemplate": template})
    features.save_config(folder)
    info = {"name": name, "version": version, "fileFormat": "array_record", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


@pytest.fixture
def mnist_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return write_tfds(tmp_path, "mnist")


def test_digits_split_is_fixed_stratified_and_complete():
    first, second = data.load("digits"), data.load("digits")
    assert [len(first.train.labels), len(first.test.labels)] == [1437, 360]
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert np.bincount(first.test.labels).min() >= 34  # 10 classes in 360 images


def test_digits_parts_do_not_overlap():
    images = np.concatenate([part.images.reshape(len(part.images), -1) for part in data.load("digits")[:2]])
    assert len(np.unique(images, axis=0)) == len(images) == 1797


def test_holdout_splits_all_images_differently_for_each_seed():
    train, validation = data.holdout(1437, 0.1, seed=0)
    assert (len(train), len(validation)) == (1293, 144)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(1437))
    assert set(validation) != set(data.holdout(1437, 0.1, seed=1)[1])


def test_training_images_are_normalized():
    dataset = data.load("digits")
    pixels = np.asarray(dataset.train.images)
    assert pixels.dtype == np.float32
    assert abs(pixels.mean()) < 1e-5
    assert abs(pixels.std() - 1) < 1e-5
    assert (dataset.test.images * dataset.std + dataset.mean).max() == pytest.approx(1)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_colour_images_are_read_and_normalized_by_channel(tmp_path, monkeypatch, name):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    write_tfds(tmp_path, name, num_train=300, num_test=200)
    dataset = data.load(name)
    assert dataset.num_classes == DATA_SETS[name][-1]
    np.testing.assert_array_equal(dataset.test.labels, np.arange(200) % dataset.num_classes)
    assert dataset.train.images.shape == (300, 32, 32, 3)
    np.testing.assert_allclose(np.mean(dataset.train.images, axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(dataset.train.images, axis=(0, 1, 2)), 1, atol=1e-5)
    rng = np.random.default_rng(0)
    written = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(500)][300:]
    np.testing.assert_allclose((dataset.test.images * dataset.std + dataset.mean) * 255, written, atol=1e-3)


# Moving and mirroring -------------------------------------------------------------------------------------------------

IMAGES = np.random.default_rng(0).normal(size=(4000, 3, 4, 2)).astype(np.float32)


def test_crops_are_shifts_of_the_image_or_of_its_mirror_image(key):
    """Every result is found among the 2 x 81 that NumPy makes of its image, and all of them occur, evenly."""
    fill = np.array([7.0, -7.0], np.float32)
    out = np.asarray(data.crop_and_flip(key, jnp.asarray(IMAGES), fill=fill))
    counts = np.zeros((9, 9, 2), int)
    for image, got in zip(IMAGES, out, strict=True):
        padded = np.broadcast_to(fill, (3 + 8, 4 + 8, 2)).copy()
        padded[4:7, 4:8] = image
        found = [
            (i, j, mirrored)
            for i in range(9)
            for j in range(9)
            for mirrored, crop in enumerate((padded[i : i + 3, j : j + 4], padded[i : i + 3, j : j + 4][:, ::-1]))
            if np.array_equal(crop, got)
        ]
        assert found
        if len(found) == 1:  # where nothing of the image is left, many shifts look alike
            counts[found[0]] += 1
    overlapping = counts[2:7, 1:8]  # at least one row and one column of the image
    expected = len(IMAGES) / 162
    assert np.all(np.abs(overlapping - expected) < 5 * np.sqrt(expected))
    mirrored = overlapping.sum(axis=(0, 1))
    assert abs(mirrored[0] - mirrored[1]) < 4 * np.sqrt(mirrored.sum())


def test_crops_of_another_key_are_others_and_of_none_the_image(key):
    images = jnp.asarray(IMAGES[:50])
    first, second = (data.crop_and_flip(k, images, fill=0.0) for k in jax.random.split(key))
    assert not np.array_equal(first, second)
    still = np.asarray(data.crop_and_flip(key, images, fill=0.0, padding=0))
    same = [np.array_equal(a, b) or np.array_equal(a, b[:, ::-1]) for a, b in zip(still, IMAGES[:50], strict=True)]
    assert all(same)


# Prepared folders -----------------------------------------------------------------------------------------------------


def test_prepared_folder_is_read_without_tensorflow(mnist_folder):
    dataset = data.load("mnist")
    assert [part.images.shape for part in dataset[:2]] == [(600, 28, 28, 1), (100, 28, 28, 1)]
    np.testing.assert_array_equal(dataset.test.labels, np.arange(100) % 10)
    assert "tensorflow" not in sys.modules


def test_pixels_of_a_prepared_folder_are_those_written(mnist_folder):
    dataset = data.load("mnist")
    rng = np.random.default_rng(0)
    written = [rng.integers(0, 256, (28, 28), dtype=np.uint8) for _ in range(700)][600:]
    pixels = ((dataset.test.images * dataset.std + dataset.mean) * 255)[..., 0]
    np.testing.assert_allclose(pixels, written, atol=1e-3)


def test_unprepared_data_set_names_the_command_and_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        data.load("mnist")
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


def lose_the_types(folder):
    (folder / "features.json").unlink()


@pytest.mark.parametrize(
    "damage", [truncate, overwrite_middle, remove_records, break_info, lose_a_split, lose_the_types]
)
def test_damaged_folder_is_refused_in_one_line(mnist_folder, damage):
    damage(mnist_folder)
    with pytest.raises(ValueError, match="cannot be read") as error:
        data.load("mnist")
    assert "mnist" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("linked", ["all", "data set", "version", "files"])
def test_folder_behind_a_link_is_read(tmp_path, monkeypatch, linked):
    files = write_tfds(tmp_path / "real", "mnist", 60, 20)
    link, target = {
        "all": (tmp_path / "linked", tmp_path / "real"),
        "data set": (tmp_path / "linked" / "mnist", files.parent),
        "version": (tmp_path / "linked" / "mnist" / files.name, files),
        "files": (tmp_path / "linked" / "mnist" / files.name, files),
    }[linked]
    link.parent.mkdir(parents=True, exist_ok=True)
    if linked == "files":
        link.mkdir()
        for path in files.iterdir():
            (link / path.name).symlink_to(path)
    else:
        link.symlink_to(target)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "linked"))
    assert data.load("mnist").test.images.shape == (20, 28, 28, 1)


@pytest.mark.parametrize(
    ("sizes", "label", "expected"),
    [
        ((60, 20), -1, "test labels must be in [0, 10), got -1 for image 19"),
        ((60, 20), 10, "test labels must be in [0, 10), got 10 for image 19"),
        ((60, 20), 2**40, "test labels must be in [0, 10), got 1099511627776 for image 19"),
        ((60, 20), 1.5, "labels must be 60 integers, got float64"),
        ((60, 0), None, "'test' has no images"),
        ((0, 20), None, "'train' has no images"),
    ],
)
def test_prepared_folder_with_what_cannot_be_trained_on_is_refused(tmp_path, monkeypatch, sizes, label, expected):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    write_tfds(tmp_path, "mnist", *sizes, label=label)
    with pytest.raises(ValueError, match="data set 'mnist'") as error:
        data.load("mnist")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


IMAGES_OF_3 = np.random.default_rng(0).uniform(size=(3, 4, 4, 2)).astype(np.float32)


def changed(index, value):
    """The three images with another value somewhere."""
    images = IMAGES_OF_3.astype(np.float64)
    images[index] = value
    return images


BAD_PIXELS = {  # images, labels: what is said
    "a negative label": (IMAGES_OF_3, np.array([0, 1, -1]), "labels must be in [0, 2), got -1 for image 2"),
    "a label beyond": (IMAGES_OF_3, np.array([0, 2, 1]), "labels must be in [0, 2), got 2 for image 1"),
    "an unsigned label beyond": (IMAGES_OF_3, np.array([0, 255, 1], np.uint8), "got 255 for image 1"),
    "labels of real numbers": (IMAGES_OF_3, np.array([0.0, 1.0, 1.0]), "labels must be 3 integers, got float64 [3]"),
    "labels of text": (IMAGES_OF_3, np.array(["0", "1", "1"]), "labels must be 3 integers"),
    "labels of objects": (IMAGES_OF_3, np.array([0, 1, None]), "labels must be 3 integers, got object"),
    "one-hot labels": (IMAGES_OF_3, np.eye(3, 2, dtype=int), "labels must be 3 integers, got int64 [3, 2]"),
    "too few labels": (IMAGES_OF_3, np.array([0, 1]), "labels must be 3 integers, got int64 [2]"),
    "no images": (IMAGES_OF_3[:0], np.array([], int), "images must be numbers [n, height, width, channel], n > 0"),
    "images without a channel": (IMAGES_OF_3[..., 0], np.array([0, 1, 1]), "got float32 [3, 4, 4]"),
    "images without pixels": (IMAGES_OF_3[:, :0], np.array([0, 1, 1]), "got float32 [3, 0, 4, 2]"),
    "images of objects": (IMAGES_OF_3.astype(object), np.array([0, 1, 1]), "got object"),
    "complex images": (IMAGES_OF_3.astype(complex), np.array([0, 1, 1]), "got complex128"),
    "a NaN": (changed((1, 3, 3, 1), np.nan), np.array([0, 1, 1]), "finite float32 numbers, not so image 1"),
    "an infinity": (changed((2, 0, 0, 0), -np.inf), np.array([0, 1, 1]), "finite float32 numbers, not so image 2"),
    "what float32 cannot hold": (changed((0, 0, 0, 0), 1e300), np.array([0, 1, 1]), "not so image 0"),
}


@pytest.mark.parametrize("part", ["training", "test"])
@pytest.mark.parametrize("case", BAD_PIXELS)
def test_images_and_labels_that_cannot_be_trained_on_are_named(monkeypatch, case, part):
    images, labels, expected = BAD_PIXELS[case]
    good = (IMAGES_OF_3, np.array([0, 1, 1]))
    parts = ((images, labels), good) if part == "training" else (good, (images, labels))
    monkeypatch.setitem(data.DATASETS, "mine", lambda: (*parts, 2))
    with pytest.raises(ValueError, match=f"^data set 'mine': the {part} ") as error:
        data.load("mine")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        (IMAGES_OF_3, IMAGES_OF_3[:, :3], "one shape, got (4, 4, 2) for training and (3, 4, 2) for testing"),
        (changed(np.s_[..., 1], 0.1), IMAGES_OF_3, "one value everywhere in a channel"),  # a standard deviation of 0
    ],
)
def test_images_that_do_not_go_together_are_named(monkeypatch, train, test, expected):
    monkeypatch.setitem(data.DATASETS, "mine", lambda: ((train, np.array([0, 1, 1])), (test, np.array([0, 1, 1])), 2))
    with pytest.raises(ValueError, match="data set 'mine'") as error:
        data.load("mine")
    assert expected in str(error.value)


@pytest.mark.parametrize("folder", [None, "~/data", "~nobody-of-this-name/data"])
def test_without_a_home_the_variable_is_named(monkeypatch, folder):
    def unknown(user):
        raise KeyError(user)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    if folder:
        monkeypatch.setenv("TFDS_DATA_DIR", folder)
    with pytest.raises(ValueError, match="Set TFDS_DATA_DIR") as error:
        data.load("mnist")
    assert (folder or "~/tensorflow_datasets") in str(error.value)
    with pytest.raises(SystemExit, match="Set TFDS_DATA_DIR"):
        prepare.main(["mnist"])


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e300", "-3.5e38", "1e999"])
def test_number_too_large_or_not_finite_is_named_by_its_line(tmp_path, text):
    (tmp_path / "train_inputs").write_text(f"0.5\n9e29\n{text}\n1\n")
    with pytest.raises(ValueError, match=f"line 3 of train_inputs must be finite and below 1e30, got '{text}'"):
        read_column(tmp_path / "train_inputs")


def test_preparing_starts_with_its_own_extra_alone():
    """The command line of the runs, and what else is in the extra of experiments, is not installed with [prepare]."""
    others = ("tyro", "rich", "matplotlib", "sklearn", "orbax.checkpoint.args", "PIL")
    code = f"import sys; sys.modules |= dict.fromkeys({others}); from experiments import prepare; prepare.main(['-h'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m experiments.prepare" in done.stdout


@pytest.mark.parametrize("fraction", [0.0, 1e-6, 0.9999999])
def test_validation_fraction_that_leaves_a_side_empty_is_refused(fraction):
    with pytest.raises(ValueError, match="validation_fraction"):
        data.holdout(1437, fraction, seed=0)


def test_unknown_data_set_is_refused():
    with pytest.raises(ValueError, match="'fashion'"):
        data.load("fashion")


def test_prepare_without_tensorflow_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(SystemExit) as stop:
        prepare.main(["mnist"])
    assert "pip install '.[prepare]'" in stop.value.code
