"""Upper tails of the binomial and gamma laws as natural logarithms, far below the smallest double.

Accuracy, checked against mpmath: the natural log of the tail is within ``1e-12 * |log p| + 2e-10`` of the truth for
counts and shapes up to 1e9 and tails from 1 to below 1e-5000 (with 1e-11 in place of 2e-10 up to 1e6). Where the tail
is a normal double it comes from the incomplete beta and gamma functions; beyond, from their continued fractions in log
space.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_DIRECT_FLOOR = 1e-280  # above it the incomplete functions keep full relative precision; below it they underflow
_MAX_STEPS = 1_000_000
_TINY = 1e-300
_EPS = float(np.finfo(np.float64).eps)
_LOG_2PI = math.log(2.0 * math.pi)


def binomial_log_sf(k: ArrayLike, n: ArrayLike, p: ArrayLike) -> Floats:
    """Natural log of P(Bin(n, p) >= k), element by element.

    ``P(Bin(n, p) >= k) = I_p(k, n - k + 1)``, the regularised incomplete beta function; in the far tail it is
    ``pmf(k) * (1 - p) * cf`` with Loader's saddle-point form of the probability mass, so that n = 1e9 loses no digits.

    Args:
        k: Whole numbers; at or below 0 the answer is 0.0, above n it is -inf.
        n: Whole numbers, 0 or more.
        p: Success probabilities in [0, 1].

    Returns:
        Log tails, broadcast over the arguments.

    References:
        DLMF 8.17.5 and 8.17.22 (continued fraction, there in an equivalent form; Lentz evaluation as in Numerical
        Recipes, 6.4); C. Loader, "Fast and accurate computation of binomial probabilities", 2000.
    """
    k, n, p = _broadcast(k, n, p)
    if not (np.all(k == np.rint(k)) and np.all(n == np.rint(n))):
        raise ValueError("binomial tail: k and n must be whole numbers")
    if np.any(n < 0) or np.any((p < 0) | (p > 1)):
        raise ValueError("binomial tail: need n >= 0 and 0 <= p <= 1")
    out = np.zeros(k.shape)
    out[(k > n) | ((k > 0) & (p == 0))] = -np.inf
    inside = (k > 0) & (k <= n) & (p > 0) & (p < 1)
    a, b, x = k[inside], (n - k + 1)[inside], p[inside]
    tail = special.betainc(a, b, x)
    values = _log_where_normal(tail)
    upper = tail > 0.5
    values[upper] = np.log1p(-_lower_beta(a[upper], b[upper], x[upper]))
    far = ~(tail > _DIRECT_FLOOR)
    values[far] = _binomial_far(a[far], b[far] + a[far] - 1, x[far])
    out[inside] = values
    return out


def gamma_log_sf(x: ArrayLike, shape: ArrayLike) -> Floats:
    """Natural log of P(Gamma(shape, scale 1) >= x), element by element.

    The regularised upper incomplete gamma function ``Q(shape, x)``; in the far tail ``x^a e^-x / Gamma(a) * cf`` with
    the prefactor in its Poisson-deviance form.

    Args:
        x: Thresholds; at or below 0 the answer is 0.0, also for shape 0.
        shape: Shapes, 0 or more; shape 0 is the law that is always 0.

    Returns:
        Log tails, broadcast over the arguments.

    References:
        DLMF 8.9.2 (continued fraction, in the even form of Numerical Recipes, 6.2); Loader 2000, as above.
    """
    x, shape = _broadcast(x, shape)
    if np.any(shape < 0):
        raise ValueError("gamma tail: shape must be 0 or more")
    out = np.zeros(x.shape)
    out[(x > 0) & (shape == 0)] = -np.inf
    inside = (x > 0) & (shape > 0)
    a, t = shape[inside], x[inside]
    tail = special.gammaincc(a, t)
    values = _log_where_normal(tail)
    upper = tail > 0.5
    values[upper] = np.log1p(-special.gammainc(a[upper], t[upper]))
    far = ~(tail > _DIRECT_FLOOR)
    values[far] = _gamma_far(a[far], t[far])
    out[inside] = values
    return out


def deviance(x: ArrayLike, m: ArrayLike, difference: ArrayLike) -> Floats:
    """``x log(x / m) - (x - m)`` without cancellation, for x >= 0 and m > 0.

    Args:
        x: Observed amounts.
        m: Expected amounts.
        difference: ``x - m``, passed in so that a caller who knows it more exactly than the two terms can say so.

    References:
        Loader 2000, function bd0: with v = (x - m) / (x + m) it is (x - m) v + 2 x (v^3/3 + v^5/5 + ...).
    """
    x, m, difference = _broadcast(x, m, difference)
    v = difference / (x + m)
    square = np.minimum(v * v, 0.01)
    series = np.zeros_like(v)
    for odd in range(19, 1, -2):
        series = (series + 1.0 / odd) * square
    near = difference * v + 2.0 * x * v * series
    with np.errstate(over="ignore", divide="ignore"):
        ratio = x / m
        logs = np.where(np.isfinite(ratio), np.log(ratio), np.log(x) - np.log(m))
    return np.where(np.abs(v) < 0.1, near, np.where(x > 0, x, 1.0) * np.where(x > 0, logs, 0.0) - difference)


def stirling_error(x: Floats) -> Floats:
    """``log Gamma(x + 1) - log(sqrt(2 pi x) (x / e)^x)`` for x > 0 (Loader 2000, function stirlerr; DLMF 5.11.1)."""
    large = np.maximum(x, 16.0)
    inverse = 1.0 / (large * large)
    series = np.zeros_like(large)
    for coefficient in (-691.0 / 360360.0, 1.0 / 1188.0, -1.0 / 1680.0, 1.0 / 1260.0, -1.0 / 360.0, 1.0 / 12.0):
        series = series * inverse + coefficient
    small = np.minimum(x, 16.0)
    exact = special.gammaln(small + 1.0) - (small + 0.5) * np.log(small) + small - 0.5 * _LOG_2PI
    return np.where(x >= 16.0, series / large, exact)


def _broadcast(*arrays: ArrayLike) -> tuple[Floats, ...]:
    """Float64 arrays of one shape; a NaN would slip through every comparison below, so it is refused here."""
    out = np.broadcast_arrays(*(np.asarray(array, dtype=np.float64) for array in arrays))
    if any(np.isnan(array).any() for array in out):
        raise ValueError("tail probability asked for NaN")
    return tuple(out)


def _log_where_normal(tail: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(tail, _DIRECT_FLOOR)), dtype=np.float64)


def _lower_beta(a: Floats, b: Floats, x: Floats) -> Floats:
    """``1 - I_x(a, b)``."""
    # The mirrored function is five times faster than betaincc, but rounds 1 - x: harmless only for moderate a, b and x.
    mirror = (a + b < 1e6) & (x > 1e-3)
    out = np.empty_like(a)
    out[mirror] = special.betainc(b[mirror], a[mirror], 1.0 - x[mirror])
    out[~mirror] = special.betaincc(a[~mirror], b[~mirror], x[~mirror])
    return out


def _binomial_far(k: Floats, n: Floats, p: Floats) -> Floats:
    """Log tail for 1 <= k <= n far above the mean: Loader's probability mass times a continued fraction."""
    q = 1.0 - p
    rest = np.maximum(n - k, 1.0)
    # k - np is formed with p split, because one rounding of n * p costs digits when n is 1e9.
    high = p.astype(np.float32).astype(np.float64)
    difference = (k - n * high) - n * (p - high)
    log_pmf = (
        stirling_error(n)
        - stirling_error(k)
        - stirling_error(rest)
        - deviance(k, n * p, difference)
        - deviance(rest, n * q, -difference)
        + 0.5 * (np.log(n / (k * rest)) - _LOG_2PI)
    )
    fraction = _beta_fraction(k, n - k + 1.0, p)
    return np.where(k == n, n * np.log(p), log_pmf + np.log(q) + np.log(fraction))


def _beta_fraction(a: Floats, b: Floats, x: Floats) -> Floats:
    """Continued fraction of a I_x(a, b) B(a, b) / (x^a (1 - x)^b) by Lentz's method, for x below the mean a/(a+b)."""
    out = np.ones_like(a)
    left = np.arange(a.size)
    c = np.ones_like(a)
    d = 1.0 / _nonzero(1.0 - (a + b) * x / (a + 1.0))
    h = d.copy()
    for m in range(1, _MAX_STEPS):
        if left.size == 0:
            return out
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1.0 / _nonzero(1.0 + even * d), _nonzero(1.0 + even / c)
        h = h * d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1.0 / _nonzero(1.0 + odd * d), _nonzero(1.0 + odd / c)
        h = h * d * c
        done = np.abs(d * c - 1.0) < 2 * _EPS
        if done.any():
            out[left[done]] = h[done]
            keep = ~done
            left, a, b, x, c, d, h = left[keep], a[keep], b[keep], x[keep], c[keep], d[keep], h[keep]
    raise ArithmeticError("incomplete beta continued fraction did not converge")


def _gamma_far(a: Floats, x: Floats) -> Floats:
    """Log tail for x far above a: Poisson-deviance prefactor times a continued fraction."""
    finite = np.where(np.isfinite(x), x, 1.0)
    prefactor = -stirling_error(a) - deviance(a, finite, a - finite) + 0.5 * (np.log(a) - _LOG_2PI)
    fraction = _gamma_fraction(a, np.maximum(finite, a + 1.0))
    return np.where(np.isfinite(x), prefactor + np.log(fraction), -np.inf)


def _gamma_fraction(a: Floats, x: Floats) -> Floats:
    """Continued fraction of Gamma(a, x) e^x / x^a by Lentz's method, for x > a."""
    out = np.ones_like(a)
    left = np.arange(a.size)
    b = x + 1.0 - a
    c = np.full_like(a, 1.0 / _TINY)
    d = 1.0 / b
    h = d.copy()
    for i in range(1, _MAX_STEPS):
        if left.size == 0:
            return out
        numerator = -i * (i - a)
        b = b + 2.0
        d, c = 1.0 / _nonzero(numerator * d + b), _nonzero(b + numerator / c)
        h = h * d * c
        done = np.abs(d * c - 1.0) < 2 * _EPS
        if done.any():
            out[left[done]] = h[done]
            keep = ~done
            left, a, b, c, d, h = left[keep], a[keep], b[keep], c[keep], d[keep], h[keep]
    raise ArithmeticError("incomplete gamma continued fraction did not converge")


def _nonzero(values: Floats) -> Floats:
    return np.where(np.abs(values) < _TINY, _TINY, values)
