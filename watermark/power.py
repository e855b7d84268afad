"""The power planner: how many tokens a watermark needs on the text of a given model, before it is deployed.

Evidence comes from the choice that the model leaves to the key, so the planner takes next-token laws from the user's own
model at its own sampling settings (:mod:`wmcheck.watermark.traffic`), draws what each scheme would score on them, and
counts texts whose exact p-value reaches the bar. No key of yours is involved. For unbiased schemes the law of marked text
is that of ordinary text; red/green text is more varied, so its laws should come from text sampled under a throw-away key
(``sample_traffic(profile=...)``): from ordinary text its plan errs towards more tokens, and that of one fixed list
(``width=0``), whose colours hold for the whole text, towards fewer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.planning import (
    Draw,
    Floats,
    Masses,
    drawn,
    gumbel_scores,
    redgreen_scores,
    reweight_scores,
    thresholds,
    tournament_scores,
)
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.prf import I64, PrfKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.scheme import Scheme
from wmcheck.watermark.traffic import Traffic
from wmcheck.watermark.windows import Document, first_occurrences, in_document, make_items

LENGTHS = (50, 100, 200, 400, 800)
LONGEST = 3200
DRAWS = 16
RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """What to expect of one watermark.

    Attributes:
        name, scheme, parameters: the profile.
        status: ``detectable`` (90% of texts reach the bar at some length considered), ``partly`` (half of them do),
            ``undetectable`` (neither).
        needed: tokens at which 50% and 90% of texts reach the bar, None where no length considered is enough.
        intervals: 90% bootstrap intervals of the two over texts; an end is None beyond the lengths considered.
        shares: share of texts that reach the bar at each of the lengths asked for.
        own: the same at the length that each text has.
        mean_score, null_mean: of one scored token, in marked and in independent text.
        scored: share of output tokens that are scored and marked; the rest are repeats and the first of a text.
        by_mean: tokens at which the expected total meets the bar, a closed form to compare with; None if none does.
    """

    name: str
    scheme: str
    parameters: dict[str, Any]
    status: str
    needed: dict[float, int | None]
    intervals: dict[float, tuple[int | None, int | None]]
    shares: dict[int, float]
    own: float
    mean_score: float
    null_mean: float
    scored: float
    by_mean: int | None


def scheme_draw(scheme: Scheme, seed: int = 0) -> Draw:
    """How to draw scores of a scheme from laws: by formula for the four of this package, else by its own ``transform``
    and ``score`` under a throw-away key."""
    parameters = scheme.parameters()
    if scheme.name == "gumbel":
        return gumbel_scores
    if scheme.name == "redgreen":
        return redgreen_scores(parameters["green"] / 256, parameters["delta"])
    if scheme.name == "reweight":
        return reweight_scores(parameters["alpha"])
    if scheme.name == "tournament":
        return tournament_scores(scheme.null().weights)  # type: ignore[attr-defined]
    return generic_draw(scheme, seed)


def generic_draw(scheme: Scheme, seed: int = 0) -> Draw:
    """Scores through the scheme's own code, each law in a fresh context of throw-away keys. For any scheme; slower."""
    keys = np.random.default_rng(seed)

    def draw(masses: Masses, rng: np.random.Generator) -> Floats:
        import torch

        from wmcheck.watermark.rows import RowKeys

        found, width = [], max(scheme.width, 1)
        for start in range(0, len(masses), 256):
            part = torch.from_numpy(masses[start : start + 256].astype(np.float32))
            # A new key for each part: where the width is 0 all rows of a part share their colours.
            prf = PrfKey.derive(SecretKey(keys.bytes(32)).tenant(), scheme.label())
            windows = torch.from_numpy(rng.integers(0, 1 << 31, (len(part), width))[:, : scheme.width])
            marked = torch.softmax(scheme.transform(windows, part.log(), RowKeys([prf] * len(part))).double(), 1).numpy()
            chosen = (marked.cumsum(1) < rng.random((len(part), 1))).sum(1).clip(max=part.shape[1] - 1)
            found.append(scheme.null().reduce(scheme.score(windows.numpy().astype(np.uint32), chosen.astype(np.int64), prf)))
        return np.concatenate(found)

    return draw


def plan(
    profile: Profile, traffic: Traffic, alpha: float, *, keys: int = 1, documents: int = 1, lengths: Sequence[int] = LENGTHS,
    longest: int = LONGEST, draws: int = DRAWS, seed: int = 0,
) -> Plan:
    """Plan one watermark.

    Args:
        profile: the watermark.
        traffic: laws of the text that will carry it.
        alpha: family-wise error.
        keys, documents: tests of a run; the smallest p of the run meets ``alpha / (keys documents)`` under Holm.
        lengths: at which to report shares.
        longest: tokens considered; beyond the length of a text it goes on as more of the same.
        draws: marked versions of each text.
        seed: of all randomness.

    Returns:
        The plan; its figures are estimates, not bounds.
    """
    rng = np.random.default_rng(seed)
    scheme, null = profile.scheme, profile.scheme.null()
    scored, marked = scored_places(scheme, traffic, profile.special_ids, seed)
    scores = _scores(scheme, traffic, marked, draws, rng)
    grid = _grid(longest, lengths)
    own = traffic.lengths()
    totals, counts, own_totals, own_counts = _walk(scores, scored, own, grid, rng)
    log_bar = math.log(alpha) - math.log(keys) - math.log(documents)
    bar = thresholds(null, np.arange(longest + int(own.max(initial=0)) + 1), log_bar)
    hits = (totals >= bar[counts] - 1e-9).mean(1)
    power = hits.mean(0)
    at = {level: _first(power, grid, level) for level in (0.5, 0.9)}
    both = scored & marked
    mean = float(scores[both].mean()) if both.any() else null.mean()
    status = "detectable" if at[0.9] else "partly" if at[0.5] else "undetectable"
    return Plan(
        name=profile.name, scheme=scheme.name, parameters=scheme.parameters(), status=status, needed=at,
        intervals={level: _interval(hits, grid, level, rng) for level in at},
        shares={n: float(power[np.searchsorted(grid, n)]) for n in lengths if n <= longest},
        own=float((own_totals >= bar[own_counts] - 1e-9).mean()), mean_score=mean, null_mean=null.mean(),
        scored=float(both.mean()), by_mean=_by_mean(bar, mean, null.mean(), float(scored.mean()), float(both.mean()), longest),
    )


def limit(
    traffic: Traffic, alpha: float, *, keys: int = 1, documents: int = 1, longest: int = LONGEST, seed: int = 0
) -> dict[float, int | None]:
    """Tokens for 50% and 90% of texts by the best test that any unbiased watermark allows, with the model known.

    A text x of probability P(x) reaches the bar with chance ``min(1, alpha / P(x))`` (He et al. 2024, optimal power).
    """
    rng, grid = np.random.default_rng(seed), _grid(longest, ())
    ones = np.ones(len(traffic.log_p), bool)
    totals, _, _, _ = _walk(-traffic.log_p[:, None], ones, traffic.lengths(), grid, rng)
    log_bar = math.log(alpha) - math.log(keys) - math.log(documents)
    power = np.exp(np.minimum(0.0, log_bar + totals)).mean((0, 1))
    return {level: _first(power, grid, level) for level in (0.5, 0.9)}


def scored_places(
    scheme: Scheme, traffic: Traffic, special: Sequence[int], seed: int = 0
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which output places a detector that does not know the prompt scores, and which the generator marks; bool[n] each."""
    n = len(traffic.text)
    if not traffic.documents:
        return np.ones(n, bool), np.ones(n, bool)
    prf = PrfKey.derive(SecretKey(np.random.default_rng(seed).bytes(32)).tenant(), scheme.label())
    ids = np.asarray(special, np.int64)
    starts = np.cumsum(np.concatenate([[0], traffic.lengths()]))[:-1]
    bare = [Document(document.ids[document.prompt_length :]) for document in traffic.documents]
    items = make_items(bare, scheme.width, ids, window_rule=scheme.window_rule)
    kept = first_occurrences(in_document(scheme.codes(items.windows, items.tokens, prf), items.document))
    scored, marked = np.zeros(n, bool), np.zeros(n, bool)
    scored[starts[items.document[kept]] + items.place[kept]] = True
    prompts = np.array([document.prompt_length for document in traffic.documents])
    items = make_items(traffic.documents, scheme.width, ids, window_rule=scheme.window_rule)
    marked[(starts[items.document] + items.place - prompts[items.document])[items.scored]] = True
    return scored, marked


def _scores(scheme: Scheme, traffic: Traffic, marked: NDArray[np.bool_], draws: int, rng: np.random.Generator) -> Floats:
    """f64[n, draws]; one draw, that of the text itself, where one fixed list ties the colours of a text together."""
    if scheme.width == 0 and traffic.own_scores is not None:
        return np.nan_to_num(traffic.own_scores, nan=scheme.null().mean())[:, None]
    scores = drawn(traffic.masses, scheme_draw(scheme, int(rng.integers(1 << 31))), draws, rng)
    plain = ~marked
    scores[plain] = scheme.null().sample(int(plain.sum()) * draws, rng).reshape(-1, draws)
    return scores


def _grid(longest: int, lengths: Sequence[int]) -> I64:
    """Lengths in steps of 2%, and those asked for."""
    steps = np.unique(np.rint(np.exp(np.arange(0.0, math.log(longest), 0.02))).astype(np.int64))
    return np.union1d(steps, np.array([longest, *(n for n in lengths if n <= longest)], np.int64))


def _walk(
    scores: Floats, scored: NDArray[np.bool_], own: I64, grid: I64, rng: np.random.Generator
) -> tuple[Floats, I64, Floats, I64]:
    """Totals and counts of scored items at each length of the grid, [texts, draws, grid], and at each text's own
    length, [texts, draws]. A text that ends before goes on with places and draws of its own, taken at random."""
    texts, draws, longest = len(own), scores.shape[1], int(grid[-1])
    starts = np.cumsum(own) - own
    totals, counts = np.empty((texts, draws, len(grid))), np.empty((texts, draws, len(grid)), np.int64)
    own_totals, own_counts = np.empty((texts, draws)), np.empty((texts, draws), np.int64)
    for text, (start, length) in enumerate(zip(starts, own, strict=True)):
        values = np.where(scored[start : start + length, None], scores[start : start + length], 0.0)
        used = scored[start : start + length]
        more = max(0, longest - int(length))
        place, column = rng.integers(0, length, (draws, more)), rng.integers(0, draws, (draws, more))
        running = np.concatenate([values.T, values[place, column]], axis=1).cumsum(1)
        items = np.concatenate([np.tile(used, (draws, 1)), used[place]], axis=1).cumsum(1)
        totals[text], counts[text] = running[:, grid - 1], items[:, grid - 1]
        own_totals[text], own_counts[text] = running[:, length - 1], items[:, length - 1]
    return totals, counts, own_totals, own_counts


def _first(power: Floats, grid: I64, level: float) -> int | None:
    """The least length from which on the share stays at ``level`` or more."""
    short = np.flatnonzero(power < level)
    at = int(short[-1]) + 1 if len(short) else 0
    return int(grid[at]) if at < len(grid) else None


def _interval(hits: Floats, grid: I64, level: float, rng: np.random.Generator) -> tuple[int | None, int | None]:
    """90% percentile interval over resampled texts."""
    rows = rng.integers(0, len(hits), (RESAMPLES, len(hits)))
    found = sorted(math.inf if (n := _first(hits[row].mean(0), grid, level)) is None else n for row in rows)
    low, high = found[RESAMPLES // 20], found[RESAMPLES - 1 - RESAMPLES // 20]
    return (None if math.isinf(low) else int(low)), (None if math.isinf(high) else int(high))


def _by_mean(bar: Floats, mean: float, null_mean: float, scored: float, both: float, longest: int) -> int | None:
    """Tokens at which the expected total meets the bar."""
    tokens = np.arange(1, longest + 1)
    expected = tokens * (both * mean + (scored - both) * null_mean)
    enough = expected >= bar[np.rint(tokens * scored).astype(np.int64)]
    return int(tokens[np.argmax(enough)]) if enough.any() else None
