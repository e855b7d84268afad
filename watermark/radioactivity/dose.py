"""Dose: which share of a suspect's training tokens was marked. Estimates, never part of a p-value.

The excess of scores under the suspect's law is close to linear in the share of marked tokens that it was trained on. A suspect
can hardly show more excess than the marked text itself, so that the quotient of the two bounds the share from below; where a
reference student of known share exists, the quotient with its excess estimates it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wmcheck.watermark.candidate import Batch, Candidate
from wmcheck.watermark.core.errors import ConfigError, InputError
from wmcheck.watermark.detect import check_ids, check_sums
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.radioactivity.result import SCHEMA, Radioactivity
from wmcheck.watermark.radioactivity.weighted import AnyKey
from wmcheck.watermark.windows import Document

LEVEL = 0.95
# Two one-sided bounds, of suspect and of marked text, that hold together in 95 of 100 cases; and the two-sided quantile.
JOINT = 1.959963984540054
UNLEARNT = "approximate lower bound: what the suspect has not learnt, or in contexts that it was not trained on, is not in it"
LINEAR = "approximate: excess taken as linear in the share, the reference student as trained like the suspect"


@dataclass(frozen=True, slots=True)
class Excess:
    """Mean score above the null mean, with its standard error.

    Attributes:
        mean: the excess of one item.
        se: its standard error.
        test: which test measured it, or ``marked text``.
        dose: known share of marked tokens; 1 for marked text.
    """

    mean: float
    se: float
    test: str
    dose: float = 1.0


def marked_excess(
    documents: Sequence[Document], profile: Profile, key: AnyKey, *, tenant: str = "", epoch: str = ""
) -> Excess:
    """The excess of the provider's own marked text, with documents as clusters.

    Raises:
        InputError: no document holds a token that can be scored.
    """
    check_sums(profile, "dose")
    for document in documents:
        check_ids(document)
    batch = Batch(documents, profile)
    scores, owner = batch.scores(Candidate.of(profile, key, tenant, epoch))
    if not len(scores):
        raise InputError("no marked text to compare with", where="dose", got=f"{len(documents)} texts")
    above = scores - profile.scheme.null().mean()
    mean = float(above.mean())
    residual = np.bincount(owner, weights=above - mean)
    return Excess(mean, math.sqrt(float(residual @ residual)) / len(scores), "marked text")


def reference_excess(source: str | Path | Mapping[str, Any], test: str, dose: float | None = None) -> Excess:
    """The excess of a reference student, from its result.

    Args:
        source: a ``wmcheck.radioactivity/1`` object or its file: one test, or a run with ``tests``.
        test: which test to take.
        dose: the student's known share of marked tokens; default the object's ``reference_dose``.

    Raises:
        InputError: not such a file, without that test, or without a share in (0, 1].
    """
    where = "reference" if isinstance(source, Mapping) else str(source)
    data = source if isinstance(source, Mapping) else _object(Path(source))
    tests = data.get("tests", [data])
    chosen = next((one for one in tests if isinstance(one, Mapping) and one.get("test") == test), None)
    if data.get("schema", SCHEMA) != SCHEMA or chosen is None:
        raise InputError("not a radioactivity result with this test", where=where, expected=f"{SCHEMA} with a {test} test")
    known = dose if dose is not None else data.get("reference_dose")
    if not isinstance(known, (int, float)) or not 0.0 < known <= 1.0:
        raise InputError(
            "the reference's share of marked tokens is not known", where=where, got=repr(known), expected="a share in (0, 1]",
            hint='write it into the file as "reference_dose": 0.3',
        )
    return Excess(float(chosen["excess"]), float(chosen["excess_se"]), test, float(known))


def with_dose(result: Radioactivity, reference: Excess) -> Radioactivity:
    """The result with a dose: a bound if ``reference`` is marked text, an estimate if it is a student's.

    Raises:
        ConfigError: the reference was measured by another test, or the result is a contrast.
    """
    if not math.isfinite(result.excess):
        raise ConfigError("no dose from this test", where="dose", got=result.test, expected="weighted, reading or sampled")
    if reference.test == "marked text":
        return replace(result, dose=lower_bound(result, reference))
    if reference.test != result.test:
        raise ConfigError("the reference is of another test", where="--reference", got=reference.test, expected=result.test)
    return replace(result, dose=ratio(result, reference))


def lower_bound(result: Radioactivity, text: Excess) -> dict[str, Any]:
    """A lower bound of the share at 95%, from the excess of the marked text itself."""
    low, high = result.excess - JOINT * result.excess_se, text.mean + JOINT * text.se
    point = result.excess / text.mean if text.mean > 0 else math.nan
    bound = min(max(low / high, 0.0), 1.0) if high > 0 and math.isfinite(low) else 0.0
    return {
        "method": "marked text", "estimate": None, "shown": _share(point), "low": bound, "high": 1.0, "level": LEVEL,
        "note": UNLEARNT,
    }


def ratio(result: Radioactivity, reference: Excess) -> dict[str, Any]:
    """The share from a reference student's, with Fieller's 95% interval (E. Fieller, JRSS B 16, 1954)."""
    a, b, va, vb = result.excess, reference.mean, result.excess_se**2, reference.se**2
    square = JOINT * JOINT
    found: dict[str, Any] = {"method": "reference student", "level": LEVEL, "note": LINEAR, "reference_dose": reference.dose}
    leading = b * b - square * vb
    if leading <= 0 or not math.isfinite(va):
        return found | {"estimate": _share(a / b * reference.dose) if b else None, "low": 0.0, "high": 1.0}
    root = math.sqrt(max(a * a * b * b - (a * a - square * va) * leading, 0.0))
    low, high = (a * b - root) / leading, (a * b + root) / leading
    return found | {
        "estimate": _share(a / b * reference.dose), "low": _share(low * reference.dose), "high": _share(high * reference.dose)
    }


def _share(value: float) -> float:
    return min(max(value, 0.0), 1.0) if math.isfinite(value) else math.nan


def _object(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("cannot read the reference", where=str(path), got=str(error)[:100]) from None
    if not isinstance(data, dict):
        raise InputError("not a radioactivity result", where=str(path), expected=f"a JSON object of {SCHEMA}")
    return data
