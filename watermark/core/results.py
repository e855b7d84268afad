"""Results: what was tested, what came out, under which assumptions. No truth value, no verdict without an alpha."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, NoReturn

SCHEMA = "wmcheck.detection/1"
LOG10 = math.log(10.0)

INDEPENDENCE = "the text was made without knowledge of the key, and p is a probability over the random draw of the key"
CHOICE = "key, tenant, epoch and scheme were fixed without looking at the text, or every one tried is in the family"
PRF_ASSUMPTION = "AES-128 under HKDF-SHA256 subkeys is a pseudorandom function"
PREDICTIONS = "the predictions of the next token were made without the key"
PUBLISHED = "the key is a published default, under which anyone can mark text: p speaks for the watermark, not for who made it"
DISTINCT = "each distinct (effective seed, token) is scored once, chosen without regard to its score"


class Verdict(StrEnum):
    """The three answers at a given alpha; INSUFFICIENT means that a watermark could not have been seen."""

    DETECTED = "DETECTED"
    NOT_DETECTED = "NOT_DETECTED"
    INSUFFICIENT = "INSUFFICIENT"


def decide(alpha: float, *, adjusted: float | None, expected: float, n: int, family: int | None) -> Verdict:
    """The verdict rule of every kind of result.

    Args:
        alpha: family-wise error.
        adjusted: log10 p after correction; None before it.
        expected: log10 p that the alternative would give on average, before correction.
        n: how much was tested.
        family: number of tests corrected for; None before correction.

    Raises:
        ValueError: ``alpha`` is no error rate, or the result is one of many and has not been corrected for that.
    """
    if family is None or adjusted is None:
        raise ValueError("a result of many tests has no verdict before correct(results)")
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    bar = math.log10(alpha)
    if adjusted <= bar:
        return Verdict.DETECTED
    if n == 0 or expected > bar - math.log10(family):
        return Verdict.INSUFFICIENT
    return Verdict.NOT_DETECTED


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """One test of one document (or corpus) under one scheme and key.

    Attributes:
        document: the record's id, or ``"corpus"``.
        where: file and line.
        profile: the profile's name; ``scheme`` and ``statistic`` are registry names.
        total: value of the statistic.
        n_scored: items scored; ``n_repeated`` were left out as repeats, ``n_excluded`` as special,
            next to a special id, or first ids without a known prompt.
        log10_p: log10 of the p-value before correction for multiplicity; exact or a proven upper bound.
        log10_p_adjusted: after correction over the ``family`` of tests; None before it is known.
        log10_e: log10 of an e-value, where the statistic has one.
        log10_p_expected: log10 p that watermarked text of this length would reach on average (planning figure).
        null: law of the statistic under the null hypothesis; ``assumptions`` are what it rests on.
        key_id: public id of the key, with its ``key_commitment``, ``tenant`` and ``epoch``.
        key_committed: whose commitment the profile publishes: ``tenant`` (this key), ``root`` (its root alone, so that the
            choice of tenant is not committed to) or ``no``; None if it publishes none.
        contract: whose watermark it is, in which version; None for our own.
        differs: why the p-value of a peer's own detector is another; None where it is not, or there is none.
        decoded: what the watermark says, such as a payload: the most likely one, whatever the p-value.
        tokens: ``recorded`` ids or ``re-encoded`` text.
        log10_p_rank: log10 of the rank p-value among the ``decoys`` random keys that were tried beside this one, exact whatever
            the text repeats, never below ``-log10(decoys + 1)``; None without decoys. The verdict does not read it.
        log10_p_extrapolated: what a tail fitted to the decoys guesses beyond that: no p-value.
        predictions: where the predictions that the statistic read came from: ``model`` or ``recorded``; None if it reads none.
        correction: the correction over ``family`` tests; both unset before it is known.
    """

    document: str
    where: str
    profile: str
    scheme: str
    statistic: str
    total: float
    n_scored: int
    n_repeated: int
    n_excluded: int
    log10_p: float
    log10_p_adjusted: float | None = None
    log10_e: float | None = None
    log10_p_expected: float
    null: str
    assumptions: tuple[str, ...] = field(default=(INDEPENDENCE, CHOICE, PRF_ASSUMPTION, DISTINCT))
    key_id: str
    key_commitment: str
    key_committed: str | None = None
    tenant: str
    epoch: str
    contract: str | None = None
    differs: str | None = None
    decoded: str | None = None
    tokens: str
    predictions: str | None = None
    decoys: int | None = None
    log10_p_rank: float | None = None
    log10_p_extrapolated: float | None = None
    correction: str | None = None
    family: int | None = None

    def __bool__(self) -> NoReturn:
        raise TypeError("a result has no truth value; ask for .verdict(alpha)")

    def adjusted(self, log10_p: float, correction: str, family: int) -> Detection:
        """This result with its corrected p-value."""
        return replace(self, log10_p_adjusted=log10_p, correction=correction, family=family)

    def verdict(self, alpha: float) -> Verdict:
        """The answer at family-wise error ``alpha``.

        DETECTED if the corrected p-value is at most ``alpha``. Otherwise INSUFFICIENT if watermarked text of this length
        would, on average, not have reached ``alpha`` after correction either, else NOT_DETECTED.

        Raises:
            ValueError: ``alpha`` is no error rate, or the result is one of many and has not been corrected for that.
        """
        return decide(
            alpha, adjusted=self.log10_p_adjusted, expected=self.log10_p_expected, n=self.n_scored, family=self.family,
        )

    def to_dict(self, alpha: float | None = None) -> dict[str, Any]:
        """A JSON object under schema ``wmcheck.detection/1``; with ``alpha`` it carries a verdict."""
        data: dict[str, Any] = {"schema": SCHEMA}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            data[name] = list(value) if isinstance(value, tuple) else value
            if isinstance(value, float) and not math.isfinite(value):
                data[name] = None if math.isnan(value) else ("-inf" if value < 0 else "inf")
        if alpha is not None:
            data["alpha"] = alpha
            data["verdict"] = str(self.verdict(alpha))
        return data
