"""Reports of comparisons: JSON, Markdown, one HTML file, and a table for a terminal, all from the same dictionary."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from wmcheck.fingerprint.comparison import Comparison
from wmcheck.fingerprint.conformal import mean_e_value
from wmcheck.fingerprint.reports import details
from wmcheck.fingerprint.reports import text as words
from wmcheck.fingerprint.reports.blocks import Grid, Paragraph, Part, Section, ratio, significant, span
from wmcheck.fingerprint.reports.html import html
from wmcheck.fingerprint.reports.markdown import markdown
from wmcheck.fingerprint.reports.terminal import terminal
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.core.multiplicity import benjamini_hochberg, holm

SCHEMA = "wmcheck.comparisons/1"
LAYOUTS = ("table", "json", "md", "html")
Data = Mapping[str, Any]
Given = Comparison | Data

# After the propositions, in the order in which evidence is to be read.
_SECTIONS = (
    words.conclusion, words.ratios, words.ranks, words.signatures, words.differences, words.neighbours, words.validation,
    details.residual_map, details.sensitivity, details.remaining, details.downgrades, details.limitations, details.cohort,
    details.custody, details.cost,
)


def render(comparisons: Given | Sequence[Given], layout: str, *, family: int | None = None, run: Data | None = None) -> str:
    """A report of one comparison, or of one suspect with several teachers.

    Args:
        comparisons: results of ``provenance.compare``, or what their ``to_dict`` gave.
        layout: one of ``LAYOUTS``.
        family: comparisons of the whole investigation, if other suspects or teachers were tried too; default those given.
        run: how the report was made, for ``json``.

    Returns:
        The text, ended by a newline. Names, notes and labels in it are inert in its medium.

    Raises:
        ConfigError: there is no such layout, nothing to report, or ``family`` is smaller than what is given.
    """
    if layout not in LAYOUTS:
        raise ConfigError("no such layout", got=repr(layout), expected=", ".join(LAYOUTS))
    given = [comparisons] if isinstance(comparisons, (Comparison, Mapping)) else list(comparisons)
    if not given:
        raise ConfigError("no comparison to report")
    cases = [_finite(one.to_dict() if isinstance(one, Comparison) else one) for one in given]
    multiplicity = _correct(cases, len(cases) if family is None else family)
    if layout == "json":
        data = cases[0] if len(cases) == 1 else {"schema": SCHEMA, "multiplicity": multiplicity, "comparisons": cases}
        data = data if run is None else {**data, "run": run}
        return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if layout == "table":
        return terminal(cases, multiplicity)
    parts = _parts(cases, multiplicity)
    return (markdown if layout == "md" else html)(_title(cases), _under_title(cases), parts)


def _finite(value: Any) -> Any:
    """A copy that is JSON: what is not a number is null, because JSON has no word for it."""
    if isinstance(value, Mapping):
        return {str(name): _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    bare = value.item() if hasattr(value, "item") else value
    return None if isinstance(bare, float) and not math.isfinite(bare) else bare


def _correct(cases: Sequence[dict[str, Any]], questions: int) -> dict[str, Any]:
    """Write corrected ranks into the cases, and return what holds for all of them.

    Holm for accusations. For screening, the smallest level at which e-BH would list the teacher: e-BH is BH on 1/e (Wang &
    Ramdas 2022). The mean e-value tests independence of all teachers at once, however the cases depend.
    """
    if questions < len(cases):
        raise ConfigError(
            "the family is smaller than what is reported", where="--family", got=str(questions),
            expected=f"at least {len(cases)}",
        )
    if questions == 1:
        return {"questions": 1}
    ranks = [case.setdefault("rank", {}) for case in cases]
    e_values = [float(rank.get("e_value") or 0.0) for rank in ranks]
    adjusted = holm([min(math.log(rank.get("p") or 1.0), 0.0) for rank in ranks], family=questions)
    levels = benjamini_hochberg([-math.log(max(e, 1.0)) for e in e_values], family=questions)
    correction = f"Holm, {questions} comparisons"
    for rank, log_p, log_level in zip(ranks, adjusted, levels, strict=True):
        rank.update(
            p_adjusted=math.exp(log_p), correction=correction, questions=questions, e_bh_level=math.exp(log_level),
        )
    return {"questions": questions, "correction": correction, "mean_e_value": mean_e_value(e_values)}


def _title(cases: Sequence[Data]) -> str:
    return f"Behaviour of {cases[0]['suspect']['name']} compared with {', '.join(str(case['teacher']['name']) for case in cases)}"


def _under_title(cases: Sequence[Data]) -> list[str]:
    lines = []
    for role in details.ROLES:
        named = [case[role] for case in cases if isinstance(case.get(role), Mapping)]
        for one in {one["name"]: one for one in named}.values():
            tags = details.tag_text(one.get("tags", {}))
            lines.append(f"{role.capitalize()}: {one['name']}{f' ({tags})' if tags else ''}")
    version = cases[0].get("settings", {}).get("wmcheck", "")
    lines.append(
        f"wmcheck {version}, schema {cases[0].get('schema', '')}. This report weighs evidence between stated propositions; it "
        "is no verdict."
    )
    return lines


def _parts(cases: Sequence[Data], multiplicity: Data) -> list[Part]:
    first = words.propositions(cases)
    if len(cases) == 1:
        return [Part("", [first, *(section(cases[0]) for section in _SECTIONS)])]
    parts = [Part("", [first, _overview(cases, multiplicity)])]
    return parts + [Part(f"Teacher {case['teacher']['name']}", [section(case) for section in _SECTIONS]) for case in cases]


def _overview(cases: Sequence[Data], multiplicity: Data) -> Section:
    rows = []
    for case in cases:
        best, rank = case.get("headline") or {}, case.get("rank", {})
        rows.append([
            str(case["teacher"]["name"]), str(best.get("alternative", "no data")), ratio(best.get("lower_end")),
            ratio(best.get("log10_lr")), span(best.get("interval")),
            *(significant(rank.get(part)) for part in ("p", "p_adjusted", "floor", "e_value", "e_bh_level")),
        ])
    grid = Grid(
        caption="One row a teacher: smallest LR with its lower end and alternative, rank p with its correction, e-value",
        columns=[
            "teacher", "against", "lower end of LR", "smallest LR", "95% interval of log10 LR", "rank p", "corrected p",
            "floor of p", "e-value", "e-BH level",
        ],
        rows=rows, numeric=frozenset(range(2, 10)),
    )
    mean = significant(multiplicity.get("mean_e_value"))
    return Section("teachers", "All teachers", [
        grid,
        Paragraph(
            f"Corrected p ({multiplicity.get('correction')}) bounds the chance of naming any teacher wrongly. e-BH level: the "
            "smallest expected share of false discoveries at which a screening of these comparisons would list the teacher. "
            f"The mean e-value, against independence of all of them at once, is {mean}.", "note"),
        Paragraph(
            "The likelihood ratios are not corrected: each answers for its own teacher. The largest of several is larger than "
            "one chosen beforehand would be.", "note"),
    ])
