"""Candidates of several kinds in one run: each is tested by a statistic that suits it, and one that breaks can be taken out.

Taking a candidate out changes nothing for the others. Why it is taken out may depend on the text (ids that it does not know)
and on the contract, never on the key's verdict, so the p-values that remain keep their meaning.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wmcheck.watermark.candidate import Batch, Candidate
from wmcheck.watermark.core.errors import ConfigError, WmcheckError
from wmcheck.watermark.core.results import Detection
from wmcheck.watermark.core.statistics import STATISTICS, Evidence
from wmcheck.watermark.detect import Detector, Tested, check_fit, check_ids
from wmcheck.watermark.windows import Document

log = logging.getLogger("wmcheck")

Drop = Callable[[Candidate, WmcheckError], None]


class _Group(Detector):
    """The candidates of one statistic. ``seconds`` is processor time by place; ``places`` count in the whole panel."""

    def __init__(self, places: Sequence[int], candidates: Sequence[Candidate], statistic: str) -> None:
        super().__init__(candidates, statistic=statistic)
        self.places = list(places)
        self.seconds = dict.fromkeys(places, 0.0)
        self.begin()

    def begin(self) -> None:
        """Before each pass over the candidates. ``at`` is the one under test, if one is."""
        self.at: int | None = None
        self._next = 0

    def _test_one(self, candidate: Candidate, batch: Batch) -> Any:
        index = self.at = self._next
        self._next += 1
        started = time.process_time()
        found = super()._test_one(candidate, batch)
        _check_evidence(found[0].evidence)
        self.seconds[self.places[index]] += time.process_time() - started
        self.at = None
        return found

    def take_out(self, index: int) -> None:
        """Test the rest as if the candidate had never been there."""
        del self.places[index]
        del self._pools[index]
        self.candidates = self.candidates[:index] + self.candidates[index + 1 :]


class Panel:
    """Exact tests of documents under candidates, like :class:`Detector`.

    Args:
        candidates: the hypotheses.
        statistic: registry name.
        fallbacks: statistics for candidates that ``statistic`` does not suit, the first that does.
        on_drop: told of each candidate that is taken out because it cannot be tested; without it that error is raised.

    Raises:
        ConfigError: no statistic suits a candidate, or one that reads predictions suits none.
    """

    def __init__(
        self, candidates: Sequence[Candidate], *, statistic: str = "sum", fallbacks: Sequence[str] = (),
        on_drop: Drop | None = None,
    ) -> None:
        self._all = tuple(candidates)
        self._on_drop = on_drop
        members: dict[str, list[int]] = {}
        refused: list[tuple[Candidate, ConfigError]] = []
        for place, candidate in enumerate(self._all):
            try:
                members.setdefault(_fitting(candidate, (statistic, *fallbacks)), []).append(place)
            except ConfigError as error:
                refused.append((candidate, error))
        self._groups = [_Group(group, [self._all[i] for i in group], name) for name, group in members.items()]
        if STATISTICS[statistic].needs_model and statistic not in members and self._all:
            check_fit(STATISTICS[statistic](), self._all[0].profile)
        for candidate, reason in refused:
            self._report(candidate, reason)

    @property
    def places(self) -> list[int]:
        """Where the candidates that are left stood in the list."""
        return sorted(place for group in self._groups for place in group.places)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Those that are left, in order."""
        return tuple(self._all[place] for place in self.places)

    @property
    def statistics(self) -> list[str]:
        """The statistic of each candidate that is left."""
        names = {place: group.statistic.name for group in self._groups for place in group.places}
        return [names[place] for place in sorted(names)]

    @property
    def reads(self) -> bool:
        """Whether some test reads next-token predictions."""
        return any(group.statistic.needs_model for group in self._groups)

    def seconds(self, place: int) -> float:
        """Processor time of a candidate; what several share counts for the first of them, or for none."""
        return next((group.seconds[place] for group in self._groups if place in group.seconds), 0.0)

    def test(self, documents: Sequence[Document]) -> list[Tested]:
        """Test a batch under every candidate and add it to the corpus, one result a candidate that is left afterwards.

        Raises:
            InputError: a document with ids that are no token ids.
        """
        for document in documents:
            check_ids(document)
        found: dict[int, Tested] = {}
        for group in self._groups:
            tested = self._test(group, documents)
            found.update(zip(group.places, tested, strict=True))
        return [found[place] for place in sorted(found)]

    def _test(self, group: _Group, documents: Sequence[Document]) -> list[Tested]:
        # A batch that fails half-way leaves no trace, so that what is left can take it from the start.
        while True:
            group.begin()
            try:
                return group.test(documents)
            except Exception as error:
                if self._on_drop is None or group.at is None:
                    raise
                index = group.at
                candidate = group.candidates[index]
                group.take_out(index)
                self._report(candidate, broken(error))

    def drop(self, candidate: Candidate, error: WmcheckError) -> None:
        """Take a candidate out, for a reason.

        Raises:
            WmcheckError: the reason, where nobody is told of it.
        """
        for group in self._groups:
            for index, one in enumerate(group.candidates):
                if one is candidate:
                    group.take_out(index)
                    self._report(candidate, error)
                    return

    def _report(self, candidate: Candidate, error: WmcheckError) -> None:
        if self._on_drop is None:
            raise error
        self._on_drop(candidate, error)

    def detections(
        self, tested: Sequence[Tested], index: int, *, document: str = "", where: str = "", tokens: str = "recorded"
    ) -> list[Detection]:
        """Results of document ``index`` of a tested batch, one a candidate."""
        by_place = dict(zip(self.places, tested, strict=True))
        found: dict[int, Detection] = {}
        for group in self._groups:
            ours = [by_place[place] for place in group.places]
            tests = group.detections(ours, index, document=document, where=where, tokens=tokens)
            found.update(zip(group.places, tests, strict=True))
        return [found[place] for place in sorted(found)]

    def corpus(self, where: str = "", tokens: str = "recorded") -> list[Detection]:
        """The corpus test so far, one result a candidate."""
        found: dict[int, Detection] = {}
        for group in self._groups:
            found.update(zip(group.places, group.corpus(where, tokens), strict=True))
        return [found[place] for place in sorted(found)]


def broken(error: Exception) -> WmcheckError:
    """The reason that a candidate's own error gives; where it is a bug of its contract, where that is goes to the log."""
    if isinstance(error, WmcheckError):
        return error
    # Not the message: it may hold a secret of the candidate.
    place = "".join(traceback.format_tb(error.__traceback__))
    log.error("a contract failed with %s:\n%s", type(error).__name__, place.rstrip())
    return ConfigError("the contract failed, which is a bug of it", got=type(error).__name__)


def _fitting(candidate: Candidate, names: Sequence[str]) -> str:
    """The first statistic that suits the candidate.

    Raises:
        ConfigError: none does; what it says is about the first.
    """
    first: ConfigError | None = None
    for name in names:
        try:
            check_fit(STATISTICS[name](), candidate.profile)
        except ConfigError as error:
            first = first or error
        else:
            return name
    assert first is not None
    raise first


def _check_evidence(evidence: Evidence) -> None:
    """Refuse what is no log p-value before it enters a correction over all candidates."""
    if np.isnan(evidence.log_p).any() or (len(evidence.log_p) and float(evidence.log_p.max()) > 0.0):
        raise ValueError("evidence without a log p-value")
