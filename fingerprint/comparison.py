"""The result of a comparison: frozen, JSON-ready, and without any sentence that claims more than the numbers do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from wmcheck.fingerprint.case_measures import Shift
from wmcheck.fingerprint.conformal import RankTest, e_value
from wmcheck.fingerprint.evidence_lr import AlternativeResult, headline, verbal
from wmcheck.fingerprint.propositions import TARGET

SCHEMA = "wmcheck.comparison/1"

LIMITATIONS = (
    "The result is about the evidence given the propositions; how probable the propositions are is not for it to say.",
    "Behaviour alone cannot in general separate training on the teacher's outputs (H_T) from a common third teacher (A3) or from "
    "the teacher's text in a web crawl (A5).",
    "Similarity has no direction: nothing here tells who learned from whom (A4).",
    "An alternative without examples in the cohort was not tested, and is not excluded.",
    "The cohort is assumed to be a fair sample of models that could have been in the suspect's place: same period, capability "
    "and channel.",
)


@dataclass(frozen=True, kw_only=True)
class SignatureResult:
    """One signature in one case.

    Attributes:
        name, summary, primary: of the signature.
        z: normalised score of suspect and teacher; None where the signature is silent.
        error: standard error of ``z`` over items.
        shared: decisions that both made.
        used: whether it entered the likelihood ratio.
        log10_lr: bounded LR against independence (A0) from this signature alone.
        reason: why it is silent or was not used; empty otherwise.
    """

    name: str
    summary: str
    primary: bool
    z: float | None
    error: float | None
    shared: int
    used: bool
    log10_lr: float | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A suspect compared with one teacher.

    Attributes:
        suspect, teacher, base: name, tags, notes and evidence digests of each.
        cohort: what it is and how many models and vendors entered.
        alternatives: one result for each of A0 to A7, in order.
        target_examples: which of ``propositions.EXAMPLES`` stands for the target proposition.
        rank: conformal ranks.
        signatures: one result a registered signature.
        shifts: difference in differences, empty without a base.
        nearest: models most like the suspect.
        map: contributions by signature.
        tippett: by alternative, grid (log10) and share of target and alternative pairs at or above it.
        sensitivity: headline LR under changed choices.
        downgrades: what weakens the comparison, in words.
        settings: everything that a repetition needs: signatures, seed, draws, protocol, software.
    """

    suspect: Mapping[str, Any]
    teacher: Mapping[str, Any]
    base: Mapping[str, Any] | None
    cohort: Mapping[str, Any]
    alternatives: Sequence[AlternativeResult]
    target_examples: str
    rank: RankTest
    signatures: Sequence[SignatureResult]
    shifts: Sequence[Shift]
    nearest: Sequence[Mapping[str, Any]]
    map: Mapping[str, Any]
    tippett: Mapping[str, Any]
    sensitivity: Sequence[Mapping[str, Any]]
    downgrades: Sequence[str]
    settings: Mapping[str, Any]

    @property
    def headline(self) -> AlternativeResult | None:
        """The tested alternative that the evidence excludes least."""
        return headline(self.alternatives)

    def statement(self) -> str:
        """The conclusion in one sentence, or why there is none."""
        best = self.headline
        if best is None or best.log10_lr is None or best.interval is None:
            return "No likelihood ratio: the cohort has no examples to calibrate one. The rank test below stands alone."
        low, high = best.interval
        return (
            f"The behaviour observed is {_times(best.log10_lr)} if {TARGET} than if {best.claim} "
            f"(95% interval of log10 LR {low:.2f} to {high:.2f}; bound set by the cohort "
            f"{_bound(best):.2f}): {verbal(best.log10_lr)}."
        )

    def not_excluded(self) -> list[str]:
        """The alternatives that remain: not tested, or with an interval that reaches LR 1."""
        return [
            f"{result.name}: {result.claim} ({result.reason or 'the interval of its LR reaches 1'})"
            for result in self.alternatives
            if result.log10_lr is None or (result.interval is not None and result.interval[0] <= 0.0)
        ]

    def to_dict(self) -> dict[str, Any]:
        """The whole comparison, JSON-ready (schema ``wmcheck.comparison/1``)."""
        best = self.headline
        return {
            "schema": SCHEMA, "statement": self.statement(), "suspect": dict(self.suspect), "teacher": dict(self.teacher),
            "base": dict(self.base) if self.base is not None else None, "cohort": dict(self.cohort),
            "propositions": {
                "target": TARGET, "target_examples": self.target_examples,
                "alternatives": [result.to_dict() for result in self.alternatives],
            },
            "headline": None if best is None or best.log10_lr is None else {
                "alternative": best.name, "log10_lr": best.log10_lr, "interval": list(best.interval or ()),
                "lower_end": best.interval[0] if best.interval else None, "bounds": list(best.bounds or ()),
                "verbal": verbal(best.log10_lr),
            },
            "rank": {**asdict(self.rank), "e_value": e_value(self.rank.p)},
            "signatures": [asdict(result) for result in self.signatures],
            "difference_in_differences": [shift.to_dict() for shift in self.shifts],
            "nearest": [dict(row) for row in self.nearest], "residual_map": dict(self.map), "tippett": dict(self.tippett),
            "sensitivity": [dict(row) for row in self.sensitivity], "not_excluded": self.not_excluded(),
            "downgrades": list(self.downgrades), "limitations": list(LIMITATIONS), "settings": dict(self.settings),
        }


def _bound(result: AlternativeResult) -> float:
    """The end of the supported range on the side of the LR."""
    low, high = result.bounds or (0.0, 0.0)
    return high if (result.log10_lr or 0.0) >= 0.0 else low


def _times(log10_lr: float) -> str:
    ratio = 10.0 ** abs(log10_lr)
    return f"{ratio:.3g} times {'more' if log10_lr >= 0 else 'less'} probable"
