"""Which of many contracts and keys marked each record, and how sure that is.

All candidates are tested on all records. What is kept of each test is its numbers; results are made of the best candidate of
a record, of those that cannot be told from it, and of the next one. Corrected p-values count every test of every candidate that
was not taken out, so naming the best one costs nothing more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.errors import ConfigError, InputError, RecordError, WmcheckError
from wmcheck.watermark.core.multiplicity import holm, holm_label
from wmcheck.watermark.core.records import Record
from wmcheck.watermark.core.results import LOG10, Detection, Verdict
from wmcheck.watermark.detect import Detector, Tested
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.screen import Predictor, Screen, Screened
from wmcheck.watermark.sweep_file import Entry
from wmcheck.watermark.windows import Document

Floats = NDArray[np.float64]

# Scores of one function under two names differ by rounding alone.
SAME_TOTAL = 1e-9


@dataclass(frozen=True, slots=True)
class Found:
    """What a sweep says of one record.

    Attributes:
        record: its id; ``where``: file and line.
        verdict: DETECTED if any candidate is; else INSUFFICIENT if any could not have been seen in this text.
        best: the test with the smallest p-value.
        also: detected candidates that cannot be told from it: the same items with the same total.
        runner_up: the next test; None where there is no other.
        detected: how many candidates are detected.
        insufficient: how many candidates are not and could not have been seen.
    """

    record: str
    where: str
    verdict: Verdict
    best: Detection
    also: tuple[Detection, ...]
    runner_up: Detection | None
    detected: int
    insufficient: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What a sweep says of one candidate.

    Attributes:
        entry: the candidate.
        detected: records in which it is detected.
        best: records in which it is detected with the smallest p-value.
        corpus: the test over all records; None where there is one record.
        seconds: processor time.
        share: of that of all candidates.
    """

    entry: Entry
    detected: int
    best: int
    corpus: Detection | None
    seconds: float
    share: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """A whole sweep: records and candidates, both in order, and the correction over all tests."""

    records: list[Found]
    candidates: list[Summary]
    correction: str
    family: int


@dataclass(slots=True)
class _Held:
    """The numbers of one batch, by place of the candidate."""

    records: list[tuple[str, str, str]]
    tested: dict[int, Tested]


class SweepScreen(Screen):
    """Screens records under the candidates of a sweep. Those that cannot be tested drop out.

    Args:
        entries: the candidates.
        tokenizer: see :class:`Screen`, like ``statistic``, ``fallbacks``, ``predictor`` and ``on_error``.
        on_drop: called with each candidate that drops out, and why; what it raises ends the run.
        origin: the sweep file, for messages.
    """

    def __init__(
        self, entries: Sequence[Entry], *, tokenizer: str | None = None, statistic: str = "sum", fallbacks: Sequence[str] = (),
        predictor: Predictor | None = None, on_error: Callable[[RecordError], None],
        on_drop: Callable[[Entry, WmcheckError], None], origin: str,
    ) -> None:
        self.entries = tuple(entries)
        by_candidate = {id(entry.candidate): entry for entry in entries}
        self._origin = origin
        self._held: list[_Held] = []
        self._single: dict[int, Detector] = {}
        super().__init__(
            [entry.candidate for entry in entries], tokenizer=tokenizer, statistic=statistic, fallbacks=fallbacks,
            predictor=predictor, on_error=on_error, origin=origin,
            on_drop=lambda candidate, error: on_drop(by_candidate[id(candidate)], error),
        )
        self._need_candidates()

    def _need_candidates(self) -> None:
        if not self.panel.places:
            count = len(self.entries)
            raise ConfigError("no candidate is left", where=self._origin, got=f"{count} that cannot be tested")

    def _tested(self, documents: Sequence[Document], kept: Sequence[Record]) -> list[Tested]:
        tops = [int(document.ids.max()) if len(document.ids) else -1 for document in documents]
        worst = int(np.argmax(tops))
        for candidate in self.panel.candidates:
            limit = getattr(candidate.profile.scheme, "vocabulary", None)
            if limit is not None and tops[worst] >= limit:
                self.panel.drop(candidate, InputError(
                    "the records hold ids that its model does not have", got=f"{tops[worst]} at {kept[worst].where}",
                    expected=f"ids below {limit}", hint="another model's vocabulary size, or text of another tokenizer",
                ))
        self._need_candidates()
        tested = self.panel.test(documents)
        self._need_candidates()
        return tested

    def _screened(
        self, tested: Sequence[Tested], documents: Sequence[Document], kept: Sequence[Record], sources: Sequence[str]
    ) -> list[Screened]:
        named = [(record.id, record.where, source) for record, source in zip(kept, sources, strict=True)]
        held = _Held(named, dict(zip(self.panel.places, tested, strict=True)))
        self._held.append(held)
        best = np.argmin(np.stack([one.evidence.log_p for one in tested]), axis=0)
        places = self.panel.places
        return [
            Screened(record, where, (self._detection(places[best[i]], held, i),)) for i, (record, where, _) in enumerate(named)
        ]

    def _detection(self, place: int, held: _Held, index: int) -> Detection:
        if place not in self._single:
            statistic = dict(zip(self.panel.places, self.panel.statistics, strict=True))[place]
            self._single[place] = Detector([self.entries[place].candidate], statistic=statistic, corpus=False)
        document, where, tokens = held.records[index]
        found = self._single[place].detections([held.tested[place]], index, document=document, where=where, tokens=tokens)
        return self._marked(found[0])

    def outcome(self, where: str, alpha: float, *, family: int | None = None) -> Outcome:
        """Everything seen so far, corrected over the candidates that are left.

        Args:
            where: name of the corpus.
            alpha: family-wise error.
            family: tests of the whole investigation, where this run is one of several.
        """
        places = self.panel.places
        log_p, totals, n = (
            np.stack([np.concatenate([getattr(held.tested[place].evidence, name) for held in self._held]) for place in places])
            for name in ("log_p", "totals", "n")
        )
        corpus = self.corpus(where) if log_p.shape[1] > 1 else []
        tests = np.concatenate([log_p.ravel(), [test.log10_p * LOG10 for test in corpus]])
        size = max(len(tests), family or 0)
        adjusted = holm(tests, family=size)
        table = adjusted[: log_p.size].reshape(log_p.shape)
        label = holm_label(size)
        bar = math.log(alpha)
        short = (self._expected(n) > bar - math.log(size)) | (n == 0)
        judge = _Judge(log_p, table, totals, n, table <= bar, short & (table > bar))
        pooled = [
            test.adjusted(float(value) / LOG10, label, size)
            for test, value in zip(corpus, adjusted[log_p.size :], strict=True)
        ]
        records: list[Found] = []
        for held in self._held:
            for index in range(len(held.records)):
                records.append(self._found(judge, len(records), held, index, label, size))
        return Outcome(records, self._summaries(judge, pooled), label, size)

    def _found(self, judge: _Judge, column: int, held: _Held, index: int, label: str, size: int) -> Found:
        best, also, next_one = judge.order(column)
        places = self.panel.places

        def result(row: int) -> Detection:
            test = self._detection(places[row], held, index)
            return test.adjusted(float(judge.adjusted[row, column]) / LOG10, label, size)

        detected, short = int(judge.detected[:, column].sum()), int(judge.short[:, column].sum())
        verdict = Verdict.DETECTED if detected else Verdict.INSUFFICIENT if short else Verdict.NOT_DETECTED
        document, where, _ = held.records[index]
        return Found(
            document, where, verdict, result(best), tuple(result(row) for row in also),
            None if next_one is None else result(next_one), detected, short,
        )

    def _expected(self, n: NDArray[np.int64]) -> Floats:
        """f64[candidates, records]: natural log p of a sum at its planned mean; a planning figure."""
        found, known = np.zeros(n.shape), dict[tuple[int, bytes], Floats]()
        for row, candidate in enumerate(self.panel.candidates):
            counts, inverse = np.unique(n[row], return_inverse=True)
            name = id(candidate.profile), counts.tobytes()
            if name not in known:
                known[name] = _planned(candidate.profile, counts)
            found[row] = known[name][inverse]
        return found

    def _summaries(self, judge: _Judge, corpus: Sequence[Detection]) -> list[Summary]:
        places = self.panel.places
        seconds = np.array([self.panel.seconds(place) for place in places])
        shares = seconds / seconds.sum() if seconds.sum() else np.full(len(places), 1.0 / len(places))
        best = np.argmin(judge.log_p, axis=0)
        leads = judge.detected[best, np.arange(len(best))]
        first = np.bincount(best[leads], minlength=len(places))
        return [
            Summary(
                self.entries[place], int(judge.detected[row].sum()), int(first[row]), corpus[row] if corpus else None,
                float(seconds[row]), float(shares[row]),
            )
            for row, place in enumerate(places)
        ]


@dataclass(frozen=True, slots=True)
class _Judge:
    """Arrays [candidates, records]: log p before and after correction, totals, items, and what follows at alpha."""

    log_p: Floats
    adjusted: Floats
    totals: Floats
    n: NDArray[np.int64]
    detected: NDArray[np.bool_]
    short: NDArray[np.bool_]

    def order(self, column: int) -> tuple[int, list[int], int | None]:
        """Of one record: the best candidate, those that cannot be told from it, and the next one."""
        best, *others = (int(row) for row in np.argsort(self.log_p[:, column], kind="stable"))
        total, n = self.totals[best, column], self.n[best, column]
        same = self.detected[:, column] & (self.n[:, column] == n) & np.isclose(
            self.totals[:, column], total, rtol=SAME_TOTAL, atol=0.0
        )
        also = [row for row in others if same[row] and same[best]]
        return best, also, next((row for row in others if row not in also), None)


def _planned(profile: Profile, counts: NDArray[np.int64]) -> Floats:
    totals = np.floor(counts * profile.planned_score)
    return np.where(counts == 0, 0.0, profile.scheme.null().log_sf(totals, np.maximum(counts, 1)))
