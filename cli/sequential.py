"""``wmcheck check --sequential``: records as a stream, tested after each one, valid whenever the reader stops."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

from wmcheck.cli import exits
from wmcheck.cli.options import load_candidates, open_output
from wmcheck.cli.reading import records_of
from wmcheck.cli.skipped import Skipped

if TYPE_CHECKING:
    from wmcheck.watermark.core.errors import RecordError
    from wmcheck.watermark.core.records import Record
    from wmcheck.watermark.monitor import Step, Track

SCHEMA = "wmcheck.sequential/1"
NOTE = (
    "p is 1 over the largest e so far: it holds at whatever record the reader stops. A p-value for a fixed number of items is "
    "not given beside it: its number would have to be chosen before the stream is seen."
)
COLUMNS = ("verdict", "log10 e", "log10 p", "corrected", "new", "items", "scheme", "key id", "record")
WIDTHS = (-9, 9, 9, 9, 7, 9, -10, -16, 0)
BATCH_RECORDS = 256
SAVE_SECONDS = 60.0


def watch(paths: Sequence[str], options: Mapping[str, Any]) -> int:
    """Run ``check --sequential``.

    Args:
        paths: as of ``check``.
        options: those of ``check``, and ``stop`` (bool) and ``state`` (a path or None).

    Returns:
        The exit code: 1 for a detection under ``--fail-on detected``; 3 under ``--fail-on insufficient`` or ``--strict`` if
        nothing was detected in too few items, or records were skipped.

    Raises:
        ConfigError: a state of another stream.
        InputError: no record could be tested, or the state is damaged.
    """
    return _Watch(paths, options).execute()


class _Watch:
    """One invocation: state that must survive an error or an interrupt in the middle."""

    def __init__(self, paths: Sequence[str], options: Mapping[str, Any]) -> None:
        from wmcheck.watermark.core.errors import printable
        from wmcheck.watermark.monitor import Monitor
        from wmcheck.watermark.monitor_state import load_state
        from wmcheck.watermark.screen import Screen

        self.paths, self.options = paths, options
        self.layout, self.stop = str(options["layout"]), bool(options.get("stop"))
        self.state: str | None = options.get("state")
        candidates = load_candidates(options["profile"], options["key"], options["tenant"], options["epoch"])
        for candidate in candidates:
            if candidate.committed == "no":
                name = printable(candidate.profile.name)
                click.echo(f"warning: {name}: does not commit to key {candidate.key.id}", err=True)
        self.skipped = Skipped(strict=options["strict"], verbose=options["verbose"])
        self.screen = Screen(candidates, tokenizer=options["tokenizer"], on_error=self.skipped)
        self.monitor = Monitor(candidates, alpha=options["alpha"], family=options["family"])
        if self.state is not None:
            load_state(self.monitor, self.state)
        self.first = self.monitor.records
        self.names: dict[int, str] = {}
        self.rows: list[dict[str, str]] = []
        self.objects: list[dict[str, Any]] = []

    def execute(self) -> int:
        inputs = (*self.paths, *self.options["profile"], *self.options["key"])
        with open_output(self.options["output"], inputs) as out:
            try:
                self._read(out)
            except BrokenPipeError:
                self._save()
                raise
            except BaseException:
                if self.monitor.records > self.first:
                    # What was tested before the error is kept, marked as incomplete.
                    self._finish(out, complete=False)
                    self._save()
                raise
            if self.monitor.records == 0:
                raise self.skipped.nothing_left(", ".join(self.paths))
            self._save()
            self._finish(out, complete=True)
        self.skipped.summarize(self.monitor.records - self.first)
        return self._code()

    def _detected(self) -> bool:
        return any(track.stop is not None for track in self.monitor.tracks)

    def _save(self) -> None:
        from wmcheck.watermark.monitor_state import save_state

        # Inside of a record there is no state worth keeping: the last one stands, and feeding records again is harmless.
        if self.state is not None and not self.monitor.busy:
            save_state(self.monitor, self.state)

    def _read(self, out: TextIO) -> None:
        self._head(out)
        if self.stop and self._detected():
            return
        saved = time.monotonic()
        for batch in self._batches():
            self._test(out, batch)
            if self.stop and self._detected():
                return
            if time.monotonic() - saved > SAVE_SECONDS:
                self._save()
                saved = time.monotonic()

    def _batches(self) -> Iterator[list[Record | RecordError]]:
        # What a pipe brings is tested as it comes, and --stop stops at its record; the numbers are those of any batch.
        size = 1 if self.stop or "-" in self.paths else BATCH_RECORDS
        waiting: list[Record | RecordError] = []
        try:
            for record in records_of(self.paths, self.options):
                waiting.append(record)
                if len(waiting) >= size:
                    ready, waiting = waiting, []
                    yield ready
        except GeneratorExit:
            raise
        except BaseException:
            # What came before the damage is tested first.
            if waiting:
                yield waiting
            raise
        if waiting:
            yield waiting

    def _test(self, out: TextIO, batch: Sequence[Record | RecordError]) -> None:
        from wmcheck.watermark.core.errors import RecordError

        documents, kept, sources, bad = self.screen.documents([one for one in batch if not isinstance(one, RecordError)])
        for record, source, step in zip(kept, sources, self.monitor.feed(documents), strict=True):
            if any(track.stop is not None and track.stop.record == step.record for track in self.monitor.tracks):
                self.names[step.record] = record.id
            self._emit(out, record, source, step)
        for error in [*(one for one in batch if isinstance(one, RecordError)), *bad]:
            self.skipped(error)

    def _head(self, out: TextIO) -> None:
        if self.layout == "table":
            out.write(_row(dict(zip(COLUMNS, COLUMNS, strict=True))))
            out.flush()

    def _emit(self, out: TextIO, record: Record, source: str, step: Step) -> None:
        if self.layout in ("json", "jsonl"):
            found = self._object(record, source, step)
            if self.layout == "json":
                self.objects.append(found)
                return
            out.write(_line("record", found))
        else:
            row = self._cells(record.id, step)
            if self.layout != "table":
                self.rows.append(row)
                return
            out.write(_row(row))
        # Whoever reads the other end of a pipe sees a record when it is tested.
        out.flush()

    def _cells(self, name: str, step: Step) -> dict[str, str]:
        best = step.best()
        candidate = self.monitor.tracks[best].candidate
        cells = (
            _standing(step.detected[best]), f"{step.log10_e[best]:.2f}", f"{step.log10_p[best]:.2f}",
            f"{step.log10_p_adjusted[best]:.2f}", str(step.new[best]), str(step.n[best]), candidate.profile.scheme_name,
            candidate.key.id, name,
        )
        return dict(zip(COLUMNS, cells, strict=True))

    def _object(self, record: Record, source: str, step: Step) -> dict[str, Any]:
        best = step.best()
        tests = [
            {
                "scheme": track.candidate.profile.scheme_name, "key_id": track.candidate.key.id,
                "n_new": int(step.new[place]), "n_scored": int(step.n[place]), **_numbers(step, place),
            }
            for place, track in enumerate(self.monitor.tracks)
        ]
        return {
            "record": record.id, "where": record.where, "number": step.record, "tokens": source,
            **{name: tests[best][name] for name in ("verdict", "log10_e", "log10_p", "log10_p_adjusted", "scheme", "key_id")},
            "tests": tests, **_any_key(step),
        }

    def _finish(self, out: TextIO, *, complete: bool) -> None:
        from wmcheck.watermark.core.writers import render_markdown, write_csv

        summary = self._summary(complete=complete)
        if self.layout == "json":
            json.dump({"schema": SCHEMA, **summary, "records": self.objects}, out, indent=1, ensure_ascii=False)
            out.write("\n")
        elif self.layout == "jsonl":
            out.write(_line("summary", summary))
        elif self.layout == "csv":
            state = {"alpha": f"{self.monitor.alpha:g}", "complete": "yes" if complete else "no"}
            write_csv([{**row, **state} for row in self.rows], (*COLUMNS, *state), out)
        else:
            if self.layout == "md":
                out.write(render_markdown(self.rows, COLUMNS))
            out.write(self._footer(summary))

    def _footer(self, summary: Mapping[str, Any]) -> str:
        from wmcheck.watermark.core.errors import printable

        lines = [] if summary["complete"] else ["INCOMPLETE: the run stopped before the end of the input.", ""]
        lines.append(
            f"alpha {self.monitor.alpha:g} over all of the stream, {summary['correction']}. {summary['n_records']} records: "
            f"{summary['verdict']}; {summary['skipped']} skipped."
        )
        for found in summary["candidates"]:
            if found["stop"]:
                at = f"record {found['stop']['record']}"
                name = found["stop"]["id"]
                shown = "" if name in (None, str(found["stop"]["record"])) else f" ({printable(name)})"
                lines.append(
                    f"{found['scheme']} under key {found['key_id']}: detected at {at}{shown}, item {found['stop']['item']}."
                )
        if summary["any_key"] and len(self.monitor.tracks) > 1:
            lines.append(
                f"Any of the keys: log10 e {summary['any_key']['log10_e']:.2f}, p {summary['any_key']['log10_p']:.2f}."
            )
        lines += [NOTE, "e and p hold if " + "; ".join(summary["assumptions"]) + "."]
        return "\n" + "\n".join(lines) + "\n"

    def _summary(self, *, complete: bool) -> dict[str, Any]:
        from wmcheck.watermark.core.results import CHOICE, DISTINCT, INDEPENDENCE, LOG10, PRF_ASSUMPTION

        monitor, step = self.monitor, self.monitor.now()
        size = monitor.family
        candidates = [
            {
                **self._identity(track), "n_scored": track.process.n,
                **next({"n_repeated": g.repeated, "n_excluded": g.excluded} for g in monitor.groups if track in g.tracks),
                **_numbers(step, place), "stop": self._stop(track), "null": track.null.name,
                "log10_products": {name: value / LOG10 for name, value in track.process.products.items()},
            }
            for place, track in enumerate(monitor.tracks)
        ]
        return {
            "complete": complete, "alpha": monitor.alpha, "verdict": _standing(self._detected()), "n_records": monitor.records,
            "resumed_after": self.first, "skipped": self.skipped.count, "family": size,
            "correction": f"Holm over {size} test{'s' if size != 1 else ''}", "candidates": candidates,
            "any_key": _any_key(step)["any_key"], "note": NOTE,
            "assumptions": [INDEPENDENCE, CHOICE, PRF_ASSUMPTION, DISTINCT], "configuration": self._configuration(),
        }

    def _identity(self, track: Track) -> dict[str, Any]:
        profile, key = track.candidate.profile, track.candidate.key
        return {
            "profile": profile.name, "scheme": profile.scheme_name, "key_id": key.id, "key_commitment": key.commitment,
            "key_committed": track.candidate.committed, "tenant": key.tenant_name, "epoch": key.epoch,
        }

    def _stop(self, track: Track) -> dict[str, Any] | None:
        if track.stop is None:
            return None
        return {"record": track.stop.record, "id": self.names.get(track.stop.record), "item": track.stop.item}

    def _configuration(self) -> dict[str, Any]:
        from wmcheck import __version__

        names = (
            "profile", "key", "tenant", "epoch", "tokenizer", "alpha", "field", "tokens_field", "input_format", "family",
            "stop", "state",
        )
        plain = {name: list(v) if isinstance(v := self.options.get(name), tuple) else v for name in names}
        return {"version": __version__, "paths": list(self.paths), "sequential": True, **plain}

    def _code(self) -> int:
        import math

        if self._detected():
            return exits.DETECTED if "detected" in self.options["fail_on"] else exits.OK
        bar = math.log(self.monitor.alpha / self.monitor.family)
        short = self.skipped.count > 0 or any(track.too_short(bar) for track in self.monitor.tracks)
        return exits.INSUFFICIENT if short and (self.options["strict"] or "insufficient" in self.options["fail_on"]) else exits.OK


def _standing(detected: object) -> str:
    from wmcheck.watermark.monitor import Standing

    return str(Standing.DETECTED if detected else Standing.CONTINUE)


def _numbers(step: Step, place: int) -> dict[str, Any]:
    return {
        "log10_e": float(step.log10_e[place]), "log10_p": float(step.log10_p[place]),
        "log10_p_adjusted": float(step.log10_p_adjusted[place]), "verdict": _standing(step.detected[place]),
    }


def _any_key(step: Step) -> dict[str, Any]:
    if step.any_log10_e is None:
        return {"any_key": None}
    return {"any_key": {"log10_e": step.any_log10_e, "log10_p": step.any_log10_p}}


def _row(cells: Mapping[str, str]) -> str:
    from wmcheck.watermark.core.errors import printable

    shown = [printable(cells[name]) for name in COLUMNS]
    padded = [cell.ljust(-width) if width <= 0 else cell.rjust(width) for cell, width in zip(shown, WIDTHS, strict=True)]
    return "  ".join(padded).rstrip() + "\n"


def _line(kind: str, data: Mapping[str, Any]) -> str:
    return json.dumps({"type": kind, "schema": SCHEMA, **data}, ensure_ascii=False) + "\n"
