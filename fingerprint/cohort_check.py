"""Is the cohort fit to be a reference: duplicates, drift, coverage, and how much it can prove at most."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from wmcheck.fingerprint.cohort import Cohort
from wmcheck.fingerprint.cohort_pairs import examples_of, fused_names, score_cohort
from wmcheck.fingerprint.evidence_lr import LEAST_ALTERNATIVES, LEAST_VENDORS, LOG10, validated
from wmcheck.fingerprint.likelihood import Validation
from wmcheck.fingerprint.member import Member, same_model
from wmcheck.fingerprint.propositions import ALTERNATIVES, alternative_pairs
from wmcheck.fingerprint.scores import LEAST_REFERENCES, Scores
from wmcheck.fingerprint.signature import SIGNATURES, Table

SCHEMA = "wmcheck.cohort-check/1"
_SAME_SHARE = 0.98
_LEAST_SHARED = 50
_AGREED = 0.8
_YEAR_AND_A_HALF = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Twins:
    """Two members whose tables are nearly the same.

    Attributes:
        one, other: names.
        signature: where they coincide.
        share: share of common decisions that are equal.
        shared: how many decisions are common, of those that divide the cohort.
        declared: the tags say that they are one model.
    """

    one: str
    other: str
    signature: str
    share: float
    shared: int
    declared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Two servings of one model.

    Attributes:
        one, other: names.
        signature: under which they were compared.
        z: their normalised score.
        above: share of unrelated pairs of the cohort that score lower.
        differs: they are no more alike than the 5% most alike unrelated pairs: another model, or a changed one, may be
            behind one name.
    """

    one: str
    other: str
    signature: str
    z: float
    above: float
    differs: bool


@dataclass(frozen=True, kw_only=True)
class SignatureCheck:
    """What the cohort offers under one signature.

    Attributes:
        name, primary: of the signature; several names joined by + are fused.
        usable: models that can be compared under it.
        excluded: reason by model that cannot.
        examples: which pairs can stand for the target proposition, and how many there are.
        targets, alternatives: pairs of either kind for independence (A0).
        validation: held-out performance against independence; None with too few pairs.
        bounds: range of log10 LR that the cohort can support; None likewise.
        p_floor: smallest conformal p that a suspect of no vendor of the cohort can reach.
    """

    name: str
    primary: bool
    usable: int
    excluded: dict[str, str]
    examples: str
    targets: int
    alternatives: int
    validation: Validation | None
    bounds: tuple[float, float] | None
    p_floor: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        values = {
            name: getattr(self, name) for name in ("name", "primary", "usable", "examples", "targets", "alternatives", "p_floor")
        }
        return {
            **values, "excluded": self.excluded, "bounds": list(self.bounds) if self.bounds else None,
            "validation": self.validation.to_dict() if self.validation else None,
        }


@dataclass(frozen=True, kw_only=True)
class CohortCheck:
    """The state of a cohort.

    Attributes:
        models, vendors, lines: how many.
        months: span of release dates; None if fewer than two are known.
        signatures: one check a signature that any member has.
        twins, drift: duplicates, and servings of one model.
        examples: pairs that stand for each alternative, by name.
        problems: what should be mended before the cohort is used; empty if nothing.
        advice: what would make it stronger.
    """

    models: int
    vendors: int
    lines: int
    months: int | None
    signatures: Sequence[SignatureCheck]
    twins: Sequence[Twins]
    drift: Sequence[Drift]
    examples: dict[str, int]
    problems: Sequence[str]
    advice: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready (schema ``wmcheck.cohort-check/1``)."""
        return {
            "schema": SCHEMA, "models": self.models, "vendors": self.vendors, "lines": self.lines, "months": self.months,
            "signatures": [check.to_dict() for check in self.signatures], "twins": [asdict(pair) for pair in self.twins],
            "drift": [asdict(pair) for pair in self.drift], "examples": dict(self.examples), "problems": list(self.problems),
            "advice": list(self.advice),
        }


def check_cohort(cohort: Cohort) -> CohortCheck:
    """Look for duplicates and drift, and say how much the cohort can support.

    Args:
        cohort: the reference population; need not be big enough for comparisons.
    """
    members = cohort.members
    scored = score_cohort(cohort)
    names = list(scored)
    checks = [_signature(name, [scores], members) for name, scores in scored.items()]
    fused = fused_names(members, scored)
    if len(fused) > 1:
        checks.append(_signature(" + ".join(fused), [scored[name] for name in fused], members))
    twins = [pair for name in names for pair in _twins(cohort, name, scored[name].excluded.keys())]
    drift = [pair for name, scores in scored.items() if SIGNATURES[name].primary for pair in _drift(name, scores, members)]
    examples = {alternative.name: len(alternative_pairs(members, alternative)) for alternative in ALTERNATIVES}
    months = _months(members)
    vendors = len({member.cluster for member in members})
    return CohortCheck(
        models=len(cohort), vendors=vendors, lines=len({member.line for member in members}), months=months, signatures=checks,
        twins=twins, drift=drift, examples=examples, problems=_problems(cohort, vendors, twins, drift, months),
        advice=_advice(checks, members, examples),
    )


def _signature(name: str, scores: Sequence[Scores], members: Sequence[Member]) -> SignatureCheck:
    excluded = {place: reason for layer in scores for place, reason in layer.excluded.items()}
    usable = [
        place for place in range(len(members))
        if place not in excluded and not any(np.isnan(layer.z[place]).all() for layer in scores)
    ]
    target, apart, examples, enough = examples_of(members, [layer.z for layer in scores])
    checked = validated(target, apart) if enough else None
    validation, (low, high) = checked or (None, (0.0, 0.0))
    return SignatureCheck(
        name=name, primary=all(SIGNATURES[layer.signature].primary for layer in scores), usable=len(usable),
        excluded={members[place].name: reason for place, reason in sorted(excluded.items())}, examples=examples,
        targets=len(target), alternatives=len(apart), validation=validation,
        bounds=(low / LOG10, high / LOG10) if checked else None,
        p_floor=1.0 / (1 + len({members[place].cluster for place in usable})),
    )


def _twins(cohort: Cohort, name: str, excluded: Collection[int]) -> list[Twins]:
    """Pairs that decide alike where the cohort is divided: agreeing on what everyone does is no copy."""
    found = []
    subjects = list(cohort)
    tables = [subject.behaviour.signatures.get(name, {}) for subject in subjects]
    divided = _divided(tables)
    for i in range(len(subjects)):
        for j in range(i):
            common = tables[i].keys() & tables[j].keys() & divided
            if len(common) < _LEAST_SHARED or i in excluded or j in excluded:
                continue
            share = sum(tables[i][item].tokens == tables[j][item].tokens for item in common) / len(common)
            if share >= _SAME_SHARE:
                found.append(Twins(
                    one=subjects[j].name, other=subjects[i].name, signature=name, share=share, shared=len(common),
                    declared=same_model(subjects[i].member, subjects[j].member),
                ))
    return found


def _divided(tables: Sequence[Table]) -> set[str]:
    """Decisions on which fewer than four in five models agree."""
    answers: dict[str, Counter[tuple[str, ...]]] = {}
    for table in tables:
        for item, seen in table.items():
            answers.setdefault(item, Counter())[seen.tokens] += 1
    return {item for item, count in answers.items() if count.most_common(1)[0][1] < _AGREED * count.total()}


def _drift(name: str, scores: Scores, members: Sequence[Member]) -> list[Drift]:
    apart = np.array([scores.z[i, j] for i, j in alternative_pairs(members, ALTERNATIVES[0])])
    apart = np.sort(apart[~np.isnan(apart)])
    found = []
    for i in range(len(members)):
        for j in range(i):
            z = float(scores.z[i, j])
            if same_model(members[i], members[j]) and not math.isnan(z) and len(apart):
                above = float(np.searchsorted(apart, z) / len(apart))
                found.append(Drift(
                    one=members[j].name, other=members[i].name, signature=name, z=z, above=above, differs=above < 0.95,
                ))
    return found


def _months(members: Sequence[Member]) -> int | None:
    known = sorted(member.date for member in members if len(member.date) >= 7)
    if len(known) < 2:
        return None
    first, last = ((int(date[:4]), int(date[5:7])) for date in (known[0], known[-1]))
    return (last[0] - first[0]) * 12 + last[1] - first[1]


def _problems(
    cohort: Cohort, vendors: int, twins: Sequence[Twins], drift: Sequence[Drift], months: int | None,
) -> list[str]:
    found = []
    if len(cohort) < LEAST_REFERENCES or vendors < LEAST_VENDORS:
        found.append(
            f"too small: {len(cohort)} models of {vendors} vendors; nothing can be compared below {LEAST_REFERENCES} models of "
            f"{LEAST_VENDORS} vendors"
        )
    copies: dict[tuple[str, str], list[str]] = {}
    for pair in twins:
        if not pair.declared:
            copies.setdefault((pair.one, pair.other), []).append(f"{pair.signature} {pair.share:.1%} of {pair.shared}")
    found += [
        f"{one} and {other} have the same answers under two names (of decisions that divide the cohort: {'; '.join(shares)}): "
        "one is a copy, or they are one model; tag them with same_as, or remove one"
        for (one, other), shares in copies.items()
    ]
    found += [
        f"{pair.one} and {pair.other} are tagged as one model and differ like unrelated ones (z {pair.z:.1f}, {pair.signature})"
        for pair in drift if pair.differs
    ]
    declared = [subject.behaviour.protocol for subject in cohort if subject.behaviour.protocol is not None]
    protocols = {protocol.hash: protocol for protocol in declared}
    differences = sorted({said for one, other in combinations(protocols.values(), 2) for said in one.differences(other)})
    if differences:
        found.append(
            f"members were asked under several protocols ({'; '.join(differences)}): comparisons refuse those that differ from "
            "the suspect's"
        )
    if months is not None and months > _YEAR_AND_A_HALF:
        found.append(
            f"release dates span {months} months: models of one period resemble each other; "
            "use members within 9 months of the suspect"
        )
    return found


def _advice(checks: Sequence[SignatureCheck], members: Sequence[Member], examples: dict[str, int]) -> list[str]:
    lines, vendors = len({member.line for member in members}), len({member.cluster for member in members})
    found = [
        f"{lines} product lines of {vendors} vendors: no conformal p below {1 / (1 + vendors):.3g} and no LR above about "
        f"{lines + 1}; an LR of 100 needs some 100 unrelated lines, a p of 0.001 needs 999 comparable vendors, or keyed evidence "
        "(watermark, canary)"
    ]
    if not any(check.examples == "teacher" for check in checks):
        found.append(
            "no declared students with their teachers: lines stand in for the target proposition; "
            "add known students (tag 'teachers')"
        )
    missing = [name for name, count in examples.items() if count < LEAST_ALTERNATIVES and name not in ("A4", "A7")]
    if missing:
        found.append(
            f"too few examples to test {', '.join(missing)}: tag 'base', 'data', 'teachers', 'kind', 'date' "
            "and 'same_as' where they are known"
        )
    return found
