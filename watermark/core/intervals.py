"""The exact interval of a share."""

from __future__ import annotations

from scipy import special


def clopper_pearson(hits: float, tests: float, level: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of a share of which ``hits`` of ``tests`` were seen; (0, 1) where tests is 0.

    Counts need not be whole: counts divided by a design effect are those of so many independent tests.

    References:
        C. Clopper and E. Pearson, Biometrika 26, 1934; E. Korn and B. Graubard, Survey Methodology 24, 1998 (the division).
    """
    tail = (1.0 - level) / 2.0
    low = 0.0 if hits <= 0 else float(special.betaincinv(hits, tests - hits + 1.0, tail))
    high = 1.0 if hits >= tests else float(special.betaincinv(hits + 1.0, tests - hits, 1.0 - tail))
    return low, high
