"""``wmcheck reduce``: the sketches of a corpus as exact tests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TextIO

import click

from wmcheck.cli.options import ListedChoice, check_alpha, open_output
from wmcheck.cli.reading import exit_code, settle_layout

if TYPE_CHECKING:
    from wmcheck.watermark.corpus.outcome import Outcome

DEFAULT_ALPHA = 1e-5
SHOWN = 20


@click.command()
@click.argument("sketches", nargs=-1, required=True, metavar="FOLDER...")
@click.option("--memory-limit", default="3GB", show_default=True, metavar="SIZE", help="Of DuckDB; the rest goes to disk.")
@click.option("--temporary", metavar="FOLDER", help="For what does not fit [default: the system's folder].")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Of DuckDB.")
@click.option("--alpha", type=float, default=DEFAULT_ALPHA, show_default=True, envvar="WMCHECK_ALPHA", callback=check_alpha,
              help="Chance of any false claim over all keys, the corpus and its documents.")
@click.option("--format", "layout", type=click.Choice(["table", "json", "md"]), default="table", show_default=True,
              envvar="WMCHECK_FORMAT", help="Output format.")
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, complete or not at all.")
@click.option("--fail-on", multiple=True, type=ListedChoice(["detected", "insufficient"]), envvar="WMCHECK_FAIL_ON",
              help="Exit 1 if anything is detected, 3 if the corpus is too short or incomplete.")
@click.option("--strict", is_flag=True, envvar="WMCHECK_STRICT", help="Refuse a scan whose tasks are not all there.")
@click.pass_context
def reduce(ctx: click.Context, /, sketches: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Merge the sketches that 'wmcheck scan-corpus' wrote into FOLDER... and test the corpus and its documents.

    No key is needed. Several folders make one corpus if they were scanned with the same profiles, keys and sample.
    """
    from wmcheck.watermark.core.errors import InputError
    from wmcheck.watermark.corpus.outcome import outcome, verdicts
    from wmcheck.watermark.corpus.reduce import merge_heads
    from wmcheck.watermark.corpus.reduce import reduce as reduce_sketches

    settle_layout(ctx, options, as_json=as_json)
    merged = merge_heads(sketches)
    if merged.missing and options["strict"]:
        raise InputError(
            "the scan is not complete", where=", ".join(sketches), got=f"{merged.missing} tasks without a sketch",
            hint="run the same wmcheck scan-corpus again: it goes on where it stopped",
        )
    totals = reduce_sketches(
        merged, memory_limit=options["memory_limit"], temporary=options["temporary"], threads=options["threads"]
    )
    result = outcome(
        merged.settings, merged.units, merged.best, totals, alpha=options["alpha"], missing=merged.missing
    )
    if not result.counted:
        first = "; ".join(result.failures[:1]) or "no documents"
        raise InputError("no document could be tested", where=", ".join(sketches), got=first)
    if merged.missing:
        click.echo(f"warning: {merged.missing} tasks have no sketch; the result is that of the others", err=True)
    with open_output(options["output"], ()) as out:
        _write(out, options["layout"], result, sketches)
    found = [str(verdict) for verdict in verdicts(result)]
    # A short document is no short corpus: of documents only detections count.
    detected = [verdict for verdict in found[len(result.tests) :] if verdict == "DETECTED"]
    return exit_code([*found[: len(result.tests)], *detected], options, merged.missing)


def _write(out: TextIO, layout: str, result: Outcome, folders: tuple[str, ...]) -> None:
    if layout == "json":
        from wmcheck.cli.runs import run_record

        json.dump({**result.to_dict(), "run": run_record(folders)}, out, indent=1, ensure_ascii=False)
        out.write("\n")
        return
    from wmcheck.cli.render import cells, columns, shortened, write_terms
    from wmcheck.watermark.core.errors import printable
    from wmcheck.watermark.core.results import LOG10
    from wmcheck.watermark.core.writers import render_markdown, render_table
    from wmcheck.watermark.corpus.outcome import FAMILIES

    shown = result.documents[:SHOWN]
    tests = [*result.tests, *shown]
    rows = [cells("(corpus)", test.verdict(result.alpha), test) for test in result.tests]
    rows += [cells(f"{test.document} {test.where}", test.verdict(result.alpha), test) for test in shown]
    for row in rows:
        row["null"] = shortened(row["null"])
    out.write((render_markdown if layout == "md" else render_table)(rows, columns(tests)))
    rate = result.settings.sample
    sampled = "every n-gram" if rate == 1 else f"one n-gram in {rate}, by a hash without a key"
    share = result.settings.documents
    counted = f"{result.counted} documents" + (f", one in {share} by a hash of the text" if share > 1 else "")
    out.write(
        f"\nalpha {result.alpha:g}, family-wise: {result.tests[0].correction} for the corpus, {FAMILIES * len(result.tests)} x "
        f"{result.counted} for documents. {counted}; the corpus test reads {sampled}.\n"
    )
    for test, below, log_e in zip(result.tests, result.below, result.log_e_any, strict=True):
        text = "" if log_e is None else f"; log10 e that any document is marked: {log_e / LOG10:.2f}"
        out.write(f"key {test.key_id}, {test.scheme}: at least {below} documents below the bar{text}.\n")
    if result.missing:
        out.write(f"INCOMPLETE: {result.missing} tasks have no sketch.\n")
    for failure in result.failures[:SHOWN]:
        out.write(f"unreadable: {printable(failure)}\n")
    write_terms(out, tests)
