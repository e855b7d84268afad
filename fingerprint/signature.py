"""The contract of a signature: what it observes in transcripts, and how alike it finds two models."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from wmcheck.fingerprint.behaviour import Observation
from wmcheck.fingerprint.transcript import Transcript
from wmcheck.watermark.core.registry import Registry

Floats = NDArray[np.float64]
Table = Mapping[str, Observation]


@dataclass(frozen=True, kw_only=True)
class PairScores:
    """How alike the models of a panel are, pair by pair, before any normalisation.

    Attributes:
        raw: (models, models) float64, symmetric; NaN where a pair cannot be compared.
        shared: (models, models) int64, items that a pair shares.
        excluded: models that the signature says nothing about, with the reason.
        parts: (blocks, models, models) float64, raw scores without one block of questions each, for errors over items.
    """

    raw: Floats
    shared: NDArray[np.int64]
    excluded: Mapping[int, str]
    parts: Floats


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one decision adds to the score of a pair.

    Attributes:
        decision: question, or question and part.
        stratum: its stratum.
        value: share of the raw score; negative where the two models differ.
    """

    decision: str
    stratum: str
    value: float


class Signature(Protocol):
    """One kind of behaviour.

    ``observe`` turns the transcripts of one model into decisions; ``score`` compares the decisions of several models,
    given as one table a model in a fixed order. A question may give several decisions: ``question#part``.

    Attributes:
        name: as registered.
        summary: one line for reports.
        primary: whether it may enter the headline; secondary signatures are shown beside it.
        least: shared questions below which a pair is not compared.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    primary: ClassVar[bool]
    least: ClassVar[int]

    def observe(self, transcripts: Iterable[Transcript]) -> dict[str, Observation]:
        """Decisions by question; transcripts that carry none are left out."""
        ...

    def score(self, tables: Sequence[Table]) -> PairScores:
        """Raw similarity of every pair of models."""
        ...

    def explain(self, tables: Sequence[Table], one: int, other: int) -> list[Contribution]:
        """Which decisions make the raw score of two models what it is; empty where that cannot be told."""
        ...


SIGNATURES: Registry[type[Signature]] = Registry(
    "signature",
    {
        "pair_change": "wmcheck.fingerprint.signatures.pair_change:PairChange",
        "refusal": "wmcheck.fingerprint.signatures.refusal:Refusal",
        "refusal_form": "wmcheck.fingerprint.signatures.refusal_form:RefusalForm",
        "style": "wmcheck.fingerprint.signatures.style:Style",
        "tool_call": "wmcheck.fingerprint.signatures.tool_call:ToolCallDecision",
        "tool_choice": "wmcheck.fingerprint.signatures.tool_choice:ToolChoice",
    },
    entry_points="wmcheck.signatures",
)


# Suites whose items offer tools: what is said there is no refusal, and how it is said no style.
TOOL_SUITES = frozenset({"tools", "bfcl"})


def offers_tools(transcript: Transcript) -> bool:
    """True for an item on which the model could have called a tool."""
    return bool(transcript.tools or transcript.tool_calls) or transcript.suite in TOOL_SUITES


def by_question(transcripts: Iterable[Transcript]) -> dict[str, list[Transcript]]:
    """The samples of each question, in order; questions of different suites never meet."""
    questions: dict[str, list[Transcript]] = {}
    for transcript in transcripts:
        questions.setdefault(f"{transcript.suite}/{transcript.question}", []).append(transcript)
    return questions


def part(question: str, name: str) -> str:
    """The name of one decision of a question: ``question#name``."""
    return f"{question}#{name}"


def root(decision: str) -> str:
    """The question that a decision belongs to."""
    return decision.split("#", 1)[0]


# Questions are dealt to this many blocks, the same way on every machine.
BLOCKS = 10


def block_of(decision: str) -> int:
    """The block of a decision; all parts of one question share it."""
    return int.from_bytes(hashlib.sha256(root(decision).encode("utf-8", "surrogatepass")).digest()[:4], "big") % BLOCKS
