"""Prepares a data set once: downloads it and converts it to array_record files.

    pip install ".[prepare]"
    python -m experiments.prepare mnist

This is the only place that needs TensorFlow and the network. The experiments
read what it leaves in TFDS_DATA_DIR (or ~/tensorflow_datasets).
"""

import argparse
import sys

from experiments.common.data import PREPARED, data_dir


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=PREPARED)
    name = parser.parse_args(argv).dataset
    try:
        folder = data_dir()
        import tensorflow  # noqa: F401
    except ValueError as error:
        sys.exit(f"error: {error}")
    except ImportError:
        sys.exit("error: preparing a data set needs TensorFlow; install it with: pip install '.[prepare]'")
    import tensorflow_datasets as tfds

    print(f"preparing {name} in {folder}")
    try:
        builder = tfds.builder(name, data_dir=folder, file_format="array_record")
        builder.download_and_prepare()
    except Exception as error:  # whatever the network, the disk or tfds raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        sys.exit(f"error: preparing {name} in {folder} failed: {type(error).__name__}: {reason}")
    print(f"ready: {builder.data_path}")


if __name__ == "__main__":
    main()
