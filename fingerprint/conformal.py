"""Rank tests with a finite-sample guarantee, and e-values to combine them under any dependence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wmcheck.fingerprint.signature import Floats
from wmcheck.watermark.core.evalues import average, calibrate


@dataclass(frozen=True, kw_only=True)
class RankTest:
    """Where a pair stands among pairs that are exchangeable with it under independence.

    Attributes:
        p_teachers: rank of the teacher among control teachers, for this suspect; None without controls.
        p_suspects: rank of the suspect among control suspects, for this teacher; None without controls.
        n_teachers, n_suspects: how many controls.
        vendors_teachers, vendors_suspects: how many vendors they come from, each of which counts once.
        p: the larger of the two: a p-value whichever of the two kinds of controls is exchangeable.
        floor: the smallest p that so many vendors of controls can give.
        null, assumptions: what p refers to.
    """

    p_teachers: float | None
    p_suspects: float | None
    n_teachers: int
    n_suspects: int
    vendors_teachers: int
    vendors_suspects: int
    p: float
    floor: float
    null: str = "the suspect is independent of the teacher"
    assumptions: str = (
        "the teacher's vendor is exchangeable with the vendors of the control teachers, or the suspect's with those of the "
        "control suspects: same period, capability and channel, no known link"
    )


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A score and those of its controls.

    Attributes:
        value: the score; NaN where there is none.
        controls: (controls,) scores, NaN likewise.
        groups: vendor of each control.
    """

    value: float
    controls: Floats
    groups: Sequence[str]

    def p(self) -> tuple[float | None, int, int]:
        """p-value (None without score or controls), how many controls have a score, and of how many vendors they are."""
        kept = np.flatnonzero(~np.isnan(self.controls)).tolist()
        groups = [self.groups[place] for place in kept]
        vendors = len(set(groups))
        if not vendors or math.isnan(self.value):
            return None, len(kept), vendors
        return conformal_p(self.value, self.controls[kept], groups), len(kept), vendors


def conformal_p(value: float, controls: Floats | Sequence[float], groups: Sequence[str] | None = None) -> float:
    """``(1 + #{controls >= value}) / (1 + #controls)``: super-uniform if ``value`` is exchangeable with the controls.

    With ``groups`` (one name a control) each group counts once, by the share of its members at or above ``value``: controls of
    one group rise and fall together, and counted one by one they make p too small. Super-uniform if the groups are
    exchangeable and ``value`` comes from another one (hierarchical conformal prediction: Lee, Barber & Willett 2023).
    """
    above = np.asarray(controls, dtype=np.float64) >= value
    place = np.unique(np.asarray(groups), return_inverse=True)[1] if groups is not None else np.arange(len(above))
    shares = np.bincount(place, above) / np.bincount(place) if len(above) else above.astype(np.float64)
    return float((1.0 + shares.sum()) / (1.0 + len(shares)))


def rank_test(for_suspect: Ranked, for_teacher: Ranked) -> RankTest:
    """Rank a pair in both directions.

    Args:
        for_suspect: the teacher among control teachers, with this suspect.
        for_teacher: the suspect among control suspects, with this teacher.
    """
    sides = [side.p() for side in (for_suspect, for_teacher)]
    (p_t, n_t, v_t), (p_s, n_s, v_s) = sides
    known = [p for p in (p_t, p_s) if p is not None]
    floors = [1.0 / (1 + vendors) for p, _, vendors in sides if p is not None]
    return RankTest(
        p_teachers=p_t, p_suspects=p_s, n_teachers=n_t, n_suspects=n_s, vendors_teachers=v_t, vendors_suspects=v_s,
        p=max(known, default=1.0), floor=max(floors, default=1.0),
    )


def e_value(p: float) -> float:
    """The calibrator ``1 / (2 sqrt(p))``: mean at most 1 under the null (its integral over (0, 1) is 1)."""
    return math.exp(float(calibrate(math.log(p), 0.5)))


def mean_e_value(values: Sequence[float]) -> float:
    """Mean of e-values: an e-value however they depend on one another.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("no e-values to combine")
    with np.errstate(divide="ignore"):
        return math.exp(average(np.log(values)))
