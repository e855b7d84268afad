"""Sketches: what a part of a corpus contributes to the tests of the whole.

``merge`` is associative and commutative, and a source counts once however often it is merged (idempotent): a sketch is a map
from units (ranges of files) to their counts, a set of codes with one score each, and the best documents under a total order.

The corpus test sums the score of every distinct (effective seed, token) of the corpus. A score is a function of its code, so a
set of codes with scores has one sum whatever the order of merging. Scores are held as whole multiples of 2^-40, rounded down:
sums are exact, whole-number scores are kept as they are, and others only lose, so that p stays an upper bound.

Sampling: an n-gram (window and token) takes part if its unkeyed hash is small enough, one in ``sample``. What is scored then
still depends on the text alone. So it does where documents are sampled: a document is read if the unkeyed hash of its whole text
is small enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.errors import InputError
from wmcheck.watermark.corpus.settings import Settings
from wmcheck.watermark.prf import I64, U64

SCALE_BITS = 40
# Pending rows of a set before they are merged into the sorted ones.
PENDING = 1 << 21


@dataclass(frozen=True, slots=True)
class Unit:
    """A range of a source, the atom of counting.

    Attributes:
        path: file or URL as it was found.
        start, stop: bytes, or row groups of a Parquet file; lines belong to the range that they begin in.
        size: bytes of the whole file.
        stamp: time or tag of its last change.
        layout: ``jsonl``, ``lines``, ``txt``, ``csv``, ``json`` or ``parquet``.
        whole: the range is the whole file.
    """

    path: str
    start: int
    stop: int
    size: int
    stamp: str
    layout: str
    whole: bool

    @property
    def name(self) -> str:
        """Identity of the range."""
        return f"{self.path}[{self.start}:{self.stop}]"


@dataclass(slots=True)
class Counts:
    """What was found in one unit.

    Attributes:
        sha256: of the bytes that were read.
        lines: line ends in them.
        documents: tested ones; ``skipped`` records could not be, ``passed`` ones are outside of the sample of documents.
        tokens: output tokens of the documents.
        read: bytes.
        scored, repeated, excluded: items of each candidate, summed over documents.
        sampled: of each set, scored items in the sample before the corpus test leaves out repeats.
        tails: of each candidate, how many documents have ``floor(-log10 p) = k``, by k.
        unlike: documents whose recorded ids do not spell their text.
        sources: where ids came from.
        failure: why the unit could not be read to its end; empty if it was.
    """

    sha256: str = ""
    lines: int = 0
    documents: int = 0
    skipped: int = 0
    passed: int = 0
    tokens: int = 0
    read: int = 0
    scored: list[int] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    excluded: list[int] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    tails: list[dict[int, int]] = field(default_factory=list)
    unlike: int = 0
    sources: list[str] = field(default_factory=list)
    failure: str = ""

    @classmethod
    def zero(cls, settings: Settings) -> Counts:
        """Nothing yet."""
        many, sets = len(settings.named), len(settings.sets)
        return cls(
            scored=[0] * many, repeated=[0] * many, excluded=[0] * many, sampled=[0] * sets, tails=[{} for _ in range(many)]
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Counts:
        """The counts of a JSON object; raises ``TypeError``, ``KeyError`` or ``ValueError`` where it is none."""
        tails = [{int(k): int(v) for k, v in one.items()} for one in data["tails"]]
        return cls(**{**data, "tails": tails})

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {**asdict(self), "tails": [{str(k): one[k] for k in sorted(one)} for one in self.tails]}


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document among the best of a candidate; the order is that of the list.

    Attributes:
        log_p: natural log of its p-value, before any correction.
        unit: name of its unit; ``line`` is its line or row there, ``piece`` its part of a long text.
        record: its own id.
        total, n, repeated, excluded: as in a detection.
        log_e: natural log of its e-value by the experts of the null law; None where the law has none.
        tokens: where the ids came from.
    """

    log_p: float
    unit: str
    line: int
    piece: int
    record: str
    total: float
    n: int
    repeated: int
    excluded: int
    log_e: float | None
    tokens: str

    @property
    def place(self) -> tuple[str, int, int]:
        """What a document is told apart by."""
        return self.unit, self.line, self.piece


class CodeSet:
    """Distinct codes with one score a candidate, in whole multiples of 2^-40.

    Two items of one code (a collision of 64-bit hashes, about n^2 / 2^65 in a corpus) count as one, with the smaller score:
    it is stochastically below either, so p stays an upper bound.
    """

    def __init__(self, width: int) -> None:
        self._codes: U64 = np.zeros(0, np.uint64)
        self._scores: I64 = np.zeros((0, width), np.int64)
        self._waiting: list[tuple[U64, I64]] = []
        self._rows = 0

    def add(self, codes: U64, scores: I64) -> None:
        """Add u64[n] codes with i64[n, candidates] scores."""
        self._waiting.append((codes, scores))
        self._rows += len(codes)
        if self._rows >= max(PENDING, len(self._codes)):
            self.settle()

    def settle(self) -> tuple[U64, I64]:
        """The distinct codes in ascending order, and their scores."""
        if self._waiting:
            codes = np.concatenate([self._codes, *(codes for codes, _ in self._waiting)])
            scores = np.concatenate([self._scores, *(scores for _, scores in self._waiting)])
            self._waiting, self._rows = [], 0
            order = np.argsort(codes, kind="stable")
            codes, scores = codes[order], scores[order]
            first = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]])) if len(codes) else order
            self._codes = codes[first]
            self._scores = np.minimum.reduceat(scores, first, axis=0) if len(first) < len(codes) else scores
        return self._codes, self._scores


@dataclass(frozen=True, slots=True)
class Totals:
    """Exact sums over the distinct items of a corpus.

    Attributes:
        distinct: items of each set.
        sums: of each candidate, in whole multiples of 2^-40.
    """

    distinct: tuple[int, ...]
    sums: tuple[int, ...]


def fixed(scores: NDArray[np.float64]) -> I64:
    """Scores as whole multiples of 2^-40, rounded down."""
    return np.floor(scores * float(1 << SCALE_BITS)).astype(np.int64)


def unfixed(total: int) -> float:
    """A sum of fixed scores as the largest float64 that is not above it."""
    found = total / (1 << SCALE_BITS)
    return float(np.nextafter(found, -np.inf)) if Fraction(found) > Fraction(total, 1 << SCALE_BITS) else found


class Sketch:
    """A mergeable summary of part of a corpus.

    Args:
        settings: the scan that it belongs to.

    Attributes:
        units: counts of each unit, by its name.
        best: of each candidate, its best documents.
        sets: codes of each set of candidates.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.units: dict[str, tuple[Unit, Counts]] = {}
        self.best: list[list[Ranked]] = [[] for _ in settings.named]
        self.sets = [CodeSet(len(group)) for group in settings.sets]

    def add(self, unit: Unit, counts: Counts) -> None:
        """Count a unit.

        Raises:
            InputError: it is here with other contents.
        """
        check_unit(self.units, unit, counts)
        self.units[unit.name] = (unit, counts)

    def add_codes(self, which: int, codes: U64, scores: I64) -> None:
        """Add sampled items of set ``which``: u64[n], i64[n, candidates of the set]."""
        self.sets[which].add(codes, scores)

    def add_best(self, candidate: int, found: Iterable[Ranked]) -> None:
        """Offer documents to the list of a candidate."""
        self.best[candidate] = best_of([*self.best[candidate], *found], self.settings.top)

    def worst(self, candidate: int) -> float:
        """A document must have a smaller log p than this to enter the list, or an equal one."""
        full = len(self.best[candidate]) >= self.settings.top
        return self.best[candidate][-1].log_p if full else 0.0

    def merge(self, other: Sketch, where: str = "sketch") -> None:
        """Take in another sketch; units that are here already change nothing.

        Raises:
            InputError: a sketch of another scan, or of a source that changed in between.
        """
        self.settings.check_same(other.settings, where, "the first sketch")
        for unit, counts in other.units.values():
            self.add(unit, counts)
        for mine, theirs in zip(self.sets, other.sets, strict=True):
            mine.add(*theirs.settle())
        for candidate, found in enumerate(other.best):
            self.add_best(candidate, found)

    def finish(self) -> Totals:
        """Exact sums over the distinct items so far; more may be merged afterwards."""
        distinct, sums = [], [0] * len(self.settings.named)
        for group, held in zip(self.settings.sets, self.sets, strict=True):
            codes, scores = held.settle()
            distinct.append(len(codes))
            for column, candidate in enumerate(group):
                sums[candidate] = exact_sum(scores[:, column])
        return Totals(tuple(distinct), tuple(sums))


def exact_sum(values: I64) -> int:
    """The sum of i64 as a Python integer: high and low halves by themselves cannot overflow."""
    return (int((values >> 20).sum()) << 20) + int((values & ((1 << 20) - 1)).sum())


def best_of(found: Sequence[Ranked], top: int) -> list[Ranked]:
    """The first ``top`` distinct documents in order."""
    return sorted({one.place: one for one in found}.values(), key=_order)[:top]


def _order(one: Ranked) -> tuple[float, str, int, int]:
    return one.log_p, *one.place


def check_unit(known: Mapping[str, tuple[Unit, Counts]], unit: Unit, counts: Counts) -> None:
    """Refuse a unit that is known with other contents.

    Raises:
        InputError: its source changed between two scans.
    """
    held = known.get(unit.name)
    if held is not None and held[1].sha256 != counts.sha256:
        raise InputError(
            "the source changed between two sketches of it", where=unit.name, got=f"digest {counts.sha256[:16]}",
            expected=f"digest {held[1].sha256[:16]}", hint="scan it again into a new folder",
        )


def check_overlaps(units: Iterable[Unit]) -> None:
    """Refuse ranges of one file that overlap: their documents would count twice.

    Raises:
        InputError: which.
    """
    last: Unit | None = None
    for unit in sorted(units, key=lambda unit: (unit.path, unit.start, unit.stop)):
        if last is not None and last.path == unit.path and unit.start < last.stop:
            raise InputError(
                "two sketches overlap", where=unit.path, got=f"{unit.start} to {unit.stop} beside {last.start} to {last.stop}",
                hint="the file was scanned twice in different ranges: reduce one scan alone",
            )
        last = unit
