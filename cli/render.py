"""Results as table, Markdown, CSV, JSON and JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from wmcheck.watermark.core.errors import printable
from wmcheck.watermark.core.results import Detection, Verdict
from wmcheck.watermark.core.writers import render_markdown, render_table, write_csv
from wmcheck.watermark.screen import Screened

SCHEMA = "wmcheck.check/1"
COLUMNS = (
    "record", "verdict", "log10 p", "corrected", "n", "scheme", "key id", "tenant", "committed", "tokens", "null",
)

# After which column another one may follow, and the field that fills it.
EXTRA = {
    "corrected": (("log10 e", "log10_e"),), "n": (("rank log10 p", "decoys"), ("decoded", "decoded")),
    "scheme": (("contract", "contract"),), "tokens": (("predictions", "predictions"),),
}

NULL_WIDTH = 64


def columns(tests: Sequence[Detection]) -> tuple[str, ...]:
    """The columns of a table of these tests: those of ``EXTRA`` where a test has something to say in them."""
    found: list[str] = []
    for name in COLUMNS:
        found.append(name)
        found += [extra for extra, field in EXTRA.get(name, ()) if any(getattr(test, field) is not None for test in tests)]
    return tuple(found)


def cells(name: str, verdict: Verdict, test: Detection) -> dict[str, str]:
    """One row of the table."""
    adjusted = test.log10_p if test.log10_p_adjusted is None else test.log10_p_adjusted
    return {
        "record": name, "verdict": str(verdict), "log10 p": f"{test.log10_p:.2f}", "corrected": f"{adjusted:.2f}",
        "n": str(test.n_scored), "scheme": test.scheme, "key id": test.key_id, "tenant": test.tenant or "-",
        "committed": test.key_committed or "-", "tokens": test.tokens, "null": test.null,
        "log10 e": "" if test.log10_e is None else f"{test.log10_e:.2f}", "predictions": test.predictions or "-",
        "rank log10 p": "" if test.log10_p_rank is None else f"{test.log10_p_rank:.2f}",
        "contract": test.contract or "-", "decoded": test.decoded or "",
    }


def shortened(null: str) -> str:
    """A null law for a column: its first clause, at most NULL_WIDTH characters; the ellipsis says that there is more."""
    first, more, _ = null.partition(";")
    return first[: NULL_WIDTH - 4] + " ..." if more or len(first) > NULL_WIDTH else null


def summary(screened: Sequence[Screened], corpus: Sequence[Detection], alpha: float, skipped: int) -> dict[str, Any]:
    """Counts of the run."""
    verdicts = [one.verdict(alpha) for one in screened]
    counts = {str(answer): verdicts.count(answer) for answer in Verdict}
    family = next((test.correction for one in screened for test in one.tests), None)
    held = [test for test in corpus if test.verdict(alpha) is Verdict.DETECTED]
    return {"records": len(screened), "skipped": skipped, **counts, "corpus_detected": len(held), "correction": family}


def write_rows(
    layout: str, out: TextIO, screened: Sequence[Screened], corpus: Sequence[Detection], alpha: float, skipped: int, *,
    complete: bool,
) -> None:
    """Table, Markdown or CSV: a row a record with its smallest p-value, then the corpus rows."""
    rows = [cells(one.record, one.verdict(alpha), one.best()) for one in screened]
    rows += [cells("(corpus)", test.verdict(alpha), test) for test in corpus]
    names = columns([test for one in screened for test in one.tests])
    if layout == "csv":
        # A CSV has no footer to say it in.
        state = {"alpha": f"{alpha:g}", "complete": "yes" if complete else "no"}
        write_csv([{**row, **state} for row in rows], (*names, *state), out)
        return
    whole = [row["null"] for row in rows]
    for row in rows:
        row["null"] = shortened(row["null"])
    out.write((render_markdown if layout == "md" else render_table)(rows, names))
    counts = summary(screened, corpus, alpha, skipped)
    if not complete:
        out.write("\nINCOMPLETE: the run stopped before the end of the input; only the records above are corrected for.\n")
    out.write(
        f"\nalpha {alpha:g}, family-wise, {counts['correction']}. {counts['records']} records: {counts['DETECTED']} DETECTED, "
        f"{counts['NOT_DETECTED']} NOT_DETECTED, {counts['INSUFFICIENT']} INSUFFICIENT; {skipped} skipped.\n"
    )
    if [row["null"] for row in rows] != whole:
        out.write("Null laws that end in ... stand in full in --format json and csv.\n")
    write_terms(out, [test for one in screened for test in one.tests])


def write_terms(out: TextIO, tests: Sequence[Detection]) -> None:
    """Why peers' own p-values differ, and what ours rest on, once for each contract that needs other words."""
    differing = {f"{test.scheme} ({test.contract})": test.differs for test in tests if test.differs}
    for name, reason in differing.items():
        out.write(f"{printable(name)} differs: {printable(reason)}\n")
    holders: dict[tuple[str, ...], list[str]] = {}
    for test in tests:
        names = holders.setdefault(test.assumptions, [])
        if test.scheme not in names:
            names.append(test.scheme)
    if not holders:
        return
    shared = [one for one in next(iter(holders)) if all(one in assumptions for assumptions in holders)]
    out.write("p-values hold if " + "; ".join(shared) + ".\n")
    for assumptions, names in holders.items():
        own = [one for one in assumptions if one not in shared]
        if own:
            out.write(f"Those of {', '.join(names)} also take that " + "; ".join(own) + ".\n")


def write_json(
    out: TextIO, screened: Sequence[Screened], corpus: Sequence[Detection], alpha: float, skipped: int, *,
    configuration: Mapping[str, Any], complete: bool, run: Mapping[str, Any],
    extend: Callable[[dict[str, Any]], object] | None = None,
) -> None:
    """One JSON document under schema ``wmcheck.check/1``; ``run`` is that of :func:`wmcheck.cli.runs.run_record`, and ``extend``
    adds to the document."""
    data = {
        "schema": SCHEMA, "complete": complete, "alpha": alpha, "summary": summary(screened, corpus, alpha, skipped),
        "configuration": dict(configuration), "records": [record_object(one, alpha) for one in screened],
        "corpus": [test.to_dict(alpha) for test in corpus], "run": dict(run),
    }
    if extend is not None:
        extend(data)
    json.dump(data, out, indent=1, ensure_ascii=False)
    out.write("\n")


def record_object(one: Screened, alpha: float | None) -> dict[str, Any]:
    """A record with all its tests; without alpha it has no verdict yet."""
    best = one.best()
    found: dict[str, Any] = {"record": one.record, "where": one.where}
    if alpha is not None:
        found["verdict"] = str(one.verdict(alpha))
    return {
        **found, "log10_p": best.log10_p, "n_scored": best.n_scored, "scheme": best.scheme, "key_id": best.key_id,
        "tenant": best.tenant, "tests": [test.to_dict(alpha) for test in one.tests],
    }


def line(kind: str, data: Mapping[str, Any]) -> str:
    """One line of the JSON-lines format; ``kind`` is record, verdict, corpus or summary."""
    return json.dumps({"type": kind, "schema": SCHEMA, **data}, ensure_ascii=False) + "\n"
