"""95 % confidence intervals of shares, and by resampling of means, medians and other statistics."""

import math
from collections.abc import Callable, Sequence

import numpy as np

_Z = 1.959963984540054  # the normal distribution's 97.5 % point


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Interval of a share (Wilson 1927, Journal of the American Statistical Association 22)."""
    if trials == 0:
        return 0.0, 1.0
    share, squared = successes / trials, _Z**2
    centre = (share + squared / (2 * trials)) / (1 + squared / trials)
    spread = math.sqrt(share * (1 - share) / trials + squared / (4 * trials**2))
    half = _Z * spread / (1 + squared / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(
    values: Sequence[object],
    seed: int,
    statistic: Callable[[np.ndarray], float] = np.mean,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Percentile interval of a statistic of `values`, resampled with replacement (Efron 1979).

    `values` are numbers, or rows of numbers that `statistic` takes as `[rows, columns]`.
    """
    values = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    found = [
        statistic(values[generator.integers(len(values), size=len(values))])
        for _ in range(resamples)
    ]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)
