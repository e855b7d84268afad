"""Scanning documents for marked spans: candidates and documents in, token ranges with p-values out.

One bar holds for the whole run: a span is reported if its p-value, which already covers every interval of its document and
every expert, times the number of documents and candidates is at most alpha. So the chance that a run reports any span
without a token marked under that candidate is at most alpha (Bonferroni: any dependence between documents, keys, schemes).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.candidate import Batch, Candidate
from wmcheck.watermark.core.dyadic import find_dyadic
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.experts import experts
from wmcheck.watermark.core.results import LOG10
from wmcheck.watermark.core.segments import CERTIFIED, RULES, Found, Segment, find
from wmcheck.watermark.detect import check_ids, check_sums
from wmcheck.watermark.prf import I64
from wmcheck.watermark.tokenizer import TextTokenizer
from wmcheck.watermark.windows import Document

Floats = NDArray[np.float64]

SEGMENTS, DYADIC = "segments", "dyadic"
METHODS = (SEGMENTS, DYADIC)
# Items scored at a time: a score may be a row of many bits.
CHUNK = 65_536
# More spans than this in one text are located by offsets.
DECODED = 16


@dataclass(frozen=True, slots=True)
class Span:
    """A marked stretch of one document.

    Attributes:
        start, stop: output tokens ``start`` to ``stop - 1``, from 0; the first and the last are scored items.
        items: how many items were scored in between.
        score: summed log likelihood ratio in nats (for dyadic windows the sum of scores).
        expert: name of the alternative, or of the window.
        log10_p: log10 of a proven upper bound of the chance that this document without a mark has a span as good.
        log10_p_sharp: the same by the asymptotic law of the best segment; an approximation, not a bound.
    """

    start: int
    stop: int
    items: int
    score: float
    expert: str
    log10_p: float
    log10_p_sharp: float

    def by(self, rule: str) -> float:
        """The log10 p-value that a rule goes by."""
        return self.log10_p if rule == CERTIFIED else self.log10_p_sharp


@dataclass(frozen=True, slots=True)
class Scan:
    """One document under one candidate.

    Attributes:
        candidate: index of the candidate.
        n_scored, n_repeated, n_excluded: items, as in a detection.
        best: the best span whether it holds or not; None where no score speaks for a mark.
        found: what may hold at the end of the run.
    """

    candidate: int
    n_scored: int
    n_repeated: int
    n_excluded: int
    best: Span | None
    found: tuple[Found, ...]
    _tokens: dict[tuple[int, int], tuple[int, int]] = field(repr=False)

    def spans(self, log_bar: float, rule: str = CERTIFIED) -> list[Span]:
        """The spans that hold at a bar (natural log of a p-value, at most the one they were found at), in text order."""
        return [
            _span(segment, self._tokens[segment.start, segment.stop])
            for one in self.found for segment in one.settle(log_bar, rule)
        ]


class Scanner:
    """Finds marked spans in documents under candidates.

    Args:
        candidates: the hypotheses.
        alpha: chance of any false span in all of the run.
        family: documents times candidates of the whole investigation, where this run is one of several.
        rule: ``certified`` goes by the proven bound, ``sharp`` by the asymptotic law.
        method: ``segments`` or ``dyadic``.

    Attributes:
        documents: how many were scanned.

    Raises:
        ConfigError: an unknown rule or method, or a scheme whose null law has no experts.
    """

    def __init__(
        self, candidates: Sequence[Candidate], *, alpha: float, family: int | None = None, rule: str = CERTIFIED,
        method: str = SEGMENTS,
    ) -> None:
        for name, value, known in (("rule", rule, RULES), ("method", method, METHODS)):
            if value not in known:
                raise ConfigError(f"unknown {name}", where=f"--{name}", got=value, expected=", ".join(known))
        if not 0.0 < alpha < 1.0:
            raise ConfigError("alpha out of range", where="--alpha", got=f"{alpha:g}", expected="between 0 and 1")
        self.candidates = tuple(candidates)
        self.alpha, self.rule, self.method = alpha, rule, method
        self._given = family or 0
        self.documents = 0
        for candidate in self.candidates:
            check_sums(candidate.profile, "scan")
            if method == SEGMENTS and not experts(candidate.profile.scheme.null()):
                raise ConfigError(
                    "no segments for this scheme: its null law has no experts", where="--method",
                    got=candidate.profile.scheme_name, hint="--method dyadic suits every scheme",
                )

    @property
    def family(self) -> int:
        """Documents times candidates so far, or the number given if that is larger."""
        return max(self.documents * len(self.candidates), self._given, 1)

    @property
    def log_bar(self) -> float:
        """Natural log of the largest p-value of a span that holds, in a family of the present size."""
        return math.log(self.alpha) - math.log(self.family)

    def scan(self, document: Document) -> list[Scan]:
        """Scan one document under every candidate; it counts into the family.

        Raises:
            InputError: ids that are no token ids.
        """
        check_ids(document)
        self.documents += 1
        batches: dict[tuple[object, ...], Batch] = {}
        found = []
        for which, candidate in enumerate(self.candidates):
            batch = batches.get(candidate.selection)
            if batch is None:
                batch = batches[candidate.selection] = Batch([document], candidate.profile)
            found.append(self._one(which, candidate, batch, document.prompt_length))
        return found

    def adjusted(self, log10_p: float) -> float:
        """log10 p after correction for the family so far."""
        return min(log10_p + math.log10(self.family), 0.0)

    def too_short(self, candidate: Candidate, n: int) -> bool:
        """Whether n items, all of them marked as the profile plans, would on average miss the bar even in one test of the whole.

        A scan needs more than that; how much more depends on how much of the text is marked.
        """
        if n == 0:
            return True
        planned = math.floor(n * candidate.profile.planned_score)
        log_p = candidate.profile.scheme.null().log_sf(np.array([float(planned)]), np.array([n]))
        return float(log_p[0]) > self.log_bar

    def _one(self, which: int, candidate: Candidate, batch: Batch, prompt: int) -> Scan:
        items, kept = batch.items, batch.select(candidate)
        scores, null = _scores(candidate, batch, kept), candidate.profile.scheme.null()
        if self.method == SEGMENTS:
            best, found = find(scores, null, log_bar=self.log_bar, rule=self.rule)
        else:
            best, found = find_dyadic(scores, null, log_bar=self.log_bar)
        tokens = {
            (segment.start, segment.stop): (
                int(items.place[kept[segment.start]]) - prompt, int(items.place[kept[segment.stop - 1]]) + 1 - prompt
            )
            for segment in [*([best] if best else []), *(inner for one in found for inner in _all(one))]
        }
        return Scan(
            which, len(scores), int(items.eligible[0]) - len(scores), int(items.excluded[0]),
            None if best is None else _span(best, tokens[best.start, best.stop]), tuple(found), tokens,
        )


def _scores(candidate: Candidate, batch: Batch, kept: I64) -> Floats:
    """f64[n] reduced scores of the chosen items."""
    scheme, items = candidate.profile.scheme, batch.items
    null, scores = scheme.null(), np.empty(len(kept))
    for start in range(0, len(kept), CHUNK):
        part = kept[start : start + CHUNK]
        scores[start : start + CHUNK] = null.reduce(scheme.score(items.windows[part], items.tokens[part], candidate.prf))
    return scores


def _all(one: Found) -> Iterator[Segment]:
    yield one.segment
    for part in one.parts:
        yield from _all(part)


def _span(segment: Segment, tokens: tuple[int, int]) -> Span:
    return Span(
        *tokens, segment.stop - segment.start, segment.score, segment.expert, segment.log_p / LOG10,
        segment.log_p_sharp / LOG10,
    )


def characters(
    tokenizer: TextTokenizer, ids: I64, text: str, ranges: Sequence[tuple[int, int]], *, encoded: bool
) -> list[tuple[int, int] | None]:
    """Where token ranges stand in a text, as (start, stop) in characters.

    Args:
        tokenizer: of the ids.
        ids: i64[L] ids of the whole text.
        text: the text.
        ranges: (start, stop) in tokens, not empty.
        encoded: the ids are the tokenizer's own for this text; else they are compared with the text by decoding.

    Returns:
        One a range; None where the ids do not spell the text.
    """
    if encoded and len(ranges) > DECODED:
        return _by_offsets(tokenizer, ids, text, ranges)
    if not encoded and tokenizer.decode(ids.tolist()) != text:
        return [None] * len(ranges)
    found = [_ends(_reach(tokenizer, ids[:start], text), _reach(tokenizer, ids[:stop], text)) for start, stop in ranges]
    return _by_offsets(tokenizer, ids, text, ranges) if encoded and None in found else found


def _by_offsets(
    tokenizer: TextTokenizer, ids: I64, text: str, ranges: Sequence[tuple[int, int]]
) -> list[tuple[int, int] | None]:
    """Places from the tokenizer's own offsets: slower to get than spelling out a few beginnings, but sure."""
    again, places = tokenizer.places(text)
    if not np.array_equal(again, ids):
        return [None] * len(ranges)
    found = []
    for start, stop in ranges:
        first, last = places[start], places[stop - 1]
        found.append(None if first is None or last is None else _ends(first[0], last[1]))
    return found


def _reach(tokenizer: TextTokenizer, ids: I64, text: str) -> int | None:
    """How many characters the first ids spell; one that they only begin does not count. None if they spell another text."""
    spelled = tokenizer.decode(ids.tolist())
    if not text.startswith(spelled):
        spelled = spelled.rstrip("\ufffd")
    return len(spelled) if text.startswith(spelled) else None


def _ends(start: int | None, stop: int | None) -> tuple[int, int] | None:
    return None if start is None or stop is None else (start, max(start, stop))
