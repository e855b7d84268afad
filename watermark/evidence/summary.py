"""What a result says, whatever verb made it: read from the fields that all results share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

# Fields whose values are collected, once each.
_COLLECTED = {
    "corrections": "correction", "families": "family", "nulls": "null", "assumptions": "assumptions", "statistics": "statistic",
    "schemes": "scheme", "commitments": "key_commitment",
}
_NAMES = ("document", "record", "account", "layer", "test", "candidate", "name", "teacher")
VERDICT = "verdict"


def summarize(result: Mapping[str, Any]) -> dict[str, Any]:
    """Alpha, verdicts, every multiplicity, null and assumption of a result.

    Returns:
        ``schema`` and ``alpha`` of the result; ``verdicts``: how often each is given; ``corrections``, ``families``, ``nulls``,
        ``assumptions``, ``statistics``, ``schemes`` and ``commitments`` (of keys): each different value once.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in _COLLECTED}
    verdicts: dict[str, int] = {}
    for one in objects(result):
        for name, field in _COLLECTED.items():
            value = one.get(field)
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, (str, int)) and not isinstance(each, bool):
                    found[name].setdefault(repr(each), each)
        # An object that has tests of its own repeats the verdict of one of them.
        if isinstance(one.get(VERDICT), str) and "tests" not in one:
            verdicts[one[VERDICT]] = verdicts.get(one[VERDICT], 0) + 1
    return {
        "schema": result.get("schema"), "alpha": result.get("alpha"), "verdicts": verdicts,
        **{name: list(values.values()) for name, values in found.items()},
    }


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a JSON value, outer ones first, in the order of names: that of a file may be another one."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting.extend(value for _, value in sorted(one.items(), reverse=True))
        elif isinstance(one, list):
            waiting.extend(reversed(one))


def findings(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tests of a result, the strongest first.

    Returns:
        For each object with a p-value: ``name``, ``verdict`` (or None), ``log10_p`` (after correction where there is one),
        ``corrected`` (whether it is), ``n``, ``scheme``, ``key_id``, ``tenant``, ``family``, ``correction``.
    """
    found = [
        {
            "name": next((str(one[name]) for name in _NAMES if isinstance(one.get(name), (str, int))), "-"),
            "verdict": one.get(VERDICT), "log10_p": _number(one, "log10_p_adjusted", "log10_p"),
            "corrected": isinstance(one.get("log10_p_adjusted"), (int, float)), "n": one.get("n_scored"),
            "scheme": one.get("scheme"), "key_id": one.get("key_id"), "tenant": one.get("tenant"), "family": one.get("family"),
            "correction": one.get("correction"),
        }
        for one in objects(result) if _is_test(one)
    ]
    return sorted(found, key=lambda one: one["log10_p"])


def in_words(log10_p: float) -> str:
    """A p-value in words: ``one in 1,000``, ``one in 10^12``."""
    if log10_p >= -0.5:
        return "no rarer than one in three"
    if log10_p > -6.0:
        return f"about one in {round(10.0**-log10_p):,}"
    if math.isinf(log10_p):
        return "rarer than any number can say"
    return f"about one in 10^{math.floor(-log10_p)}"


def _is_test(one: Mapping[str, Any]) -> bool:
    return "tests" not in one and _number(one, "log10_p_adjusted", "log10_p") is not None


def _number(one: Mapping[str, Any], *names: str) -> float | None:
    for name in names:
        value = one.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if value == "-inf":
            return -math.inf
    return None
