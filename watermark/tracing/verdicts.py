"""What a search says: an account by name, with the chance that an innocent one is named, or that it cannot say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

from wmcheck.watermark.core.results import LOG10
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.tracing.evalues import SHARES
from wmcheck.watermark.tracing.family import adjusted, assumptions, describe, needed, reaches
from wmcheck.watermark.tracing.fragments import Mixture, Weighed
from wmcheck.watermark.tracing.search import Found, Ranked

SCHEMA = "wmcheck.trace/1"
TOGETHER, FRAGMENTS = "all records", "fragments"
SHORT = "too few tokens: an account's own text of this length would not, on average, reach alpha after correction"
NO_ONE = "no account reaches alpha after correction"


class Answer(StrEnum):
    """NAMED at a stated alpha, or no statement. That no account wrote a text is never said."""

    NAMED = "NAMED"
    CANNOT_SAY = "CANNOT_SAY"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """The result for one record, or for all together.

    Attributes:
        document: the record's id, or ``"all records"``; ``where`` is file and line, ``tokens`` where the ids are from.
        verdict: the answer at ``alpha``.
        account: the named account with the smallest p-value; None where none is named. ``epoch``, ``key_id`` and
            ``key_commitment`` are those of its key.
        named: every account that reaches alpha, best first: text may be spliced. ``named_all`` is False where there may be more.
        log10_p: log10 of the best account's p-value before correction, exact or a proven upper bound.
        log10_p_adjusted: after ``correction`` over ``family`` hypotheses.
        runner_up: the account with the next smallest p-value, where one is named; it may be among ``named``.
        margin: by how many decades its p-value is larger than the winner's.
        reason: why no account is named.
        tokens_needed: scored tokens at which an account's own text would reach alpha on average; None where none are enough.
        null: law of the sum of an innocent account's scores.
        assumptions: what the p-values rest on.
    """

    document: str
    where: str
    tokens: str
    profile: str
    scheme: str
    verdict: Answer
    alpha: float
    account: str | None
    epoch: str | None
    key_id: str | None
    key_commitment: str | None
    named: tuple[dict[str, Any], ...]
    named_all: bool
    log10_p: float
    log10_p_adjusted: float
    correction: str
    family: int
    runner_up: dict[str, Any] | None
    margin: float | None
    n_scored: int
    n_repeated: int
    n_excluded: int
    reason: str | None
    tokens_needed: int | None
    null: str
    assumptions: tuple[str, ...]

    def __bool__(self) -> NoReturn:
        raise TypeError("a result has no truth value; read .verdict")

    def to_dict(self) -> dict[str, Any]:
        """A JSON object, a record of schema ``wmcheck.trace/1``."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


class Judge:
    """Turns what a search found into results.

    Args:
        profile: the watermark contract.
        alpha: chance of naming any innocent account over all tests of the run.
        tests: records, and the test of all together, of the whole investigation.
        keys: accounts times epochs.
    """

    def __init__(self, profile: Profile, *, alpha: float, tests: int, keys: int) -> None:
        if not 0.0 < alpha < 1.0 or tests < 1 or keys < 1:
            raise ValueError(f"need alpha between 0 and 1 and a family, got {alpha}, {tests} tests, {keys} keys")
        self._profile, self._alpha, self._tests, self._keys = profile, alpha, tests, keys
        self._log_bar = math.log(alpha) - math.log(tests) - math.log(keys)
        self._needed = needed(profile, self._log_bar)

    def trace(self, found: Found, *, document: str = "", where: str = "", tokens: str = "recorded") -> Trace:
        """The result of one search."""
        weighted = bool(found.ranked) and found.ranked[0].log_weight is not None
        return Trace(
            document=document, where=where, tokens=tokens, tokens_needed=self._needed,
            correction=describe(self._keys, self._tests, weighted=weighted), family=self._keys * self._tests,
            null=self._profile.scheme.null().describe(found.n_scored),
            **_answer(found, self._profile, self._alpha, self._log_bar, self._adjusted, self._object),
        )

    def _adjusted(self, one: Ranked) -> float:
        if one.log_weight is None:
            return adjusted(one.log_p, self._keys, self._tests)
        return min(0.0, one.log_p - one.log_weight + math.log(self._tests))

    def _object(self, one: Ranked) -> dict[str, Any]:
        weight = None if one.log_weight is None else one.log_weight / LOG10
        return {**_described(one, self._adjusted(one)), "total": one.total, "n_scored": one.n, "log10_weight": weight}


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureTrace(Trace):
    """The result for fragments of a corpus, the ``fragments`` of schema ``wmcheck.trace/1``.

    Attributes:
        log10_e: log10 of the best account's e-value; ``log10_p`` is that of ``min(1, 1 / e)``.
        share: share of the fragments that fits the named account best, of the grid ``shares``.
        fragments: how many there are.
    """

    log10_e: float
    share: float | None
    shares: tuple[float, ...]
    fragments: int


def judge_mixture(found: Mixture, profile: Profile, *, alpha: float, where: str = "", tokens: str = "recorded") -> MixtureTrace:
    """The result of a search among fragments.

    Args:
        found: what the search gave.
        profile: the watermark contract.
        alpha: chance of naming any innocent account.
        where: files.
        tokens: where the ids are from.
    """

    def corrected(one: Weighed) -> float:
        return adjusted(one.log_p, found.keys, 1)

    def described(one: Weighed) -> dict[str, Any]:
        return {**_described(one, corrected(one)), "log10_e": one.log_e / LOG10, "share": one.share}

    best, log_bar = found.ranked[0] if found.ranked else None, math.log(alpha) - math.log(found.keys)
    answer = _answer(found, profile, alpha, log_bar, corrected, described)
    return MixtureTrace(
        document=FRAGMENTS, where=where, tokens=tokens, tokens_needed=needed(profile, log_bar),
        correction=describe(found.keys, 1), family=found.keys,
        null=f"e-value: mean at most 1 under an innocent account's key ({profile.scheme.null().name} items)",
        log10_e=best.log_e / LOG10 if best else 0.0, share=best.share if best and answer["named"] else None, shares=SHARES,
        fragments=found.fragments, **answer,
    )


def _described(one: Ranked | Weighed, log_adjusted: float) -> dict[str, Any]:
    return {
        "account": one.account, "epoch": one.epoch, "key_id": one.key_id, "key_committed": one.committed,
        "log10_p": one.log_p / LOG10, "log10_p_adjusted": log_adjusted / LOG10,
    }


def _answer(
    found: Found | Mixture, profile: Profile, alpha: float, log_bar: float, log_adjusted: Callable[[Any], float],
    described: Callable[[Any], dict[str, Any]],
) -> dict[str, Any]:
    """The fields of a result that say whom it names, and those that both kinds count alike."""
    ranked = found.ranked
    best, named = ranked[0] if ranked else None, [one for one in ranked if log_adjusted(one) <= math.log(alpha)]
    top, second = (named[0], ranked[1] if len(ranked) > 1 else None) if named else (None, None)
    short = not reaches(profile, found.n_scored, log_bar)
    return {
        "profile": profile.name, "scheme": profile.scheme_name, "alpha": alpha,
        "verdict": Answer.NAMED if named else Answer.CANNOT_SAY, "reason": None if named else (SHORT if short else NO_ONE),
        "account": top.account if top else None, "epoch": top.epoch if top else None, "key_id": top.key_id if top else None,
        "key_commitment": top.key_commitment if top else None, "named": tuple(described(one) for one in named),
        "named_all": not (found.more and len(named) == len(ranked)),
        "log10_p": best.log_p / LOG10 if best else 0.0, "log10_p_adjusted": log_adjusted(best) / LOG10 if best else 0.0,
        "runner_up": described(second) if second else None,
        "margin": (second.log_p - best.log_p) / LOG10 if second and best else None, "n_scored": found.n_scored,
        "n_repeated": found.n_repeated, "n_excluded": found.n_excluded, "assumptions": assumptions(profile),
    }


def counts(traces: Sequence[Trace]) -> dict[str, int]:
    """How many results have each answer."""
    return {str(answer): sum(one.verdict is answer for one in traces) for answer in Answer}
