"""Corrections for asking many questions at once, on natural-log p-values and e-values; nothing is exponentiated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wmcheck.watermark.core.results import LOG10

Floats = NDArray[np.float64]


class Test(Protocol):
    """A result, a dataclass with these fields and ``log10_p_adjusted``, ``correction`` and ``family``."""

    @property
    def log10_p(self) -> float: ...


AnyTest = TypeVar("AnyTest", bound=Test)


def holm(log_p: ArrayLike, *, family: int | None = None) -> Floats:
    """Adjusted log p-values that bound the chance of any false accusation, under any dependence.

    In ascending order, ``max over i <= j of min(1, (m - i + 1) p_(i))``.

    Args:
        log_p: Natural logs of valid p-values, at most 0.
        family: Number m of questions asked, when some were asked elsewhere; those count as larger than all given,
            the least favourable case.

    Returns:
        Adjusted log p-values, in the order given.

    References:
        S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6, 1979.
    """
    values = _logs(log_p)
    m = _family(values.size, family)
    order = np.argsort(values, kind="stable")
    steps = np.log(m - np.arange(values.size, dtype=np.float64))
    out = np.empty_like(values)
    out[order] = np.minimum(np.maximum.accumulate(values[order] + steps), 0.0)
    return out


def holm_label(family: int) -> str:
    """The correction by :func:`holm` over so many tests, as reports name it."""
    return f"Holm over {family} test{'s' if family != 1 else ''}"


def holm_corrected(results: Sequence[AnyTest], *, family: int | None = None) -> list[AnyTest]:
    """The results with p-values corrected for one another by :func:`holm`, and how.

    Args:
        results: the tests of one run or investigation.
        family: number of tests if larger, when other questions were asked elsewhere.
    """
    if not results:
        return []
    size = max(len(results), family or 0)
    adjusted = holm(np.array([result.log10_p for result in results]) * LOG10, family=size) / LOG10
    label = holm_label(size)
    held: Sequence[Any] = results
    return [
        replace(result, log10_p_adjusted=float(value), correction=label, family=size)
        for result, value in zip(held, adjusted, strict=True)
    ]


def benjamini_hochberg(log_p: ArrayLike, *, family: int | None = None) -> Floats:
    """Adjusted log p-values that bound the expected share of false discoveries, for independent or PRDS p-values.

    In ascending order, ``min over i >= j of min(1, m p_(i) / i)``.

    Args:
        log_p: Natural logs of valid p-values, at most 0.
        family: Number m of questions asked, when some were asked elsewhere; those count as p = 1.

    Returns:
        Adjusted log p-values, in the order given.

    References:
        Y. Benjamini and Y. Hochberg, "Controlling the false discovery rate", JRSS B 57, 1995; D. Yekutieli and
        Y. Benjamini, J. Stat. Plan. Inf. 82, 1999 (adjusted values).
    """
    values = _logs(log_p)
    m = _family(values.size, family)
    order = np.argsort(values, kind="stable")
    steps = math.log(max(m, 1)) - np.log(np.arange(1, values.size + 1, dtype=np.float64))
    out = np.empty_like(values)
    out[order] = np.minimum(np.minimum.accumulate((values[order] + steps)[::-1])[::-1], 0.0)
    return out


def e_bh(log_e: ArrayLike, alpha: float, *, family: int | None = None) -> NDArray[np.bool_]:
    """Which hypotheses to reject so that the expected share of false discoveries is at most alpha, however dependent.

    Rejects the k largest e-values for the largest k with ``e_(k) >= m / (k alpha)``.

    Args:
        log_e: Natural logs of e-values; -inf (no evidence) is allowed.
        alpha: Level, in (0, 1].
        family: Number m of questions asked, when some were asked elsewhere; those count as e = 0.

    Returns:
        True where rejected, in the order given.

    References:
        R. Wang and A. Ramdas, "False discovery rate control with e-values", JRSS B 84, 2022, definition 2.
    """
    if not 0.0 < alpha <= 1.0:
        raise ValueError(f"e-BH: alpha must be in (0, 1], got {alpha}")
    values = np.asarray(log_e, dtype=np.float64)
    if values.ndim != 1 or np.isnan(values).any():
        raise ValueError("e-BH: log e-values must be one row of numbers without NaN")
    m = _family(values.size, family)
    order = np.argsort(-values, kind="stable")
    needed = math.log(max(m, 1)) - math.log(alpha) - np.log(np.arange(1, values.size + 1, dtype=np.float64))
    passing = np.flatnonzero(values[order] >= needed)
    out = np.zeros(values.size, dtype=np.bool_)
    if passing.size:
        out[order[: passing[-1] + 1]] = True
    return out


def _logs(log_p: ArrayLike) -> Floats:
    values = np.asarray(log_p, dtype=np.float64)
    if values.ndim != 1 or np.isnan(values).any() or np.any(values > 0.0):
        raise ValueError("multiplicity: log p-values must be one row of numbers at most 0, without NaN")
    return values


def _family(size: int, family: int | None) -> int:
    m = size if family is None else family
    if m < size:
        raise ValueError(f"multiplicity: the family ({m}) is smaller than the number of values given ({size})")
    return m
