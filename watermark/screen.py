"""Screening a stream of records: encode what has no recorded ids, test in batches, correct over everything at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError, RecordError, TokenizerError
from wmcheck.watermark.core.records import Record
from wmcheck.watermark.core.results import LOG10, PREDICTIONS, Detection, Verdict
from wmcheck.watermark.core.statistics import STATISTICS
from wmcheck.watermark.decoys import DecoyTest, decoy_test
from wmcheck.watermark.detect import Tested, correct
from wmcheck.watermark.keys import TenantKey
from wmcheck.watermark.law import Law
from wmcheck.watermark.panel import Drop, Panel
from wmcheck.watermark.prf import I64, MAX_TOKEN_ID
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.recorded import Spellings, recorded_law
from wmcheck.watermark.tokenizer import TextTokenizer, load_tokenizer
from wmcheck.watermark.windows import Document

log = logging.getLogger("wmcheck")

BATCH_RECORDS = 256
BATCH_CHARACTERS = 1_000_000
# Where predictions are read, of which each token has about a kilobyte.
PREDICTED_RECORDS = 32
PREDICTED_CHARACTERS = 50_000
# A slow pipe shows its records about this soon.
BATCH_SECONDS = 1.0
RECORDED, ENCODED = "recorded", "re-encoded"
# The ids decode to something else than the text beside them: a person who reads the text does not see what was tested.
UNLIKE = "recorded, not the text"
# Where predictions came from.
COMPUTED, LOGGED = "model", "recorded"


class Predictor(Protocol):
    """A source of next-token predictions that knows no key."""

    @property
    def vocabulary(self) -> int:
        """Ids below this are known."""

    def check(self, profile: Profile) -> None:
        """Refuse a profile of another tokenizer."""

    def predict(self, documents: Sequence[Document]) -> list[Law]:
        """Predictions for every id of each document."""


@dataclass(frozen=True, slots=True)
class Screened:
    """All tests of one record, one a candidate."""

    record: str
    where: str
    tests: tuple[Detection, ...]

    def best(self) -> Detection:
        """The test with the smallest p-value."""
        return min(self.tests, key=lambda test: test.log10_p)

    def verdict(self, alpha: float) -> Verdict:
        """DETECTED if any test is; else INSUFFICIENT if any candidate could not have been seen in this text."""
        verdicts = {test.verdict(alpha) for test in self.tests}
        for answer in (Verdict.DETECTED, Verdict.INSUFFICIENT):
            if answer in verdicts:
                return answer
        return Verdict.NOT_DETECTED


class Screen:
    """Tests records as they come and keeps the corpus test.

    Args:
        candidates: profiles and keys; all profiles must have the same tokenizer.
        tokenizer: where to load the tokenizer from, if not from where the profile says.
        statistic: registry name.
        fallbacks: statistics for candidates that ``statistic`` does not suit, the first that does.
        predictor: predicts what a statistic that reads predictions needs; without one it takes the log probabilities that
            records carry.
        decoys: random keys to rank each candidate's key among.
        on_error: called with every record that cannot be tested.
        on_drop: called with every candidate that cannot be tested; without it that is an error.
        origin: where the candidates come from, for messages.

    Attributes:
        panel: tests the documents, and keeps the corpus test.
        seconds_encoding: time spent in the tokenizer.
        seconds_predicting: time spent in the predictor.
        seconds_testing: time spent from ids to p-values.
        tokens_tested: ids of tested outputs.
        unlike: records whose recorded ids do not spell their text.
    """

    def __init__(
        self, candidates: Sequence[Candidate], *, tokenizer: str | None = None, statistic: str = "sum",
        fallbacks: Sequence[str] = (), predictor: Predictor | None = None, decoys: Sequence[TenantKey] = (),
        on_error: Callable[[RecordError], None], on_drop: Drop | None = None, origin: str = "--profile",
    ) -> None:
        digests = {candidate.profile.tokenizer["digest"] for candidate in candidates if candidate.profile.tokenizer}
        if len(digests) > 1:
            raise ConfigError(
                "profiles with different tokenizers", where=origin, got=f"{len(digests)} tokenizers", expected="one",
                hint="run wmcheck once for each tokenizer and correct over the runs",
            )
        self._profile: Profile = next((c.profile for c in candidates if c.profile.tokenizer), candidates[0].profile)
        self._source = tokenizer
        self._tokenizer: TextTokenizer | None = None
        self.panel = Panel(candidates, statistic=statistic, fallbacks=fallbacks, on_drop=on_drop)
        self._reads = self.panel.reads
        self._predictor = predictor if self._reads else None
        self._decoys = tuple(decoys)
        self._spellings: Spellings | None = None
        if self._predictor is not None:
            self._predictor.check(self._profile)
        self._on_error = on_error
        # Elsewhere a candidate that does not know an id of a record drops out.
        vocabularies = [getattr(one.profile.scheme, "vocabulary", None) for one in candidates] if on_drop is None else []
        self._limit = min((size for size in vocabularies if size is not None), default=MAX_TOKEN_ID + 1)
        self._sources: set[str] = set()
        self._unloadable = False
        self.unlike = 0
        self.seconds_encoding = self.seconds_predicting = self.seconds_testing = 0.0
        self.tokens_tested = 0
        self._batch_records = PREDICTED_RECORDS if self._reads else BATCH_RECORDS
        self._batch_characters = PREDICTED_CHARACTERS if self._reads else BATCH_CHARACTERS
        if tokenizer is not None:
            self._load_tokenizer()

    def run(self, records: Iterable[Record | RecordError]) -> Iterator[Screened]:
        """Test records in order; results come batch by batch, before the last record is read.

        An exception from ``records`` is raised after the results of what came before it.
        """
        waiting: list[Record] = []
        size, tested = 0, time.monotonic()
        try:
            for record in records:
                if isinstance(record, RecordError):
                    self._on_error(record)
                    continue
                waiting.append(record)
                size += len(record.text or "") if record.tokens is None else len(record.tokens)
                late = time.monotonic() - tested > BATCH_SECONDS
                if len(waiting) >= self._batch_records or size >= self._batch_characters or late:
                    ready, waiting, size = waiting, [], 0
                    yield from self._test(ready)
                    tested = time.monotonic()
        except GeneratorExit:
            raise
        except BaseException:
            yield from self._test(waiting)
            raise
        yield from self._test(waiting)

    def corpus(self, where: str) -> list[Detection]:
        """The corpus test of everything seen so far, one result a candidate."""
        return self.panel.corpus(where, " and ".join(sorted(self._sources)) or RECORDED)

    def _test(self, records: Sequence[Record]) -> Iterator[Screened]:
        """Results of the records that can be tested, then the report of those that cannot (which may raise)."""
        documents, kept, sources, bad = self.documents(records)
        if documents:
            yield from self._results(documents, kept, sources)
        for error in bad:
            self._on_error(error)

    def _results(self, documents: Sequence[Document], kept: Sequence[Record], sources: Sequence[str]) -> list[Screened]:
        started = time.perf_counter()
        tested = self._tested(documents, kept)
        self.tokens_tested += sum(len(document.ids) - document.prompt_length for document in documents)
        self._sources.update(sources)
        found = self._screened(tested, documents, kept, sources)
        self.seconds_testing += time.perf_counter() - started
        return found

    def _tested(self, documents: Sequence[Document], kept: Sequence[Record]) -> list[Tested]:
        """Evidence of the documents of records, one a candidate."""
        return self.panel.test(documents)

    def _screened(
        self, tested: Sequence[Tested], documents: Sequence[Document], kept: Sequence[Record], sources: Sequence[str]
    ) -> list[Screened]:
        ranks = self._ranks(documents)
        found = []
        for i, (record, source) in enumerate(zip(kept, sources, strict=True)):
            tests = self.panel.detections(tested, i, document=record.id, where=record.where, tokens=source)
            marked = [self._marked(test) for test in tests]
            if ranks:
                marked = [_ranked(test, row[i]) for test, row in zip(marked, ranks, strict=True)]
            found.append(Screened(record.id, record.where, tuple(marked)))
        return found

    def _ranks(self, documents: Sequence[Document]) -> list[list[DecoyTest]]:
        """One list a candidate, one result a document; empty without decoys."""
        if not self._decoys:
            return []
        pairs = zip(self.panel.candidates, self.panel.statistics, strict=True)
        return [decoy_test(documents, one, self._decoys, statistic=name) for one, name in pairs]

    def _marked(self, test: Detection) -> Detection:
        """A result with the origin of the predictions it read, and what that adds to its assumptions."""
        if not STATISTICS[test.statistic].needs_model:
            return test
        origin = LOGGED if self._predictor is None else COMPUTED
        return replace(test, predictions=origin, assumptions=(*test.assumptions, PREDICTIONS))

    @property
    def tokenizer(self) -> TextTokenizer | None:
        """The tokenizer, once a record needed it."""
        return self._tokenizer

    def documents(
        self, records: Sequence[Record]
    ) -> tuple[list[Document], list[Record], list[str], list[RecordError]]:
        """Documents of records, the records they are of, where their ids are from, and what is wrong with the others."""
        self._ready(records)
        documents, kept, sources, bad = [], [], [], []
        texts = [record.text or "" for record in records if record.tokens is None]
        prompts = [record.prompt for record in records if record.prompt_tokens is None and record.prompt]
        encoded, encoded_prompts = iter(self._encode(texts)), iter(self._encode_prompts(prompts))
        for record in records:
            output = next(encoded) if record.tokens is None else record.tokens
            prompt = record.prompt_tokens
            if prompt is None:
                prompt = next(encoded_prompts) if record.prompt else np.zeros(0, np.int64)
            try:
                self._check_range(record, output, prompt)
                document = Document(np.concatenate([prompt, output]), len(prompt))
                if self._reads and self._predictor is None:
                    document = replace(document, law=self._recorded(record, document))
            except RecordError as error:
                bad.append(error)
                continue
            documents.append(document)
            kept.append(record)
            sources.append(self._source_of(record))
        return self._predicted(documents), kept, sources, bad

    def _predicted(self, documents: list[Document]) -> list[Document]:
        """The documents with the predictor's laws, if there is one."""
        if self._predictor is None or not documents:
            return documents
        started = time.perf_counter()
        laws = self._predictor.predict(documents)
        self.seconds_predicting += time.perf_counter() - started
        return [replace(document, law=law) for document, law in zip(documents, laws, strict=True)]

    def _recorded(self, record: Record, document: Document) -> Law:
        if record.logprobs is None:
            raise RecordError(
                "no recorded log probabilities", where=record.where, expected="'logprobs' or 'token_logprobs'",
                hint="give the model that wrote the text, or one like it: --model PATH",
            )
        if record.logprobs.spelled and self._spellings is None:
            self._load_tokenizer()
            self._spellings = Spellings(self._tokenizer) if self._tokenizer is not None else None
        return recorded_law(record.logprobs, document.ids, document.prompt_length, record.where, self._spellings)

    def _ready(self, records: Sequence[Record]) -> None:
        """Load the tokenizer when a record needs it; where ids are recorded, do without one that cannot be had."""
        if self._tokenizer is not None:
            return
        if any(record.tokens is None for record in records):
            self._load_tokenizer()
        elif not self._unloadable and any(record.text or record.prompt for record in records):
            try:
                self._load_tokenizer()
            except TokenizerError as error:
                self._unloadable = True
                log.warning("recorded ids are not compared with their texts, nor prompts encoded: %s", error)

    def _source_of(self, record: Record) -> str:
        if record.tokens is None:
            return ENCODED
        if record.text is None or self._tokenizer is None:
            return RECORDED
        spelled = self._tokenizer.decode(record.tokens.tolist())
        if "".join(spelled.split()) == "".join(record.text.split()):
            return RECORDED
        self.unlike += 1
        return UNLIKE

    def _load_tokenizer(self) -> None:
        tokenizer = load_tokenizer(self._source or str(self._profile.needed_tokenizer()["name"]))
        self._profile.check_tokenizer(tokenizer)
        self._tokenizer = tokenizer

    def _encode(self, texts: Sequence[str]) -> list[I64]:
        if not texts or self._tokenizer is None:
            return []
        started = time.perf_counter()
        found = self._tokenizer.encode(texts)
        self.seconds_encoding += time.perf_counter() - started
        return found

    def _encode_prompts(self, prompts: Sequence[str | None]) -> list[I64]:
        # Without a tokenizer (recorded ids only) a prompt that is text stays unknown: the first h ids are skipped.
        if self._tokenizer is None:
            return [np.zeros(0, np.int64)] * len(prompts)
        return self._encode([prompt or "" for prompt in prompts])

    def _check_range(self, record: Record, output: I64, prompt: I64) -> None:
        described = self._profile.tokenizer
        limit = min(int(described["vocabulary"]) if described else MAX_TOKEN_ID + 1, self._limit)
        if self._predictor is not None:
            limit = min(limit, self._predictor.vocabulary)
        for ids in (output, prompt):
            if len(ids) and int(ids.max()) >= limit:
                raise RecordError(
                    "token ids out of range", where=record.where, got=str(int(ids.max())), expected=f"ids below {limit}",
                    hint="recorded ids of another tokenizer? test the text instead: --field text",
                )


def _ranked(test: Detection, found: DecoyTest) -> Detection:
    guess = found.extrapolated
    return replace(
        test, decoys=found.decoys, log10_p_rank=found.log_p / LOG10,
        log10_p_extrapolated=None if guess is None else guess.log10_p_extrapolated,
    )


def corrected(
    screened: Sequence[Screened], corpus: Sequence[Detection], *, family: int | None = None
) -> tuple[list[Screened], list[Detection]]:
    """Holm over every test of every record and the corpus; a corpus of one record is that record and is not counted.

    Args:
        screened: the records.
        corpus: the corpus tests.
        family: tests of the whole investigation, where this run is one of several.
    """
    tests = [test for one in screened for test in one.tests]
    pooled = list(corpus) if len(screened) > 1 else []
    adjusted = iter(correct([*tests, *pooled], family=family))
    records = [replace(one, tests=tuple(next(adjusted) for _ in one.tests)) for one in screened]
    return records, list(adjusted)
