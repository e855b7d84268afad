"""Normalised scores: how much more alike a pair is than each of the two is with unrelated models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wmcheck.fingerprint.member import Member, related
from wmcheck.fingerprint.signature import SIGNATURES, Floats, Table, block_of

# A mean and a spread of fewer unrelated models than this are noise.
LEAST_REFERENCES = 8


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of every pair of a panel under one signature.

    Attributes:
        signature: its name.
        z: (models, models) float64, symmetric s-norm: the mean of the pair's distance from either model's unrelated pairs, in
            standard deviations; NaN where the pair cannot be compared.
        one_sided: (models, models) float64, entry (s, t) normalised by the pairs of t alone: comparable over s.
        raw: (models, models) float64, before normalisation.
        parts: (blocks, models, models) float64, ``one_sided`` without one block of questions each.
        shared: (models, models) int64, decisions that both made.
        excluded: models that the signature says nothing about, with the reason.
    """

    signature: str
    z: Floats
    one_sided: Floats
    raw: Floats
    parts: Floats
    shared: NDArray[np.int64]
    excluded: Mapping[int, str]


def unrelated(members: Sequence[Member]) -> NDArray[np.bool_]:
    """(models, models) mask of pairs whose tags give no reason to behave alike."""
    mask = np.array([[not related(one, other) for other in members] for one in members], dtype=bool)
    return mask.reshape(len(members), len(members))


def score(name: str, tables: Sequence[Table], members: Sequence[Member], reference: NDArray[np.bool_]) -> Scores:
    """Score and normalise a panel under the signature ``name``.

    Args:
        name: a name in ``SIGNATURES``.
        tables: one table a model.
        members: the tags of the same models.
        reference: (models, models) mask, true where column c may serve as a reference for row s.
    """
    pairs = SIGNATURES[name]().score(tables)
    one_sided = _one_sided(pairs.raw, members, reference)
    parts = np.stack([_one_sided(part, members, reference) for part in pairs.parts])
    return Scores(
        signature=name, z=0.5 * (one_sided + one_sided.T), one_sided=one_sided, raw=pairs.raw, parts=parts, shared=pairs.shared,
        excluded=pairs.excluded,
    )


def item_error(scores: Scores, one: int, other: int) -> float:
    """Standard error of ``z`` of a pair over questions: the jackknife over blocks; 0 where it cannot be told."""
    parts = 0.5 * (scores.parts[:, one, other] + scores.parts[:, other, one])
    error = jackknife_error(parts)
    return 0.0 if np.isnan(error) else error


def jackknife_error(parts: Floats) -> float:
    """Standard error from estimates that leave one block of questions out each; NaN with fewer than two."""
    parts = parts[~np.isnan(parts)]
    count = len(parts)
    return float(np.sqrt((count - 1) / count * np.square(parts - parts.mean()).sum())) if count > 1 else float("nan")


def _one_sided(raw: Floats, members: Sequence[Member], reference: NDArray[np.bool_]) -> Floats:
    """Entry (s, t): the score of s and t against the scores of t with its references on the channel of s."""
    channels = sorted({member.channel for member in members})
    on = np.array([channels.index(member.channel) for member in members])
    usable = reference & ~np.isnan(raw)
    everywhere = _location(raw, usable)
    result = np.full(raw.shape, np.nan)
    for channel in range(len(channels)):
        rows = on == channel
        mean, spread, count = _location(raw, usable & rows[None, :])
        enough = count >= LEAST_REFERENCES
        mean = np.where(enough, mean, everywhere[0])
        spread = np.where(enough, spread, everywhere[1])
        result[rows] = ((raw - mean[:, None]) / spread[:, None]).T[rows]
    result[:, everywhere[2] < LEAST_REFERENCES] = np.nan
    np.fill_diagonal(result, np.nan)
    return result


def _location(raw: Floats, usable: NDArray[np.bool_]) -> tuple[Floats, Floats, NDArray[np.int64]]:
    count = usable.sum(1)
    held = np.where(usable, raw, 0.0)
    mean = held.sum(1) / np.maximum(count, 1)
    square = np.where(usable, np.square(raw - mean[:, None]), 0.0).sum(1) / np.maximum(count - 1, 1)
    spread = np.sqrt(square)
    # A model whose scores are all the same tells nothing apart.
    return mean, np.where(spread > 0.0, spread, np.nan), count


def half(tables: Sequence[Table], number: int) -> list[Table]:
    """The tables with every other block of questions: 0 for the even ones, 1 for the odd ones."""
    kept = {item: block_of(item) % 2 == number for item in {item for table in tables for item in table}}
    return [{item: seen for item, seen in table.items() if kept[item]} for table in tables]
