"""The likelihood ratio of a case against each alternative that the cohort has examples of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wmcheck.fingerprint.casework import Panel
from wmcheck.fingerprint.crossval import PairSet, bootstrap, cluster_numbers, held_out, pair_set
from wmcheck.fingerprint.likelihood import Validation, calibrate, elub, validate
from wmcheck.fingerprint.member import Member
from wmcheck.fingerprint.propositions import ALTERNATIVES, EXAMPLES, Alternative, Pair, alternative_pairs, target_pairs
from wmcheck.fingerprint.scores import Scores, item_error
from wmcheck.fingerprint.signature import Floats

LOG10 = math.log(10.0)
# Fewer examples than these cannot calibrate anything.
LEAST_TARGETS = 6
LEAST_ALTERNATIVES = 10
LEAST_VENDORS = 3
# A signature that leaves a smaller share of the target examples is not worth its evidence.
LEAST_COVERAGE = 0.6


@dataclass(frozen=True, kw_only=True)
class AlternativeResult:
    """How strongly the evidence speaks for the target proposition against one alternative.

    Attributes:
        name, claim: of the alternative.
        log10_lr: bounded by what the cohort can support; None where the alternative was not tested.
        interval: 95% bootstrap interval over vendors and items, bounded likewise.
        fitted: log10 LR before the bound.
        bounds: the range that the cohort can support.
        pairs: (target, alternative) pairs that calibrated.
        vendors: (target, alternative) vendors that they come from.
        validation: held-out performance of the same recipe on the cohort.
        reason: why it was not tested; empty if it was.
    """

    name: str
    claim: str
    log10_lr: float | None = None
    interval: tuple[float, float] | None = None
    fitted: float | None = None
    bounds: tuple[float, float] | None = None
    pairs: tuple[int, int] = (0, 0)
    vendors: tuple[int, int] = (0, 0)
    validation: Validation | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "name": self.name, "claim": self.claim, "log10_lr": self.log10_lr,
            "interval": list(self.interval) if self.interval else None, "fitted_log10_lr": self.fitted,
            "bounds": list(self.bounds) if self.bounds else None, "pairs": list(self.pairs), "vendors": list(self.vendors),
            "validation": self.validation.to_dict() if self.validation else None, "reason": self.reason,
        }


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The scores of one case that enter the likelihood ratio.

    Attributes:
        signatures: names, in the order of the scores.
        score: (signatures,) normalised scores of suspect and teacher.
        spread: (signatures,) standard errors over items.
        layers: one (models, models) matrix of normalised scores a signature.
        members: tags of the models.
        case: clusters of suspect and teacher, whose models never calibrate.
    """

    signatures: tuple[str, ...]
    score: Floats
    spread: Floats
    layers: tuple[Floats, ...]
    members: Sequence[Member]
    case: tuple[int, ...]

    def pair_set(self, pairs: Sequence[Pair]) -> PairSet:
        """The scored pairs among ``pairs`` that take no model of the case's clusters."""
        return pair_set(pairs, self.layers, self.members).without(self.case)


def evidence_of(panel: Panel, scores: Mapping[str, Scores], names: Sequence[str]) -> Evidence:
    """What the named signatures say of the suspect and the teacher of a panel."""
    clusters = cluster_numbers(panel.members)
    return Evidence(
        signatures=tuple(names),
        score=np.array([scores[name].z[panel.suspect, panel.teacher] for name in names]),
        spread=np.array([item_error(scores[name], panel.suspect, panel.teacher) for name in names]),
        layers=tuple(scores[name].z for name in names),
        members=panel.members,
        case=(int(clusters[panel.suspect]), int(clusters[panel.teacher])),
    )


def targets(evidence: Evidence, cohort: Sequence[Member]) -> tuple[PairSet, str]:
    """The pairs that stand for the target proposition, and which of ``EXAMPLES`` they are.

    The first kind that the cohort has enough of; the last one where it has enough of none.

    Args:
        evidence: the case.
        cohort: tags of the cohort, a prefix of the case's models.
    """
    return first_enough(evidence.pair_set, cohort)


def first_enough(collect: Callable[[Sequence[Pair]], PairSet], cohort: Sequence[Member]) -> tuple[PairSet, str]:
    """The pairs of the first of ``EXAMPLES`` that there are enough of, and which it is; the last where there are of none.

    Args:
        collect: scores pairs of cohort members.
        cohort: their tags.
    """
    for examples in EXAMPLES:
        pairs = collect(target_pairs(cohort, examples))
        if enough_targets(pairs):
            break
    return pairs, examples


def enough_targets(pairs: PairSet) -> bool:
    """Whether pairs can stand for the target proposition: enough, of several vendors, and some left whichever is left out."""
    if len(pairs) < LEAST_TARGETS or pairs.vendors < LEAST_VENDORS:
        return False
    return min(len(pairs.without([cluster])) for cluster in np.unique(pairs.clusters).tolist()) >= 2


def validated(
    target: PairSet, alternative: PairSet, *, falling: bool = False,
) -> tuple[Validation, tuple[float, float]] | None:
    """Held-out performance of a calibration, and the natural log LRs that it supports; None if nothing can be held out."""
    held1, held0 = (held[~np.isnan(held)] for held in held_out(target, alternative, falling=falling))
    if not len(held1) or not len(held0):
        return None
    return validate(held1, held0), elub(held1, held0, independent=(target.independent, alternative.independent))


def choose(names: Sequence[str], count: Callable[[Sequence[str]], int]) -> tuple[list[str], dict[str, str]]:
    """The signatures to fuse, widest coverage first, leaving out those that cost too many target examples.

    Args:
        names: candidates.
        count: how many target examples have all of the named signatures.

    Returns:
        The chosen names in that order, and the reason for every other one.
    """
    size = {name: count([name]) for name in names}
    ranked = sorted(names, key=lambda name: (-size[name], name))
    taken, unused = ranked[:1], {}
    for name in ranked[1:]:
        left = count([*taken, name])
        if left >= max(LEAST_TARGETS, LEAST_COVERAGE * size[ranked[0]]):
            taken.append(name)
        else:
            unused[name] = f"only {left} of {size[ranked[0]]} target examples have it"
    return taken, unused


def against(
    alternative: Alternative,
    evidence: Evidence,
    target: PairSet,
    cohort: Sequence[Member],
    *,
    draws: int,
    rng: np.random.Generator,
) -> AlternativeResult:
    """The bounded LR of the case against one alternative, or the reason why there is none."""
    pairs = evidence.pair_set(alternative_pairs(cohort, alternative))
    counts, vendors = (len(target), len(pairs)), (target.vendors, pairs.vendors)
    reason = _untestable(alternative, counts, vendors)
    if reason:
        return AlternativeResult(name=alternative.name, claim=alternative.claim, reason=reason, pairs=counts, vendors=vendors)
    checked = validated(target, pairs, falling=alternative.falling)
    if checked is None:
        return AlternativeResult(
            name=alternative.name, claim=alternative.claim, pairs=counts, vendors=vendors,
            reason="all examples come from vendors that cannot be left out in turn",
        )
    fit = calibrate(target.scores, pairs.scores, falling=alternative.falling)
    fitted = float(fit.log_lr(evidence.score[None, :])[0])
    validation, (low, high) = checked
    draws_ = bootstrap(target, pairs, evidence.score, evidence.spread, draws=draws, rng=rng, falling=alternative.falling)
    interval = (
        tuple(np.clip(np.quantile(draws_, [0.025, 0.975]), low, high) / LOG10) if len(draws_) else (low / LOG10, high / LOG10)
    )
    return AlternativeResult(
        name=alternative.name,
        claim=alternative.claim,
        log10_lr=float(np.clip(fitted, low, high)) / LOG10,
        interval=(float(interval[0]), float(interval[1])),
        fitted=fitted / LOG10,
        bounds=(low / LOG10, high / LOG10),
        pairs=counts,
        vendors=vendors,
        validation=validation,
    )


def _untestable(alternative: Alternative, counts: tuple[int, int], vendors: tuple[int, int]) -> str:
    if alternative.holds is None:
        return alternative.why_not
    if counts[0] < LEAST_TARGETS or vendors[0] < LEAST_VENDORS:
        return (
            f"the cohort has {counts[0]} examples of the target proposition from {vendors[0]} vendors; "
            f"at least {LEAST_TARGETS} from {LEAST_VENDORS} are needed"
        )
    if counts[1] < LEAST_ALTERNATIVES or vendors[1] < LEAST_VENDORS:
        return (
            f"the cohort has {counts[1]} examples of it from {vendors[1]} vendors; at least {LEAST_ALTERNATIVES} "
            f"from {LEAST_VENDORS} are needed"
        )
    return ""


def against_all(
    evidence: Evidence, target: PairSet, cohort: Sequence[Member], *, draws: int, rng: np.random.Generator,
) -> list[AlternativeResult]:
    """The LR against each of A0 to A7, in order."""
    return [against(alternative, evidence, target, cohort, draws=draws, rng=rng) for alternative in ALTERNATIVES]


def headline(results: Sequence[AlternativeResult]) -> AlternativeResult | None:
    """The tested alternative that the evidence excludes least; None if none was tested."""
    tested = [result for result in results if result.log10_lr is not None]
    return min(tested, key=lambda result: (result.log10_lr or 0.0, result.name), default=None)


# Upper end of |LR| and its name; after ENFSI 2015.
_SCALE = ((10.0, "weak"), (100.0, "moderate"), (1e3, "moderately strong"), (1e4, "strong"), (math.inf, "very strong"))


def verbal(log10_lr: float) -> str:
    """The strength of a likelihood ratio in the words of the ENFSI scale, for or against the target proposition."""
    size = 10.0 ** min(abs(log10_lr), 300.0)
    if size < 1.05:
        return "no support either way"
    word = next(name for limit, name in _SCALE if size <= limit)
    side = "for the target proposition" if log10_lr > 0 else "for the alternative"
    return f"{word} support {side}"
