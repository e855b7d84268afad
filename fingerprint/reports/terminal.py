"""A report as plain text for a terminal: the propositions, the numbers, and what they do not exclude."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from wmcheck.fingerprint.reports.blocks import count, decimal, known, ratio, significant, span
from wmcheck.fingerprint.reports.text import alternatives
from wmcheck.watermark.core.errors import printable
from wmcheck.watermark.core.writers import render_table

Data = Mapping[str, Any]
_WIDTH = 100


def terminal(cases: Sequence[Data], multiplicity: Data) -> str:
    """The comparisons of one suspect, one after the other.

    Args:
        cases: dictionaries of schema ``wmcheck.comparison/1``, with corrected ranks.
        multiplicity: what holds for all of them.
    """
    lines = [_wrapped(f"H_T: {cases[0].get('propositions', {}).get('target', '')}")]
    lines += [_wrapped(str(entry.get("claim")), f"{entry.get('name')}:  ") for entry in alternatives(cases[0])]
    for case in cases:
        lines += [
            "", _wrapped(f"Suspect {case['suspect']['name']}, teacher {case['teacher']['name']}"),
            _wrapped(str(case.get("statement", ""))), "", _ratio_table(case), _signature_table(case), _wrapped(_rank_line(case)),
            *_remarks(case),
        ]
    if len(cases) > 1:
        mean = significant(multiplicity.get("mean_e_value"))
        lines += ["", _wrapped(f"{multiplicity.get('correction')}; mean e-value over the teachers {mean}.")]
    lines += ["", "Limitations, validation, residual map and chain of custody: --format md, html or json."]
    return "\n".join(lines) + "\n"


def _wrapped(text: str, indent: str = "") -> str:
    return fill(
        printable(text), width=_WIDTH, initial_indent=indent, subsequent_indent=" " * len(indent), break_on_hyphens=False,
    )


def _ratio_table(case: Data) -> str:
    rows = []
    for entry in alternatives(case):
        value = entry.get("log10_lr")
        rows.append({
            "against": str(entry.get("name")), "LR": ratio(value) if known(value) else "no data", "log10 LR": decimal(value),
            "95% interval": span(entry.get("interval")), "bounds": span(entry.get("bounds")),
            "pairs": " / ".join(map(count, entry.get("pairs") or ())),
            "vendors": " / ".join(map(count, entry.get("vendors") or ())),
            "Cllr": decimal((entry.get("validation") or {}).get("cllr"), 3),
        })
    return render_table(rows, ("against", "LR", "log10 LR", "95% interval", "bounds", "pairs", "vendors", "Cllr"))


def _signature_table(case: Data) -> str:
    rows = [
        {
            "signature": str(entry.get("name")), "z": decimal(entry.get("z")), "+-": decimal(entry.get("error")),
            "shared": count(entry.get("shared")), "used": "yes" if entry.get("used") else "no",
            "remark": str(entry.get("reason") or ""),
        }
        for entry in case.get("signatures", ())
    ]
    return render_table(rows, ("signature", "z", "+-", "shared", "used", "remark"))


def _rank_line(case: Data) -> str:
    rank = case.get("rank", {})
    sides = [
        f"{significant(rank.get(f'p_{name}'))} among {count(rank.get(f'n_{name}'))} control {name} of "
        f"{count(rank.get(f'vendors_{name}'))} vendors"
        for name in ("teachers", "suspects")
    ]
    corrected = f", corrected {significant(rank['p_adjusted'])} ({rank.get('correction')})" if "p_adjusted" in rank else ""
    return (
        f"Rank p {significant(rank.get('p'))}{corrected}: {', '.join(sides)}; floor {significant(rank.get('floor'))}; e-value "
        f"{significant(rank.get('e_value'))}."
    )


def _remarks(case: Data) -> list[str]:
    found = []
    for title, name in (("Not excluded:", "not_excluded"), ("Downgrades:", "downgrades")):
        items = case.get(name) or ()
        found += ["", title, *(_wrapped(str(item), "- ") for item in items)] if items else []
    return found
