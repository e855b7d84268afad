"""Two-valued decisions of several models as one matrix, and their Rasch residuals as pair scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wmcheck.fingerprint.rasch import fit_rasch, q3
from wmcheck.fingerprint.signature import BLOCKS, Contribution, Floats, PairScores, Table, block_of

# Two models that hardly ever take a decision agree by never taking it: their Q3 is an artefact (specs 2.9).
LEAST_DECISIONS = 10
_LEAST_MODELS = 4


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """A panel of decisions.

    Attributes:
        items: the questions, sorted.
        names: the strata, sorted.
        strata: (items,) place of each item's stratum in ``names``.
        shares: (models, items) float64, share of samples in which the decision was taken; NaN where unobserved.
    """

    items: list[str]
    names: list[str]
    strata: NDArray[np.int64]
    shares: Floats


def panel(tables: Sequence[Table], taken: Callable[[str], bool | None]) -> Decisions:
    """Arrange the tables of several models.

    Args:
        tables: one table a model.
        taken: whether a token takes the decision; None where it does not bear on it.

    Returns:
        The items that at least four models decided on.
    """
    rows: list[dict[str, float]] = []
    stratum_of: dict[str, str] = {}
    answered: dict[str, int] = {}
    for table in tables:
        row: dict[str, float] = {}
        for item, seen in table.items():
            votes = [vote for vote in map(taken, seen.tokens) if vote is not None]
            if votes:
                row[item] = sum(votes) / len(votes)
                stratum_of[item] = seen.stratum
                answered[item] = answered.get(item, 0) + 1
        rows.append(row)
    items = sorted(item for item, count in answered.items() if count >= min(_LEAST_MODELS, len(tables)))
    names = sorted({stratum_of[item] for item in items})
    place = {name: number for number, name in enumerate(names)}
    shares = np.full((len(tables), len(items)), np.nan)
    for number, row in enumerate(rows):
        for column, item in enumerate(items):
            if item in row:
                shares[number, column] = row[item]
    strata = np.array([place[stratum_of[item]] for item in items], dtype=np.int64)
    return Decisions(items=items, names=names, strata=strata, shares=shares)


def undecided(decisions: Decisions, *, what: str, least: float = LEAST_DECISIONS) -> dict[int, str]:
    """Models that nearly always, or hardly ever, take the decision, with the reason why they cannot be compared."""
    excluded: dict[int, str] = {}
    for number, row in enumerate(decisions.shares):
        seen = row[~np.isnan(row)]
        did, total = float(seen.sum()), len(seen)
        if total == 0:
            excluded[number] = f"no item of this kind ({what})"
        elif did < least:
            excluded[number] = f"{what} on {did:g} of {total} items; at least {least:g} are needed"
        elif total - did < least:
            excluded[number] = f"{what} on all but {total - did:g} of {total} items; at least {least:g} others are needed"
    return excluded


def residual_scores(panels: Sequence[Decisions], *, excluded: Mapping[int, str], least: int) -> PairScores:
    """Q3 over the residuals of one or more panels of the same models, put side by side.

    Models that cannot be compared are left out of the fit as well: they would only blur the difficulties.
    """
    models = len(panels[0].shares)
    kept = [model for model in range(models) if model not in excluded]
    raw = np.full((models, models), np.nan)
    parts = np.full((BLOCKS, models, models), np.nan)
    shared = np.zeros((models, models), dtype=np.int64)
    if kept and panels[0].items:
        used = [decisions for decisions in panels if decisions.items]
        fits = [fit_rasch(decisions.shares[kept], decisions.strata) for decisions in used]
        block = np.array([block_of(item) for decisions in used for item in decisions.items], dtype=np.int64)
        inner, without = q3(
            np.hstack([fit.residual for fit in fits]), np.hstack([fit.observed for fit in fits]), block, BLOCKS,
        )
        seen = fits[0].observed.astype(np.int64)
        common = seen @ seen.T
        raw[np.ix_(kept, kept)] = np.where(common >= least, inner, np.nan)
        parts[np.ix_(range(BLOCKS), kept, kept)] = np.where(common >= least, without, np.nan)
        shared[np.ix_(kept, kept)] = common
    return PairScores(raw=raw, shared=shared, excluded=dict(excluded), parts=parts)


def explain(panels: Sequence[Decisions], excluded: Mapping[int, str], one: int, other: int) -> list[Contribution]:
    """The product of two models' residuals, item by item, as shares of their Q3; empty where either was left out."""
    models = len(panels[0].shares)
    kept = [model for model in range(models) if model not in excluded]
    if one not in kept or other not in kept or not panels[0].items:
        return []
    first, second = kept.index(one), kept.index(other)
    totals: dict[str, float] = {}
    strata: dict[str, str] = {}
    norms = np.zeros(2)
    for decisions in panels:
        fit = fit_rasch(decisions.shares[kept], decisions.strata)
        both = fit.observed[first] & fit.observed[second]
        norms += np.square(fit.residual[[first, second]][:, both]).sum(1)
        for column in np.flatnonzero(both):
            item = decisions.items[column]
            totals[item] = totals.get(item, 0.0) + float(fit.residual[first, column] * fit.residual[second, column])
            strata[item] = decisions.names[decisions.strata[column]]
    scale = float(np.sqrt(norms.prod())) or 1.0
    return [Contribution(item, strata[item], value / scale) for item, value in sorted(totals.items())]
