"""The check of an audit on ordinary text: sums of scores over random keys against the law that p takes, twice.

Once as a detector has them that scores each distinct n-gram; once as detection here does it, each effective seed and token once.
Where contexts share seeds the two differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binom

from wmcheck.watermark.audit_checks import PLACES
from wmcheck.watermark.audit_subject import Floats, Sizes, Subject, text_ids
from wmcheck.watermark.audit_words import CORPUS, DOCUMENT, ERRORS, Finding, State, unmeasured
from wmcheck.watermark.peer import Chosen
from wmcheck.watermark.prf import I64, U64
from wmcheck.watermark.scheme import left_codes
from wmcheck.watermark.windows import WHOLE, Document, Items, first_occurrences, in_document, make_items

DOCUMENTS, KEYS, CORPUS_KEYS, JUDGED_KEYS = 8, 2000, 400, 250
# Tokens of the shortest corpus.
FEWEST = 4000
# The level at which false positives are counted.
COUNTED = 0.01


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums of scores of ordinary documents, [keys, documents].

    Attributes:
        naive: sums over distinct n-grams, less their mean and over the standard deviation of the ideal law.
        ours: sums over distinct effective seeds and tokens, the same by the contract's law.
        low: keys and documents with p at or below :data:`COUNTED` under that law.
        items: scored items of all documents, as the naive detector has them.
    """

    naive: Floats
    ours: Floats
    low: int
    items: int


class _Texts:
    """The items of documents, cut once for all keys."""

    def __init__(self, subject: Subject, documents: list[Document]) -> None:
        scheme, self.subject, self.documents = subject.scheme, subject, len(documents)
        self.items = make_items(
            documents, subject.width, np.zeros(0, np.int64), window_rule=scheme.window_rule,
            context=getattr(scheme, "context", WHOLE),
        )
        self.plain = self._first(left_codes(self.items.windows, self.items.tokens))

    def _first(self, codes: U64) -> I64:
        return first_occurrences(in_document(codes, self.items.document))

    def kept(self, prf: Any) -> I64:
        """The items that detection here scores."""
        if self.subject.scheme.key_free_selection:
            return self.plain
        return self._first(self.subject.codes(self.items.windows, self.items.tokens, prf))

    def sums(self, keys: int, rng: np.random.Generator) -> Sums:
        """Under random keys."""
        subject, (mean, variance) = self.subject, self.subject.ideal
        naive, ours, low = np.zeros((keys, self.documents)), np.zeros((keys, self.documents)), 0
        for place in range(keys):
            prf = subject.keyed(subject.draw(rng))
            scores = subject.scores(self.items.windows, self.items.tokens, prf)
            naive[place] = _standard(scores, self.items, self.plain, mean, variance)
            kept = self.kept(prf)
            ours[place] = _standard(scores, self.items, kept, subject.null.mean(), subject.null.variance())
            if not subject.judges:
                # Exact tails take time, and no p near the level that is counted belongs to a sum below its mean.
                high = np.flatnonzero(ours[place] > 1.0)
                owner = self.items.document[kept]
                totals, n = np.bincount(owner, scores[kept], self.documents), np.bincount(owner, minlength=self.documents)
                low += int((subject.null.log_sf(totals[high], n[high]) <= math.log(COUNTED)).sum())
        return Sums(naive, ours, low, len(self.plain))

    def judged(self, rng: np.random.Generator) -> int:
        """Documents with p at or below the level, by a contract that judges texts itself, under one random key."""
        items, prf = self.items, self.subject.keyed(self.subject.draw(rng))
        kept = self.kept(prf)
        chosen = Chosen(
            items.windows[kept], items.tokens[kept], items.place[kept], items.document[kept], self.documents,
            np.zeros(self.documents, np.int64),
        )
        return int((self.subject.scheme.evaluate(chosen, prf).log_p <= math.log(COUNTED)).sum())


def _standard(scores: Floats, items: Items, kept: I64, mean: float, variance: float) -> Floats:
    owner = items.document[kept]
    n = np.bincount(owner, minlength=items.documents)
    totals = np.bincount(owner, weights=scores[kept], minlength=items.documents)
    return np.asarray((totals - n * mean) / np.sqrt(np.maximum(n, 1) * variance))


def text(subject: Subject, sizes: Sizes, rng: np.random.Generator) -> Finding:
    """Variance of the sums of documents and of a corpus of ordinary text over random keys, and false positives."""
    if subject.whole:
        return unmeasured("text", PLACES)
    ids = text_ids()
    ids = ids[ids < subject.vocabulary]
    step = len(ids) // DOCUMENTS
    documents = [Document(ids[place * step : place * step + DOCUMENT]) for place in range(DOCUMENTS)]
    texts = _Texts(subject, documents)
    most = min(KEYS, max(32, 5 * sizes.windows // (DOCUMENTS * DOCUMENT)))
    keys = sizes.times(0.15, most, lambda: texts.sums(1, np.random.default_rng(0)), least=32)
    short = texts.sums(keys, rng)
    figures: dict[str, Any] = {"documents": DOCUMENTS, "tokens": DOCUMENT, "keys": keys}
    found = {}
    for name in ("naive", "ours"):
        squares = getattr(short, name) ** 2
        error = float(squares.mean(1).std() / math.sqrt(keys))
        found[name] = _seen(float(squares.mean()), error)
        figures[f"variance_{name}"], figures[f"error_{name}"] = float(squares.mean()), error
    figures |= _corpus(subject, sizes, ids, rng)
    hits, tests = (short.low, short.ours.size) if not subject.judges else _judge(texts, sizes, rng)
    figures |= {"false_positives": hits / tests, "level": COUNTED, "tests": tests}
    return _judgement(subject, found, figures, too_many=bool(binom.sf(hits - 1, tests, COUNTED) < 1e-5))


def _corpus(subject: Subject, sizes: Sizes, ids: I64, rng: np.random.Generator) -> dict[str, Any]:
    """Variance over keys of the sum of a pooled corpus; 1 where it differs from that by less than its error."""
    first = _Texts(subject, [Document(ids[:FEWEST])])
    longest = min(CORPUS, max(FEWEST, sizes.windows // 10)) // FEWEST
    length = FEWEST * sizes.times(0.15 / 64, longest, lambda: first.sums(1, np.random.default_rng(0)), least=1)
    texts = _Texts(subject, [Document(ids[:length])])
    most = min(CORPUS_KEYS, max(32, 40 * sizes.windows // length))
    keys = sizes.times(0.15, most, lambda: texts.sums(1, np.random.default_rng(0)), least=16)
    pooled = texts.sums(keys, rng)
    figures: dict[str, Any] = {"corpus_tokens": length, "corpus_items": pooled.items, "corpus_keys": keys}
    for name in ("naive", "ours"):
        spread = float(getattr(pooled, name).var(ddof=1))
        figures[f"corpus_variance_{name}"] = _seen(spread, spread * math.sqrt(2.0 / (keys - 1)))
    return figures


def _judge(texts: _Texts, sizes: Sizes, rng: np.random.Generator) -> tuple[int, int]:
    """Documents with low p and documents tested, under as many keys as time allows."""
    found: list[int] = []
    most = min(JUDGED_KEYS, max(1, sizes.windows // FEWEST))
    times = sizes.times(0.15, most, lambda: found.append(texts.judged(rng)), least=1)
    if not found:
        found.append(texts.judged(rng))
    found += [texts.judged(rng) for _ in range(times - 1)]
    return sum(found), len(found) * texts.documents


def _seen(value: float, error: float) -> float:
    """A ratio that should be 1, or 1 where it is within its error."""
    return 1.0 if abs(value - 1.0) <= ERRORS * error else value


def _judgement(subject: Subject, found: dict[str, float], figures: dict[str, Any], *, too_many: bool) -> Finding:
    naive, limit = figures["variance_naive"], 1.0 + ERRORS * figures["error_naive"]
    worst = max(found["naive"], figures["corpus_variance_naive"])
    shown, words, state = f"{naive:.2f}", "", State.CLEAN
    if too_many:
        state = State.WEAK
        words = f"{figures['false_positives']:.3f} of ordinary documents have p at or below {COUNTED:g} here"
    elif not subject.judges and max(found["ours"], figures["corpus_variance_ours"]) > 1.0:
        state = State.WEAK
        words = f"sums over ordinary text vary {max(found['ours'], figures['corpus_variance_ours']):.2f} times as much as p takes"
    elif worst > 1.0:
        state = State.CORRECTED
        words = f"sums over the distinct n-grams of ordinary text vary {worst:.2f} times as much as independent ones"
    return Finding("text", state, naive, limit, words, shown=shown, details=figures)
