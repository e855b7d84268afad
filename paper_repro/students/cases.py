"""Pairs of models as cases: which proposition is true of each, and what the package finds, case by case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zoo import Spec

from wmcheck.fingerprint.case_measures import rank
from wmcheck.fingerprint.casework import assemble, usable_signatures
from wmcheck.fingerprint.cohort import Cohort, Subject
from wmcheck.fingerprint.evidence_lr import LEAST_ALTERNATIVES, LEAST_TARGETS, LOG10, evidence_of, targets
from wmcheck.fingerprint.likelihood import calibrate
from wmcheck.fingerprint.member import related
from wmcheck.fingerprint.propositions import ALTERNATIVES, alternative_pairs
from wmcheck.fingerprint.signature import SIGNATURES

PRIMARY = ("refusal", "refusal_form", "tool_call", "tool_choice")
FALLING = {alternative.name for alternative in ALTERNATIVES if alternative.falling}
ROWS = {
    "A0": "A0: independent, or a student of another teacher",
    "A1 base": "A1: shared base, own data or another teacher",
    "A1 light": "A1: shared base, hardly trained (15% of the data)",
    "A1 derived": "A1: made from the teacher's weights, own data",
    "A2": "A2: half of the data from one public set, as the teacher's",
    "A3": "A3: two students of one teacher, other base",
    "A4": "A4: the teacher accused of learning from its student",
    "A6": "A6: the teacher again (5-bit or 4-bit weights, or sampled at 0.7)",
    "line": "version 2 of a line against version 1",
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A suspect and a teacher, and which row of the table they belong to (``100 same``: dose and base of a student)."""

    row: str
    suspect: str
    teacher: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the package finds in one case.

    Attributes:
        case: the case.
        z: normalised score by signature; NaN where it says nothing.
        log10_lr: against each alternative that the cohort has examples of, unbounded.
        p: conformal rank, the larger of both directions.
        floor: the smallest p that is possible.
    """

    case: Case
    z: Mapping[str, float]
    log10_lr: Mapping[str, float]
    p: float
    floor: float

    @property
    def headline(self) -> float:
        """The smallest log10 LR over all tested alternatives."""
        return min(self.log10_lr.values())

    @property
    def rising(self) -> float:
        """The same without A6, which explains high scores."""
        return min(value for name, value in self.log10_lr.items() if name not in FALLING)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "row": self.case.row, "suspect": self.case.suspect, "teacher": self.case.teacher, "z": dict(self.z),
            "log10_lr": dict(self.log10_lr), "p": self.p, "floor": self.floor,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Finding:
        """The inverse of ``to_dict``."""
        case = Case(row=data["row"], suspect=data["suspect"], teacher=data["teacher"])
        return cls(case=case, z=data["z"], log10_lr=data["log10_lr"], p=data["p"], floor=data["floor"])


def cases(specs: list[Spec]) -> Iterator[Case]:
    """Every pair of a teacher and another model of which one proposition is true; pairs of two kinds at once are left out."""
    for teacher in (spec for spec in specs if spec.role == "teacher"):
        for other in specs:
            row = _row(other, teacher)
            if row:
                yield Case(row=row, suspect=other.name, teacher=teacher.name)
                if other.role == "student" and row[0].isdigit():
                    yield Case(row="A4", suspect=teacher.name, teacher=other.name)
    students = [spec for spec in specs if spec.role == "student"]
    for place, one in enumerate(students):
        for other in students[:place]:
            if one.member.teachers == other.member.teachers and one.member.base != other.member.base:
                yield Case(row="A3", suspect=one.name, teacher=other.name)
    for one in specs:
        if one.role == "independent" and one.name.endswith("v2"):
            yield Case(row="line", suspect=one.name, teacher=one.name.replace("v2", "v1"))


def _row(other: Spec, teacher: Spec) -> str:
    same_base = other.member.base == teacher.member.base
    same_data = bool(set(other.member.data) & set(teacher.member.data))
    if other.role == "student" and teacher.name in other.doses:
        return f"{other.doses[teacher.name]} {'same' if same_base else 'other'}"
    if other.role == "teacher again":
        return "A6" if other.start == teacher.name else ""
    if other.role in ("derived", "light"):
        near = other.start in (teacher.name, teacher.start)
        return f"A1 {other.role}" if near else ""
    if other.role not in ("independent", "open", "student"):
        return ""
    if same_data:
        return "" if same_base else "A2"
    if same_base:
        return "A1 base"
    return "" if related(other.member, teacher.member) else "A0"


def weigh(case: Case, subjects: Mapping[str, Subject], cohort: Cohort) -> Finding:
    """Score a case, and calibrate without the vendors of its two models."""
    panel = assemble(subjects[case.suspect], subjects[case.teacher], cohort)
    scores, _ = usable_signatures(panel, PRIMARY)
    evidence = evidence_of(panel, scores, list(scores))
    target, examples = targets(evidence, panel.cohort)
    if examples != "teacher" or len(target) < LEAST_TARGETS:
        raise ValueError(f"{case}: only {len(target)} students calibrate")
    ratios = {}
    for alternative in ALTERNATIVES:
        pairs = evidence.pair_set(alternative_pairs(panel.cohort, alternative))
        if len(pairs) >= LEAST_ALTERNATIVES:
            fit = calibrate(target.scores, pairs.scores, falling=alternative.falling)
            ratios[alternative.name] = float(fit.log_lr(evidence.score[None, :])[0]) / LOG10
    test = rank(panel, {name: value.raw for name, value in scores.items() if SIGNATURES[name].primary})
    z = {name: float(scores[name].z[panel.suspect, panel.teacher]) if name in scores else float("nan") for name in PRIMARY}
    return Finding(case=case, z=z, log10_lr=ratios, p=test.p, floor=test.floor)
