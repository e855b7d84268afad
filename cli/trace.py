"""``wmcheck trace``: which of up to 2^20 accounts wrote each record."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

import click

from wmcheck.cli import exits
from wmcheck.cli.options import Listed, ListedChoice, check_alpha, key_option, load_keys, open_output, profile_option
from wmcheck.cli.reading import records_of, settle_layout
from wmcheck.cli.skipped import Skipped

if TYPE_CHECKING:
    from wmcheck.watermark.core.records import Record
    from wmcheck.watermark.tracing.cohorts import CohortTracer
    from wmcheck.watermark.tracing.fragments import FragmentTracer
    from wmcheck.watermark.tracing.search import Found, Tracer

DEFAULT_ALPHA = 1e-6
BATCH_RECORDS = 64
BATCH_CHARACTERS = 200_000


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@profile_option(multiple=False)
@key_option(multiple=False)
@click.option("--tenants", metavar="FILE", required=True, help="Names of the accounts, one a line, at most 2^20.")
@click.option("--epoch", multiple=True, envvar="WMCHECK_EPOCH", metavar="NAME", type=Listed(),
              help="Epoch of the accounts' keys; each one given is searched.")
@click.option("--alpha", type=float, default=DEFAULT_ALPHA, show_default=True, envvar="WMCHECK_ALPHA", callback=check_alpha,
              help="Chance of naming any innocent account in the whole run.")
@click.option("--fragments", is_flag=True, help="Look for accounts that wrote a small part of the records, all taken together.")
@click.option("--fragment-tokens", type=click.IntRange(min=1), default=100, show_default=True, metavar="N",
              help="With --fragments: scored tokens of a fragment at most; longer records are cut.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option("--tokenizer", envvar="WMCHECK_TOKENIZER", metavar="PATH",
              help="Tokenizer, if not where the profile says.")
@click.option("--field", envvar="WMCHECK_FIELD", help="Text field [default: text, response, completion, last message].")
@click.option("--tokens-field", envvar="WMCHECK_TOKENS_FIELD",
              help="Token id field [default: tokens, token_ids, output_ids].")
@click.option("--input-format", envvar="WMCHECK_INPUT_FORMAT", help="jsonl, json, csv, txt, lines or parquet.")
@click.option("--format", "layout", type=click.Choice(["table", "json", "jsonl", "csv", "md"]), default="table",
              show_default=True, envvar="WMCHECK_FORMAT", help="Output format.")
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, complete or not at all.")
@click.option("--fail-on", multiple=True, type=ListedChoice(["named", "cannot-say"]), envvar="WMCHECK_TRACE_FAIL_ON",
              help="Exit 1 if an account is named, 3 if none is for some record or records were skipped.")
@click.option("--strict", is_flag=True, envvar="WMCHECK_STRICT", help="Stop at the first bad record; exit 3 if none is named.")
@click.option("--family", type=click.IntRange(min=1), metavar="N",
              help="Records of the whole investigation, if there were other runs [default: this run].")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@click.option("-v", "--verbose", is_flag=True, help="Report every bad record.")
@click.pass_context
def trace(ctx: click.Context, /, paths: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Name the account under whose key the records of PATH... (or - for stdin) were written, among those of a list.

    The chance that any innocent account is named in the run is at most alpha, whoever wrote the records. Where no account
    can be named at that level the answer is CANNOT_SAY: never that nobody on the list wrote them.
    """
    settle_layout(ctx, options, as_json=as_json)
    return _Run(paths, options).execute()


class _Run:
    """One invocation: state that must survive an error or an interrupt in the middle."""

    def __init__(self, paths: tuple[str, ...], options: dict[str, Any]) -> None:
        from wmcheck.watermark.candidate import Candidate
        from wmcheck.watermark.core.errors import printable
        from wmcheck.watermark.profile import Profile
        from wmcheck.watermark.screen import Screen
        from wmcheck.watermark.tracing.accounts import check_epochs, read_accounts
        from wmcheck.watermark.tracing.base import check_traceable

        self.paths, self.options = paths, options
        if not options["profile"]:
            _need_profile()
        self.profile = Profile.load(options["profile"])
        check_traceable(self.profile)
        root = load_keys([options["key"]] if options["key"] else [])[0]
        check_traceable(self.profile, root)
        names, epochs = read_accounts(options["tenants"]), check_epochs(options["epoch"])
        candidate = Candidate.of(self.profile, root, names[0], epochs[0])
        if candidate.committed == "no":
            click.echo(f"warning: {printable(self.profile.name)}: does not commit to key {root.id}", err=True)
        self.skipped = Skipped(strict=options["strict"], verbose=options["verbose"])
        self.screen = Screen([candidate], tokenizer=options["tokenizer"], on_error=self.skipped)
        self.keys = len(names) * len(epochs)
        self.tracer = self._tracer(root, names, epochs)
        self.records: list[tuple[str, str, str]] = []
        self.found: list[Found] = []

    def _tracer(self, root: Any, names: tuple[str, ...], epochs: tuple[str, ...]) -> Tracer | CohortTracer | FragmentTracer:
        from wmcheck.watermark.tracing.cohorts import account_profile, make_tracer
        from wmcheck.watermark.tracing.fragments import FragmentTracer

        options = self.options
        common = {"alpha": options["alpha"], "workers": options["workers"], "source": options["key"]}
        if options["fragments"]:
            return FragmentTracer(account_profile(self.profile), root, names, epochs, length=options["fragment_tokens"], **common)
        return make_tracer(self.profile, root, names, epochs, **common)

    def execute(self) -> int:
        inputs = (*self.paths, self.options["profile"], self.options["key"], self.options["tenants"])
        with self.tracer, open_output(self.options["output"], inputs) as out:
            try:
                self._read(out)
            except BrokenPipeError:
                raise
            except BaseException:
                # What was found before the error is written first, marked as incomplete.
                if self.found or (self.options["fragments"] and self.records and self.tracer.intact):
                    self._finish(out, complete=False)
                self.skipped.summarize(len(self.records))
                raise
            if not self.records:
                raise self.skipped.nothing_left(", ".join(self.paths))
            answers = self._finish(out, complete=True)
        if self.screen.unlike:
            click.echo(f"warning: in {self.screen.unlike} records the recorded ids do not spell the text", err=True)
        self.skipped.summarize(len(self.records))
        return self._exit_code(answers)

    def _read(self, out: TextIO) -> None:
        waiting: list[Record] = []
        size = 0
        try:
            for record in self._records():
                waiting.append(record)
                size += len(record.text or "") if record.tokens is None else len(record.tokens)
                if len(waiting) >= BATCH_RECORDS or size >= BATCH_CHARACTERS:
                    ready, waiting, size = waiting, [], 0
                    self._test(out, ready)
        except KeyboardInterrupt:
            raise
        except Exception:
            self._test(out, waiting)
            raise
        self._test(out, waiting)

    def _records(self) -> Iterator[Record]:
        from wmcheck.watermark.core.errors import RecordError

        for record in records_of(self.paths, self.options):
            if isinstance(record, RecordError):
                self.skipped(record)
            else:
                yield record

    def _test(self, out: TextIO, records: list[Record]) -> None:
        from wmcheck.cli.traced import found_line
        from wmcheck.watermark.tracing.fragments import FragmentTracer

        if not records:
            return
        documents, kept, sources, bad = self.screen.documents(records)
        places = [(record.id, record.where, source) for record, source in zip(kept, sources, strict=True)]
        if documents:
            with self._bar(len(self.records) + 1, len(self.records) + len(documents)) as bar:
                if not isinstance(self.tracer, FragmentTracer):
                    found = self.tracer.test(documents, progress=bar.update)
                    self.found += found
                    if self.options["layout"] == "jsonl":
                        out.writelines(found_line(place, one) for place, one in zip(places, found, strict=True))
                        out.flush()
                else:
                    self.tracer.add(documents, progress=bar.update)
            self.records += places
        for error in bad:
            self.skipped(error)

    def _bar(self, first: int, last: int) -> Any:
        hidden = self.options["quiet"] or not sys.stderr.isatty()
        label = f"records {first}-{last}" if last > first else f"record {first}"
        # Keys are derived with the first records: a pass of its own, which is not counted.
        return click.progressbar(length=self.keys, label=f"{label}, accounts", file=sys.stderr, hidden=hidden)

    def _finish(self, out: TextIO, *, complete: bool) -> list[str]:
        from wmcheck.cli.runs import run_record
        from wmcheck.cli.traced import write
        from wmcheck.watermark.tracing.fragments import FragmentTracer
        from wmcheck.watermark.tracing.verdicts import judge_mixture

        run = run_record([*self.paths, self.options["profile"], self.options["tenants"]])
        configuration = self._configuration()
        if isinstance(self.tracer, FragmentTracer):
            with self._bar(1, len(self.records)) as bar:
                mixture = self.tracer.finish(progress=bar.update)
            self._need_items(mixture.n_scored)
            result = judge_mixture(
                mixture, self.tracer.profile, alpha=self.options["alpha"], where=", ".join(self.paths), tokens=self._sources(),
            )
            write(out, self.options["layout"], [], [], result, skipped=self.skipped.count, records=len(self.records),
                  configuration=configuration, run=run, complete=complete)
            return [str(result.verdict)]
        self._need_items(sum(one.n_scored for one in self.found))
        traces, together = self._judged(complete=complete)
        write(out, self.options["layout"], traces, together, None, skipped=self.skipped.count, records=len(traces),
              configuration=configuration, run=run, complete=complete)
        return [str(one.verdict) for one in (*traces, *together)]

    def _judged(self, *, complete: bool) -> tuple[list[Any], list[Any]]:
        """Results of the records and, where it was possible, of all together."""
        from wmcheck.watermark.tracing.fragments import FragmentTracer
        from wmcheck.watermark.tracing.search import Tracer
        from wmcheck.watermark.tracing.verdicts import TOGETHER, Judge

        assert not isinstance(self.tracer, FragmentTracer)
        pooled = complete and len(self.found) > 1 and self.tracer.pools_records
        tests = max(len(self.found) + pooled, self.options["family"] or 0)
        judge = Judge(self.tracer.profile, alpha=self.options["alpha"], tests=tests, keys=self.keys)
        traces = [
            judge.trace(found, document=name, where=where, tokens=source)
            for (name, where, source), found in zip(self.records, self.found, strict=False)
        ]
        if not pooled or not isinstance(self.tracer, Tracer):
            return traces, []
        where = ", ".join(self.paths)
        return traces, [judge.trace(self.tracer.together(), document=TOGETHER, where=where, tokens=self._sources())]

    def _sources(self) -> str:
        return " and ".join(sorted({source for _, _, source in self.records}))

    def _need_items(self, scored: int) -> None:
        from wmcheck.watermark.core.errors import InputError

        if not scored:
            raise InputError(
                "no record has a token that can be scored", where=", ".join(self.paths), got=f"{len(self.records)} records",
                expected=f"more than {self.profile.scheme.width} tokens in a record, special ones not counted",
            )

    def _exit_code(self, answers: list[str]) -> int:
        fail_on = self.options["fail_on"]
        if "named" in fail_on and "NAMED" in answers:
            return exits.DETECTED
        unsaid = "CANNOT_SAY" in answers or self.skipped.count > 0
        return exits.INSUFFICIENT if unsaid and ("cannot-say" in fail_on or self.options["strict"]) else exits.OK

    def _configuration(self) -> dict[str, Any]:
        from wmcheck import __version__

        names = (
            "profile", "key", "tenants", "epoch", "tokenizer", "alpha", "fragments", "field", "tokens_field", "input_format",
            "family",
        )
        plain = {name: list(v) if isinstance(v := self.options[name], tuple) else v for name in names}
        if self.options["fragments"]:
            plain["fragment_tokens"] = self.options["fragment_tokens"]
        return {"version": __version__, "paths": list(self.paths), **plain}


def _need_profile() -> None:
    from wmcheck.watermark.core.errors import ConfigError

    raise ConfigError(
        "no profile", where="--profile", expected="a profile file",
        hint="give --profile, set WMCHECK_PROFILE, or write profile = \"lab.profile.json\" in wmcheck.toml",
    )
