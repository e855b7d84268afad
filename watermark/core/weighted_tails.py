"""Upper tails of weighted sums, many documents at once: proven bounds, within 1e-6 of the truth in all ordinary cases.

``S = sum_k w_k X_k``, with X_k a sum of c_k independent items: exponential, or bits. Let ``F(x) = P(S >= x)`` and let M be the
moment generating function of S. For c > 0 where M is finite, ``g(x) = e^(c x) F(x)`` has the Fourier transform
``M(c + iy) / (c + iy)`` (``M(c + iy) / (1 - e^-(c + iy))`` on the whole numbers), so by Poisson's summation formula the
trapezoid rule of step h for the inverse transform gives

    T = (h / 2 pi) sum_j M(c + ijh) / (c + ijh) e^-(c + ijh) x  =  sum_m e^(2 pi c m / h) F(x + 2 pi m / h)

(on the whole numbers: h = 2 pi / L, j over one period of L nodes, shifts ``m L``). Every term on the right is nonnegative and
the one of m = 0 is F(x): **the rule errs upwards only**, whatever c and h. What is left out can be bounded, and is added:
nodes beyond the last one, and rounding. With c near the saddle point the result is of order one times ``e^(K(c) - c x)``, so
nothing cancels however small the tail, and about ten nodes serve a sum of any length.

References:
    J. Abate and W. Whitt, "The Fourier-series method for inverting transforms of probability distributions", Queueing
    Systems 10, 1992 (the summation formula; they bound the error, here only its sign is needed); R. Butler, Saddlepoint
    Approximations, 1.2 and 2.1 (tilting).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from wmcheck.watermark.core.lattice import _half_angle
from wmcheck.watermark.core.tails import Floats, gamma_log_sf

Ints = NDArray[np.int64]

_LOG_ALIAS = 21.0  # the step is chosen for shifted terms of about e^-21 of the tail
_TRUNCATION = 1e-6  # wanted bound of the nodes left out, relative to the tail
_NODES = [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192]
_LOG_NEGLIGIBLE = 60.0  # lattice nodes of modulus below e^-60 are left out, and counted as error
_CELLS = 1 << 21  # documents x nodes x weights at a time
_BELOW = 6.0  # standard deviations below the mean where 1 is the bound given
_EPS = float(np.finfo(np.float64).eps)


def exponential_sum_log_sf(totals: ArrayLike, weights: ArrayLike, counts: ArrayLike) -> Floats:
    """Natural log of P(sum_k w_k Gamma(c_k, 1) >= total), rounded up, for m documents.

    Sums of one weight are gamma tails and sums of two items have a closed form; all others are the bound of the module's text.
    It exceeds the truth by less than 1e-5 of it, but for sums of few items with one that outweighs all others, where it may
    exceed it by some percent.

    Args:
        totals: f64[m], finite; at or below 0 the answer is 0.0.
        weights: f64[k] distinct, positive.
        counts: i64[m, k] items of each weight; a document without items has -inf at positive totals.

    Returns:
        f64[m] log tails, at most 0.0.

    Raises:
        ValueError: shapes do not fit, a weight is not positive, a count is negative, a total is not finite.
    """
    x, w = np.asarray(totals, np.float64), np.asarray(weights, np.float64)
    c = np.asarray(counts, np.int64)
    _check(x, w, c)
    out = np.where(x > 0, np.nan, 0.0)
    items, distinct = c.sum(1), (c > 0).sum(1)
    out[(x > 0) & (items == 0)] = -np.inf
    # Quotients are rounded down by a few ulps: the tail falls with x, so the bound stays a bound.
    one = np.isnan(out) & (distinct == 1)
    out[one] = gamma_log_sf(x[one] / w[c[one].argmax(1)] * (1.0 - 4 * _EPS), items[one])
    two = np.isnan(out) & (items == 2)
    if two.any():
        pair = np.sort(np.where(c[two] > 0, w, 0.0), axis=1)[:, -2:]
        small, large, at = pair[:, 0], pair[:, 1], x[two] * (1.0 - 8 * _EPS)
        ratio = (large - small * np.exp(-at * (large - small) / (small * large))) / (large - small)
        out[two] = np.minimum(np.log(ratio) + 32 * _EPS - at / large, 0.0)
    rest = np.flatnonzero(np.isnan(out))
    for part in np.array_split(rest, -(-rest.size // 20_000)) if rest.size else []:
        out[part] = _exponential(x[part], w, c[part])
    return out


def _exponential(x: Floats, w: Floats, counts: Ints) -> Floats:
    """The bound for documents of three items or more and two weights or more."""
    width = int((counts > 0).sum(1).max(initial=0))
    order = np.argsort(counts == 0, axis=1, kind="stable")[:, :width]
    n = np.take_along_axis(counts, order, 1).astype(np.float64)
    used = np.where(n > 0, w[order], 0.0)
    top = used.max(1, keepdims=True, initial=0.0)
    # In units of the largest weight. Rounding of the ratios is a change of weights by an ulp, paid for in x.
    x, ratio = x / top[:, 0] * (1.0 - 8 * _EPS), used / top
    sums = _Exponentials.make(x, ratio, n)
    last = sums.last_nodes()
    out = np.empty(len(x))
    for size in np.unique(last):
        same = np.flatnonzero(last == size)
        for part in np.array_split(same, 1 + same.size * int(size) * width // _CELLS):
            out[part] = sums.take(part).upper(int(size))
    # A largest weight that occurs once: P(E + R >= x) <= E e^(R - x), the better bound where R hardly matters.
    others = n * (ratio < 1.0)
    logs = np.log(np.where(ratio < 1.0, 1.0 - ratio, 1.0))
    alone = -_sum(others * logs) - x + 8 * _EPS * (_sum(others * (4.0 - logs)) + x)
    return np.where((n - others).sum(1) == 1, np.minimum(out, alone), out)


@dataclass(frozen=True)
class _Exponentials:
    """Sums of exponentials of mean r (f64[m, k], at most 1, n of each) against x, tilted by c; scale is the tilted mean."""

    x: Floats
    n: Floats
    c: Floats
    log_m: Floats  # log M(c)
    slack: Floats  # bound of the rounding error of log M(c) - c x
    scale: Floats
    sd: Floats  # tilted
    step: Floats

    @classmethod
    def make(cls, x: Floats, r: Floats, n: Floats) -> _Exponentials:
        low, high = np.full(len(x), -45.0), np.full(len(x), 45.0)
        for _ in range(40):
            # The minimum of log M(c) - c x - log c: the saddle point of the integrand, in (0, 1) for every x.
            middle = 0.5 * (low + high)
            c, rest = expit(middle), expit(-middle)
            below = _sum(n * r / ((1.0 - r) + r * rest[:, None])) < x + 1.0 / c
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        small = expit(-np.abs(low))
        c, rest = np.where(low < 0, small, 1.0 - small), np.where(low < 0, 1.0 - small, small)
        gap = (1.0 - r) + r * rest[:, None]
        logs = np.log(gap)
        slack = 8 * _EPS * (_sum(n * (1.0 + np.abs(logs))) + c * x)
        scale = r / gap
        sd = np.sqrt(_sum(n * scale**2))
        return cls(x, n, c, -_sum(n * logs), slack, scale, sd, 2.0 * np.pi / _period(c, sd, scale.max(1, initial=0.0)))

    def take(self, rows: Ints) -> _Exponentials:
        return _Exponentials(
            self.x[rows], self.n[rows], self.c[rows], self.log_m[rows], self.slack[rows], self.scale[rows], self.sd[rows],
            self.step[rows],
        )

    def left_out(self, last: int) -> Floats:
        """Bound of all nodes beyond ``last``, over ``e^(K(c) - c x)``; inf where there is none yet.

        The modulus of a node, ``prod_k (1 + scale_k^2 y^2)^(-n_k / 2) / |c + iy|``, falls in y, and the exponent a(y) of its
        local power law grows. So the nodes beyond Y sum to at most the integral of ``modulus(Y) (Y / y)^a(Y)``.
        """
        y = last * self.step
        square = (self.scale * y[:, None]) ** 2
        power = _sum(self.n * square / (1.0 + square)) + y * y / (self.c**2 + y * y)
        modulus = np.exp(-0.5 * _sum(self.n * np.log1p(square))) / np.hypot(self.c, y)
        with np.errstate(divide="ignore"):
            return np.where(power > 1.0, modulus * y / (np.pi * np.maximum(power - 1.0, 0.0)), np.inf) * (1.0 + 1e-9)

    def last_nodes(self) -> Ints:
        """i64[m] number of nodes above 0 at which what is left out is small enough, or the most there may be."""
        out = np.full(len(self.x), _NODES[-1])
        left = np.arange(len(self.x))
        for size in _NODES[:-1]:
            part = self.take(left)
            done = part.left_out(size) * (1.0 + 2.5 * part.c * part.sd) < _TRUNCATION
            out[left[done]] = size
            left = left[~done]
        return out

    def upper(self, last: int) -> Floats:
        """Log of the bound, with nodes 0 to ``last``."""
        y = np.arange(last + 1) * self.step[:, None]
        modulus, angle = np.zeros(y.shape), np.zeros(y.shape)
        for n, scale in zip(self.n.T, self.scale.T, strict=True):
            at = scale[:, None] * y
            modulus -= 0.5 * n[:, None] * np.log1p(at * at)
            angle += n[:, None] * np.arctan(at)
        turns = angle + y * self.x[:, None]
        size = np.exp(modulus) / np.hypot(self.c[:, None], y)
        weight = np.where(np.arange(last + 1) == 0, 0.5, 1.0) * (self.step / np.pi)[:, None]
        value = _sum(weight * size * np.cos(angle - y * self.x[:, None] - np.arctan2(y, self.c[:, None])))
        rounding = _EPS * _sum(weight * size * (16.0 * (turns - modulus) + 250.0 + last))
        bound = np.maximum(value, 0.0) + rounding + self.left_out(last)
        # No tail exceeds Chernoff's bound, e^(K(c) - c x).
        return np.minimum(self.log_m - self.c * self.x + self.slack + np.log(np.minimum(bound, 1.0)), 0.0)


def _period(c: Floats, sd: Floats, largest: Floats) -> Floats:
    """Distance of the shifted terms, for shares of about e^-21 of the tail.

    ``largest`` is the scale of the tilted law's upper tail, ``exp(-(v / t^2) (l - log(1 + l)))`` at ``l v / t`` above its mean
    with variance v and scale t (a sum of centred exponentials has cumulants below ``(v / t^2) (-ts - log(1 - ts))``).
    """
    wanted = _LOG_ALIAS + np.log1p(2.5 * c * sd)
    share = wanted * (largest / sd) ** 2
    length = share + np.sqrt(2.0 * share)
    for _ in range(3):
        length = share + np.log1p(length)
    above = 1.0 / c + length * sd**2 / largest
    below = np.where(c * sd < np.sqrt(2.0 * wanted), wanted / c + 0.5 * c * sd**2, sd * np.sqrt(2.0 * wanted))
    return np.asarray(np.maximum(above, below))


def bernoulli_sum_log_sf(
    totals: ArrayLike, weights: ArrayLike, counts: ArrayLike, p: float, *, layers: ArrayLike = (1,)
) -> Floats:
    """Natural log of P(sum_k w_k Y_k >= total), rounded up, for m documents.

    Y_k sums c_k items; an item is ``sum_l layers_l B_l`` with independent bits, each 1 with probability p. Documents whose
    saddle points are close share the characteristic functions of items; all nodes of the period are looked at. The bound
    exceeds the truth by less than 1e-6 of it down to p-values of 1e-300; 6 standard deviations below the mean it is 1.

    Args:
        totals: whole numbers, [m].
        weights: i64[k] distinct, 1 or more.
        counts: i64[m, k] items of each weight; a document without items has -inf at positive totals.
        p: in (0, 1).
        layers: whole, 1 or more.

    Returns:
        f64[m] log tails, at most 0.0.

    Raises:
        ValueError: an argument is out of its range, or shapes do not fit.
    """
    x, w = np.asarray(totals, np.float64), np.asarray(weights, np.int64)
    c = np.asarray(counts, np.int64)
    _check(x, w, c)
    if not 0.0 < p < 1.0 or np.any(x != np.rint(x)):
        raise ValueError("weighted tail: need whole totals and 0 < p < 1")
    layer, times = np.unique(np.asarray(layers, np.int64), return_counts=True)
    bits = _Bits(np.multiply.outer(w, layer), times.astype(np.float64), math.log(p) - math.log1p(-p))
    top = (c @ (w * int((layer * times).sum()))).astype(np.float64)
    least = np.where(c > 0, w, np.iinfo(np.int64).max).min(1, initial=np.iinfo(np.int64).max) * float(layer[0])
    out = np.full(len(x), np.nan)
    number = c.sum(1) * float(times.sum())
    all_ones = (x > top - least) & (x <= top)
    out[all_ones] = (number * math.log(p) * (1.0 - 4 * _EPS))[all_ones]
    out[x > top] = -np.inf
    mean, sd = p * top, np.sqrt(p * (1.0 - p) * (c @ (w * w)) * float((layer * layer * times).sum()))
    out[(x <= 0) | (x < mean - _BELOW * sd)] = 0.0
    rest = np.flatnonzero(np.isnan(out))
    if rest.size:
        out[rest] = bits.upper(x[rest], c[rest], sd[rest])
    return out


@dataclass(frozen=True)
class _Bits:
    """Items of k weights: bits of weight ``weights[k, d]``, ``times[d]`` of each, with log odds ``odds`` of being 1."""

    weights: Ints
    times: Floats
    odds: float

    def upper(self, x: Floats, counts: Ints, sd: Floats) -> Floats:
        """Log of the bound for each document; documents that share a tilt and a period are summed together."""
        c, period = self._tilts(x, counts, sd)
        keys, where = np.unique(np.stack([c, period]), axis=1, return_inverse=True)
        out = np.empty(len(x))
        for at in range(keys.shape[1]):
            rows = np.flatnonzero(where.reshape(-1) == at)
            out[rows] = self._group(float(keys[0, at]), int(keys[1, at]), x[rows], counts[rows])
        return out

    def _tilts(self, x: Floats, counts: Ints, sd: Floats) -> tuple[Floats, Floats]:
        """A tilt near each saddle point, from a grid that depends on the size of sd alone, and a period, a power of 2."""
        n, grid = counts.astype(np.float64), 2.0 ** (np.ceil(2.0 * np.log2(sd)) / 2.0)
        high = np.log(np.log(self.weights.max() * n.sum(1) * self.times.sum() + 1.0) + abs(self.odds) + 8.0)
        low = np.log(0.05 / grid)
        for _ in range(36):
            middle = 0.5 * (low + high)
            below = self._moments(np.exp(middle), n)[0] < x + 1.0 / np.expm1(np.exp(middle))
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        c = np.maximum(np.rint(np.exp(low) * grid), 1.0) / grid
        mean, variance = self._moments(c, n)
        wanted = _LOG_ALIAS + np.log1p(2.5 * c * np.sqrt(variance))
        third = np.where(n > 0, self.weights.max(1), 0).max(1) * wanted / 3.0
        above = np.abs(mean - x) + third + np.sqrt(third * third + 2.0 * variance * wanted)
        below = np.abs(mean - x) + np.where(
            c * c * variance < 2.0 * wanted, wanted / c + 0.5 * c * variance, np.sqrt(2.0 * wanted * variance)
        )
        return c, 2.0 ** np.ceil(np.log2(np.maximum(np.maximum(above, below), 8.0)))

    def _moments(self, c: Floats, n: Floats) -> tuple[Floats, Floats]:
        """Mean and variance of each document's sum under its tilt."""
        up = expit(self.odds + np.multiply.outer(c, self.weights))
        mean = (up * self.weights) @ self.times
        variance = (up * (1.0 - up) * self.weights**2) @ self.times
        return _sum(n * mean), _sum(n * variance)

    def _group(self, c: float, period: int, x: Floats, counts: Ints) -> Floats:
        """Documents under one tilt c with nodes 2 pi j / period, j up to half the period (the others are conjugate)."""
        n, tilted = counts.astype(np.float64), np.asarray(self.odds + c * self.weights, np.float64)
        j, modulus = self._moduli(tilted, period, n.min(0))
        angle, turns, shift = self._angles(tilted, period, j)
        sine, cosine, _ = _half_angle(j, 1, period)
        divisor = -math.expm1(-c) + math.exp(-c) * 2.0 * sine * (sine + 1j * cosine)
        weight = np.where((j == 0) | (2 * j == period), 1.0, 2.0) / period / np.abs(divisor)
        # log M(c) - c x: log(1 - p + p e^(c w)) of a bit is softplus(odds + c w) - softplus(odds).
        cumulants = (np.logaddexp(0.0, tilted) - np.logaddexp(0.0, self.odds)) @ self.times
        log_m = _sum(n * cumulants)
        # Rounding of a tilted probability changes its law, by a factor of at most e^ulps for each bit.
        digits = 8.0 * (4.0 + abs(self.odds) + float(np.abs(tilted).max()))
        ulps = _EPS * (digits * n.sum(1) * self.times.sum() + 16.0 * (log_m + c * x))
        out = np.empty(len(x))
        for part in np.array_split(np.arange(len(x)), 1 + len(x) * j.size // _CELLS):
            log_size, turned, phase = (_combined(n[part], item) for item in (modulus, turns, angle))
            # Left out node by node, whoever shares the tilt: a document gets the same digits in any company.
            size = np.where(log_size > -_LOG_NEGLIGIBLE, np.exp(log_size) * weight, 0.0)
            whole = (np.multiply.outer(counts[part] @ shift - x[part].astype(np.int64), j) % period) * (2.0 * np.pi / period)
            value = _sum(size * np.cos(phase + whole - np.angle(divisor)))
            rounding = _EPS * _sum(size * (32.0 * (turned - log_size) + 250.0 + period))
            error = rounding + math.exp(-_LOG_NEGLIGIBLE) / -math.expm1(-c)
            bound = np.log(np.minimum(np.maximum(value, 0.0) + error, 1.0))
            out[part] = np.minimum(log_m[part] - c * x[part] + ulps[part] + bound, 0.0)
        return out

    def _moduli(self, tilted: Floats, period: int, least: Floats) -> tuple[Ints, Floats]:
        """Nodes that may matter to documents of at least these counts, and log moduli [k, nodes] of one item."""
        low = expit(-np.abs(tilted))
        gap = np.tanh(np.abs(tilted) / 2.0)
        found, logs = [], []
        for j in np.array_split(np.arange(period // 2 + 1), 1 + (period >> 18)):
            modulus = np.zeros((len(self.weights), j.size))
            for (k, d), weight in np.ndenumerate(self.weights):
                sine, cosine, _ = _half_angle(j, int(weight), period)
                both = 4.0 * low[k, d] * (1.0 - low[k, d])
                away, left = both * sine**2, gap[k, d] ** 2 + both * cosine**2
                logs_ = np.where(away < 0.5, np.log1p(-np.minimum(away, 0.5)), np.log(np.maximum(left, 1e-300)))
                modulus[k] += 0.5 * self.times[d] * logs_
            keep = _combined(least[None], modulus)[0] > -_LOG_NEGLIGIBLE
            found.append(j[keep])
            logs.append(modulus[:, keep])
        return np.concatenate(found), np.concatenate(logs, axis=1)

    def _angles(self, tilted: Floats, period: int, j: Ints) -> tuple[Floats, Floats, Ints]:
        """Phases of one item [k, nodes], sums of their absolute parts, and the whole steps i64[k] the phases leave out."""
        low, gap = expit(-np.abs(tilted)), np.tanh(np.abs(tilted) / 2.0)
        angle, turns = np.zeros((len(self.weights), j.size)), np.zeros((len(self.weights), j.size))
        for (k, d), weight in np.ndenumerate(self.weights):
            # The likelier outcome is factored out, so that real parts are sums of positive terms.
            sine, cosine, sign = _half_angle(j, int(weight), period)
            part = self.times[d] * np.arctan2(2.0 * low[k, d] * sine * cosine, gap[k, d] + 2.0 * low[k, d] * cosine**2)
            angle[k] += np.where(tilted[k, d] > 0, -sign, sign) * part
            turns[k] += part
        return angle, turns, (np.where(tilted > 0, self.weights, 0) @ self.times).astype(np.int64)


def _sum(terms: Floats) -> Floats:
    """Sums over the last axis, in order: zeros in it change no digit, as they do in numpy's pairwise sum."""
    return np.asarray(np.add.accumulate(terms, axis=-1)[..., -1])


def _combined(n: Floats, items: Floats) -> Floats:
    """f64[m, j] ``n @ items``, in order of the k, which a matrix product does not promise."""
    out = np.zeros((n.shape[0], items.shape[1]))
    for count, item in zip(n.T, items, strict=True):
        out += count[:, None] * item
    return out


def _check(x: Floats, weights: NDArray[np.generic], counts: Ints) -> None:
    if x.ndim != 1 or weights.ndim != 1 or counts.shape != (x.size, weights.size):
        raise ValueError("weighted tail: need totals [m], weights [k] and counts [m, k]")
    if not np.all(np.isfinite(x)) or np.any(weights <= 0) or np.any(counts < 0):  # type: ignore[operator]
        raise ValueError("weighted tail: need finite totals, positive weights and counts of 0 or more")
