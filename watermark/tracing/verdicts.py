"""What a search says: an account by name, with the chance that an innocent one is named, or that it cannot say."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
        best = found.ranked[0] if found.ranked else None
        log_p = best.log_p if best else 0.0
        named = [one for one in found.ranked if self._adjusted(one) <= math.log(self._alpha)]
        answer = Answer.NAMED if named else Answer.CANNOT_SAY
        second = found.ranked[1] if named and len(found.ranked) > 1 else None
        short = not reaches(self._profile, found.n_scored, self._log_bar)
        top = named[0] if named else None
        return Trace(
            document=document, where=where, tokens=tokens, profile=self._profile.name, scheme=self._profile.scheme_name,
            verdict=answer, alpha=self._alpha, account=top.account if top else None, epoch=top.epoch if top else None,
            key_id=top.key_id if top else None, key_commitment=top.key_commitment if top else None,
            named=tuple(self._object(one) for one in named), named_all=not (found.more and len(named) == len(found.ranked)),
            log10_p=log_p / LOG10, log10_p_adjusted=self._adjusted(best) / LOG10,
            correction=describe(self._keys, self._tests, weighted=best is not None and best.log_weight is not None),
            family=self._keys * self._tests,
            runner_up=self._object(second) if second else None,
            margin=(second.log_p - log_p) / LOG10 if second else None, n_scored=found.n_scored, n_repeated=found.n_repeated,
            n_excluded=found.n_excluded, reason=None if named else (SHORT if short else NO_ONE), tokens_needed=self._needed,
            null=self._profile.scheme.null().describe(found.n_scored), assumptions=assumptions(self._profile),
        )

    def _adjusted(self, one: Ranked | None) -> float:
        if one is None:
            return 0.0
        if one.log_weight is None:
            return adjusted(one.log_p, self._keys, self._tests)
        return min(0.0, one.log_p - one.log_weight + math.log(self._tests))

    def _object(self, one: Ranked) -> dict[str, Any]:
        return {
            "account": one.account, "epoch": one.epoch, "key_id": one.key_id, "key_committed": one.committed,
            "log10_p": one.log_p / LOG10, "log10_p_adjusted": self._adjusted(one) / LOG10, "total": one.total,
            "n_scored": one.n, "log10_weight": None if one.log_weight is None else one.log_weight / LOG10,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureTrace:
    """The result for fragments of a corpus; fields as in :class:`Trace` where they have the same name.

    Attributes:
        log10_e: log10 of the best account's e-value; ``log10_p`` is that of ``min(1, 1 / e)``.
        share: share of the fragments that fits the named account best, of the grid ``shares``.
        fragments: how many there are.
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
    share: float | None
    shares: tuple[float, ...]
    named: tuple[dict[str, Any], ...]
    named_all: bool
    log10_e: float
    log10_p: float
    log10_p_adjusted: float
    correction: str
    family: int
    runner_up: dict[str, Any] | None
    margin: float | None
    fragments: int
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
        """A JSON object, the ``fragments`` of schema ``wmcheck.trace/1``."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def judge_mixture(found: Mixture, profile: Profile, *, alpha: float, where: str = "", tokens: str = "recorded") -> MixtureTrace:
    """The result of a search among fragments.

    Args:
        found: what the search gave.
        profile: the watermark contract.
        alpha: chance of naming any innocent account.
        where: files.
        tokens: where the ids are from.
    """

    def corrected(log_p: float) -> float:
        return adjusted(log_p, found.keys, 1)

    def described(one: Weighed) -> dict[str, Any]:
        return {
            "account": one.account, "epoch": one.epoch, "key_id": one.key_id, "key_committed": one.committed,
            "log10_e": one.log_e / LOG10, "log10_p": one.log_p / LOG10, "log10_p_adjusted": corrected(one.log_p) / LOG10,
            "share": one.share,
        }

    named = [one for one in found.ranked if corrected(one.log_p) <= math.log(alpha)]
    best = found.ranked[0] if found.ranked else None
    top, second = (named[0], found.ranked[1] if len(found.ranked) > 1 else None) if named else (None, None)
    log_p, log_bar = best.log_p if best else 0.0, math.log(alpha) - math.log(found.keys)
    return MixtureTrace(
        document=FRAGMENTS, where=where, tokens=tokens, profile=profile.name, scheme=profile.scheme_name,
        verdict=Answer.NAMED if named else Answer.CANNOT_SAY, alpha=alpha, account=top.account if top else None,
        epoch=top.epoch if top else None, key_id=top.key_id if top else None,
        key_commitment=top.key_commitment if top else None, share=top.share if top else None, shares=SHARES,
        named=tuple(described(one) for one in named), named_all=not (found.more and len(named) == len(found.ranked)),
        log10_e=best.log_e / LOG10 if best else 0.0, log10_p=log_p / LOG10, log10_p_adjusted=corrected(log_p) / LOG10,
        correction=describe(found.keys, 1), family=found.keys, runner_up=described(second) if second else None,
        margin=(second.log_p - log_p) / LOG10 if second else None, fragments=found.fragments, n_scored=found.n_scored,
        n_repeated=found.n_repeated, n_excluded=found.n_excluded,
        reason=None if named else (NO_ONE if reaches(profile, found.n_scored, log_bar) else SHORT),
        tokens_needed=needed(profile, log_bar),
        null=f"e-value: mean at most 1 under an innocent account's key ({profile.scheme.null().name} items)",
        assumptions=assumptions(profile),
    )


def counts(traces: Sequence[Trace | MixtureTrace]) -> dict[str, int]:
    """How many results have each answer."""
    return {str(answer): sum(one.verdict is answer for one in traces) for answer in Answer}
