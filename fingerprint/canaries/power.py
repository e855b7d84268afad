"""How many keyed canaries are needed: exact binomial power."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.nulls import BernoulliNull
from wmcheck.watermark.core.tails import binomial_log_sf

NULL = BernoulliNull(1, 2)
MAX_TRIGGERS = 1_000_000

Floats = NDArray[np.float64]


def power(n: int, rate: float, alpha: float = 1e-5) -> float:
    """The chance that n canaries detect a model that agrees with the key at ``rate``, trigger by trigger independently.

    Exact: P(Binomial(n, rate) >= c) with c the smallest count whose p-value is at most ``alpha``.

    Raises:
        ConfigError: a number out of range.
    """
    _check(rate, alpha)
    if not 1 <= n <= MAX_TRIGGERS:
        raise ConfigError("number of triggers out of range", where="n", got=str(n), expected=f"1 to {MAX_TRIGGERS}")
    return float(_powers(np.array([n], np.int64), rate, alpha)[0])


def smallest_n(rate: float, alpha: float = 1e-5, target: float = 0.9) -> int:
    """The smallest number of canaries with power ``target``; exact, by trying every number in turn.

    Raises:
        ConfigError: a number out of range, or more than a million canaries needed.
    """
    _check(rate, alpha)
    if not 0.0 < target < 1.0:
        raise ConfigError("power out of range", where="power", got=f"{target:g}", expected="between 0 and 1")
    start, size = 1, 256
    attainable = rate > 0.5 and power(MAX_TRIGGERS, rate, alpha) >= target
    while attainable:
        numbers = np.arange(start, min(start + size, MAX_TRIGGERS + 1), dtype=np.int64)
        enough = np.flatnonzero(_powers(numbers, rate, alpha) >= target)
        if enough.size:
            return int(numbers[enough[0]])
        start, size = start + size, min(2 * size, 65_536)
    raise ConfigError(
        "no practical number of canaries has this power", where="rate", got=f"{rate:g}",
        expected="an agreement well above 0.5", hint=f"at most {MAX_TRIGGERS:,} were considered",
    )


def _check(rate: float, alpha: float) -> None:
    if not 0.0 < alpha < 1.0:
        raise ConfigError("alpha out of range", where="alpha", got=f"{alpha:g}", expected="between 0 and 1")
    if not 0.0 <= rate <= 1.0:
        raise ConfigError("rate out of range", where="rate", got=f"{rate:g}", expected="between 0 and 1")


def _powers(n: NDArray[np.int64], rate: float, alpha: float) -> Floats:
    """Power for each n. The critical count lies between n/2 and n + 1 (never), found by bisection on the exact tail."""
    low, high = np.zeros_like(n), n + 1
    while (wide := high - low > 1).any():
        middle = (low + high) // 2
        small = np.asarray(NULL.log_sf(middle, n)) <= math.log(alpha)
        high, low = np.where(wide & small, middle, high), np.where(wide & ~small, middle, low)
    return np.asarray(np.exp(binomial_log_sf(high, n, rate)), dtype=np.float64)
