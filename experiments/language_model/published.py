"""How the tables of RESULTS.md are made of the lines in results/."""

from experiments.common.methods import METHODS
from experiments.common.tables import Column, Line, Table

NAMES = {
    ("topics", "bayesbinn"): ("BayesBiNN, noise of activations", METHODS["bayesbinn"].color),
    ("saturated", "bayesbinn"): ("BayesBiNN, noise of weights", "#56b4e9"),
    ("topics", "ste"): ("STE", METHODS["ste"].color),
    ("topics", "full_precision"): ("full precision, same shape", METHODS["full_precision"].color),
    ("equal-16", "full_precision"): ("full precision, as many bits at 16 a number", "#666666"),
    ("equal-32", "full_precision"): ("full precision, as many bits at 32 a number", "#aaaaaa"),
}
EPOCHS = 3  # of all rows that do not say otherwise
PREDICTORS = {"mode": "mode", "mean_1": "mean of 1", "mean_10": "mean of 10", "mean": "mean of 30"}
SHARED = ("commit", "device", "jax_version", "config", "minutes", "posterior_entropy_bits_per_weight")
NETWORK, PREDICTOR = Column("network", "network"), Column("predictor", "predictor")
KINDS = {"test": "held-out text", "python": "Python code", "german": "German", "shuffled": "characters shuffled"}


def name_of(line: Line) -> tuple[str, str]:
    """What a row is called, and its colour."""
    config = line["config"]
    title, color = NAMES[config["preset"], config["method"]]
    longer = config["epochs"] // EPOCHS
    if title.endswith("activations"):
        return f"{title}, rate {config['learning_rate']:g}", color if config["learning_rate"] < 0.01 else "#999933"
    return (f"{title}, {longer} times the steps" if longer > 1 else title), color


def _shared(line: Line) -> Line:
    return {name: line[name] for name in SHARED} | {"network": name_of(line)[0]}


def _predictors(line: Line) -> list[Line]:
    """A line for each predictor; its name ends the names of what was measured."""
    return [
        _shared(line)
        | {x.removesuffix(f"_{name}"): value for x, value in line.items() if x.endswith(f"_{name}")}
        | {"predictor": title if line["num_binary_weights"] else "the network"}
        for name, title in PREDICTORS.items()
        if f"test_ece_{name}" in line
    ]


def _sizes(line: Line) -> list[Line]:
    """A line for the best predictor, with the size at 16 bits a real number beside that at 32."""
    binary, real = line["num_binary_weights"], line["num_real_parameters"]
    best = "mean" if "test_ece_mean" in line else "mode"
    sizes = {"binary": f"{binary:,}", "real": f"{real:,}"}
    sizes |= {f"kbit_{bits}": f"{(binary + bits * real) / 1e3:.1f}" for bits in (32, 16)}
    scored = {part: line[f"{part}_bits_per_character_{best}"] for part in ("validation", "test")}
    half = {"half": line.get("test_bits_per_character_half")}
    return [_shared(line) | sizes | scored | half | {"predictor": PREDICTORS[best] if binary else "the network"}]


def _kinds(line: Line) -> list[Line]:
    """A line for each kind of text, of the mean where there is one."""
    best = "mean" if "test_ece_mean" in line else "mode"
    lines = []
    for kind, title in KINDS.items():
        found = {
            x[len(kind) + 1 : -len(best) - 1]: y
            for x, y in line.items()
            if x.startswith(f"{kind}_") and x.endswith(f"_{best}")
        }
        if not (line["posterior_entropy_bits_per_weight"] or 0) > 1e-6:  # one network: what is left is rounding
            found = {x: y for x, y in found.items() if "mutual" not in x}
        lines.append(_shared(line) | found | {"kind": title})
    return lines


TABLES = {
    "scores": Table(
        "topics",
        (
            Column("bits per character, held out", "test_bits_per_character", 3),
            Column("validation", "validation_bits_per_character", 3),
            Column("ECE", "test_ece", 4),
            Column("total uncertainty (bits)", "test_entropy_bits", 3),
            Column("mutual information (bits)", "test_mutual_information_bits", 4),
            Column("posterior entropy (bits a weight)", "posterior_entropy_bits_per_weight", 3),
            Column("minutes", "minutes", 1),
        ),
        (NETWORK, PREDICTOR),
        _predictors,
    ),
    "sizes": Table(
        "topics",
        (
            Column("binary weights", "binary"),
            Column("real numbers", "real"),
            Column("kbit, 32 a real number", "kbit_32"),
            Column("kbit, 16 a real number", "kbit_16"),
            Column("bits per character, held out", "test", 3),
            Column("the same, rounded to float16", "half", 3),
        ),
        (NETWORK, PREDICTOR),
        _sizes,
    ),
    "kinds": Table(
        "topics",
        (
            Column("bits per character", "bits_per_character", 2),
            Column("total uncertainty (bits)", "entropy_bits", 2),
            Column("mutual information (bits)", "mutual_information_bits", 4),
            Column("AUROC of a character by total uncertainty", "auroc_entropy", 3),
            Column("by mutual information", "auroc_mutual_information", 3),
            Column("by surprise", "auroc_surprise", 3),
            Column("AUROC of 128 characters by total uncertainty", "auroc_entropy_of_windows", 3),
            Column("by mutual information", "auroc_mutual_information_of_windows", 3),
            Column("by surprise", "auroc_surprise_of_windows", 3),
        ),
        (NETWORK, Column("text", "kind")),
        _kinds,
    ),
    "tried": Table(
        "tried",
        (
            Column("bits per character of validation text, mode", "validation_bits_per_character_mode", 3),
            Column("mean of 5", "validation_bits_per_character_mean", 3),
            Column("posterior entropy (bits a weight)", "posterior_entropy_bits_per_weight", 3),
        ),
        (Column("what", "what"), Column("setting", "setting")),
    ),
}
