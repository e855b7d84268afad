"""``wmcheck calibrate``: observed against nominal error on the user's own ordinary text."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

import click

from wmcheck.cli import exits
from wmcheck.cli.options import (
    ListedChoice,
    check_alpha,
    key_option,
    load_candidates,
    open_output,
    profile_option,
    tenant_options,
)
from wmcheck.cli.reading import records_of
from wmcheck.cli.skipped import Skipped

if TYPE_CHECKING:
    from wmcheck.cli.calibrated import Found
    from wmcheck.watermark.calibration import Calibration
    from wmcheck.watermark.candidate import Candidate
    from wmcheck.watermark.core.records import Record
    from wmcheck.watermark.windows import Document

DEFAULT_DECOYS = 999
READ_RECORDS = 256
# Small batches: what is done survives an interrupt, and the progress bar moves.
BATCH_DOCUMENTS, BATCH_TOKENS = 64, 20_000
SHOWN_TEMPLATES = 10


def _levels(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        found = tuple(sorted({float(part) for part in value.split(",")}, reverse=True))
    except ValueError:
        found = ()
    if not found or not all(0.0 < level < 1.0 for level in found):
        raise click.BadParameter(f"not a list of error rates (got {value}, expected e.g. 0.1,0.01,0.001)", ctx, param)
    return found


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@profile_option(multiple=True)
@key_option(multiple=True)
@tenant_options(multiple=True)
@click.option("--decoys", type=click.IntRange(min=19), default=DEFAULT_DECOYS, show_default=True, metavar="B",
              help="Random keys to test beside the own ones.")
@click.option("--levels", default="1e-1,1e-2,1e-3,1e-4,1e-5", show_default=True, callback=_levels, metavar="LIST",
              help="Nominal error rates, with commas.")
@click.option("--blocklist", metavar="FILE", help="Write the contexts to leave out to FILE.")
@click.option("--shared", type=click.IntRange(min=2), metavar="N",
              help="Leave out contexts of at least N records [default: as few contexts as even the keys out].")
@click.option("--tokenizer", envvar="WMCHECK_TOKENIZER", metavar="PATH",
              help="Tokenizer, if not where the profile says.")
@click.option("--alpha", type=float, default=1e-5, show_default=True, envvar="WMCHECK_ALPHA", callback=check_alpha,
              help="Family-wise error at which a record counts as watermarked, hence not ordinary.")
@click.option("--field", envvar="WMCHECK_FIELD", help="Text field [default: text, response, completion, last message].")
@click.option("--tokens-field", envvar="WMCHECK_TOKENS_FIELD",
              help="Token id field [default: tokens, token_ids, output_ids].")
@click.option("--input-format", envvar="WMCHECK_INPUT_FORMAT", help="jsonl, json, csv, txt, lines or parquet.")
@click.option("--statistic", default="sum", show_default=True, envvar="WMCHECK_STATISTIC", help="Test statistic.")
@click.option("--seed", type=click.IntRange(min=0), help="Repeat the decoys of an earlier run; never for text of a stranger.")
@click.option("--format", "layout", type=click.Choice(["table", "json", "md"]), default="table", show_default=True,
              help="Output format.")
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, complete or not at all.")
@click.option("--fail-on", multiple=True, type=ListedChoice(["failed", "detected", "insufficient"]),
              help="Exit 1 if a key fails its certificate or a record is watermarked, 3 if the decoys were too few.")
@click.option("--strict", is_flag=True, envvar="WMCHECK_STRICT", help="Stop at the first bad record.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@click.option("-v", "--verbose", is_flag=True, help="Report every bad record.")
def calibrate(paths: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Test ordinary records of PATH... (or - for stdin) under the own keys and under random ones.

    Prints observed against nominal error, whether an own key is further off than random ones on the same text, the
    templates that records share, and the contexts whose removal evens the keys out. Everything is held in memory.
    """
    options["layout"] = "json" if as_json else options["layout"]
    return _Run(paths, options).execute()


class _Run:
    """One invocation: state that must survive an error or an interrupt in the middle."""

    def __init__(self, paths: tuple[str, ...], options: dict[str, Any]) -> None:
        from wmcheck.watermark.core.errors import ConfigError
        from wmcheck.watermark.decoys import decoy_keys, fitting_statistic
        from wmcheck.watermark.screen import Screen

        self.paths, self.options = paths, options
        candidates = load_candidates(options["profile"], options["key"], options["tenant"], options["epoch"])
        self.own: dict[str, list[Candidate]] = {}
        for candidate in candidates:
            fitting_statistic(options["statistic"], candidate.profile)
            self.own.setdefault(candidate.profile.name, []).append(candidate)
        if options["blocklist"] and len(self.own) > 1:
            raise ConfigError("a blocklist belongs to one profile", where="--blocklist", got=f"{len(self.own)} profiles",
                              hint="run once for each profile")
        random: dict[str, Any] = {}
        if options["seed"] is not None:
            import numpy as np

            random["random_bytes"] = np.random.default_rng(options["seed"]).bytes
        self.decoys = decoy_keys(options["decoys"], **random)
        self.skipped = Skipped(strict=options["strict"], verbose=options["verbose"])
        self.screen = Screen(candidates, tokenizer=options["tokenizer"], on_error=self.skipped)
        self.documents: list[Document] = []
        self.records: list[str] = []
        self.found: list[Found] = []
        self.results: list[tuple[Found, Calibration]] = []

    def execute(self) -> int:
        options = self.options
        inputs = (*self.paths, *options["profile"], *options["key"])
        with open_output(options["output"], inputs) as out:
            self._read()
            try:
                self._calibrate(inputs)
            except BrokenPipeError:
                raise
            except BaseException:
                # What was computed before the error is written first, marked as incomplete.
                if any(one.calibrator.documents for one in self.found):
                    self._write(out, complete=False)
                raise
            self._write(out, complete=True)
        self.skipped.summarize(len(self.documents))
        return self._code()

    def _read(self) -> None:
        from wmcheck.watermark.calibration import FEWEST_DOCUMENTS
        from wmcheck.watermark.core.errors import InputError, RecordError

        waiting: list[Record] = []
        for record in records_of(self.paths, self.options):
            if isinstance(record, RecordError):
                self.skipped(record)
                continue
            waiting.append(record)
            if len(waiting) >= READ_RECORDS:
                self._take(waiting)
                waiting = []
        self._take(waiting)
        where = ", ".join(self.paths)
        if not self.documents:
            raise self.skipped.nothing_left(where)
        if len(self.documents) < FEWEST_DOCUMENTS:
            raise InputError(
                "too few records to calibrate on", where=where, got=str(len(self.documents)),
                expected=f"{FEWEST_DOCUMENTS} or more", hint="give ordinary records of the traffic that will be tested",
            )

    def _take(self, records: Sequence[Record]) -> None:
        if not records:
            return
        documents, kept, _, bad = self.screen.documents(records)
        self.documents += documents
        self.records += [record.id for record in kept]
        for error in bad:
            self.skipped(error)

    def _calibrate(self, inputs: Sequence[str]) -> None:
        from wmcheck.cli.calibrated import Found
        from wmcheck.watermark.calibration import Calibrator
        from wmcheck.watermark.templates import corpus_contexts, find_templates, propose_blocklist

        options = self.options
        templates = find_templates(self.documents)
        for own in self.own.values():
            profile = own[0].profile
            contexts = corpus_contexts(self.documents, profile)
            digest = str(profile.tokenizer["digest"]) if profile.tokenizer else ""
            proposal = propose_blocklist(contexts, min_documents=options["shared"], tokenizer=digest)
            if options["blocklist"]:
                with open_output(options["blocklist"], inputs) as file:
                    file.write(json.dumps(proposal.blocklist.to_dict(), indent=1) + "\n")
            calibrator = Calibrator(
                own, self.decoys, statistic=options["statistic"], levels=options["levels"],
                templates=templates[:SHOWN_TEMPLATES], blocklist=proposal.blocklist if proposal.blocked else None,
            )
            repeated = contexts.repeated()
            shares = [_share(repeated, contexts.document, one.documents) for one in templates[:SHOWN_TEMPLATES]]
            self.found.append(Found(calibrator, proposal, templates, float(repeated.mean()) if len(repeated) else 0.0, shares))
            with self._progress(calibrator.keys * len(self.documents), profile.name) as bar:
                for batch in self._batches():
                    calibrator.add(batch, progress=partial(_advance, bar, len(batch)))

    def _batches(self) -> Iterator[list[Document]]:
        batch: list[Document] = []
        tokens = 0
        for document in self.documents:
            batch.append(document)
            tokens += len(document.ids)
            if len(batch) >= BATCH_DOCUMENTS or tokens >= BATCH_TOKENS:
                yield batch
                batch, tokens = [], 0
        if batch:
            yield batch

    @contextmanager
    def _progress(self, length: int, name: str) -> Iterator[Any]:
        from wmcheck.watermark.core.errors import printable

        hidden = self.options["quiet"] or not sys.stderr.isatty()
        with click.progressbar(length=length, label=f"calibrating {printable(name)}", file=sys.stderr, hidden=hidden) as bar:
            yield bar

    def _write(self, out: TextIO, *, complete: bool) -> None:
        from wmcheck.cli.calibrated import report, warnings

        alpha = self.options["alpha"]
        self.results = [(one, one.calibrator.result(alpha)) for one in self.found if one.calibrator.documents]
        text = report(
            self.results, self.records, self._configuration(), complete=complete, skipped=self.skipped.count,
            decode=self._decode, layout=self.options["layout"], alpha=alpha,
        )
        out.write(text)
        for line in warnings(self.results, self.records):
            click.echo(f"warning: {line}", err=True)

    def _decode(self, ids: list[int]) -> str:
        tokenizer = self.screen.tokenizer
        return " ".join(map(str, ids)) if tokenizer is None else tokenizer.decode(ids)

    def _configuration(self) -> dict[str, Any]:
        from wmcheck import __version__

        names = ("profile", "key", "tenant", "epoch", "tokenizer", "alpha", "decoys", "levels", "shared", "blocklist", "field",
                 "tokens_field", "input_format", "statistic", "seed")
        plain = {name: list(v) if isinstance(v := self.options[name], tuple) else v for name in names}
        return {"version": __version__, "paths": list(self.paths), **plain}

    def _code(self) -> int:
        from wmcheck.watermark.calibration import Certificate

        fail_on = self.options["fail_on"]
        keys = [key for _, result in self.results for key in result.keys]
        if "failed" in fail_on and any(key.certificate is Certificate.FAIL for key in keys):
            return exits.DETECTED
        if "detected" in fail_on and not all(key.ordinary for key in keys):
            return exits.DETECTED
        if "insufficient" in fail_on and any(key.certificate is Certificate.INSUFFICIENT for key in keys):
            return exits.INSUFFICIENT
        return exits.OK


def _advance(bar: Any, documents: int, keys: int) -> None:
    bar.update(keys * documents)


def _share(repeated: Any, owner: Any, documents: Any) -> float:
    import numpy as np

    inside = np.isin(owner, documents)
    return float(repeated[inside].mean()) if inside.any() else math.nan
