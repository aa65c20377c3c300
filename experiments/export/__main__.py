"""A kept network, or a committee of its posterior, as a file that answers without JAX.

    python -m experiments.export runs/image_classification-digits-bayes-bayesbinn-0 --to onnx
    python -m experiments.export runs/image_classification-digits-bayes-bayesbinn-0 --to onnx --committee 16
    python -m experiments.export runs/image_classification-digits-bayes-bayesbinn-0 --to all --out exported

The file takes pixels in [0, 1] and standardizes them (that of NumPy has the numbers for it). One network, the mode,
gives logits and probabilities; a committee gives probabilities, entropy, mutual information and the probabilities of
each network. Every file is proved against JAX on test images before it is in its place. `--to npz` writes the numbers
alone: NumPy reads them. `--to all` writes every form into a folder and times them in turn.
"""

if not __package__:
    raise SystemExit("start it with: python -m experiments.export")

import argparse
from pathlib import Path

from experiments.common import console, devices, endings, timing
from experiments.export import compare, forms, functions, npz

MOST_NETWORKS = 1000


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m experiments.export", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="a folder of image_classification, or a kept network")
    parser.add_argument("--to", required=True, choices=[*forms.FORMS, "all"], help="what is written")
    parser.add_argument(
        "--committee",
        type=int,
        metavar="S",
        help=f"S <= {MOST_NETWORKS} networks of the posterior, not the mode",
    )
    parser.add_argument("--seed", type=int, help="which network of a run of several seeds")
    parser.add_argument("--out", type=Path, help="the file, or of --to all the folder. Default: beside the network")
    arguments = parser.parse_args(argv)
    with endings.ending():
        devices.keep_compiled_programs()
        with endings.user_errors():
            if arguments.committee is not None and not 1 <= arguments.committee <= MOST_NETWORKS:
                raise ValueError(f"--committee must be in [1, {MOST_NETWORKS}], got {arguments.committee}")
            if arguments.out and arguments.to != "all" and arguments.out.suffix != f".{arguments.to}":
                raise ValueError(f"--out must end in .{arguments.to}, got {arguments.out}")
            if arguments.out and not arguments.out.absolute().parent.is_dir():
                raise ValueError(f"--out must be in a folder that is there, got {arguments.out}")
            path = functions.find(arguments.run, arguments.seed)
            exported = functions.load(path, arguments.committee)
            ending = "" if arguments.to == "all" else f".{arguments.to}"
            out = arguments.out or path.with_name(f"{exported.name}{ending}")
            console.write(*exported.notes)
            try:
                if arguments.to == "all":
                    compare.run(exported, out)
                else:
                    show(exported, forms.FORMS[arguments.to](out, exported), out)
            except ImportError as error:  # the extra is not installed
                raise ValueError(error) from error


def show(exported: functions.Exported, written: forms.Written, out: Path) -> None:
    """A line for each leaf of weights, and of all of them what the file takes, how far it is from JAX, and its time."""
    rows, leaves = [], npz.bits(exported.weights)
    for name, leaf in leaves.items():
        size, weights = leaf.bits.nbytes, functions.num_weights(leaf)
        rows.append([name, str(leaf.shape), f"{weights:,}", f"{size:,}", f"{8 * size / weights:.2f}"])
    bits, weights = sum(leaf.bits.nbytes for leaf in leaves.values()), functions.num_weights(exported.weights)
    rows.append(["all else", "", "", f"{written.bytes - bits:,}", ""])
    rows.append(["all", "", f"{weights:,}", f"{written.bytes:,}", f"{8 * written.bytes / weights:.2f}"])
    title = f"{out}: {exported.about['networks']} network{'s' * (exported.about['networks'] != '1')}"
    console.write_table(title, ["", "shape", "weights", "bytes", "bits a weight"], rows)
    console.write(*written.notes, f"takes {exported.about['input']}")
    if written.difference is not None:
        console.write(
            f"largest difference from JAX on {len(exported.pixels)} test images: {written.difference:.1e}, "
            "in units of the larger of 1 and the largest number of an output"
        )
    if written.call is not None:
        (times,) = timing.take_turns([written.call], 0.3, 20)
        console.write(f"one input takes {1e3 * timing.spread(times).median:.3f} ms (median, one thread)")


if __name__ == "__main__":
    main()
