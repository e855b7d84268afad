"""What ``wmcheck trace`` found as table, Markdown, CSV, JSON and JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from wmcheck.watermark.core.errors import printable
from wmcheck.watermark.core.results import LOG10
from wmcheck.watermark.core.writers import render_markdown, render_table, write_csv
from wmcheck.watermark.tracing.search import Found
from wmcheck.watermark.tracing.verdicts import SCHEMA, MixtureTrace, Trace, counts

COLUMNS = (
    "record", "verdict", "account", "epoch", "log10 p", "corrected", "margin", "also named", "n", "needed", "key id", "tokens",
)


def found_line(place: tuple[str, str, str], found: Found) -> str:
    """One line for a record that has been searched: before the end of the run nothing is corrected, and nobody is named."""
    name, where, tokens = place
    log_p = found.ranked[0].log_p / LOG10 if found.ranked else 0.0
    data = {"document": name, "where": where, "tokens": tokens, "log10_p": log_p, "n_scored": found.n_scored}
    return _line("record", data)


def write(
    out: TextIO, layout: str, traces: Sequence[Trace], together: Sequence[Trace], mixture: MixtureTrace | None, *,
    skipped: int, records: int, configuration: Mapping[str, Any], run: Mapping[str, Any], complete: bool,
) -> None:
    """Write the results of a run.

    Args:
        out: where to.
        layout: table, md, csv, json or jsonl.
        traces: one a record.
        together: the result over all records, if there is one.
        mixture: the result over fragments, in place of both.
        skipped: bad records; ``records`` were searched.
        configuration: of the run.
        run: how to repeat it.
        complete: the whole input was read.
    """
    results: list[Trace] = [*traces, *together, *([mixture] if mixture is not None else [])]
    summary = {"records": records, "skipped": skipped, **counts(results), "correction": results[0].correction,
               "family": results[0].family}
    head = {"complete": complete, "alpha": results[0].alpha, "summary": summary}
    if layout == "json":
        body: dict[str, Any] = {"schema": SCHEMA, **head, "configuration": dict(configuration)}
        body["records"] = [one.to_dict() for one in traces]
        body["together"] = together[0].to_dict() if together else None
        body["fragments"] = mixture.to_dict() if mixture is not None else None
        json.dump({**body, "run": dict(run)}, out, indent=1, ensure_ascii=False)
        out.write("\n")
    elif layout == "jsonl":
        for kind, group in (("verdict", traces), ("together", together), ("fragments", [mixture] if mixture is not None else [])):
            out.writelines(_line(kind, one.to_dict()) for one in group)
        out.write(_line("summary", {**head, "configuration": dict(configuration), "run": dict(run)}))
    else:
        _write_rows(out, layout, results, summary, complete=complete)


def _line(kind: str, data: Mapping[str, Any]) -> str:
    return json.dumps({"type": kind, "schema": SCHEMA, **data}, ensure_ascii=False) + "\n"


def _write_rows(
    out: TextIO, layout: str, results: Sequence[Trace], summary: Mapping[str, Any], *, complete: bool
) -> None:
    rows = [_row(one) for one in results]
    alpha = results[0].alpha
    if layout == "csv":
        state = {"alpha": f"{alpha:g}", "complete": "yes" if complete else "no"}
        blank = [{name: "" if cell == "-" else cell for name, cell in row.items()} for row in rows]
        write_csv([{**row, **state} for row in blank], (*COLUMNS, *state), out)
        return
    columns = [name for name in COLUMNS if name not in ("epoch", "also named") or any(row[name] != "-" for row in rows)]
    out.write((render_markdown if layout == "md" else render_table)(rows, columns))
    if not complete:
        out.write("\nINCOMPLETE: the run stopped before the end of the input; only the records above are corrected for.\n")
    skipped = summary["skipped"]
    out.write(
        f"\nalpha {alpha:g} for naming any innocent account, {summary['correction']}. {summary['records']} records; "
        f"{summary['NAMED']} NAMED, {summary['CANNOT_SAY']} CANNOT_SAY; {skipped} skipped.\n"
    )
    for reason in dict.fromkeys(one.reason for one in results if one.reason):
        out.write(f"CANNOT_SAY: {reason}.\n")
    if any(one.reason for one in results):
        out.write("It does not say that no listed account wrote the text.\n")
    if any(isinstance(one, MixtureTrace) for one in results):
        out.write("Fragments: p is 1 / e, an upper bound; the share in JSON is the best of a grid.\n")
    out.write("p-values hold if " + "; ".join(results[0].assumptions) + ".\n")


def _row(one: Trace) -> dict[str, str]:
    also = [str(other["account"]) for other in one.named[1:]]
    more = "" if one.named_all else " and perhaps more"
    return {
        "record": one.document, "verdict": str(one.verdict), "account": one.account or "-", "epoch": one.epoch or "-",
        "log10 p": f"{one.log10_p:.2f}", "corrected": f"{one.log10_p_adjusted:.2f}",
        "margin": "-" if one.margin is None else f"{one.margin:.2f}",
        "also named": (printable(", ".join(also[:3])) + (f" and {len(also) - 3} more" if len(also) > 3 else "") + more) or "-",
        "n": str(one.n_scored), "needed": "-" if one.tokens_needed is None else str(one.tokens_needed),
        "key id": one.key_id or "-", "tokens": one.tokens,
    }
