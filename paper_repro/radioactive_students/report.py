"""The tables of the experiment, from the rows of the judge.

    python paper_repro/radioactive_students/report.py --rows DIR/rows.jsonl --nulls DIR/nulls.json --out FILE.md

Beside the page, ``FILE.jsonl`` gets the log10 p of every student.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from grid import KINDS, SCHEMES, SHARES, WIDTHS
from judge import read_rows
from scipy.stats import binomtest, kstest

from wmcheck.watermark.radioactivity.dose import Excess, lower_bound, ratio

Row = dict[str, Any]
TESTS = (
    "sampled 1k", "weighted 1k", "sampled", "reading", "weighted", "weighted own", "contrast", "frequent", "frequent contrast",
)
OPEN = TESTS[3:]
WRONG = ("sampled", "reading", "weighted", "contrast", "frequent contrast")
UNIFORM = "test | p-values | <= .1 | <= .01 | smallest | P(so many <= .01) | KS p, too small |"
CLEAR = -2.0
ONE_SIDED = 0.975


def log10_p(row: Row, test: str) -> float:
    """Of one test of one student."""
    return float(row["tests"][test]["log10_p"])


def median(rows: Sequence[Row], test: str) -> float:
    """Median log10 p over seeds."""
    return float(np.median([log10_p(row, test) for row in rows]))


def gain(rows: Sequence[Row], better: str, worse: str) -> float | None:
    """Quotient of the median log10 p of two tests; None where the better one is not clear of chance."""
    above, below = median(rows, better), median(rows, worse)
    return above / below if above <= CLEAR and below < 0 else None


def cells(rows: Sequence[Row], *fields: str) -> Iterable[tuple[tuple[Any, ...], list[Row]]]:
    """Rows that agree in fields, in the order of the grid."""
    orders: dict[str, list[Any]] = {"scheme": list(SCHEMES), "h": list(WIDTHS), "share": list(SHARES), "kind": list(KINDS)}
    for values in itertools.product(*(orders[field] for field in fields)):
        found = [row for row in rows if all(row[field] == value for field, value in zip(fields, values, strict=True))]
        if found:
            yield values, found


def grid_table(rows: Sequence[Row]) -> list[str]:
    """Medians over seeds of every cell."""
    lines = [
        f"| scheme | h | share | student | seeds | {' | '.join(TESTS)} | weighted / sampled | frequent contrast / sampled |",
        "|" + "---|" * (7 + len(TESTS)),
    ]
    for (scheme, width, share, kind), found in cells(rows, "scheme", "h", "share", "kind"):
        figures = [f"{median(found, test):.1f}" for test in TESTS]
        gains = [_figure(gain(found, test, "sampled"), "{:.1f}") for test in ("weighted", "frequent contrast")]
        lines.append(f"| {scheme} | {width} | {share}% | {kind} | {len(found)} | {' | '.join([*figures, *gains])} |")
    return lines


def gain_table(rows: Sequence[Row]) -> list[str]:
    """How much more the open model says at equal tokens, over the students at which it says anything."""
    lines = [
        f"| scheme | h | students with p <= 1e{CLEAR:.0f} by any open test | weighted / sampled: median (quartiles) "
        "| own text | contrast | frequent | frequent contrast | weighted / reading | at 1k tokens |", "|" + "---|" * 10,
    ]
    pairs = (
        ("weighted", "sampled"), ("weighted own", "sampled"), ("contrast", "sampled"), ("frequent", "sampled"),
        ("frequent contrast", "sampled"), ("weighted", "reading"), ("weighted 1k", "sampled 1k"),
    )
    for (scheme, width), found in cells(rows, "scheme", "h"):
        clear = [row for row in found if min(log10_p(row, test) for test in OPEN) <= CLEAR]
        shown = [_quartiles([_gain_of(row, *pair) for row in clear]) for pair in pairs]
        lines.append(f"| {scheme} | {width} | {len(clear)} of {len(found)} | {' | '.join(shown)} |")
    return lines


def _gain_of(row: Row, better: str, worse: str) -> float:
    # Of p-values near 1 a quotient says nothing: 0.3 decades are those of a median p under the null hypothesis.
    return log10_p(row, better) / min(log10_p(row, worse), -0.3)


def _quartiles(values: Sequence[float]) -> str:
    if not values:
        return "-"
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def found_table(rows: Sequence[Row], alpha: float = -3.0) -> list[str]:
    """Share of students with p <= 10^alpha, by test."""
    lines = [f"| scheme | h | share | students | {' | '.join(TESTS)} |", "|" + "---|" * (4 + len(TESTS))]
    for (scheme, width, share), found in cells(rows, "scheme", "h", "share"):
        shares = [f"{np.mean([log10_p(row, test) <= alpha for row in found]):.2f}" for test in TESTS]
        lines.append(f"| {scheme} | {width} | {share}% | {len(found)} | {' | '.join(shares)} |")
    return lines


def null_table(rows: Sequence[Row], controls: Sequence[Row]) -> list[str]:
    """What p-values do where there is nothing to find."""
    lines = [f"| null | {UNIFORM}", "|" + "---|" * 8]
    kinds: tuple[tuple[str, Sequence[str], Sequence[Row], Callable[[Row, str], float]], ...] = (
        ("never marked", TESTS, controls, log10_p), ("wrong key", WRONG, [*rows, *controls], _wrong_p),
    )
    for name, tests, source, get in kinds:
        for test in tests:
            p = 10.0 ** np.array([get(row, test) for row in source])
            if len(p):
                lines.append(f"| {name} | {test} | {len(p)} | {uniform(p)} |")
    return lines


def uniform(p: np.ndarray) -> str:
    """Counts at .1 and .01, the smallest p, the binomial tail of the count at .01, and KS against smaller than uniform."""
    tail = binomtest(int((p <= 0.01).sum()), len(p), 0.01, alternative="greater").pvalue
    ks = kstest(p, "uniform", alternative="greater").pvalue
    return f"{(p <= 0.1).mean():.3f} | {(p <= 0.01).mean():.3f} | {p.min():.2g} | {tail:.2f} | {ks:.2f}"


def unused_table(nulls: dict[str, dict[str, list[float]]]) -> list[str]:
    """One student without marked text under many unused keys, schemes and widths together and by scheme."""
    lines = [f"| scheme | {UNIFORM}", "|" + "---|" * 8]
    names = [*dict.fromkeys(name.split()[0] for name in nulls)]
    for scheme in (*names, "all"):
        chosen = [found for name, found in nulls.items() if scheme in (name.split()[0], "all")]
        for test in chosen[0]:
            p = 10.0 ** np.concatenate([found[test] for found in chosen])
            lines.append(f"| {scheme} | {test} | {len(p)} | {uniform(p)} |")
    return lines


def figures(rows: Iterable[Row]) -> str:
    """One line a row: which student, and log10 p of every test."""
    lines = []
    for row in rows:
        held = {name: row[name] for name in ("student", "scheme", "h", "share", "kind", "seed", "aligned")}
        held["log10_p"] = {test: log10_p(row, test) for test in TESTS}
        held["wrong_key_log10_p"] = row["wrong"]
        lines.append(json.dumps(held))
    return "\n".join(lines) + "\n"


def _wrong_p(row: Row, test: str) -> float:
    return float(row["wrong"][test])


def decoy_table(rows: Sequence[Row]) -> list[str]:
    """Decoys of all students and controls together."""
    lines = ["| test | decoys | share <= .05 | share <= .01 | mean of z | variance of z |", "|---|---|---|---|---|---|"]
    for test in ("sampled 1k", "weighted 1k"):
        found = [row["decoys"][test] for row in rows]
        counts = np.array([one["count"] for one in found])
        means = [float(np.average([one[name] for one in found], weights=counts)) for name in DECOY_MEANS]
        lines.append(f"| {test} | {counts.sum():,} | " + " | ".join(f"{mean:.4f}" for mean in means) + " |")
    return lines


DECOY_MEANS = ("share_05", "share_01", "z_mean", "z_variance")


def reference_of(row: Row, rows: Sequence[Row], *, alike: bool) -> Row | None:
    """The provider's own student: share 100% under the same key, trained like the suspect, or the other way (fresh or tuned)."""
    tokenizer, training = row["kind"].split()
    kind = row["kind"] if alike else f"{tokenizer} {'fresh' if training == 'tuned' else 'tuned'}"
    fields = ("scheme", "h", "seed")
    found = [
        one for one in rows if one["share"] == 100 and one["kind"] == kind and all(one[name] == row[name] for name in fields)
    ]
    return found[0] if found else None


def shown(row: Row, test: str) -> Excess:
    """What is linear in the share: the total of a contrast, whose weights add up to about 0, or the mean excess."""
    one = row["tests"][test]
    if "contrast" in test:
        return Excess(one["total"], abs(one["total"] / one["z"]) if one["z"] else np.inf, test)
    return Excess(one["excess"], one["se"], test)


def _suspect(row: Row, test: str) -> Any:
    own = shown(row, test)
    return SimpleNamespace(excess=own.mean, excess_se=own.se)


def estimate(row: Row, reference: Row, test: str) -> dict[str, Any]:
    """The share from a reference student of share 100%."""
    return ratio(_suspect(row, test), shown(reference, test))


def bound(row: Row, test: str) -> float:
    """The lower bound of the share from the marked text itself."""
    return float(lower_bound(_suspect(row, test), Excess(row["marked"]["excess"], row["marked"]["se"], "marked text"))["low"])


def dose_table(rows: Sequence[Row], test: str) -> list[str]:
    """Estimates against truth."""
    lines = [
        "| scheme | h | true share | students | estimate: median (range) | interval holds the truth | interval: median width "
        "| estimate, reference trained otherwise |", "|" + "---|" * 8,
    ]
    for (scheme, width, share), found in cells(rows, "scheme", "h", "share"):
        if share == 100:
            continue
        figures = []
        for alike in (True, False):
            pairs = [(row, reference_of(row, rows, alike=alike)) for row in found]
            known = [estimate(row, reference, test) for row, reference in pairs if reference]
            values = [one["estimate"] for one in known if one["estimate"] is not None]
            figures.append(f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else "-")
            if alike and known:
                inside = sum(one["low"] <= share / 100 <= one["high"] for one in known)
                width_of = np.median([one["high"] - one["low"] for one in known])
                figures += [f"{inside} of {len(known)}", f"{width_of:.2f}"]
        if len(figures) == 4:
            lines.append(f"| {scheme} | {width} | {share}% | {len(found)} | {' | '.join(figures)} |")
    return lines


def bound_table(rows: Sequence[Row]) -> list[str]:
    """Lower bounds of the share against truth."""
    lines = ["| test | true share | students | bound holds | median bound | largest bound |", "|---|---|---|---|---|---|"]
    for test in ("sampled", "weighted", "frequent"):
        for (share,), found in cells(rows, "share"):
            lows = [bound(row, test) for row in found]
            kept = sum(low <= share / 100 for low in lows)
            lines.append(f"| {test} | {share}% | {len(found)} | {kept} | {np.median(lows):.3f} | {max(lows):.3f} |")
    return lines


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def section(title: str, text: str, table: Sequence[str]) -> list[str]:
    """A heading, what to know, and a table."""
    return ["", f"## {title}", "", text, "", *table]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--nulls", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    every = read_rows(args.rows)
    rows = [row for row in every if row["share"]]
    controls = [row for row in every if not row["share"]]
    text = (Path(__file__).parent / "findings.md").read_text("utf-8").rstrip().splitlines()
    seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
    count = len({row["student"] for row in controls})
    text += ["", f"In the tables: {len(rows)} students of 432 (seed {seeds}) and {count} controls."]
    text += section("Students found", "Share of students (four kinds together) with p <= 0.001.", found_table(rows))
    text += section(
        "Open against closed", "Quotients of log10 p at equal tokens, student by student; p-values of the closed test above .5 "
        "count as .5, so quotients are rather too small.", gain_table(rows),
    )
    text += section(
        "Controls", "`never marked`: students of share 0 under every key of their seed. `wrong key`: every student under a key "
        "that nobody used. Bounds are upward, so shares below nominal are right.", null_table(rows, controls),
    )
    if args.nulls:
        nulls = json.loads(args.nulls.read_text("utf-8"))
        text += section(
            "Unused keys", "One student of share 0 (`same fresh`, seed 1) under many keys: student and text are fixed and keys "
            "independent, so these p-values are independent.", unused_table(nulls),
        )
    text += section("Decoys", "Random keys on a tenth of the tokens, over all students and controls.", decoy_table(every))
    for test in ("weighted", "frequent contrast"):
        text += section(
            f"Dose, {test} test", "The reference is a student of share 100% under the same key, trained like the suspect; in the "
            "last column one that is fresh where the suspect is tuned, or the other way.",
            dose_table(rows, test),
        )
    text += section("Dose, lower bounds", "From the excess of the marked text itself; no reference.", bound_table(rows))
    text += section("Every cell", "log10 p, medians over seeds.", grid_table(rows))
    page = "\n".join(text) + "\n"
    print(page)
    if args.out:
        args.out.write_text(page, "utf-8")
        args.out.with_suffix(".jsonl").write_text(figures(every), "utf-8")


if __name__ == "__main__":
    main()
