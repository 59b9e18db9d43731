"""95 % confidence intervals of shares, means and paired differences."""

import math
from collections.abc import Sequence

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
    values: Sequence[float], seed: int, resamples: int = 2000
) -> tuple[float, float]:
    """Percentile interval of the mean, by resampling with replacement (Efron 1979)."""
    values = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    means = [
        values[generator.integers(len(values), size=len(values))].mean() for _ in range(resamples)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
