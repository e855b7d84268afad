"""Every pair of a cohort: how they are related, how alike they are, and the LR that a calibration without them gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wmcheck.fingerprint.cohort import Cohort
from wmcheck.fingerprint.crossval import PairSet, held_out_all, pair_set
from wmcheck.fingerprint.evidence_lr import LEAST_ALTERNATIVES, LEAST_VENDORS, LOG10, choose, enough_targets, first_enough
from wmcheck.fingerprint.member import Member, learned_from, related, same_model
from wmcheck.fingerprint.propositions import ALTERNATIVES, alternative_pairs
from wmcheck.fingerprint.scores import Scores, score, unrelated
from wmcheck.fingerprint.signature import SIGNATURES, Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """One pair.

    Attributes:
        one, other: names.
        relation: ``same model``, ``teacher``, ``line``, ``related`` (any other common tag) or ``unrelated``.
        z: normalised score by signature; NaN where the pair cannot be compared.
        log10_lr: held-out, unbounded LR of the target proposition against independence from the fused signatures; None without.
    """

    one: str
    other: str
    relation: str
    z: Mapping[str, float]
    log10_lr: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready and flat; NaN becomes null."""
        z = {f"z_{name}": None if np.isnan(value) else value for name, value in self.z.items()}
        return {"one": self.one, "other": self.other, "relation": self.relation, **z, "log10_lr": self.log10_lr}


def score_cohort(cohort: Cohort) -> dict[str, Scores]:
    """Scores of all pairs under every signature that any member has."""
    members = cohort.members
    names = [name for name in SIGNATURES if any(name in subject.behaviour.signatures for subject in cohort)]
    apart = unrelated(members)
    return {
        name: score(name, [subject.behaviour.signatures.get(name, {}) for subject in cohort], members, apart) for name in names
    }


def examples_of(members: Sequence[Member], layers: Sequence[Floats]) -> tuple[PairSet, PairSet, str, bool]:
    """Target and unrelated pairs of a whole cohort, which examples the former are, and whether both suffice to calibrate."""
    target, examples = first_enough(lambda pairs: pair_set(pairs, layers, members), members)
    apart = pair_set(alternative_pairs(members, ALTERNATIVES[0]), layers, members)
    enough = enough_targets(target) and len(apart) >= LEAST_ALTERNATIVES and apart.vendors >= LEAST_VENDORS
    return target, apart, examples, enough


def fused_names(members: Sequence[Member], scored: Mapping[str, Scores]) -> list[str]:
    """The primary signatures that a comparison within this cohort would fuse."""
    primary = [name for name in scored if SIGNATURES[name].primary]
    return choose(primary, lambda names: len(examples_of(members, [scored[name].z for name in names])[0]))[0]


def pair_rows(cohort: Cohort) -> list[PairRow]:
    """Every pair of the cohort, most alike first where an LR can be had."""
    members, scored = cohort.members, score_cohort(cohort)
    fused = [scored[name].z for name in fused_names(members, scored)]
    target, apart, _, enough = examples_of(members, fused) if fused else (None, None, "", False)
    pairs = [(i, j) for i in range(len(members)) for j in range(i)]
    ratios: dict[tuple[int, int], float] = {}
    if enough and target is not None and apart is not None:
        every = pair_set(pairs, fused, members)
        ratios = dict(zip(every.pairs, held_out_all(every, target, apart).tolist(), strict=True))
    rows = [
        PairRow(
            one=members[i].name, other=members[j].name, relation=_relation(members[i], members[j]),
            z={name: float(scores.z[i, j]) for name, scores in scored.items()},
            log10_lr=None if np.isnan(ratios.get((i, j), np.nan)) else ratios[i, j] / LOG10,
        )
        for i, j in pairs
    ]
    return sorted(rows, key=lambda row: (row.log10_lr is None, -(row.log10_lr or 0.0), row.one, row.other))


def _relation(one: Member, other: Member) -> str:
    if same_model(one, other):
        return "same model"
    if learned_from(one, other) or learned_from(other, one):
        return "teacher"
    if one.line == other.line:
        return "line"
    return "related" if related(one, other) else "unrelated"
