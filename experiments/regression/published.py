"""How the table of RESULTS.md is made of the lines in results/."""

from experiments.common.tables import Column, Table

TABLES = {
    "regression": Table(
        "regression",
        (
            Column("test error, STE", "test_rmse_ste", 3),
            Column("mode", "test_rmse_mode", 3),
            Column("mean", "test_rmse_mean", 3),
            Column("std among the data", "near_std_mean", 3),
            Column("std in the gap", "gap_std_mean", 3),
            Column("std beyond the data", "far_std_mean", 3),
            Column("posterior entropy (bits a weight)", "posterior_entropy_bits_per_weight", 3),
        ),
        (Column("preset", "config.preset"),),
    )
}
