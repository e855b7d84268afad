"""The words of a report: one comparison as sections, in the order in which evidence is to be read.

Propositions stand before results, alternatives that were not tested beside those that were, and no sentence says more than
that the behaviour is more or less probable under one proposition than under another. Works on ``Comparison.to_dict()``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wmcheck.fingerprint.evidence_lr import verbal
from wmcheck.fingerprint.reports.blocks import (
    NOTHING,
    Block,
    Figure,
    Grid,
    Paragraph,
    Section,
    Terms,
    Tile,
    Tiles,
    count,
    decimal,
    known,
    percent,
    ratio,
    significant,
    span,
)
from wmcheck.fingerprint.reports.plots import Mark, bars, dots, tippett

Data = Mapping[str, Any]

_EXAMPLES = {
    "teacher": "students of the cohort with their declared teachers",
    "line": "versions of one product line, asked through one channel, as a stand-in",
    "line, any channel": "versions of one product line, whatever the channel, as a stand-in",
}
SCALE = (
    "In words, after ENFSI 2015: an LR of 1 to 10 is weak support, to 100 moderate, to 1,000 moderately strong, to 10,000 "
    "strong, above that very strong; below 1 the support is for the alternative, on the same scale of 1/LR."
)


def alternatives(data: Data) -> Sequence[Data]:
    """The results against A0 to A7, in order."""
    found: Sequence[Data] = data.get("propositions", {}).get("alternatives", ())
    return found


def described(marks: Sequence[Mark]) -> str:
    """A figure in words: every row with its number."""
    return "; ".join(f"{mark.label}: {mark.note}" for mark in marks) + "."


def propositions(cases: Sequence[Data]) -> Section:
    """H_T and A0 to A7, before any result, and the examples that stand for H_T in each case."""
    terms = [("H_T", str(cases[0].get("propositions", {}).get("target", "")))]
    terms += [(str(entry.get("name")), str(entry.get("claim"))) for entry in alternatives(cases[0])]
    blocks: list[Block] = [
        Paragraph(
            "The question is how probable the observed behaviour is under the target proposition H_T, compared with each of the "
            "alternatives A0 to A7. How probable the propositions themselves are is not a question that this report can answer."
        ),
        Terms(terms),
    ]
    kinds = [str(case.get("propositions", {}).get("target_examples", "")) for case in cases]
    same = len(set(kinds)) == 1
    for case, examples in zip(cases[:1] if same else cases, kinds, strict=False):
        teacher = "" if same else f" with teacher {case['teacher']['name']}"
        if examples:
            blocks.append(Paragraph(f"Examples that stand for H_T{teacher}: {_EXAMPLES.get(examples, examples)}.", "note"))
    return Section("propositions", "Propositions", blocks)


def conclusion(data: Data) -> Section:
    """The statement and the numbers behind it: the smallest LR, its lower end, the bound."""
    blocks: list[Block] = [Paragraph(str(data.get("statement", "")), "lead")]
    best = data.get("headline")
    if best:
        name = str(best["alternative"])
        claim = next((str(entry.get("claim")) for entry in alternatives(data) if entry.get("name") == name), "")
        value, low, bounds = best["log10_lr"], best.get("lower_end"), best.get("bounds")
        blocks.append(Tiles([
            Tile("Lower end of the 95% interval", f"LR {ratio(low)}", f"log10 LR {decimal(low)}", True),
            Tile("Smallest LR", f"LR {ratio(value)}", f"log10 LR {decimal(value)}, interval {span(best.get('interval'))}"),
            Tile("Least excluded alternative", name, claim),
            Tile("Range that the cohort can support", f"LR {span(bounds, ratio)}", f"log10 LR {span(bounds)}"),
            Tile("In words", str(best.get("verbal", ""))),
        ]))
        blocks += [Paragraph(text, "note") for text in (*_cut_at_bound(data, best), _reading(value, name), SCALE)]
    remarks = len(data.get("downgrades") or ())
    if remarks:
        blocks.append(Paragraph(
            f"{remarks} remark{'s' if remarks > 1 else ''} on what weakens or qualifies this result: see Downgrades.", "warning"))
    return Section("result", "Result", blocks)


def _cut_at_bound(data: Data, best: Data) -> list[str]:
    tested = next((entry for entry in alternatives(data) if entry.get("name") == best["alternative"]), {})
    fitted, bounds = tested.get("fitted_log10_lr"), list(best.get("bounds") or ())
    if not known(fitted) or len(bounds) != 2 or bounds[0] - 1e-9 <= fitted <= bounds[1] + 1e-9:
        return []
    return [
        f"The fitted value (log10 LR {decimal(fitted)}) lies beyond what a cohort of this size can support. The LR and its "
        "interval are cut at the bound: a narrow interval shows the bound here, not precision."
    ]


def _reading(value: float, name: str) -> str:
    often, than = ("times as often", "as") if value >= 0.0 else ("times less often", "than")
    return (
        f"An LR of {ratio(value)} means that behaviour like this is expected {ratio(abs(value))} {often} among pairs that "
        f"stand for H_T {than} among pairs that stand for {name}. It is not the odds that H_T holds."
    )


def ratios(data: Data) -> Section:
    """LR against each alternative, or the reason why there is none."""
    rows, marks, ranges = [], [], []
    for entry in alternatives(data):
        value, interval, bounds = entry.get("log10_lr"), entry.get("interval"), entry.get("bounds")
        tested = known(value)
        pairs, vendors = (" / ".join(map(count, entry.get(name) or ())) or NOTHING for name in ("pairs", "vendors"))
        words = str(entry.get("reason", "")) if not tested or value is None else verbal(float(value))
        rows.append([
            str(entry.get("name")), ratio(value) if tested else "no data", decimal(value), span(interval), span(bounds),
            decimal(entry.get("fitted_log10_lr")), pairs, vendors, words,
        ])
        if tested and value is not None:
            low, high = interval or (None, None)
            note = f"LR {ratio(value)}"
            marks.append(Mark(label=str(entry.get("name")), value=float(value), low=low, high=high, note=note, role="strong"))
            ranges.append((bounds[0], bounds[1]) if bounds else None)
    blocks: list[Block] = [Grid(
        caption="Likelihood ratio of H_T against each alternative. Pairs and vendors: examples in the cohort, of H_T / of the "
        "alternative",
        columns=[
            "against", "LR", "log10 LR", "95% interval", "bounds", "before bounds", "pairs", "vendors",
            "in words, or why there is none",
        ],
        rows=rows, numeric=frozenset(range(1, 8)),
    )]
    if marks:
        text = described(marks)
        title = "Likelihood ratios with 95% intervals; the pale band is the range that the cohort can support"
        blocks.append(Figure(title=title, description=text, draw=lambda key: dots(
            key, title, text, marks, bounds=ranges,
            axis="likelihood ratio of the target proposition against the alternative (log scale)",
        )))
    return Section("alternatives", "Likelihood ratio against each alternative", blocks)


def ranks(data: Data) -> Section:
    """The conformal rank in both directions, with the smallest p that it could have given."""
    rank = data.get("rank", {})
    p, floor = rank.get("p"), rank.get("floor")
    rows = [
        [label, *(count(rank.get(f"{part}_{side}")) for part in ("n", "vendors")), significant(rank.get(f"p_{side}"))]
        for label, side in (
            ("teacher among control teachers, for this suspect", "teachers"),
            ("suspect among control suspects, for this teacher", "suspects"),
        )
    ]
    rows += [
        ["p: the larger of the two", NOTHING, NOTHING, significant(p)],
        ["floor: the smallest p that these controls can give", NOTHING, NOTHING, significant(floor)],
    ]
    if "p_adjusted" in rank:
        label = f"p corrected for all comparisons ({rank.get('correction')})"
        rows.append([label, NOTHING, NOTHING, significant(rank["p_adjusted"])])
    rows.append(["e-value of p, 1/(2 sqrt p)", NOTHING, NOTHING, significant(rank.get("e_value"))])
    blocks: list[Block] = [Grid(
        caption="Rank of the pair among controls, in both directions", columns=["", "controls", "vendors", "value"], rows=rows,
        numeric=frozenset({1, 2, 3}),
    )]
    if known(p) and known(floor) and p <= floor * (1.0 + 1e-9):
        blocks.append(Paragraph(
            f"p stands at its floor: no control scored as high, and with these controls nothing below {significant(floor)} "
            "can be shown.", "note"))
    blocks.append(Paragraph(
        f"Null: {rank.get('null', '')}. p is valid if {rank.get('assumptions', '')}. An e-value has mean at most 1 under the "
        "null; e-values of several comparisons may be averaged however they depend on one another.", "note"))
    return Section("rank", "Rank among controls", blocks)


def signatures(data: Data) -> Section:
    """What each signature says, and why those that say nothing are silent."""
    rows = []
    for entry in data.get("signatures", ()):
        z, error = entry.get("z"), entry.get("error")
        rows.append([
            str(entry.get("name")), "headline" if entry.get("primary") else "beside it",
            f"{decimal(z)} ± {decimal(error)}" if known(z) else NOTHING, count(entry.get("shared")),
            "yes" if entry.get("used") else "no", decimal(entry.get("log10_lr")),
            str(entry.get("reason") or entry.get("summary") or ""),
        ])
    return Section("signatures", "Signatures", [Grid(
        caption="Likeness of suspect and teacher by signature, in standard deviations of unrelated pairs (z ± standard error "
        "over questions), and the LR against A0 from that signature alone",
        columns=[
            "signature", "meant for", "z", "shared decisions", "used", "log10 LR alone",
            "what it compares, or why it is not used",
        ],
        rows=rows, numeric=frozenset({2, 3, 5}),
    )])


def differences(data: Data) -> Section:
    """Whether post-training moved the suspect towards this teacher in particular."""
    rows, base = list(data.get("difference_in_differences", ())), data.get("base")
    title = "Difference in differences"
    if base is None:
        return Section("differences", title, [Paragraph(
            "No base was given (--base), so nothing is known of what the suspect's post-training changed. Likeness that the base "
            "already had, for example through shared weights (A1), is not taken out.")])
    name = str(base.get("name"))
    if not rows:
        return Section("differences", title, [Paragraph(f"The base {name} shares no usable signature with the teacher.")])
    marks = [_shift_mark(row) for row in rows]
    shown, text = f"Movement towards the teacher since {name}, with 95% intervals over questions", described(marks)
    return Section("differences", title, [
        Grid(
            caption=f"Likeness to the teacher beyond likeness to control teachers: suspect, base {name}, and the difference, in "
            "standard deviations of unrelated pairs",
            columns=["signature", "suspect", "base", "difference", "standard error"], numeric=frozenset({1, 2, 3, 4}),
            rows=[
                [str(row["signature"]), *(decimal(row.get(part)) for part in ("suspect", "base", "difference", "error"))]
                for row in rows
            ],
        ),
        Figure(title=shown, description=text, draw=lambda key: dots(
            key, shown, text, marks, axis="difference (standard deviations)", log_ratio=False)),
        Paragraph(
            "A positive difference says that the suspect is more like this teacher in particular than its base was. It speaks "
            "against likeness that came with the base, not against A2, A3, A5 or A7.", "note"),
    ])


def _shift_mark(row: Data) -> Mark:
    value, error = float(row["difference"]), row.get("error")
    reach = 1.96 * float(error) if known(error) and error is not None else None
    return Mark(
        label=str(row["signature"]), value=value, role="strong", note=f"{value:+.2f}",
        low=None if reach is None else value - reach, high=None if reach is None else value + reach,
    )


def neighbours(data: Data) -> Section:
    """The models that the suspect is most like."""
    rows = [row for row in data.get("nearest", ()) if known(row.get("z"))]
    if not rows:
        return Section("nearest", "Nearest models", [Paragraph("No model could be compared.")])
    marks = [
        Mark(
            label=f"{row.get('rank')}. {row.get('name')}", value=float(row["z"]),
            note=f"{row['z']:.2f} {row.get('role') or ''}".strip(),
            role={"teacher": "strong", "base": "other"}.get(str(row.get("role")), ""),
        )
        for row in rows
    ]
    title, text = "Models that the suspect is most like; the teacher is shown whatever its place", described(marks)
    return Section("nearest", "Nearest models", [
        Figure(title=title, description=text, draw=lambda key: bars(
            key, title, text, marks, axis="mean z over the signatures in use")),
        Grid(
            caption="Nearest models, by mean z over the signatures in use", numeric=frozenset({0, 5}), folded=True,
            columns=["place", "model", "family", "vendor", "role", "z"],
            rows=[
                [*(str(row.get(part) or NOTHING) for part in ("rank", "name", "family", "vendor", "role")), decimal(row["z"])]
                for row in rows
            ],
        ),
    ])


def validation(data: Data) -> Section:
    """How the same recipe does on cohort pairs that it was not fitted on."""
    rows, figures = [], []
    curves = data.get("tippett", {})
    for entry in alternatives(data):
        measured, curve = entry.get("validation"), curves.get(entry.get("name"))
        if measured:
            rows.append(_validation_row(str(entry["name"]), measured))
        if measured and curve:
            figures.append(_tippett_figure(entry, measured, curve))
    if not rows:
        nothing = Paragraph("No likelihood ratio was calibrated, so there is nothing to validate.")
        return Section("validation", "Validation", [nothing])
    return Section("validation", "Validation", [
        Grid(
            caption="Held-out performance on the cohort: each pair is judged without the vendors of its two models. Cllr: 0 is "
            "perfect, 1 is what saying nothing costs",
            columns=[
                "against", "pairs H_T / A", "AUC", "Cllr", "Cllr min", "found at 1% false", "found at 0.1% false",
                "A with LR > 1", "A with LR > 100", "H_T with LR < 1", "H_T with LR > 100",
            ],
            rows=rows, numeric=frozenset(range(1, 11)),
        ),
        Paragraph(
            "Rates of misleading evidence: the share of alternative pairs with LR > 1 (and > 100), and of H_T pairs with LR < "
            "1. Rates from few pairs are coarse: one pair in n is 1/n.", "note"),
        *figures,
    ])


def _validation_row(name: str, measured: Data) -> list[str]:
    rates = ("tpr_01", "tpr_001", "misleading_alternative", "strongly_misleading", "misleading_target", "strong_target")
    return [
        name, f"{count(measured.get('n_target'))} / {count(measured.get('n_alternative'))}",
        *(decimal(measured.get(part), 3) for part in ("auc", "cllr", "cllr_min")),
        *(percent(measured.get(part)) for part in rates),
    ]


def _tippett_figure(entry: Data, measured: Data, curve: Data) -> Figure:
    name = str(entry["name"])
    title = f"Tippett plot against {name}: share of cohort pairs with at least this LR"
    text = (
        f"{percent(measured.get('misleading_alternative'))} of {count(measured.get('n_alternative'))} pairs under {name}, and "
        f"all but {percent(measured.get('misleading_target'))} of {count(measured.get('n_target'))} pairs under H_T, lie "
        f"above LR 1. This case: LR {ratio(entry.get('log10_lr'))}."
    )
    return Figure(title=title, description=text, draw=lambda key: tippett(key, title, text, curve, entry.get("log10_lr"), name))
