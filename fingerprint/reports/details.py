"""The rest of a report's words: what the result rests on, what weakens it, and what a repetition needs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from wmcheck.fingerprint.behaviour import choice
from wmcheck.fingerprint.reports.blocks import (
    NOTHING,
    Block,
    Bullets,
    Figure,
    Grid,
    Paragraph,
    Section,
    count,
    decimal,
    known,
    percent,
    ratio,
    significant,
)
from wmcheck.fingerprint.reports.plots import Mark, bars, dots
from wmcheck.fingerprint.reports.text import described

Data = Mapping[str, Any]
ROLES = ("suspect", "teacher", "base")
COSTS = ("calls", "answers", "failures", "prompt_tokens", "completion_tokens")
# A label or a hashed choice; anything else might be text of an answer, and is hashed before it is shown.
_LABEL = re.compile(r"[\w.+:/#@=,-]{1,40}", re.ASCII)
_SHOWN = 4
_LONGEST_ID = 80


def residual_map(data: Data) -> Section:
    """Where the score comes from: by stratum, and decision by decision."""
    blocks: list[Block] = []
    for name, found in data.get("residual_map", {}).items():
        blocks += _strata(str(name), found.get("strata", ()))
        values = [float(value) for value in found.get("values", ()) if known(value)]
        positive = sorted((value for value in values if value > 0.0), reverse=True)
        if positive:
            share = percent(sum(positive[:10]) / sum(positive))
            blocks.append(Paragraph(
                f"Of {count(len(values))} decisions {count(len(positive))} speak for likeness; the ten largest carry {share} "
                "of what those add up to.", "note"))
        blocks.append(_decisions(str(name), found.get("decisions", ())))
    if not blocks:
        return Section("map", "Residual map", [Paragraph("No signature in use can be taken apart.")])
    intro = Paragraph(
        "What each decision adds to the raw score of suspect and teacher. Decisions are labels, or hashes of choices; no text "
        "of any answer is shown.", "note")
    return Section("map", "Residual map", [intro, *blocks])


def _strata(name: str, strata: Sequence[Data]) -> list[Block]:
    rows = sorted((row for row in strata if known(row.get("sum"))), key=lambda row: -abs(float(row["sum"])))
    if not rows:
        return []
    marks = [
        Mark(
            label=str(row["stratum"]), value=float(row["sum"]), role="strong" if float(row["sum"]) >= 0.0 else "other",
            note=f"{significant(row['sum'])} ({count(row.get('decisions'))})",
        )
        for row in rows[:20]
    ]
    title, text = f"{name}: contribution of each stratum to the raw score (and its number of decisions)", described(marks)
    cells = [[str(row["stratum"]), count(row.get("decisions")), significant(row["sum"])] for row in rows]
    return [
        Figure(title=title, description=text, draw=lambda key: bars(
            key, title, text, marks, axis="contribution; below zero the two models differ")),
        Grid(
            caption=f"{name}: contribution by stratum", columns=["stratum", "decisions", "sum"], rows=cells,
            numeric=frozenset({1, 2}), folded=True,
        ),
    ]


def _decisions(name: str, decisions: Sequence[Data]) -> Grid:
    rows = [
        [
            cut(str(row.get("decision"))), cut(str(row.get("stratum"))), significant(row.get("value")),
            labels(row.get("suspect", ())), labels(row.get("teacher", ())),
        ]
        for row in decisions
    ]
    return Grid(
        caption=f"{name}: the decisions that weigh most for likeness, then those that weigh most against it",
        columns=["decision", "stratum", "contribution", "suspect", "teacher"], rows=rows, numeric=frozenset({2}),
        code=frozenset({0, 3, 4}),
    )


def labels(tokens: Sequence[Any]) -> str:
    """The decisions on one item: labels as they are, anything that could be text as its hash."""
    shown = [str(token) if _LABEL.fullmatch(str(token)) else choice(str(token)) for token in tokens]
    return ", ".join(shown[:_SHOWN]) + (f", {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")


def cut(text: str) -> str:
    """An id, shortened if it is too long to be one."""
    return text if len(text) <= _LONGEST_ID else f"{text[:_LONGEST_ID - 20]}…{choice(text)}"


def sensitivity(data: Data) -> Section:
    """The headline under changed choices."""
    rows = list(data.get("sensitivity", ()))
    if not rows:
        return Section("sensitivity", "Sensitivity", [Paragraph("Not computed: there is no LR to vary, or it was switched off.")])
    marks = [
        Mark(label=str(row["change"]), value=float(row["log10_lr"]), note=f"LR {ratio(row['log10_lr'])}",
             role="strong" if place == 0 else "")
        for place, row in enumerate(rows) if known(row.get("log10_lr"))
    ]
    blocks: list[Block] = []
    if marks:
        title, text = "The reported LR, and what it becomes under one change at a time", described(marks)
        blocks.append(Figure(title=title, description=text, draw=lambda key: dots(
            key, title, text, marks, axis="likelihood ratio (log scale)")))
    blocks.append(Grid(
        caption="LR under changed choices", columns=["change", "LR", "log10 LR", "note"], numeric=frozenset({1, 2}),
        rows=[
            [str(row.get("change")), ratio(row.get("log10_lr")), decimal(row.get("log10_lr")), str(row.get("note") or "")]
            for row in rows
        ],
    ))
    return Section("sensitivity", "Sensitivity", blocks)


def remaining(data: Data) -> Section:
    """The alternatives that are left standing."""
    items = [str(item) for item in data.get("not_excluded", ())]
    rest = "Every alternative was tested, and no interval reaches LR 1. That does not exclude what nobody thought of."
    return Section("not-excluded", "What is not excluded", [Bullets(items) if items else Paragraph(rest)])


def downgrades(data: Data) -> Section:
    """What makes this comparison weaker than its numbers."""
    items = [str(item) for item in data.get("downgrades", ())]
    return Section("downgrades", "Downgrades", [Bullets(items) if items else Paragraph("None.")])


def limitations(data: Data) -> Section:
    """What holds for every report of this kind."""
    return Section("limitations", "Limitations", [Bullets([str(item) for item in data.get("limitations", ())])])


def cohort(data: Data) -> Section:
    """Who the reference population is."""
    held = data.get("cohort", {})
    facts = [
        (str(name), str(value)) for name, value in held.items()
        if name not in ("names", "members") and isinstance(value, (str, int)) and value != ""
    ]
    blocks: list[Block] = [Grid(caption="The reference population", columns=["", "value"], rows=facts)]
    members = [member for member in held.get("members", ()) if isinstance(member, Mapping)]
    if members:
        blocks.append(_vendors(members))
    names = [str(name) for name in held.get("names", ())]
    if names:
        blocks.append(Paragraph(f"Models: {', '.join(names)}.", "note"))
    return Section("cohort", "Cohort", blocks)


def _vendors(members: Sequence[Data]) -> Grid:
    groups: dict[str, list[Data]] = {}
    for member in members:
        groups.setdefault(str(member.get("vendor") or member.get("family") or member.get("name")), []).append(member)
    rows = []
    for vendor, group in sorted(groups.items(), key=lambda entry: (-len(entry[1]), entry[0])):
        dates = sorted(str(member["date"]) for member in group if member.get("date"))
        kinds = Counter(str(member.get("kind") or "chat") for member in group)
        rows.append([
            vendor, str(len(group)), str(len({member.get("family") or member.get("name") for member in group})),
            ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items())),
            ", ".join(sorted({str(member["channel"]) for member in group if member.get("channel")})) or NOTHING,
            f"{dates[0]} to {dates[-1]}" if dates else NOTHING, str(sum(bool(member.get("teachers")) for member in group)),
            str(sum(bool(member.get("base")) for member in group)),
        ])
    return Grid(
        caption="By vendor, or by family where no vendor is known: these are left out and resampled together",
        columns=["vendor", "models", "lines", "kinds", "channels", "dates", "with known teachers", "with known base"], rows=rows,
        numeric=frozenset({1, 2, 6, 7}),
    )


def custody(data: Data) -> Section:
    """Hashes, protocol, suites, seeds and versions: what a repetition needs."""
    cases = {role: data[role] for role in ROLES if isinstance(data.get(role), Mapping)}
    columns = [_evidence(case) for case in cases.values()]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [
        [name, *(column.get(name) or NOTHING for column in columns)]
        for name in names
        if any(column.get(name) for column in columns)
    ]
    blocks: list[Block] = [Grid(
        caption="Evidence", columns=["", *cases], rows=rows, code=frozenset(range(1, len(cases) + 1)),
    )]
    suites = [
        [role, *(str(suite.get(part, NOTHING)) for part in ("name", "version", "seed", "digest"))]
        for role, case in cases.items()
        for suite in (case.get("evidence") or {}).get("suites") or ()
        if isinstance(suite, Mapping)
    ]
    if suites:
        blocks.append(Grid(
            caption="Suites asked", columns=["of", "suite", "version", "seed", "digest"], rows=suites, code=frozenset({4}),
        ))
    settings = [
        [str(name), ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)]
        for name, value in data.get("settings", {}).items()
    ]
    blocks.append(Grid(caption="Settings and software", columns=["setting", "value"], rows=settings))
    return Section("custody", "Chain of custody", blocks)


def _evidence(case: Data) -> dict[str, str]:
    evidence = case.get("evidence") or {}
    return {
        "name": str(case.get("name")), "tags": tag_text(case.get("tags", {})), "source": str(case.get("source") or ""),
        "SHA-256 of the file": str(evidence.get("sha256", "")), "hash of the run's last line": str(evidence.get("run", "")),
        "digest of the answers": str(evidence.get("digest", "")),
        "hash of the protocol": str(case.get("protocol") or "not recorded"),
        "decisions": ", ".join(f"{name} {count(number)}" for name, number in case.get("decisions", {}).items()),
    }


def tag_text(tags: Data) -> str:
    """Tags as ``family x, vendor y``, without what goes without saying."""
    usual = {"name": tags.get("name"), "kind": "chat", "same_as": tags.get("name")}
    return ", ".join(
        f"{name.replace('_', ' ')} {'+'.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"
        for name, value in tags.items() if value != usual.get(name)
    )


def cost(data: Data) -> Section:
    """Calls and tokens, where the runs know them."""
    rows = []
    for role in ROLES:
        case = data.get(role)
        evidence = (case.get("evidence") or {}) if isinstance(case, Mapping) else {}
        if any(known(evidence.get(name)) for name in COSTS):
            rows.append([role, *(count(evidence.get(name)) for name in COSTS)])
    if not rows:
        return Section("cost", "Cost", [Paragraph("These files record no calls or tokens. The comparison itself made no call.")])
    return Section("cost", "Cost", [Grid(
        caption="Calls and tokens that the runs record; the comparison itself made no call",
        columns=["", *(name.replace("_", " ") for name in COSTS)], rows=rows, numeric=frozenset(range(1, 6)),
    )])
