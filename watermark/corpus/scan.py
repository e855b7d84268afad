"""Records to sketches: encode, test each document, sample n-grams for the test of the whole."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.candidate import Batch, Candidate
from wmcheck.watermark.core.errors import InputError, KeyFileError, RecordError
from wmcheck.watermark.core.experts import Expert, experts
from wmcheck.watermark.core.records import Record
from wmcheck.watermark.core.results import LOG10
from wmcheck.watermark.core.sparse import mixture
from wmcheck.watermark.core.statistics import STATISTICS, Sample
from wmcheck.watermark.corpus.settings import Settings
from wmcheck.watermark.corpus.sketch import Counts, Ranked, Sketch, Unit, fixed
from wmcheck.watermark.corpus.sources import UnitReader
from wmcheck.watermark.detect import check_ids
from wmcheck.watermark.prf import U64
from wmcheck.watermark.scheme import left_codes
from wmcheck.watermark.screen import Screen
from wmcheck.watermark.windows import Document

Floats = NDArray[np.float64]

BATCH_RECORDS = 512
BATCH_CHARACTERS = 500_000
# A longer text is tested in pieces, so that the memory of its encoding is bounded.
PIECE_CHARACTERS = 2_000_000
DEEPEST = 10_000


@dataclass(slots=True)
class Cost:
    """Processor seconds of the parts of a scan, and the peak of resident memory in bytes. Never part of a result."""

    reading: float = 0.0
    encoding: float = 0.0
    testing: float = 0.0
    wall: float = 0.0
    peak: int = 0

    @property
    def processor(self) -> float:
        """Processor seconds of all parts."""
        return self.encoding + self.testing + self.reading


@dataclass(frozen=True, slots=True)
class _Numbered:
    """A record with its line in the unit and, for a piece of a long text, which."""

    line: int
    piece: int
    record: Record


class Mapper:
    """Makes sketches.

    Args:
        candidates: with their keys, in the order of the settings.
        settings: of the scan.
        tokenizer: where to load the tokenizer from, if not from where the profile says.
        strict: raise the first record or source that cannot be read.

    Raises:
        KeyFileError: the keys are not those of the settings.
    """

    def __init__(
        self, candidates: Sequence[Candidate], settings: Settings, *, tokenizer: str | None = None, strict: bool = False
    ) -> None:
        expected = [key.commitment for _, key, _ in settings.named]
        if [one.key.commitment for one in candidates] != expected:
            raise KeyFileError(
                "other keys than the scan began with", where="--key", got=", ".join(one.key.id for one in candidates[:4]),
                expected=", ".join(key.id for _, key, _ in settings.named[:4]), hint="scan into another folder: --out",
            )
        self.candidates, self.settings, self._strict = tuple(candidates), settings, strict
        self._screen = Screen(candidates, tokenizer=tokenizer, on_error=_raise)
        self._statistic = STATISTICS["sum"]()
        self._experts = [tuple(experts(one.profile.scheme.null())) for one in self.candidates]
        self.problems: list[str] = []
        self.cost = Cost()

    def sketch(self, units: Iterable[Unit]) -> Sketch:
        """The sketch of units.

        Raises:
            InputError: when strict, the first record or source that cannot be read.
            MissingExtraError: an optional package is needed to read a source.
        """
        found, started = Sketch(self.settings), time.monotonic()
        reading = dict(self.settings.reading)
        for unit in units:
            counts = Counts.zero(self.settings)
            reader = UnitReader(unit, reading.get("field"), reading.get("tokens_field"))
            chosen = self._chosen(self._read(reader, counts), counts)
            try:
                self._take(found, unit, counts, (piece for line, record in chosen for piece in _pieces(line, record)))
            except RecordError:
                raise
            except InputError as error:
                if self._strict:
                    raise
                counts.failure = str(error)
                self._tell(counts.failure)
            counts.sha256, counts.lines, counts.read = reader.sha256, reader.lines, reader.read_bytes
            found.add(unit, counts)
        self.cost.wall += time.monotonic() - started
        self.cost.peak = _peak_bytes()
        return found

    def take(self, sketch: Sketch, unit: Unit, counts: Counts, records: Iterable[Record], before: int = 0) -> None:
        """Add records that something else has read to a sketch, after ``before`` others; ``sketch.add`` ends the unit."""
        chosen = self._chosen(enumerate(records, before + 1), counts)
        self._take(sketch, unit, counts, (_Numbered(line, 0, record) for line, record in chosen))

    def _chosen(self, records: Iterable[tuple[int, Record]], counts: Counts) -> Iterator[tuple[int, Record]]:
        """Those in the sample of documents; the others are counted."""
        for line, record in records:
            if self.settings.reads(record.text, record.tokens):
                yield line, record
            else:
                counts.passed += 1

    def _read(self, reader: UnitReader, counts: Counts) -> Iterator[tuple[int, Record]]:
        """Lines and records of a unit, timed; bad records are counted."""
        source = iter(reader)
        while True:
            started = time.process_time()
            item = next(source, None)
            self.cost.reading += time.process_time() - started
            if item is None:
                return
            if isinstance(item, RecordError):
                self._skip(counts, item)
            else:
                yield item

    def _take(self, sketch: Sketch, unit: Unit, counts: Counts, records: Iterator[_Numbered]) -> None:
        waiting: list[_Numbered] = []
        size = 0
        try:
            for one in records:
                waiting.append(one)
                size += len(one.record.text or "") if one.record.tokens is None else len(one.record.tokens)
                if len(waiting) >= BATCH_RECORDS or size >= BATCH_CHARACTERS:
                    ready, waiting, size = waiting, [], 0
                    self._batch(sketch, unit, counts, ready)
        except InputError:
            # What came before the damage counts.
            self._batch(sketch, unit, counts, waiting)
            raise
        self._batch(sketch, unit, counts, waiting)

    def _batch(self, sketch: Sketch, unit: Unit, counts: Counts, numbered: Sequence[_Numbered]) -> None:
        if not numbered:
            return
        started = time.process_time()
        unlike = self._screen.unlike
        documents, kept, sources, bad = self._screen.documents([one.record for one in numbered])
        counts.unlike += self._screen.unlike - unlike
        self.cost.encoding += time.process_time() - started
        for error in bad:
            self._skip(counts, error)
        if not documents:
            return
        started = time.process_time()
        places = {id(one.record): one for one in numbered}
        self._test(sketch, unit, counts, documents, [places[id(record)] for record in kept], sources)
        self.cost.testing += time.process_time() - started

    def _test(
        self, sketch: Sketch, unit: Unit, counts: Counts, documents: Sequence[Document], kept: Sequence[_Numbered],
        sources: Sequence[str],
    ) -> None:
        for document in documents:
            check_ids(document)
        counts.documents += len(documents)
        counts.tokens += sum(len(document.ids) - document.prompt_length for document in documents)
        counts.sources = sorted({*counts.sources, *sources})
        batches: dict[tuple[object, ...], Batch] = {}
        for which, group in enumerate(self.settings.sets):
            codes: U64 | None = None
            columns = []
            for place in group:
                candidate = self.candidates[place]
                batch = batches.get(candidate.selection)
                if batch is None:
                    batch = batches[candidate.selection] = Batch(documents, candidate.profile)
                scores, owner = batch.scores(candidate)
                if codes is None:
                    chosen, codes = self._sample(batch, candidate)
                columns.append(fixed(scores[chosen]))
                self._documents(sketch, unit, counts, place, batch, scores, owner, kept, sources)
            if codes is not None and len(codes):
                counts.sampled[which] += len(codes)
                sketch.add_codes(which, codes, np.stack(columns, 1))

    def _sample(self, batch: Batch, candidate: Candidate) -> tuple[Any, U64]:
        """Which selected items are in the sample, and their codes. The choice is by the n-gram, whatever the key."""
        kept, items, scheme = batch.select(candidate), batch.items, candidate.profile.scheme
        windows, tokens = items.windows[kept], items.tokens[kept]
        plain = left_codes(windows, tokens)
        chosen = np.flatnonzero(plain <= np.uint64(self.settings.limit))
        if scheme.key_free_selection:
            return chosen, plain[chosen]
        return chosen, scheme.codes(windows[chosen], tokens[chosen], candidate.prf)

    def _documents(
        self, sketch: Sketch, unit: Unit, counts: Counts, place: int, batch: Batch, scores: Floats, owner: Any,
        kept: Sequence[_Numbered], sources: Sequence[str],
    ) -> None:
        """Test each document under one candidate; the best enter its list."""
        items, candidate = batch.items, self.candidates[place]
        null = candidate.profile.scheme.null()
        evidence = self._statistic.evaluate(Sample(scores, owner, items.documents, null))
        repeated, excluded = batch.left_out(candidate, evidence.n)
        counts.scored[place] += int(evidence.n.sum())
        counts.repeated[place] += int(repeated.sum())
        counts.excluded[place] += int(excluded.sum())
        tails = counts.tails[place]
        depths, many = np.unique(np.minimum(np.floor(-evidence.log_p / LOG10), DEEPEST).astype(np.int64), return_counts=True)
        for depth, count in zip(depths.tolist(), many.tolist(), strict=True):
            tails[depth] = tails.get(depth, 0) + count
        order = np.lexsort((np.arange(len(kept)), evidence.log_p))[: self.settings.top]
        found = []
        for i in order[evidence.log_p[order] <= sketch.worst(place)].tolist():
            one = kept[i]
            begin, end = np.searchsorted(owner, [i, i + 1])
            found.append(Ranked(
                float(evidence.log_p[i]), unit.name, one.line, one.piece, one.record.id, float(evidence.totals[i]),
                int(evidence.n[i]), int(repeated[i]), int(excluded[i]),
                _log_e(self._experts[place], scores[begin:end]), sources[i],
            ))
        if found:
            sketch.add_best(place, found)

    def _skip(self, counts: Counts, error: RecordError) -> None:
        if self._strict:
            raise error
        counts.skipped += 1
        self._tell(str(error))

    def _tell(self, problem: str) -> None:
        if len(self.problems) < 20:
            self.problems.append(problem)


def _peak_bytes() -> int:
    """The most resident memory that this process has held; 0 where the system does not say."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _raise(error: RecordError) -> None:
    raise error


def _pieces(line: int, record: Record) -> Iterator[_Numbered]:
    """A record, or the pieces of one with a very long text, cut at spaces where there are any."""
    text = record.text
    if record.tokens is not None or text is None or len(text) <= PIECE_CHARACTERS:
        yield _Numbered(line, 0, record)
        return
    start, piece = 0, 0
    while start < len(text):
        stop = min(start + PIECE_CHARACTERS, len(text))
        space = text.rfind(" ", start + PIECE_CHARACTERS // 2, stop)
        stop = space if space > 0 and stop < len(text) else stop
        piece += 1
        # The first piece alone follows the prompt.
        prompt = {} if piece == 1 else {"prompt": None, "prompt_tokens": None}
        yield _Numbered(line, piece, replace(record, id=f"{record.id}#{piece}", text=text[start:stop], **prompt))  # type: ignore[arg-type]
        start = stop


def _log_e(found: Sequence[Expert], scores: Floats) -> float | None:
    """The e-value of a document: the mean over experts fixed in advance of the product over its distinct items."""
    if not found:
        return None
    return float(mixture(np.array([one.log_e(scores).sum() for one in found])))
