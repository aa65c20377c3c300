"""Where a cell of the grid stands among the others, and how many the best one cannot be told from."""

from typing import Any

import numpy as np


def standing(scores: np.ndarray, claimed: int) -> dict[str, Any]:
    """The rank of a cell, put into proportion.

    A cell of which a seed diverged has no mean, and stands behind all that have one. Cells cannot be told from the
    best if their mean is no more than one standard error below: that is the sample deviation of the best cell over
    the seeds, divided by sqrt(seeds). It is that of different images held back, too.

    Args:
        scores: [cell, seed], more is better; NaN where a run diverged.
        claimed: a cell.

    Returns:
        ``best`` (a cell, the first of equals; None where all diverged), ``rank`` of the claimed cell (1 and the number
        of better ones; None where it diverged), ``tied`` (others with the same mean as the claimed), ``distance``
        [seed] (what the best cell has more in each seed; None where there is none), ``within`` (cells within one
        standard error of the best, itself included; None of one seed), and ``claimed_within`` (whether the claimed is
        one of them).
    """
    means = scores.mean(1)
    finite = np.isfinite(means)
    nothing = dict.fromkeys(("best", "rank", "tied", "distance", "within", "claimed_within"))
    if not finite.any():
        return nothing
    best = int(np.nanargmax(means))
    found: dict[str, Any] = nothing | {"best": best}
    if scores.shape[1] > 1:
        error = scores[best].std(ddof=1) / scores.shape[1] ** 0.5
        near = finite & (means >= means[best] - error - 1e-6)
        found |= {"within": int(near.sum()), "claimed_within": bool(near[claimed])}
    if finite[claimed]:
        equal = np.isclose(means, means[claimed], rtol=0, atol=1e-6)  # scores are float32
        found["rank"] = int(1 + np.sum(finite & ~equal & (means > means[claimed])))
        found["tied"] = int(equal.sum() - 1)
        found["distance"] = (scores[best] - scores[claimed]).tolist()
    return found
