"""The key-permutation null: the same text under keys drawn afresh, and the rank of the own key among them.

**Why the rank is exact.** Let ``K_0`` be the key under test and ``K_1 .. K_B`` decoys: independent keys, uniform like ``K_0``.
Let ``X`` be the text and ``S_i = S(X, K_i)`` any statistic. If ``K_0`` is independent of ``X`` (nothing else is assumed: ``X``
may repeat itself, quote itself, come from a template, be chosen by an adversary who does not know the keys), then given
``X`` the ``S_i`` are independent and of one law, hence exchangeable. Call place i extreme if at most ``c`` of the ``B + 1``
values (its own included) are at least as extreme as ``S_i``. There are at most ``c`` such places: the least extreme of them
has all of them at or beyond it. By exchangeability place 0 is one of them with probability at most ``c / (B + 1)``, so

    p = (1 + #{i >= 1: S_i at least as extreme as S_0}) / (B + 1)

satisfies ``P(p <= a) <= a`` for every a. Ties count against the key. The smallest p is ``1 / (B + 1)``, whatever the text.

**What is drawn.** A decoy is a uniform 32-byte tenant secret. The own key is one too, or derived from a root by HKDF, which
is indistinguishable from one under the assumption that every p-value of this package rests on. The generator must be
unknown to whoever made the text: who knows the decoys can write text on which they score low and so frame the own key.

References:
    E. Pitman, 1937, and J. Besag and P. Clifford, "Generalized Monte Carlo significance tests", Biometrika 76, 1989 (the
    rank); T. Knijnenburg et al., "Fewer permutations, more accurate P-values", Bioinformatics 25, 2009 (the tail); J. Pickands,
    Ann. Statist. 3, 1975 (its law); R. Smith, "Estimating tails of probability distributions", Ann. Statist. 15, 1987
    (its standard errors).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import genpareto

from wmcheck.watermark.candidate import Batch, Candidate
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.results import LOG10
from wmcheck.watermark.core.statistics import STATISTICS, Floats, ModelTerms, Sample, Statistic
from wmcheck.watermark.detect import check_fit, check_ids, check_sums
from wmcheck.watermark.keys import SECRET_BYTES, TenantKey
from wmcheck.watermark.prf import I64
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.windows import Document, Items

# Scored items that are held at once; a statistic may keep several arrays of this size.
CHUNK_ITEMS = 1 << 19
# With this many decoys at least as extreme the rank itself is known to a third, and needs no extrapolation.
ENOUGH_BEYOND = 10
# The tail is fitted to the most extreme decoys: a quarter of them, at least and at most so many.
FEWEST_EXCESSES, MOST_EXCESSES = 50, 250
# A statistic with fewer values than this in its tail (a count of green tokens) is no sample of a continuous law.
FEWEST_VALUES = 50


def decoy_keys(count: int, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> list[TenantKey]:
    """Independent, uniformly random tenant keys.

    Args:
        count: B.
        random_bytes: the source of the secrets. The default is the operating system's; ``numpy.random.default_rng(seed).bytes``
            repeats a run, and is safe where nobody who made the text could know the seed.
    """
    if count < 1:
        raise ConfigError("too few decoy keys", where="--decoys", got=str(count), expected="1 or more")
    return [TenantKey(random_bytes(SECRET_BYTES), "", "") for _ in range(count)]


def candidates_of(profile: Profile, keys: Sequence[TenantKey]) -> list[Candidate]:
    """One candidate a key; under a peer's contract, keys that are drawn from those."""
    draw = getattr(profile.scheme, "draw", None)
    if draw is None:
        return [Candidate(profile, key) for key in keys]
    seeds = (int.from_bytes(key.subkey("decoy", profile.scheme_name), "big") for key in keys)
    return [Candidate(profile, draw(np.random.default_rng(seed))) for seed in seeds]


@dataclass(frozen=True, slots=True)
class KeyedSample:
    """Scored items of a batch under several keys; document ``d`` under key ``k`` is document ``k * documents + d``.

    Attributes:
        sample: items of all keys, key by key and in text order.
        item: i64[n] index of each into the items of the batch.
        keys: how many keys.
    """

    sample: Sample
    item: I64
    keys: int

    def without(self, drop: NDArray[np.bool_]) -> Sample:
        """The sample without some items of the batch, bool[items of the batch]; valid if the text alone decides which."""
        keep = np.flatnonzero(~drop[self.item])
        sample, model = self.sample, None if self.sample.model is None else self.sample.model.take(keep)
        return Sample(sample.scores[keep], sample.document[keep], sample.documents, sample.null, model)


class KeyedScores:
    """The scores of one batch of documents under many keys: the key-free work is done once.

    Args:
        documents: token ids.
        profile: the watermark contract.

    Raises:
        InputError: a document with ids that are no token ids.
    """

    def __init__(self, documents: Sequence[Document], profile: Profile) -> None:
        for document in documents:
            check_ids(document)
        check_sums(profile, "--decoys")
        self.profile = profile
        self._batch = Batch(documents, profile)
        self._null = profile.scheme.null()
        self._shared: tuple[I64, NDArray[np.uint32], I64] | None = None

    @property
    def items(self) -> Items:
        """All scorable items of the batch; which of them are scored may depend on the key."""
        return self._batch.items

    def samples(self, candidates: Sequence[Candidate]) -> Iterator[KeyedSample]:
        """The scored items under each candidate, in order, in chunks of about ``CHUNK_ITEMS`` items.

        Args:
            candidates: keys of this profile.
        """
        step = max(1, CHUNK_ITEMS // max(1, len(self.items.tokens)))
        for start in range(0, len(candidates), step):
            yield self._sample(candidates[start : start + step])

    def _sample(self, candidates: Sequence[Candidate]) -> KeyedSample:
        scheme, documents = self.profile.scheme, self.items.documents
        chosen, raw, terms = [], [], []
        for candidate in candidates:
            kept, windows, tokens = self._chosen(candidate)
            chosen.append(kept)
            raw.append(scheme.score(windows, tokens, candidate.prf))
            found = self._batch.terms(candidate)
            if found is not None:
                terms.append(found)
        item = np.concatenate(chosen)
        key = np.repeat(np.arange(len(candidates)), [len(kept) for kept in chosen])
        scores = self._null.reduce(np.concatenate(raw)) if len(item) else np.zeros(0)
        model = ModelTerms.join(terms) if len(terms) == len(candidates) else None
        sample = Sample(scores, key * documents + self.items.document[item], len(candidates) * documents, self._null, model)
        return KeyedSample(sample, item, len(candidates))

    def _chosen(self, candidate: Candidate) -> tuple[I64, NDArray[np.uint32], I64]:
        if self._shared is not None:
            return self._shared
        kept = self._batch.select(candidate)
        found = kept, self.items.windows[kept], self.items.tokens[kept]
        if self.profile.scheme.key_free_selection:
            self._shared = found
        return found


def fitting_statistic(name: str, profile: Profile) -> Statistic:
    """The registered statistic.

    Raises:
        ConfigError: it is unknown, or does not suit the profile's scheme.
    """
    if name not in STATISTICS:
        raise ConfigError("unknown statistic", where="--statistic", got=name, expected=", ".join(STATISTICS))
    statistic: Statistic = STATISTICS[name]()
    check_fit(statistic, profile)
    return statistic


def log_p_by_key(
    documents: Sequence[Document], candidates: Sequence[Candidate], *, statistic: str = "sum"
) -> Floats:
    """f64[keys, documents]: the log p-value of the statistic in every document under every candidate, as detection has it.

    Args:
        documents: token ids; with predictions where the statistic reads a model.
        candidates: keys of one profile.
        statistic: registry name.

    Raises:
        ConfigError: candidates of several profiles, or a statistic that does not suit.
        InputError: a document with ids that are no token ids.
    """
    profile = candidates[0].profile
    if any(candidate.profile is not profile for candidate in candidates):
        raise ConfigError("decoys belong to one profile", where="--profile", expected="candidates of one profile")
    test = fitting_statistic(statistic, profile)
    found = [
        test.evaluate(part.sample).log_p.reshape(part.keys, len(documents))
        for part in KeyedScores(documents, profile).samples(candidates)
    ]
    return np.concatenate(found)


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """A generalised-Pareto guess of a tail probability beyond the reach of a rank: never a p-value, never a verdict.

    Above ``threshold`` the surprise ``-log10 p`` of a decoy is taken to exceed it by y with probability
    ``(1 + shape y / scale) ^ (-1 / shape)``. A statistic with an exact exponential tail has shape 0 and scale ``1 / ln 10``.

    Attributes:
        log10_p_extrapolated: the guess.
        log10_se: its standard error in decades by the delta method, from the fit alone; infinite where it does not exist
            (shape of -1/2 and below). It grows with the distance: from 2,000 decoys to 1e-5 it is more than a decade.
        threshold: in -log10 p.
        excesses: decoys beyond it, to which the tail was fitted by maximum likelihood.
        shape: the shape, with ``shape_se``.
        scale: the scale, in -log10 p.
    """

    log10_p_extrapolated: float
    log10_se: float
    threshold: float
    excesses: int
    shape: float
    shape_se: float
    scale: float


@dataclass(frozen=True, slots=True)
class DecoyTest:
    """The own key among decoys, for one document.

    Attributes:
        decoys: B.
        at_least: decoys whose statistic is at least as extreme; ties count.
        log_p: natural log of the rank p-value ``(1 + at_least) / (B + 1)``, exact whatever the text depends on.
        own_log_p: natural log of the statistic's own p-value.
        extrapolated: the tail beyond the floor; None where the rank suffices or there are too few decoys to fit.
    """

    decoys: int
    at_least: int
    log_p: float
    own_log_p: float
    extrapolated: Extrapolation | None = None

    @property
    def log_floor(self) -> float:
        """Natural log of the smallest p that so many decoys can give."""
        return -math.log1p(self.decoys)

    @property
    def at_floor(self) -> bool:
        """No decoy was as extreme: p is the floor, and more decoys could make it smaller."""
        return self.at_least == 0


def decoy_test(
    documents: Sequence[Document], candidate: Candidate, decoys: Sequence[TenantKey], *, statistic: str = "sum",
) -> list[DecoyTest]:
    """Rank the own key among decoys, document by document.

    Each p-value is exact by itself; correct over documents as with any p-values (they may depend on each other).

    Args:
        documents: token ids.
        candidate: the profile under the own key.
        decoys: keys drawn by :func:`decoy_keys`, without regard to the text.
        statistic: registry name.

    Raises:
        ConfigError: no decoys, or a statistic that does not suit.
        InputError: a document with ids that are no token ids.
    """
    if not decoys:
        raise ConfigError("too few decoy keys", where="--decoys", got="0", expected="1 or more")
    log_p = log_p_by_key(documents, [candidate, *candidates_of(candidate.profile, decoys)], statistic=statistic)
    return [rank(log_p[0, place], log_p[1:, place]) for place in range(len(documents))]


def rank(own: float, others: Floats) -> DecoyTest:
    """The rank p-value of one value among exchangeable ones, where smaller is more extreme; ties count against it.

    Args:
        own: natural log p-value (or any value) under the own key.
        others: f64[B], the same under the decoys.
    """
    others = np.asarray(others, np.float64)
    if others.ndim != 1 or not len(others) or np.isnan(others).any() or math.isnan(own):
        raise ValueError("rank: the decoys' values must be one row of numbers, and the own value a number")
    at_least = int(np.count_nonzero(others <= own))
    log_p = math.log1p(at_least) - math.log1p(len(others))
    return DecoyTest(len(others), at_least, log_p, float(own), extrapolate(own, others))


def extrapolate(own: float, others: Floats) -> Extrapolation | None:
    """The generalised-Pareto guess for ``own`` from the most extreme of the decoys' log p-values.

    Args:
        own: natural log of the statistic's p-value under the own key.
        others: f64[B], the same under the decoys.

    Returns:
        None where ``ENOUGH_BEYOND`` decoys are as extreme (the rank is the better answer), where there are fewer than
        4 x ``FEWEST_EXCESSES`` decoys, where the decoys' values are too coarse to have a tail, and where the fitted shape is
        negative and ends the tail before the own value.
    """
    count = min(MOST_EXCESSES, len(others) // 4)
    if count < FEWEST_EXCESSES or int(np.count_nonzero(others <= own)) >= ENOUGH_BEYOND:
        return None
    surprise = np.sort(-np.asarray(others, np.float64))[::-1] / LOG10
    # Halfway to the next value: no excess is 0, where some fitted densities are infinite.
    threshold = float(surprise[count - 1] + surprise[count]) / 2.0
    excess = surprise[surprise > threshold] - threshold
    beyond = -own / LOG10 - threshold
    coarse = len(excess) < FEWEST_EXCESSES or len(np.unique(excess)) < FEWEST_VALUES
    if coarse or not np.isfinite(excess).all() or not 0.0 < beyond < math.inf:
        return None
    shape, _, scale = (float(value) for value in genpareto.fit(excess, floc=0.0, scale=float(excess.mean())))
    k = len(excess)
    # Of all B + 1 values, the own one counted, so that the guess joins the rank at the threshold.
    log_p = math.log((k + 1) / (len(others) + 1)) + float(genpareto.logsf(beyond, shape, scale=scale))
    if not math.isfinite(log_p):
        return None
    regular = shape > -0.5
    log_se = _delta_se(beyond, shape, scale, k) if regular else math.inf
    shape_se = (1.0 + shape) / math.sqrt(k) if regular else math.inf
    return Extrapolation(log_p / LOG10, log_se / LOG10, threshold, k, shape, shape_se, scale)


def _delta_se(y: float, shape: float, scale: float, k: int) -> float:
    """Standard error of the log tail at excess y; covariance of the estimates as in Smith (1987), (shape, scale) order."""
    ratio = y / scale
    inside = 1.0 + shape * ratio
    if abs(shape) < 1e-6:
        by_shape = ratio * ratio / 2.0
    else:
        by_shape = math.log(inside) / shape**2 - ratio / (shape * inside)
    gradient = np.array([by_shape, ratio / (scale * inside)])
    covariance = (1.0 + shape) / k * np.array([[1.0 + shape, -scale], [-scale, 2.0 * scale * scale]])
    return math.sqrt(max(0.0, float(gradient @ covariance @ gradient)) + 1.0 / k)
