"""The hypotheses of a search: every account in every epoch, and what naming one of them costs.

Under the null hypothesis of an account its key is independent of the text; keys of different accounts and epochs are independent
of each other (HKDF). Given the text, the p-values of all accounts that did not write it are therefore independent, and

    P(some innocent account has p <= t) <= 1 - (1 - t)^m,   m = accounts x epochs,

which is Sidak's correction, exact for continuous laws. It holds whoever did write the text, so it bounds the chance of naming
any innocent account and not only that of naming one where none wrote it. Records of one run are tested under the same keys and
may share contexts; over them, and the test of all records together, the bound is multiplied (Bonferroni). A step-down over
records (Holm) would not keep the promise: a record is rejected for its best account, and an innocent account may beat the author.

References:
    Z. Sidak, "Rectangular confidence regions for the means of multivariate normal distributions", JASA 62, 1967; S. Holm, 1979.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wmcheck.watermark.core.results import CHOICE, DISTINCT, PRF_ASSUMPTION
from wmcheck.watermark.profile import Profile

INNOCENT = (
    "keys of accounts that did not write the text are independent of it and of one another, and p is over their random draw"
)
# No plan reaches further; a profile that needs more tokens than this cannot name anyone.
MOST_TOKENS = 1 << 24


@dataclass(frozen=True, slots=True)
class Family:
    """Accounts and epochs; hypothesis ``i`` is account ``i mod accounts`` in epoch ``i div accounts``.

    Attributes:
        names: of accounts, distinct.
        epochs: distinct.
    """

    names: Sequence[str]
    epochs: Sequence[str] = ("",)

    @property
    def size(self) -> int:
        """m, the number of keys."""
        return len(self.names) * len(self.epochs)

    def account(self, index: int) -> tuple[str, str]:
        """Name and epoch of a hypothesis."""
        epoch, place = divmod(index, len(self.names))
        return self.names[place], self.epochs[epoch]


def sidak(log_p: float, m: int) -> float:
    """``log(1 - (1 - p)^m)`` of a natural log p-value, rounded up; at most 0."""
    if log_p >= 0.0:
        return 0.0
    # Below, (1 - p)^m is 1 - m p to the last digit, and m p is above the exact value.
    if log_p < -600.0:
        return min(0.0, log_p + math.log(m))
    inside = -math.expm1(m * math.log1p(-math.exp(log_p)))
    return min(0.0, math.log(inside) + 1e-12)


def adjusted(log_p: float, keys: int, tests: int) -> float:
    """The corrected natural log p-value of the best of ``keys`` accounts in one of ``tests`` tests."""
    return min(0.0, sidak(log_p, keys) + math.log(tests))


def describe(keys: int, tests: int, *, weighted: bool = False) -> str:
    """The correction, as printed in a report."""
    name = "Bonferroni weighted by cohorts" if weighted else "Sidak"
    first = f"{name} over {keys} key{'s' if keys != 1 else ''}"
    return first if tests == 1 else f"{first}, Bonferroni over {tests} tests"


def needed(profile: Profile, log_bar: float) -> int | None:
    """Scored tokens at which the author's planned score would reach a p-value of ``log_bar``; None if none are enough."""
    low, high = 0, 1
    while not reaches(profile, high, log_bar):
        low, high = high, 2 * high
        if high > MOST_TOKENS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(profile, middle, log_bar) else (middle, high)
    return high


def reaches(profile: Profile, n: int, log_bar: float) -> bool:
    """Whether n tokens of the author, at their planned mean score, have a p-value of at most ``log_bar``."""
    total = math.floor(n * profile.planned_score)
    return n > 0 and float(profile.scheme.null().log_sf([float(total)], [n])[0]) <= log_bar


def assumptions(profile: Profile) -> tuple[str, ...]:
    """What p-values of a search rest on."""
    return INNOCENT, CHOICE, getattr(profile.scheme, "ideal", PRF_ASSUMPTION), DISTINCT
