"""``wmcheck check``: test records for watermarks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TextIO

import click

from wmcheck.cli import exits
from wmcheck.cli.options import key_option, load_candidates, profile_option, tenant_options

if TYPE_CHECKING:
    from wmcheck.watermark.core.errors import RecordError
    from wmcheck.watermark.core.records import Record
    from wmcheck.watermark.core.results import Detection
    from wmcheck.watermark.screen import Screen, Screened

DEFAULT_ALPHA = 1e-5
SHOWN_ERRORS = 20


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@profile_option(multiple=True)
@key_option(multiple=True)
@tenant_options(multiple=True)
@click.option("--tokenizer", envvar="WMCHECK_TOKENIZER", metavar="PATH", help="Tokenizer, if not where the profile says.")
@click.option("--alpha", type=float, default=DEFAULT_ALPHA, show_default=True, envvar="WMCHECK_ALPHA",
              help="Family-wise error over all records, keys and schemes of the run.")
@click.option("--field", envvar="WMCHECK_FIELD", help="Text field [default: text, response, completion, last message].")
@click.option("--tokens-field", envvar="WMCHECK_TOKENS_FIELD", help="Token id field [default: tokens, token_ids, output_ids].")
@click.option("--input-format", envvar="WMCHECK_INPUT_FORMAT", help="jsonl, json, csv, txt, lines or parquet.")
@click.option("--format", "layout", type=click.Choice(["table", "json", "jsonl", "csv", "md"]), default="table",
              show_default=True, envvar="WMCHECK_FORMAT", help="Output format; jsonl streams.")
@click.option("--json", "layout", flag_value="json", help="Same as --format json.")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, complete or not at all.")
@click.option("--fail-on", multiple=True, type=click.Choice(["detected", "insufficient"]), envvar="WMCHECK_FAIL_ON",
              help="Exit 1 if anything is detected, 3 if records are too short or were skipped.")
@click.option("--strict", is_flag=True, envvar="WMCHECK_STRICT",
              help="Stop at the first bad record; exit 3 if any is too short.")
@click.option("--statistic", default="sum", show_default=True, envvar="WMCHECK_STATISTIC", help="Test statistic.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@click.option("-v", "--verbose", is_flag=True, help="Report every bad record.")
def check(paths: tuple[str, ...], **options: Any) -> int:
    """Test the records of PATH... (or - for stdin) for the watermarks of the profiles under the keys.

    Reads jsonl, json, csv, txt and parquet, plain, .gz or .zst. One row a record, the corpus last; every p-value is
    corrected over all records, keys and schemes (Holm).
    """
    return _Run(paths, options).execute()


class _Run:
    """One invocation: state that must survive an error or an interrupt in the middle."""

    def __init__(self, paths: tuple[str, ...], options: dict[str, Any]) -> None:
        from wmcheck.watermark.core.errors import ConfigError
        from wmcheck.watermark.screen import Screen

        self.paths, self.options = paths, options
        self.alpha: float = options["alpha"]
        if not 0.0 < self.alpha < 1.0:
            raise ConfigError("alpha out of range", where="--alpha", got=str(self.alpha), expected="between 0 and 1")
        candidates = load_candidates(options["profile"], options["key"], options["tenant"], options["epoch"])
        for candidate in candidates:
            if candidate.committed is False:
                text = f"key {candidate.key.id} is not one that {candidate.profile.name} commits to"
                click.echo(f"warning: {text}", err=True)
        self.screen: Screen = Screen(
            candidates, tokenizer=options["tokenizer"], statistic=_statistic(options["statistic"]), on_error=self._bad
        )
        self.skipped = 0
        self.results: list[Screened] = []
        self.bar: Any = None

    def execute(self) -> int:
        from wmcheck.watermark.core.writers import atomic_output

        with atomic_output(self.options["output"]) as out:
            try:
                self._read(out)
            except BrokenPipeError:
                raise
            except BaseException:
                # What was computed before the error is written first, marked as incomplete.
                if self.results:
                    self._finish(out, complete=False)
                raise
            verdicts = self._finish(out, complete=True)
        return self._code(verdicts)

    def _read(self, out: TextIO) -> None:
        from wmcheck.cli.render import line, record_object

        with ExitStack() as stack:
            if not self.options["quiet"] and sys.stderr.isatty():
                size = sum(os.path.getsize(path) for path in self.paths if os.path.isfile(path))
                self.bar = stack.enter_context(click.progressbar(length=size, label="checking", file=sys.stderr))
            for one in self.screen.run(self._records()):
                self.results.append(one)
                if self.options["layout"] == "jsonl":
                    out.write(line("record", record_object(one, None)))

    def _records(self) -> Iterator[Record | RecordError]:
        from wmcheck.watermark.core.readers import read_records

        options, done = self.options, 0
        for path in self.paths:

            def progress(position: int, start: int = done) -> None:
                if self.bar is not None:
                    self.bar.update(start + position - self.bar.pos)

            yield from read_records(
                path, field=options["field"], tokens_field=options["tokens_field"],
                input_format=options["input_format"], progress=progress,
            )
            done += os.path.getsize(path) if os.path.isfile(path) else 0

    def _bad(self, error: RecordError) -> None:
        self.skipped += 1
        if self.options["strict"]:
            raise error
        if self.options["verbose"] or self.skipped <= SHOWN_ERRORS:
            click.echo(f"skipped: {error.message()}", err=True)
        elif self.skipped == SHOWN_ERRORS + 1:
            click.echo("skipped: more bad records follow (-v reports each)", err=True)

    def _finish(self, out: TextIO, *, complete: bool) -> list[str]:
        from wmcheck.cli.render import write_json, write_rows
        from wmcheck.watermark.core.errors import InputError
        from wmcheck.watermark.screen import corrected

        if complete and not self.results:
            raise InputError(
                "no record could be tested", where=", ".join(self.paths), got=f"{self.skipped} bad records",
                hint="name the field that holds the text with --field",
            )
        records, corpus = corrected(self.results, self.screen.corpus(", ".join(self.paths)))
        layout = self.options["layout"]
        if layout == "json":
            write_json(
                out, records, corpus, self.alpha, self.skipped, configuration=self._configuration(), complete=complete
            )
        elif layout == "jsonl":
            self._write_verdicts(out, records, corpus, complete=complete)
        else:
            write_rows(layout, out, records, corpus, self.alpha, self.skipped)
        return [str(one.verdict(self.alpha)) for one in records] + [str(test.verdict(self.alpha)) for test in corpus]

    def _write_verdicts(self, out: TextIO, records: list[Screened], corpus: list[Detection], *, complete: bool) -> None:
        from wmcheck.cli.render import line, summary

        for one in records:
            best = one.best()
            out.write(line("verdict", {
                "record": one.record, "where": one.where, "verdict": str(one.verdict(self.alpha)), "alpha": self.alpha,
                "log10_p_adjusted": best.log10_p_adjusted, "correction": best.correction,
            }))
        for test in corpus:
            out.write(line("corpus", test.to_dict(self.alpha)))
        counts = summary(records, corpus, self.alpha, self.skipped)
        out.write(line("summary", {"complete": complete, **counts, "configuration": self._configuration()}))

    def _configuration(self) -> dict[str, Any]:
        from wmcheck import __version__

        names = ("profile", "key", "tenant", "epoch", "tokenizer", "alpha", "field", "tokens_field", "input_format", "statistic")
        plain = {name: list(v) if isinstance(v := self.options[name], tuple) else v for name in names}
        return {"version": __version__, "paths": list(self.paths), **plain}

    def _code(self, verdicts: list[str]) -> int:
        fail_on, strict = self.options["fail_on"], self.options["strict"]
        if "detected" in fail_on and "DETECTED" in verdicts:
            return exits.DETECTED
        short = "INSUFFICIENT" in verdicts or self.skipped > 0
        if short and (strict or "insufficient" in fail_on):
            return exits.INSUFFICIENT
        return exits.OK


def _statistic(name: str) -> str:
    from wmcheck.watermark.core.errors import ConfigError
    from wmcheck.watermark.core.statistics import STATISTICS

    if name not in STATISTICS:
        raise ConfigError("unknown statistic", where="--statistic", got=name, expected=", ".join(STATISTICS))
    return name
