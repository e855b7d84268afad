"""Error of every tail against a slower method that shares nothing with it, down to 1e-300, and what a call costs.

    python benchmarks/tails.py --out benchmarks/results/tails.md

Truths: mpmath's incomplete beta and gamma functions with 60 digits; for sums of bits, the masses of the tilted law by adding
one bit after another (positive numbers only); for weighted exponentials, the gamma series of Moschopoulos 1985 (positive
coefficients, by his recursion, tilted) and partial fractions with 400 digits.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mpmath as mp
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logsumexp
from scipy.stats import gamma, norm

from wmcheck.watermark.core.lattice import weighted_bernoulli_log_sf_many
from wmcheck.watermark.core.tails import binomial_log_sf, gamma_log_sf
from wmcheck.watermark.core.weighted_tails import bernoulli_sum_log_sf, exponential_sum_log_sf
from wmcheck.watermark.schemes.tournament import layer_weights

Floats = NDArray[np.float64]

LOG10 = math.log(10.0)
TARGETS = (6, 30, 100, 300)
LEVELS = np.arange(1, 17)


@dataclass(frozen=True)
class Case:
    """A law with its tail, vectorised over totals, and the true log tail at one total.

    Attributes:
        low, high: totals between which to look for p-values; ``high`` for bits is the largest total.
        whole: totals are whole numbers.
    """

    law: str
    n: int
    tail: Callable[[Floats], Floats]
    truth: Callable[[float], float]
    low: float
    high: float
    whole: bool


def binomial(n: int, p: float) -> Case:
    def truth(k: float) -> float:
        return float(mp.log(mp.betainc(k, n - k + 1, 0, mp.mpf(p), regularized=True)))

    return Case(f"binomial, p = {p}", n, lambda x: binomial_log_sf(x, n, p), truth, n * p, n, True)


def gammas(n: int) -> Case:
    def truth(x: float) -> float:
        return float(mp.log(mp.gammainc(n, mp.mpf(x), mp.inf, regularized=True)))

    return Case("gamma", n, lambda x: gamma_log_sf(x, n), truth, n, 20.0 * n + 2000.0, False)


def by_adding(weights: NDArray[np.int64], numbers: NDArray[np.int64], p: float, total: float) -> float:
    """Log tail of a sum of bits: masses under the tilt whose mean is the total, one bit after another."""
    odds = math.log(p) - math.log1p(-p)
    top = int(weights @ numbers)
    if total >= top:
        return float(numbers.sum() * math.log(p))
    tilt = brentq(lambda t: weights * numbers @ expit(odds + t * weights) - total, 0.0, 200.0)
    masses, size = np.zeros(top + 1), 1
    masses[0] = 1.0
    for weight, number in zip(weights, numbers, strict=True):
        up = expit(odds + tilt * weight)
        for _ in range(number):
            masses[weight : size + weight] = masses[weight : size + weight] * (1.0 - up) + masses[:size] * up
            masses[:weight] *= 1.0 - up
            size += weight
    cumulant = float(numbers @ (np.logaddexp(0.0, odds + tilt * weights) - np.logaddexp(0.0, odds)))
    at = np.arange(int(total), top + 1)
    with np.errstate(divide="ignore"):
        return cumulant + float(logsumexp(np.log(masses[int(total) :]) - tilt * at))


def tournament(n: int) -> Case:
    layers = np.array(layer_weights(30))
    values, numbers = np.unique(layers, return_counts=True)

    def tail(x: Floats) -> Floats:
        return weighted_bernoulli_log_sf_many(x.astype(np.int64), np.full(len(x), n), layers, 0.5)

    top = n * int(layers.sum())
    return Case("30 tournament layers", n, tail, lambda x: by_adding(values, n * numbers, 0.5, x), top / 2, top, True)


def mixed(n: int, levels: int) -> NDArray[np.int64]:
    """Counts of the levels for n items."""
    return np.random.default_rng([n, levels]).multinomial(n, np.full(levels, 1.0 / levels))


def weighted_bits(n: int, p: float) -> Case:
    counts = mixed(n, 16)

    def tail(x: Floats) -> Floats:
        return bernoulli_sum_log_sf(x, LEVELS, np.repeat(counts[None], len(x), 0), p)

    top = int(counts @ LEVELS)
    return Case(f"bits with item weights k/16, p = {p}", n, tail, lambda x: by_adding(LEVELS, counts, p, x), p * top, top, True)


def weighted_layers(n: int) -> Case:
    counts, layers = mixed(n, 4), np.array(layer_weights(30))

    def tail(x: Floats) -> Floats:
        return bernoulli_sum_log_sf(x, LEVELS[:4], np.repeat(counts[None], len(x), 0), 0.5, layers=layers)

    products, where = np.unique(np.outer(LEVELS[:4], layers), return_inverse=True)
    numbers = np.bincount(where.ravel(), weights=np.repeat(counts, 30)).astype(np.int64)
    top = int(products @ numbers)
    return Case("layers with item weights k/4", n, tail, lambda x: by_adding(products, numbers, 0.5, x), top / 2, top, True)


def gamma_series(weights: Floats, counts: NDArray[np.int64], x: float) -> float:
    """Log tail of a sum of gammas: ``C sum_j d_j P(Gamma(N + j) >= x / w)``, w the least weight (Moschopoulos 1985, 2.9)."""
    used = counts > 0
    weights, counts = weights[used], counts[used]
    least, shape = weights.min(), int(counts.sum())
    ratio = 1.0 - least / weights
    # Tilted by z^j, z above 1, so that the terms that matter stay in range.
    z = brentq(lambda z: counts @ (ratio * z / (1.0 - ratio * z)) + shape - x / least / z, 1e-9, (1.0 - 1e-9) / ratio.max())
    size = int(1.6 * x / least) + 400
    powers = np.add.reduce(counts[:, None] * (ratio * z)[:, None] ** np.arange(1, size + 1), axis=0)
    d = np.zeros(size + 1)
    d[0], log_scale = 1.0, 0.0
    for j in range(1, size + 1):
        d[j] = powers[:j] @ d[j - 1 :: -1] / j
        if d[j] > 1e200:
            d[: j + 1] *= 1e-200
            log_scale += 200.0 * LOG10
    with np.errstate(divide="ignore"):
        terms = np.log(d) + log_scale - np.arange(size + 1) * math.log(z)
    return float(counts @ np.log(least / weights) + logsumexp(terms + gamma_log_sf(x / least, shape + np.arange(size + 1))))


def partial_fractions(weights: Floats, x: float) -> float:
    """Log tail of a sum of exponentials of distinct means."""
    with mp.workdps(400):
        means = [mp.mpf(float(weight)) for weight in weights]
        terms = [mp.exp(-mp.mpf(x) / a) * mp.fprod(a / (a - b) for b in means if b != a) for a in means]
        return float(mp.log(mp.fsum(terms)))


def weighted_exponentials(n: int) -> Case:
    counts = mixed(n, 16)

    def tail(x: Floats) -> Floats:
        return exponential_sum_log_sf(x, LEVELS, np.repeat(counts[None], len(x), 0))

    mean = float(counts @ LEVELS)
    name, most = "exponentials with weights k/16", 20.0 * mean + 13_000.0
    return Case(name, n, tail, lambda x: gamma_series(LEVELS, counts, x), mean, most, False)


def few_exponentials(levels: tuple[int, ...]) -> Case:
    counts = np.isin(LEVELS, levels).astype(np.int64)

    def tail(x: Floats) -> Floats:
        return exponential_sum_log_sf(x, LEVELS, np.repeat(counts[None], len(x), 0))

    name = f"one exponential of each weight {', '.join(map(str, levels))}"
    chosen = np.array(levels, float)
    return Case(name, len(levels), tail, lambda x: partial_fractions(chosen, x), chosen.sum(), 900.0 * chosen.max(), False)


def cases() -> Iterator[Case]:
    for n in (20, 200, 2000):
        yield binomial(n, 0.25)
        yield binomial(n, 0.5)
        yield gammas(n)
        if n <= 200:
            yield tournament(n)
            yield weighted_layers(n)
        yield weighted_bits(n, 0.25)
        yield weighted_bits(n, 0.5)
        yield weighted_exponentials(n)
    yield few_exponentials((1, 2, 16))
    yield few_exponentials((14, 15, 16))
    yield few_exponentials((1, 4, 8, 12, 16))


def threshold(case: Case, target: float) -> float | None:
    """The total at which our tail is about 10^-target; None where no total is so unlikely."""
    low, high = case.low, case.high
    if case.tail(np.array([high]))[0] > -target * LOG10:
        return None
    for _ in range(60):
        middle = 0.5 * (low + high)
        middle = float(np.rint(middle)) if case.whole else middle
        if middle in (low, high):
            break
        low, high = (middle, high) if case.tail(np.array([middle]))[0] > -target * LOG10 else (low, middle)
    return high


def cost(case: Case, totals: Floats) -> tuple[float, float]:
    """Microseconds of one call with one total, and a total of a call with 1,000."""
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < 0.2:
        case.tail(totals[:1])
        calls += 1
    alone = (time.perf_counter() - start) / calls
    many = np.resize(totals, 1000)
    start = time.perf_counter()
    case.tail(many)
    return 1e6 * alone, 1e3 * (time.perf_counter() - start)


def approximations() -> list[str]:
    """What the normal law and a gamma law of the same two moments say where the exact tail is 1e-6 and 1e-10."""
    lines = ["", "| weighted exponentials, weights k/16 | exact | normal | gamma of equal moments |", "|---|---|---|---|"]
    for n in (50, 200, 1000):
        counts = mixed(n, 16)
        mean, variance = float(counts @ LEVELS), float(counts @ LEVELS**2)
        case = weighted_exponentials(n)
        for target in (6.0, 10.0):
            x = threshold(case, target)
            assert x is not None
            normal = norm.logsf((x - mean) / math.sqrt(variance)) / LOG10
            matched = gamma.logsf(x, mean * mean / variance, scale=variance / mean) / LOG10
            lines.append(f"| n = {n} | {-target:.2f} | {normal:.2f} | {matched:.2f} |")
    return lines


def row(case: Case) -> str:
    shown, totals = [], []
    for target in TARGETS:
        x = threshold(case, target)
        if x is None:
            shown.append("")
            continue
        totals.append(x)
        error = (float(case.tail(np.array([x]))[0]) - case.truth(x)) / LOG10
        shown.append(f"{error:.1e}")
    alone, many = cost(case, np.array(totals or [case.low]))
    return f"| {case.law} | {case.n} | {' | '.join(shown)} | {alone:,.0f} | {many:,.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    mp.mp.dps = 60
    lines = [
        "`python benchmarks/tails.py`: error of log10 p, ours minus the truth, where p is about 1e-6, 1e-30, 1e-100 and 1e-300 "
        "(empty where no total is so unlikely), and microseconds for one call, and for each of 1,000 totals in one call. Bounds "
        "may lie above the truth by what is shown; a negative error would be rounding of the truth or of ours.", "",
        f"| law | n | {' | '.join(f'1e-{target}' for target in TARGETS)} | us, one | us, of 1,000 |",
        "|---|---|" + "---|" * (len(TARGETS) + 2),
    ]
    for case in cases():
        lines.append(row(case))
        print(lines[-1], flush=True)
    lines += approximations()
    print("\n".join(lines[-8:]))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
