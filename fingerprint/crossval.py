"""Calibration that never saw the pair it speaks about: folds by vendor, bootstrap over vendors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wmcheck.fingerprint.likelihood import Calibration, calibrate
from wmcheck.fingerprint.member import Member
from wmcheck.fingerprint.propositions import Pair
from wmcheck.fingerprint.signature import Floats


@dataclass(frozen=True, kw_only=True)
class PairSet:
    """Scored pairs that stand for one proposition.

    Attributes:
        pairs: (student, teacher) indices of cohort members.
        scores: (pairs, signatures) normalised scores, no NaN.
        clusters: (pairs, 2) cluster (vendor) of either model: what is left out and resampled together.
        lines: (pairs, 2) product line of either model: what counts as one independent model.
    """

    pairs: list[Pair]
    scores: Floats
    clusters: NDArray[np.int64]
    lines: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def independent(self) -> int:
        """How many product lines the pairs come from, if there are not fewer pairs: what they may count as at most."""
        return min(len(np.unique(self.lines)), len(self))

    @property
    def vendors(self) -> int:
        """How many clusters the pairs come from."""
        return len(np.unique(self.clusters))

    def without(self, clusters: Sequence[int]) -> PairSet:
        """The pairs in which no model of these clusters takes part."""
        keep = np.asarray(~np.isin(self.clusters, np.asarray(clusters, dtype=np.int64)).any(axis=1))
        return self._take(keep)

    def _take(self, keep: NDArray[np.bool_]) -> PairSet:
        kept = [pair for pair, wanted in zip(self.pairs, keep, strict=True) if wanted]
        return PairSet(pairs=kept, scores=self.scores[keep], clusters=self.clusters[keep], lines=self.lines[keep])


def cluster_numbers(members: Sequence[Member]) -> NDArray[np.int64]:
    """The cluster of each member, numbered in the order of their sorted names."""
    return _numbers([member.cluster for member in members])


def _numbers(names: Sequence[str]) -> NDArray[np.int64]:
    place = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([place[name] for name in names], dtype=np.int64)


def pair_set(pairs: Sequence[Pair], layers: Sequence[Floats], members: Sequence[Member]) -> PairSet:
    """Collect the scores of ``pairs`` from one (models, models) matrix a signature; pairs without a score are left out."""
    index = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    scores = np.stack([layer[index[:, 0], index[:, 1]] for layer in layers], axis=1) if layers else np.empty((len(index), 0))
    lines = _numbers([f"{member.cluster}/{member.line}" for member in members])
    whole = PairSet(
        pairs=[(int(i), int(j)) for i, j in index], scores=scores, clusters=cluster_numbers(members)[index], lines=lines[index],
    )
    return whole._take(np.asarray(~np.isnan(scores).any(axis=1)))


def held_out(target: PairSet, alternative: PairSet, *, falling: bool = False) -> tuple[Floats, Floats]:
    """Natural log LR of every pair from a calibration without the clusters of its two models.

    Pairs whose fold leaves fewer than two pairs of either kind get NaN.

    Returns:
        (target pairs,) and (alternative pairs,) float64.
    """
    fits: Folds = {}
    sides = [held_out_all(side, target, alternative, falling=falling, fits=fits) for side in (target, alternative)]
    return sides[0], sides[1]


Folds = dict[tuple[int, int], Calibration | None]


def held_out_all(
    pairs: PairSet, target: PairSet, alternative: PairSet, *, falling: bool = False, fits: Folds | None = None,
) -> Floats:
    """Natural log LR of every pair of ``pairs`` from ``target`` and ``alternative`` pairs that share no cluster with it.

    Args:
        pairs: what to judge.
        target, alternative: what calibrates.
        falling: see ``calibrate``.
        fits: calibrations of folds by their clusters, from and for other pairs judged by the same two sets.
    """
    fits = {} if fits is None else fits
    values = np.full(len(pairs), np.nan)
    for row, (one, other) in enumerate(pairs.clusters):
        fold = (int(min(one, other)), int(max(one, other)))
        if fold not in fits:
            fits[fold] = _fold(target, alternative, fold, falling)
        fit = fits[fold]
        if fit is not None:
            values[row] = fit.log_lr(pairs.scores[row : row + 1])[0]
    return values


def _fold(target: PairSet, alternative: PairSet, fold: tuple[int, int], falling: bool) -> Calibration | None:
    train1, train0 = target.without(fold), alternative.without(fold)
    if len(train1) < 2 or len(train0) < 2:
        return None
    return calibrate(train1.scores, train0.scores, falling=falling)


def bootstrap(
    target: PairSet, alternative: PairSet, score: Floats, spread: Floats, *, draws: int, rng: np.random.Generator,
    falling: bool = False,
) -> Floats:
    """Log LR of one pair under resampled vendors and items.

    Clusters are drawn with replacement, and a pair counts as often as both of its clusters were drawn; the pair's own
    scores move by their standard error over items.

    Args:
        target, alternative: the pairs that calibrate.
        score: (signatures,) scores of the pair in question.
        spread: (signatures,) their standard errors over items.
        draws: how many resamples.
        rng: source of randomness.
        falling: see ``calibrate``.

    Returns:
        (kept draws,) natural log LRs; draws without any pair of one kind are left out.
    """
    names = np.unique(np.concatenate([target.clusters.ravel(), alternative.clusters.ravel()]))
    values = []
    for _ in range(draws):
        counts = dict(
            zip(names.tolist(), rng.multinomial(len(names), np.full(len(names), 1.0 / len(names))).tolist(), strict=True)
        )
        weights = [_weights(side, counts) for side in (target, alternative)]
        if min(weight.sum() for weight in weights) <= 0.0:
            continue
        fit = calibrate(target.scores, alternative.scores, weights=(weights[0], weights[1]), falling=falling)
        moved = score + spread * rng.standard_normal(len(score))
        values.append(float(fit.log_lr(moved[None, :])[0]))
    return np.array(values)


def _weights(side: PairSet, counts: dict[int, int]) -> Floats:
    each = np.vectorize(counts.__getitem__, otypes=[np.float64])(side.clusters)
    # Two models of one cluster were drawn together, once.
    same = side.clusters[:, 0] == side.clusters[:, 1]
    weights: Floats = np.where(same, each[:, 0], each[:, 0] * each[:, 1])
    return weights
