"""What an audit of a keyed function found: figures, their limits, and what they mean for a detector, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from scipy.stats import norm

SCHEMA = "wmcheck.audit/1"
# The level and the numbers of tokens at which the error of p is told.
LEVEL = 1e-6
DOCUMENT, CORPUS = 300, 100_000
# A figure is called off where it lies this many standard errors from what it should be.
ERRORS = 4.5
# Correlations below this are not worth a word, however certain.
CORRELATION = 5e-3
# A largest correlation among some thousands is off only beyond this many standard errors.
MANY = 6.0
# Keys of fewer bits than this can be found by trying all.
KEY_BITS = 60
# Fewer different outputs than 2 to this are a weakness.
VALUE_BITS = 20


class State(StrEnum):
    """``corrected``: a weakness of the function that detection with wmcheck accounts for; ``derived`` knowledge counts too."""

    CLEAN = "clean"
    WEAK = "weak"
    CORRECTED = "corrected"
    UNMEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure of one keyed function.

    Attributes:
        check: name of the check.
        state: what the figure says.
        value: the figure; None where there is none.
        limit: beyond it, the figure is a weakness.
        words: one clause; empty where there is nothing to say.
        source: ``measured`` here, or ``derived`` from the definition of the function.
        shown: the figure as the table shows it.
        details: more figures, JSON-ready.
    """

    check: str
    state: State
    value: float | None = None
    limit: float | None = None
    words: str = ""
    source: str = "measured"
    shown: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "check": self.check, "state": str(self.state), "source": self.source, "value": _finite(self.value),
            "limit": _finite(self.limit), "words": self.words, **{name: _finite(value) for name, value in self.details.items()},
        }


def unmeasured(check: str, words: str) -> Finding:
    """A check that could not be made, and why."""
    return Finding(check, State.UNMEASURED, words=words, shown="-")


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, slots=True)
class Law:
    """How sums over a text deviate from a law that was assumed.

    Attributes:
        shift: mean of one item minus the assumed one, over its standard deviation; 0 where none was found.
        document: variance of a document's sum over the assumed one; 1 where no difference was found.
        corpus: the same of a pooled corpus.
    """

    shift: float = 0.0
    document: float = 1.0
    corpus: float = 1.0

    def factors(self) -> dict[int, float]:
        """How many times too small p is at :data:`LEVEL`, by the number of tokens; below 1 where p is too large."""
        return {DOCUMENT: factor(self.shift, self.document, DOCUMENT), CORPUS: factor(self.shift, self.corpus, CORPUS)}


def factor(shift: float, inflation: float, tokens: int, level: float = LEVEL) -> float:
    """True chance of p at or below ``level`` over ``level``, where sums have another mean and variance than p assumes.

    A normal approximation: ``P(Z > (z - shift sqrt(n)) / sqrt(v)) / level``.

    Args:
        shift: mean of one item above the assumed one, in standard deviations.
        inflation: variance of the sum over the assumed one.
        tokens: n.
        level: nominal p.
    """
    bar = float(norm.isf(level))
    if inflation <= 0.0:
        return 0.0 if shift * math.sqrt(tokens) < bar else 1.0 / level
    return float(math.exp(norm.logsf((bar - shift * math.sqrt(tokens)) / math.sqrt(inflation)) - math.log(level)))


def error_words(law: Law) -> str:
    """What the deviation does to p, in one clause; empty where it does nothing."""
    parts = []
    for tokens, times in law.factors().items():
        if times > 1.05:
            parts.append(f"{_times(times)} too small over {tokens:,} tokens")
        elif times < 0.95:
            parts.append(f"{_times(1.0 / times) if times else 'far'} too large over {tokens:,} tokens")
    return f"p is {', '.join(parts)} at {LEVEL:g}" if parts else ""


def _times(value: float) -> str:
    return f"{float(f'{value:.2g}'):,g}x" if value < 100 else f"{float(f'{value:.2g}'):,.0f}x"


@dataclass(frozen=True, slots=True)
class Audited:
    """The audit of one keyed function.

    Attributes:
        name: registry name of the contract.
        project: whose it is; ``wmcheck`` for our own.
        version: release of the project.
        prf: version of the keyed function.
        parameters: of the contract.
        vocabulary: ids were drawn below this.
        ideal: what p takes for granted about the function.
        windows: how many (context, token) pairs the mean and the variance stand on.
        findings: one a check.
        naive: a detector that assumes the ideal law and scores each distinct n-gram, against this function.
        ours: detection with wmcheck, which uses the contract's own law and scores each distinct effective seed.
    """

    name: str
    project: str
    version: str
    prf: str
    parameters: Mapping[str, Any]
    vocabulary: int
    ideal: str
    windows: int
    findings: tuple[Finding, ...]
    naive: Law
    ours: Law

    @property
    def clean(self) -> bool:
        """No weakness was found."""
        return all(one.state in (State.CLEAN, State.UNMEASURED) for one in self.findings)

    def finding(self, check: str) -> Finding:
        """The finding of one check."""
        return next(one for one in self.findings if one.check == check)

    @property
    def consequence(self) -> str:
        """What it means for a detector, in a few clauses."""
        parts = []
        assumed, own = error_words(self.naive), error_words(self.ours)
        if assumed:
            parts.append(f"with distinct n-grams taken as independent draws of the ideal law, {assumed}")
        if own:
            parts.append(f"in wmcheck, {own}")
        elif assumed:
            parts.append("in wmcheck it is not")
        parts += [one.words for one in self.findings if one.words and one.state in (State.WEAK, State.CORRECTED)]
        return "; ".join(parts) or "none found"

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "name": self.name, "project": self.project, "version": self.version, "prf": self.prf,
            "parameters": dict(self.parameters), "vocabulary": self.vocabulary, "ideal": self.ideal, "windows": self.windows,
            "clean": self.clean, "findings": [one.to_dict() for one in self.findings],
            "p_off": {
                "level": LEVEL,
                **{name: {str(n): _finite(times) for n, times in law.factors().items()}
                   for name, law in (("ideal_law", self.naive), ("wmcheck", self.ours))},
            },
            "consequence": self.consequence,
        }


# Column of the table -> name of the check.
COLUMNS = {
    "mean z": "mean", "var ratio": "variance", "var of text": "text", "distinct": "values", "contexts": "seeds",
    "token lag": "token lags", "context lag": "context lags", "key lag": "key lags", "layers": "layers", "reads": "width",
    "key bits": "key bits", "related keys": "related keys", "small ids": "small ids", "CPU=GPU": "devices",
}


def row(one: Audited) -> dict[str, str]:
    """The cells of a table; a star stands where detection with wmcheck accounts for a weakness, an exclamation mark at others."""
    marks = {State.WEAK: " !", State.CORRECTED: " *"}
    cells = {"function": one.name, "windows": f"{one.windows:,}"}
    for column, check in COLUMNS.items():
        found = one.finding(check)
        cells[column] = found.shown + marks.get(found.state, "")
    return cells


NOTE = f"""! a weakness; * a weakness that detection with wmcheck accounts for, by its law or by scoring each effective seed once.
Correlations: the largest in size, by difference; what they stand on is in JSON and with -v. Factors of p: normal approximations,
at {LEVEL:g}."""
