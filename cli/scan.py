"""``wmcheck scan``: which spans of long texts are watermarked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TextIO

import click

from wmcheck.cli.options import (
    ListedChoice,
    check_alpha,
    key_option,
    load_candidates,
    open_output,
    profile_option,
    tenant_options,
)
from wmcheck.cli.reading import exit_code, records_of, settle_layout
from wmcheck.cli.skipped import Skipped

if TYPE_CHECKING:
    from wmcheck.cli.spans import Scanned
    from wmcheck.watermark.core.records import Record

DEFAULT_ALPHA = 1e-5
BATCH_RECORDS = 64
BATCH_CHARACTERS = 1_000_000


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@profile_option(multiple=True)
@key_option(multiple=True)
@tenant_options(multiple=True)
@click.option("--tokenizer", envvar="WMCHECK_TOKENIZER", metavar="PATH",
              help="Tokenizer, if not where the profile says.")
@click.option("--alpha", type=float, default=DEFAULT_ALPHA, show_default=True, envvar="WMCHECK_ALPHA", callback=check_alpha,
              help="Chance of any false span over all records, keys and schemes of the run.")
@click.option("--rule", type=click.Choice(["certified", "sharp"]), default="certified", show_default=True,
              help="What decides: the proven bound, or the asymptotic law of the best segment.")
@click.option("--method", type=click.Choice(["segments", "dyadic"]), default="segments", show_default=True,
              help="Best segments of any length, or windows of 16, 32, 64, ... items as a cross-check.")
@click.option("--field", envvar="WMCHECK_FIELD", help="Text field [default: text, response, completion, last message].")
@click.option("--tokens-field", envvar="WMCHECK_TOKENS_FIELD",
              help="Token id field [default: tokens, token_ids, output_ids].")
@click.option("--input-format", envvar="WMCHECK_INPUT_FORMAT", help="jsonl, json, csv, txt, lines or parquet.")
@click.option("--format", "layout", type=click.Choice(["table", "json", "jsonl", "csv", "md"]), default="table",
              show_default=True, envvar="WMCHECK_FORMAT", help="Output format; jsonl streams.")
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, complete or not at all.")
@click.option("--fail-on", multiple=True, type=ListedChoice(["detected", "insufficient"]), envvar="WMCHECK_FAIL_ON",
              help="Exit 1 if any span is found, 3 if records are too short or were skipped.")
@click.option("--strict", is_flag=True, envvar="WMCHECK_STRICT",
              help="Stop at the first bad record; exit 3 if any is too short.")
@click.option("--family", type=click.IntRange(min=1), metavar="N",
              help="Records times keys and schemes of the whole investigation, if there were other runs [default: this run].")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@click.option("-v", "--verbose", is_flag=True, help="Report every bad record.")
@click.pass_context
def scan(ctx: click.Context, /, paths: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Find the watermarked spans of the records of PATH... (or - for stdin), one row a span.

    The chance that any reported span of the run holds no watermarked token is at most alpha. Where a span begins and ends
    is an estimate.
    """
    settle_layout(ctx, options, as_json=as_json)
    return _Run(paths, options).execute()


class _Run:
    """One invocation: state that must survive an error or an interrupt in the middle."""

    def __init__(self, paths: tuple[str, ...], options: dict[str, Any]) -> None:
        from wmcheck.watermark.core.errors import printable
        from wmcheck.watermark.scan import Scanner
        from wmcheck.watermark.screen import Screen

        self.paths, self.options = paths, options
        candidates = load_candidates(options["profile"], options["key"], options["tenant"], options["epoch"])
        for candidate in candidates:
            if candidate.committed == "no":
                name = printable(candidate.profile.name)
                click.echo(f"warning: {name}: does not commit to key {candidate.key.id}", err=True)
        self.skipped = Skipped(strict=options["strict"], verbose=options["verbose"])
        self.screen = Screen(candidates, tokenizer=options["tokenizer"], on_error=self.skipped)
        self.scanner = Scanner(
            candidates, alpha=options["alpha"], family=options["family"], rule=options["rule"], method=options["method"]
        )
        self.results: list[Scanned] = []
        self.bar: Any = None

    def execute(self) -> int:
        with open_output(self.options["output"], self._inputs()) as out:
            try:
                self._read(out)
            except BrokenPipeError:
                raise
            except BaseException:
                # What was found before the error is written first, marked as incomplete.
                if self.results:
                    self._finish(out, complete=False)
                self.skipped.summarize(len(self.results))
                raise
            if not self.results:
                raise self.skipped.nothing_left(", ".join(self.paths))
            verdicts = self._finish(out, complete=True)
        if self.screen.unlike:
            click.echo(f"warning: in {self.screen.unlike} records the recorded ids do not spell the text", err=True)
        self.skipped.summarize(len(self.results))
        return exit_code(verdicts, self.options, self.skipped.count)

    def _inputs(self) -> tuple[str, ...]:
        return (*self.paths, *self.options["profile"], *self.options["key"])

    def _read(self, out: TextIO) -> None:
        with ExitStack() as stack:
            if not self.options["quiet"] and sys.stderr.isatty():
                size = sum(os.path.getsize(path) for path in self.paths if os.path.isfile(path))
                self.bar = stack.enter_context(click.progressbar(length=size, label="scanning", file=sys.stderr))
            waiting: list[Record] = []
            size = 0
            # What a pipe brings is shown as it comes.
            most = 1 if "-" in self.paths else BATCH_RECORDS
            try:
                for record in self._records():
                    waiting.append(record)
                    size += len(record.text or "") if record.tokens is None else len(record.tokens)
                    if len(waiting) >= most or size >= BATCH_CHARACTERS:
                        ready, waiting, size = waiting, [], 0
                        self._test(out, ready)
            except BaseException:
                self._test(out, waiting)
                raise
            self._test(out, waiting)

    def _records(self) -> Iterator[Record]:
        from wmcheck.watermark.core.errors import RecordError

        for record in records_of(self.paths, self.options, progress=self._progress):
            if isinstance(record, RecordError):
                self.skipped(record)
            else:
                yield record

    def _progress(self, position: int) -> None:
        if self.bar is not None:
            self.bar.update(position - self.bar.pos)

    def _test(self, out: TextIO, records: list[Record]) -> None:
        from wmcheck.cli.spans import line, record_object, scanned

        if not records:
            return
        documents, kept, sources, bad = self.screen.documents(records)
        for document, record, source in zip(documents, kept, sources, strict=True):
            one = scanned(self.scanner, document, record, source, self.screen.tokenizer)
            self.results.append(one)
            if self.options["layout"] == "jsonl":
                out.write(line("record", record_object(one, self.scanner, final=False)))
                out.flush()
        for error in bad:
            self.skipped(error)

    def _finish(self, out: TextIO, *, complete: bool) -> list[str]:
        from wmcheck.cli.runs import run_record
        from wmcheck.cli.spans import verdict, write

        run = run_record(self._inputs()) if self.options["layout"] == "json" else None
        write(
            out, self.options["layout"], self.results, self.scanner, skipped=self.skipped.count,
            configuration=self._configuration(), complete=complete, run=run,
        )
        return [str(verdict(one, self.scanner)) for one in self.results]

    def _configuration(self) -> dict[str, Any]:
        from wmcheck import __version__

        names = (
            "profile", "key", "tenant", "epoch", "tokenizer", "alpha", "rule", "method", "field", "tokens_field", "input_format",
            "family",
        )
        plain = {name: list(v) if isinstance(v := self.options[name], tuple) else v for name in names}
        return {"version": __version__, "paths": list(self.paths), **plain}
