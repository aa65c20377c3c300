"""How the table of RESULTS.md is made of the lines in results/."""

from experiments.common.tables import Column, Line, Table


def _predictors(line: Line) -> list[Line]:
    """A line for each predictor of a run; its name ends the names of what was measured."""
    config = line["config"]
    titles = {"ste": "STE", "mode": "mode", "mean": f"mean of {config['eval_samples']}"}
    return [
        {name.removesuffix(f"_{kind}"): x for name, x in line.items() if kind == "mean" or name.endswith(f"_{kind}")}
        | {name: line[name] for name in ("commit", "device", "jax_version", "config")}
        | {"predictor": title}
        for kind, title in titles.items()
        # That of the paper with 100 networks is the same run again, but for its mean.
        if kind == "mean" or (config["preset"], config["eval_samples"]) != ("paper", 100)
    ]


TABLES = {
    "two_moons": Table(
        "two_moons",
        (
            Column("test accuracy (%)", "test_accuracy", 1, 100),
            Column("test NLL", "test_nll", 3),
            Column("entropy (nats), test", "test_entropy", 3),
            Column("near", "near_entropy", 3),
            Column("far", "far_entropy", 3),
            Column("mutual information (nats), far", "far_mutual_information", 3),
            Column("posterior entropy (bits a weight)", "posterior_entropy_bits_per_weight", 3),
        ),
        (Column("preset", "config.preset"), Column("predictor", "predictor")),
        _predictors,
    )
}
