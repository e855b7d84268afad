"""Marked spans as table, Markdown, CSV, JSON and JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from wmcheck.watermark.core.records import Record
from wmcheck.watermark.core.results import CHOICE, DISTINCT, INDEPENDENCE, PRF_ASSUMPTION, Verdict
from wmcheck.watermark.core.writers import render_markdown, render_table, write_csv
from wmcheck.watermark.scan import Scan, Scanner, Span, characters
from wmcheck.watermark.screen import ENCODED
from wmcheck.watermark.tokenizer import TextTokenizer
from wmcheck.watermark.windows import Document

SCHEMA = "wmcheck.scan/1"
COLUMNS = (
    "record", "verdict", "tokens", "characters", "items", "log10 p", "sharp", "corrected", "scheme", "key id", "tenant", "text",
)
ASSUMPTIONS = (INDEPENDENCE, CHOICE, PRF_ASSUMPTION, DISTINCT)
# Characters of a span that are quoted from its beginning and from its end.
QUOTED = (48, 24)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a span stands in the text: characters ``start`` to ``stop - 1``, if known, and a short quotation."""

    start: int | None
    stop: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Scanned:
    """One record under every candidate; nothing of its text is kept but quotations.

    Attributes:
        tokens: ``recorded`` ids or ``re-encoded`` text.
        n_tokens: output tokens.
        places: by (start, stop) in tokens.
    """

    record: str
    where: str
    tokens: str
    n_tokens: int
    scans: tuple[Scan, ...]
    places: Mapping[tuple[int, int], Place]


def scanned(
    scanner: Scanner, document: Document, record: Record, source: str, tokenizer: TextTokenizer | None
) -> Scanned:
    """Scan one record and quote what was found."""
    scans = tuple(scanner.scan(document))
    output = document.ids[document.prompt_length :]
    ranges = sorted({tokens for one in scans if one.found for tokens in one._tokens.values()})
    places: dict[tuple[int, int], Place] = {}
    if ranges and tokenizer is not None:
        known: list[tuple[int, int] | None] = [None] * len(ranges)
        if record.text is not None:
            known = characters(tokenizer, output, record.text, ranges, encoded=source == ENCODED)
        for (start, stop), chars in zip(ranges, known, strict=True):
            if chars is not None and record.text is not None:
                places[start, stop] = Place(*chars, _short(record.text[slice(*chars)]))
            else:
                places[start, stop] = Place(None, None, _short(tokenizer.decode(output[start:stop].tolist())))
    return Scanned(record.id, record.where, source, len(output), scans, places)


def held(one: Scanned, scanner: Scanner) -> list[tuple[Scan, Span]]:
    """The spans of a record that hold in the family so far."""
    bar, rule = scanner.log_bar, scanner.rule
    return [(scan, span) for scan in one.scans for span in scan.spans(bar, rule)]


def verdict(one: Scanned, scanner: Scanner) -> Verdict:
    """DETECTED if a span holds; else INSUFFICIENT if some candidate could not have been seen in a text of this length."""
    if held(one, scanner):
        return Verdict.DETECTED
    short = any(scanner.too_short(scanner.candidates[scan.candidate], scan.n_scored) for scan in one.scans)
    return Verdict.INSUFFICIENT if short else Verdict.NOT_DETECTED


def record_object(one: Scanned, scanner: Scanner, *, final: bool) -> dict[str, Any]:
    """A record with its spans; before the end of the run they have no verdict and no corrected p-value yet."""
    tests = []
    for scan in one.scans:
        best = scan.best
        tests.append({
            **_identity(scanner, scan), "n_scored": scan.n_scored, "n_repeated": scan.n_repeated, "n_excluded": scan.n_excluded,
            "log10_p": best.log10_p if best else 0.0, "log10_p_sharp": best.log10_p_sharp if best else 0.0,
        })
    state = {"verdict": str(verdict(one, scanner))} if final else {}
    return {
        "record": one.record, "where": one.where, **state, "tokens": one.tokens, "n_tokens": one.n_tokens,
        "spans": [_span_object(one, scan, span, scanner, final=final) for scan, span in held(one, scanner)], "tests": tests,
    }


def line(kind: str, data: Mapping[str, Any]) -> str:
    """One line of the JSON-lines format; ``kind`` is record, verdict or summary."""
    return json.dumps({"type": kind, "schema": SCHEMA, **data}, ensure_ascii=False) + "\n"


def write(
    out: TextIO, layout: str, results: Sequence[Scanned], scanner: Scanner, *, skipped: int, configuration: Mapping[str, Any],
    complete: bool, run: Mapping[str, Any] | None = None,
) -> None:
    """Write the results of a run; of JSON lines, those that had to wait for its end. ``run`` says how to repeat it."""
    summary = {"complete": complete, **_summary(results, scanner, skipped)}
    if layout == "json":
        json.dump({
            "schema": SCHEMA, **summary, "configuration": dict(configuration),
            "records": [record_object(one, scanner, final=True) for one in results], "run": dict(run or {}),
        }, out, indent=1, ensure_ascii=False)
        out.write("\n")
    elif layout == "jsonl":
        for one in results:
            found = record_object(one, scanner, final=True)
            out.write(line("verdict", {name: found[name] for name in ("record", "where", "verdict", "spans")}))
        out.write(line("summary", {**summary, "configuration": dict(configuration)}))
    else:
        _write_rows(out, layout, results, scanner, summary)


def _write_rows(
    out: TextIO, layout: str, results: Sequence[Scanned], scanner: Scanner, summary: Mapping[str, Any]
) -> None:
    rows = [row for one in results for row in _rows(one, scanner)]
    if layout == "csv":
        state = {"alpha": f"{scanner.alpha:g}", "complete": "yes" if summary["complete"] else "no"}
        blank = [{name: "" if cell == "-" else cell for name, cell in row.items()} for row in rows]
        write_csv([{**row, **state} for row in blank], (*COLUMNS, *state), out)
        return
    out.write((render_markdown if layout == "md" else render_table)(rows, COLUMNS))
    if not summary["complete"]:
        out.write("\nINCOMPLETE: the run stopped before the end of the input; only the records above are corrected for.\n")
    out.write(
        f"\nalpha {scanner.alpha:g} for any false span of the run, {summary['correction']}, {summary['bound']}. "
        f"{summary['records']} records: {summary['DETECTED']} DETECTED, {summary['NOT_DETECTED']} NOT_DETECTED, "
        f"{summary['INSUFFICIENT']} INSUFFICIENT; {summary['spans']} spans; {summary['skipped']} skipped.\n"
        "A span holds watermarked tokens; its ends are estimates. p-values hold if " + "; ".join(ASSUMPTIONS) + ".\n"
    )


def _rows(one: Scanned, scanner: Scanner) -> list[dict[str, str]]:
    answer, spans = str(verdict(one, scanner)), held(one, scanner)
    if not spans:
        best = min((scan for scan in one.scans), key=lambda scan: scan.best.by(scanner.rule) if scan.best else 0.0)
        row = {"record": one.record, "verdict": answer, **dict.fromkeys(COLUMNS[2:], "-"), "items": str(best.n_scored)}
        return [{**row, **_numbers(best.best, scanner), **_names(scanner, best), "text": ""}]
    rows = []
    for scan, span in spans:
        place = one.places.get((span.start, span.stop), Place(None, None, ""))
        rows.append({
            "record": one.record, "verdict": answer, "tokens": f"{span.start}-{span.stop}",
            "characters": "-" if place.start is None else f"{place.start}-{place.stop}", "items": str(span.items),
            **_numbers(span, scanner), **_names(scanner, scan), "text": place.text,
        })
    return rows


def _numbers(span: Span | None, scanner: Scanner) -> dict[str, str]:
    p, sharp, ruled = (span.log10_p, span.log10_p_sharp, span.by(scanner.rule)) if span else (0.0, 0.0, 0.0)
    return {"log10 p": f"{p:.2f}", "sharp": f"{sharp:.2f}", "corrected": f"{scanner.adjusted(ruled):.2f}"}


def _names(scanner: Scanner, scan: Scan) -> dict[str, str]:
    found = _identity(scanner, scan)
    return {"scheme": found["scheme"], "key id": found["key_id"], "tenant": found["tenant"] or "-"}


def _identity(scanner: Scanner, scan: Scan) -> dict[str, Any]:
    candidate = scanner.candidates[scan.candidate]
    key = candidate.key
    return {
        "profile": candidate.profile.name, "scheme": candidate.profile.scheme_name, "key_id": key.id,
        "key_commitment": key.commitment, "key_committed": candidate.committed, "tenant": key.tenant_name, "epoch": key.epoch,
    }


def _span_object(one: Scanned, scan: Scan, span: Span, scanner: Scanner, *, final: bool) -> dict[str, Any]:
    place = one.places.get((span.start, span.stop), Place(None, None, ""))
    names = _identity(scanner, scan)
    adjusted = {"log10_p_adjusted": scanner.adjusted(span.by(scanner.rule))} if final else {}
    return {
        "start_token": span.start, "stop_token": span.stop, "start_char": place.start, "stop_char": place.stop,
        "text": place.text, **{name: names[name] for name in ("scheme", "key_id", "tenant", "epoch")}, "items": span.items,
        "score": span.score, "expert": span.expert, "log10_p": span.log10_p, "log10_p_sharp": span.log10_p_sharp, **adjusted,
    }


def _summary(results: Sequence[Scanned], scanner: Scanner, skipped: int) -> dict[str, Any]:
    verdicts = [verdict(one, scanner) for one in results]
    family = scanner.family
    return {
        "alpha": scanner.alpha, "rule": scanner.rule, "method": scanner.method, "records": len(results), "skipped": skipped,
        **{str(answer): verdicts.count(answer) for answer in Verdict}, "spans": sum(len(held(one, scanner)) for one in results),
        "family": family, "correction": f"Bonferroni over {family} scan{'s' if family != 1 else ''}",
        "bound": "proven bound" if scanner.rule == "certified" or scanner.method == "dyadic" else "asymptotic law, not a bound",
        "assumptions": list(ASSUMPTIONS),
    }


def _short(text: str) -> str:
    head, tail = QUOTED
    return text if len(text) <= head + tail + 3 else f"{text[:head]} … {text[-tail:]}"
