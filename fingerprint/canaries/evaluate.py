"""Keyed behavioural canaries: an exact test, without a cohort, of whether a model's answers follow a secret key.

The key gives every trigger a fair bit: which of two harmless behaviours the provider's model shows there. A student of
the provider's answers tends to show the same one. A model that is independent of the key agrees with a Binomial(n, 1/2)
number of bits **given its answers**, whatever its habits: the randomness is the key's, not the model's. So the p-value is
exact with a single suspect and no comparison models.

What keeps it exact: answers are read, collapsed to one side a trigger, and dropped by rules that never see the key
(:func:`read_answers` takes none), and triggers are distinct. What the reader must trust is in ``ASSUMPTIONS``; what a
small p leaves open is in ``NOT_EXCLUDED``.

Example:
    >>> planned = plan(key, 200)                                                       # doctest: +SKIP
    >>> [result] = correct([test(run.transcripts, planned, key, suspect=run.model)])   # doctest: +SKIP
    >>> result.log10_p, result.verdict(1e-5)                                           # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import numpy as np

from wmcheck.fingerprint.canaries.plan import AnyKey, CanaryPlan, keyed_sides, plan
from wmcheck.fingerprint.canaries.power import NULL, power, smallest_n
from wmcheck.fingerprint.suites.canary import NAME
from wmcheck.fingerprint.suites.canary_bank import triggers
from wmcheck.fingerprint.transcript import Transcript, served_as_asked
from wmcheck.watermark.core.intervals import clopper_pearson
from wmcheck.watermark.core.multiplicity import holm_corrected
from wmcheck.watermark.core.results import LOG10, PRF_ASSUMPTION, Verdict, decide
from wmcheck.watermark.keys import as_tenant

__all__ = [
    "ASSUMPTIONS", "NOT_EXCLUDED", "Answers", "CanaryPlan", "CanaryResult", "correct", "plan", "power",
    "read_answers", "smallest_n", "test",
]

SCHEMA = "wmcheck.canary/1"
# For planning and for INSUFFICIENT: a student that follows the key on half of the triggers and tosses a coin on the rest.
PLANNED_RATE = 0.75

ASSUMPTIONS = (
    "under the null the suspect's answers do not depend on the key, and p is a probability over the random draw of the key",
    "key, tenant, epoch and plan were fixed without looking at the answers, or every one tried is in the family",
    "the suspect was asked without the keyed instructions",
    "each trigger counts once; unread and tied triggers are dropped by rules that do not see the key",
    PRF_ASSUMPTION,
)
NOT_EXCLUDED = (
    "the suspect is the provider's model, or passes requests on to it",
    "the suspect learned from another model, or from published text, that carries the provider's answers",
    "someone who knew the key, or the instructions made from it, wrote them into the suspect's training data or prompt",
)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The sides that a suspect took, read without a key.

    Attributes:
        sides: 0 or 1 for each trigger that counts.
        dropped: planned triggers that do not count, by reason: ``no answer``, ``another model``, ``unread``, ``tied``.
        samples: answers that were read; ``reworded`` of them were asked in other words than the plan's, where that is known.
    """

    sides: Mapping[str, int]
    dropped: Mapping[str, int]
    samples: int
    reworded: int = 0


def read_answers(transcripts: Iterable[Transcript], planned: CanaryPlan) -> Answers:
    """One side a trigger: the majority over its samples, ties dropped.

    Answers of other suites and to other triggers are passed over, as are those served by another model than asked for
    and those that the kind's rule cannot read. The key has no part in it.
    """
    votes: dict[str, Counter[int]] = {name: Counter() for name in planned.triggers}
    prompts = {probe.id: probe.prompt for probe in planned.suite.probes}
    seen: dict[str, str] = {}
    reworded = 0
    for answer in transcripts:
        if answer.suite != NAME or answer.item not in votes:
            continue
        if not served_as_asked(answer.model_requested, answer.model_served):
            seen.setdefault(answer.item, "another model")
            continue
        seen[answer.item] = "unread"
        side = triggers()[answer.item].kind.side(answer)
        if side is not None:
            votes[answer.item][side] += 1
            reworded += answer.prompt not in ("", prompts[answer.item])
    sides: dict[str, int] = {}
    dropped: Counter[str] = Counter()
    for name, vote in votes.items():
        if not vote:
            dropped[seen.get(name, "no answer")] += 1
        elif vote[0] == vote[1]:
            dropped["tied"] += 1
        else:
            sides[name] = int(vote[1] > vote[0])
    samples = sum(vote.total() for vote in votes.values())
    return Answers(sides=sides, dropped=dict(sorted(dropped.items())), samples=samples, reworded=reworded)


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryResult:
    """One suspect under one key.

    Attributes:
        suspect: name, for the reader.
        agreements: triggers on which the suspect takes the keyed side, of ``n`` that count.
        n_planned, dropped, samples, reworded: what became of the planned triggers; see :class:`Answers`.
        log10_p: log10 of P(Binomial(n, 1/2) >= agreements), exact.
        log10_p_adjusted: after correction over the ``family`` of tests; None before :func:`correct`.
        log10_p_expected: log10 p at the planning rate ``PLANNED_RATE`` with this n.
        rate, rate_low, rate_high: share of agreement and its 95% Clopper-Pearson interval, which takes the triggers to be
            independent; NaN, 0 and 1 where n is 0.
        exposure, exposure_low, exposure_high: ``2 rate - 1``: the share of triggers on which the suspect would follow the
            key if it took its own side on all others; below 0 it says the same as 0.
        null: law of ``agreements`` under the null hypothesis; ``assumptions`` are what it rests on.
        not_excluded: what a small p-value leaves open.
        key_id, key_commitment, tenant, epoch: of the key tested.
        committed: whether the plan commits to this key; None if it commits to none.
        plan: digest of the plan's suite.
    """

    suspect: str
    agreements: int
    n: int
    n_planned: int
    dropped: Mapping[str, int]
    samples: int
    reworded: int
    log10_p: float
    log10_p_adjusted: float | None = None
    log10_p_expected: float
    rate: float
    rate_low: float
    rate_high: float
    exposure: float
    exposure_low: float
    exposure_high: float
    null: str
    assumptions: tuple[str, ...] = ASSUMPTIONS
    not_excluded: tuple[str, ...] = NOT_EXCLUDED
    key_id: str
    key_commitment: str
    tenant: str
    epoch: str
    committed: bool | None
    plan: str
    correction: str | None = None
    family: int | None = None

    def __bool__(self) -> NoReturn:
        raise TypeError("a result has no truth value; ask for .verdict(alpha)")

    def verdict(self, alpha: float) -> Verdict:
        """The answer at family-wise error ``alpha``: DETECTED means that the answers depend on the key.

        INSUFFICIENT if a student that agrees on ``PLANNED_RATE`` of so few triggers would not have been seen either.

        Raises:
            ValueError: ``alpha`` is no error rate, or the result has not been corrected for the tests made beside it.
        """
        return decide(alpha, adjusted=self.log10_p_adjusted, expected=self.log10_p_expected, n=self.n, family=self.family)

    def to_dict(self, alpha: float | None = None) -> dict[str, Any]:
        """A JSON object under schema ``wmcheck.canary/1``; with ``alpha`` it carries a verdict."""
        data: dict[str, Any] = {"schema": SCHEMA}
        for name, value in asdict(self).items():
            missing = isinstance(value, float) and math.isnan(value)
            data[name] = None if missing else list(value) if isinstance(value, tuple) else value
        if alpha is not None:
            data |= {"alpha": alpha, "verdict": str(self.verdict(alpha))}
        return data


def test(
    transcripts: Iterable[Transcript] | Answers, planned: CanaryPlan, key: AnyKey, *, suspect: str = ""  # noqa: PT028
) -> CanaryResult:
    """Test one suspect under one key.

    Args:
        transcripts: the suspect's answers to the plan's probes, or what :func:`read_answers` made of them.
        planned: which triggers count.
        key: a root key stands for its deployment's own tenant.
        suspect: name for the report.

    Returns:
        The result before correction; :func:`correct` puts it into its family.

    Raises:
        InputError: the plan holds a commitment to this key that is not to this plan.
    """
    answers = transcripts if isinstance(transcripts, Answers) else read_answers(transcripts, planned)
    owner = as_tenant(key)
    committed = planned.committed(owner)
    names = list(answers.sides)
    took = np.array([answers.sides[name] for name in names], np.uint8)
    n = len(names)
    agreements = int((keyed_sides(owner, names) == took).sum()) if n else 0
    low, high = clopper_pearson(agreements, n)
    rate = agreements / n if n else math.nan
    return CanaryResult(
        suspect=suspect, agreements=agreements, n=n, n_planned=planned.n, dropped=answers.dropped, samples=answers.samples,
        reworded=answers.reworded, log10_p=_log10_p(agreements, n), log10_p_expected=_log10_p(math.floor(n * PLANNED_RATE), n),
        rate=rate, rate_low=low, rate_high=high,
        exposure=2.0 * rate - 1.0, exposure_low=2.0 * low - 1.0, exposure_high=2.0 * high - 1.0,
        null=NULL.describe(n), key_id=owner.id, key_commitment=owner.commitment, tenant=owner.tenant_name,
        epoch=owner.epoch, committed=committed, plan=planned.suite.digest,
    )


def correct(results: Sequence[CanaryResult], *, family: int | None = None) -> list[CanaryResult]:
    """Holm's correction over all results: every suspect under every key of an investigation.

    Args:
        results: the tests made here.
        family: number of tests if larger, when other keys, plans or suspects were tried elsewhere.
    """
    return holm_corrected(results, family=family)


def _log10_p(agreements: int, n: int) -> float:
    return float(NULL.log_sf(float(agreements), n)) / LOG10


