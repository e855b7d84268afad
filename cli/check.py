"""``wmcheck check``: test records for watermarks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
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
from wmcheck.cli.predictions import DEFAULT_STATISTIC, Notes, choose_statistic, open_predictor, statistic_options
from wmcheck.cli.reading import exit_code, records_of, settle_layout
from wmcheck.cli.skipped import Skipped

if TYPE_CHECKING:
    from wmcheck.cli.layered import LayerPlan
    from wmcheck.watermark.candidate import Candidate
    from wmcheck.watermark.core.errors import RecordError
    from wmcheck.watermark.core.records import Record
    from wmcheck.watermark.core.results import Detection
    from wmcheck.watermark.predict import ModelPredictor
    from wmcheck.watermark.screen import Screen, Screened

DEFAULT_ALPHA = 1e-5


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@profile_option(multiple=True)
@key_option(multiple=True)
@tenant_options(multiple=True)
@click.option("--sweep", metavar="FILE",
              help="Test every contract and key that FILE (TOML) lists, and say which one fits each record.")
@click.option("--tokenizer", envvar="WMCHECK_TOKENIZER", metavar="PATH",
              help="Tokenizer, if not where the profile says.")
@click.option("--alpha", type=float, default=DEFAULT_ALPHA, show_default=True, envvar="WMCHECK_ALPHA", callback=check_alpha,
              help="Family-wise error over all records, keys and schemes of the run.")
@click.option("--field", envvar="WMCHECK_FIELD", help="Text field [default: text, response, completion, last message].")
@click.option("--tokens-field", envvar="WMCHECK_TOKENS_FIELD",
              help="Token id field [default: tokens, token_ids, output_ids].")
@click.option("--input-format", envvar="WMCHECK_INPUT_FORMAT", help="jsonl, json, csv, txt, lines or parquet.")
@click.option("--format", "layout", type=click.Choice(["table", "json", "jsonl", "csv", "md"]), default="table",
              show_default=True, envvar="WMCHECK_FORMAT", help="Output format; jsonl streams.")
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, complete or not at all.")
@click.option("--fail-on", multiple=True, type=ListedChoice(["detected", "insufficient"]), envvar="WMCHECK_FAIL_ON",
              help="Exit 1 if anything is detected, 3 if records are too short or were skipped.")
@click.option("--strict", is_flag=True, envvar="WMCHECK_STRICT",
              help="Stop at the first bad record; exit 3 if any is too short.")
@click.option("--family", type=click.IntRange(min=1), metavar="N",
              help="Tests of the whole investigation, if other runs or keys were tried too [default: those of this run].")
@statistic_options
@click.option("--decoys", type=click.IntRange(min=19), metavar="B",
              help="Also rank each key among B random ones: a p-value, at least 1/(B + 1), that holds whatever the text repeats.")
@click.option("--sequential", is_flag=True,
              help="Test a stream after every record, at the stated error whenever you stop.")
@click.option("--stop", is_flag=True, help="With --sequential: stop at the first detection.")
@click.option("--state", metavar="FILE", help="With --sequential: go on from FILE, and keep the state there.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@click.option("-v", "--verbose", is_flag=True, help="Report every bad record; with --sweep also the time of each candidate.")
@click.pass_context
def check(ctx: click.Context, /, paths: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Test the records of PATH... (or - for stdin) for the watermarks of the profiles under the keys.

    Profiles may be those of other projects' watermarks ('wmcheck profile contracts').

    Reads jsonl, json, csv, txt and parquet, plain, .gz or .zst. One row a record, the corpus last; every p-value is
    corrected over all records, keys and schemes (Holm).
    """
    settle_layout(ctx, options, as_json=as_json)
    if options["sweep"]:
        _refuse_with_sweep(ctx)
    if options["sequential"]:
        return _sequential(ctx, paths, options)
    for name in ("stop", "state"):
        if options[name]:
            raise click.UsageError(f"--{name} belongs to --sequential", ctx)
    options["fallbacks"] = () if options["statistic"] else (DEFAULT_STATISTIC,)
    options["statistic"] = choose_statistic(ctx, options)
    if options["sweep"]:
        from wmcheck.cli.sweep import SweepRun

        return SweepRun(paths, options).execute()
    return Run(paths, options).execute()


def _refuse_with_sweep(ctx: click.Context) -> None:
    for name in ("profile", "key", "tenant", "epoch", "sequential", "decoys"):
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            more = "a stream has one list of candidates" if name == "sequential" else "the file names contracts and keys"
            if name == "decoys":
                more = "rank one candidate at a time"
            raise click.UsageError(f"--{name} contradicts --sweep: {more}", ctx)


def _sequential(ctx: click.Context, paths: tuple[str, ...], options: dict[str, Any]) -> int:
    from wmcheck.cli.sequential import watch

    for name in ("statistic", "model", "decoys"):
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} does not go with --sequential: a stream is tested by its e-process", ctx)
    return watch(paths, options)


class Run:
    """One invocation: state that must survive an error or an interrupt in the middle."""

    screen: Screen
    layers: LayerPlan

    def __init__(self, paths: tuple[str, ...], options: dict[str, Any]) -> None:
        self.paths, self.options = paths, options
        self.alpha: float = options["alpha"]
        self.statistic: str = options["statistic"]
        self.skipped = Skipped(strict=options["strict"], verbose=options["verbose"])
        self.results: list[Screened] = []
        self.bar: Any = None
        self.notes = Notes(quiet=options["quiet"])
        self.model: dict[str, Any] | None = None
        self.candidates = self.load()
        warn_uncommitted(self.candidates)

    def load(self) -> list[Candidate]:
        """What to test: the candidates and, of layered profiles, each layer."""
        from wmcheck.cli.layered import LayerPlan

        self.layers = LayerPlan(load_candidates(
            self.options["profile"], self.options["key"], self.options["tenant"], self.options["epoch"]
        ))
        return self.layers.candidates

    def inputs(self) -> tuple[str, ...]:
        """What the output must not replace."""
        return (*self.paths, *self.options["profile"], *self.options["key"])

    def make_screen(self, predictor: ModelPredictor | None) -> Screen:
        """The tests of this run."""
        from wmcheck.watermark.decoys import decoy_keys
        from wmcheck.watermark.screen import Screen

        return Screen(
            self.candidates, tokenizer=self.options["tokenizer"], statistic=self.statistic,
            fallbacks=self.options["fallbacks"], predictor=predictor,
            decoys=decoy_keys(self.options["decoys"]) if self.options["decoys"] else (), on_error=self.skipped,
        )

    def execute(self) -> int:
        """Test everything and write the results; the exit code."""
        with open_predictor(self.options, self.statistic, self.notes) as predictor:
            return self._execute(predictor)

    def _execute(self, predictor: ModelPredictor | None) -> int:
        self.screen = self.make_screen(predictor)
        if predictor is not None:
            self.model = {"name": predictor.source, **predictor.setup}
        with open_output(self.options["output"], self.inputs()) as out:
            try:
                self._read(out)
            except BrokenPipeError:
                raise
            except BaseException:
                # What was computed before the error is written first, marked as incomplete.
                if self.results:
                    self.finish(out, complete=False)
                self.skipped.summarize(len(self.results))
                raise
            if not self.results:
                raise self.skipped.nothing_left(", ".join(self.paths))
            verdicts = self.finish(out, complete=True)
        if self.screen.unlike:
            click.echo(f"warning: in {self.screen.unlike} records the recorded ids do not spell the text", err=True)
        self.skipped.summarize(len(self.results))
        return exit_code(verdicts, self.options, self.skipped.count)

    def _read(self, out: TextIO) -> None:
        from wmcheck.cli.render import line

        with ExitStack() as stack:
            if not self.options["quiet"] and sys.stderr.isatty():
                size = sum(os.path.getsize(path) for path in self.paths if os.path.isfile(path))
                self.bar = stack.enter_context(click.progressbar(length=size, label="checking", file=sys.stderr))
                self.notes.bar = self.bar
            for one in self.screen.run(self._records()):
                self.results.append(one)
                if self.options["layout"] == "jsonl":
                    out.write(line("record", self.object_of(one)))
                    # Whoever reads the other end of a pipe sees a record when it is tested.
                    out.flush()

    def object_of(self, one: Screened) -> dict[str, Any]:
        """A record as a line of the JSON-lines format, before the correction."""
        from wmcheck.cli.render import record_object

        return record_object(self.layers.whole(one), None)

    def _records(self) -> Iterator[Record | RecordError]:
        from wmcheck.watermark.core.statistics import STATISTICS

        logprobs = self.model is None and STATISTICS[self.statistic].needs_model
        return records_of(self.paths, self.options, progress=self._progress, logprobs=logprobs)

    def _progress(self, position: int) -> None:
        if self.bar is not None:
            self.bar.update(position - self.bar.pos)

    def finish(self, out: TextIO, *, complete: bool) -> list[str]:
        """Correct and write what was found; the verdicts."""
        from wmcheck.cli.render import write_json, write_rows
        from wmcheck.cli.runs import run_record

        skipped, layers = self.skipped.count, self.layers
        records, corpus, parts = layers.corrected(
            self.results, self.screen.corpus(", ".join(self.paths)), family=self.options["family"]
        )
        layout = self.options["layout"]
        if layout == "json":
            write_json(
                out, records, corpus, self.alpha, skipped, configuration=self.configuration(), complete=complete,
                run=run_record(self.inputs()), extend=lambda data: layers.add_to(data, records, parts, self.alpha),
            )
        elif layout == "jsonl":
            layers.write_lines(out, records, parts, self.alpha)
            self._write_verdicts(out, records, corpus, complete=complete)
        else:
            write_rows(layout, out, records, corpus, self.alpha, skipped, complete=complete)
            layers.write_rows(layout, out, records, parts, self.alpha)
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
        counts = summary(records, corpus, self.alpha, self.skipped.count)
        out.write(line("summary", {"complete": complete, **counts, "configuration": self.configuration()}))

    def configuration(self) -> dict[str, Any]:
        """The resolved settings of the run."""
        from wmcheck import __version__

        names = (
            "profile", "key", "tenant", "epoch", "tokenizer", "alpha", "field", "tokens_field", "input_format", "statistic",
            "family", "decoys",
        )
        plain = {name: list(v) if isinstance(v := self.options[name], tuple) else v for name in names}
        return {"version": __version__, "paths": list(self.paths), **plain, "model": self.model}


def warn_uncommitted(candidates: Sequence[Candidate]) -> None:
    """Say which profiles publish commitments, and none to the key that is tested."""
    from wmcheck.watermark.core.errors import printable

    strange = [candidate for candidate in candidates if candidate.committed == "no"]
    for name in dict.fromkeys(candidate.profile.name for candidate in strange):
        ids = ", ".join(candidate.key.id for candidate in strange if candidate.profile.name == name)
        click.echo(f"warning: {printable(name)}: does not commit to key {ids}", err=True)
