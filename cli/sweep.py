"""``wmcheck check --sweep``: which of many contracts and keys marked each record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

from wmcheck.cli.check import Run
from wmcheck.cli.render import SCHEMA, line, write_terms
from wmcheck.watermark.core.errors import ConfigError, WmcheckError
from wmcheck.watermark.core.results import Detection, Verdict
from wmcheck.watermark.core.writers import render_markdown, render_table, write_csv
from wmcheck.watermark.sweep import SweepScreen
from wmcheck.watermark.sweep_file import Entry, read_sweep

if TYPE_CHECKING:
    from wmcheck.watermark.candidate import Candidate
    from wmcheck.watermark.predict import ModelPredictor
    from wmcheck.watermark.screen import Screened
    from wmcheck.watermark.sweep import Found, Outcome, Summary

# Rows of the second table: those with the smallest p-values of the corpus.
SHOWN = 50
BROKEN_SHOWN = 20
RECORD_COLUMNS = (
    "record", "verdict", "candidate", "contract", "key id", "tenant", "log10 p", "corrected", "n", "decoded", "runner-up",
    "its corrected", "also",
)
CANDIDATE_COLUMNS = (
    "candidate", "contract", "key id", "tenant", "records", "corpus", "log10 p", "corrected", "seconds", "share",
)
# Columns that are left out where nothing stands in them.
OPTIONAL = frozenset(("contract", "tenant", "decoded", "also", "seconds", "share", "corpus", "log10 p", "corrected"))


class Broken:
    """Takes every candidate that cannot be tested.

    Args:
        path: the sweep file.
        strict: raise the first one.
        verbose: report each one, not the first few alone.

    Attributes:
        found: name, message and number of keys of each, once.
    """

    def __init__(self, path: str, *, strict: bool, verbose: bool) -> None:
        self._path, self._strict, self._verbose = path, strict, verbose
        self.found: dict[tuple[str, str], int] = {}

    def __call__(self, name: str, error: WmcheckError) -> None:
        """Report one candidate.

        Raises:
            WmcheckError: the reason, when strict.
        """
        place = f"{self._path}: candidate '{name}'" + (f", {error.where}" if error.where else "")
        whole = type(error)(error.what, where=place, got=error.got, expected=error.expected, hint=error.hint)
        if self._strict:
            raise whole from None
        self.found[name, str(whole)] = self.found.get((name, str(whole)), 0) + 1
        if self.found[name, str(whole)] > 1:
            return
        if self._verbose or len(self.found) <= BROKEN_SHOWN:
            click.echo(f"broken: {whole.message()}", err=True)
        elif len(self.found) == BROKEN_SHOWN + 1:
            click.echo("broken: more candidates like these follow (-v reports each)", err=True)

    @property
    def count(self) -> int:
        """Candidates that are not tested."""
        return sum(self.found.values())

    def objects(self) -> list[dict[str, Any]]:
        """The candidates for a report."""
        return [{"candidate": name, "reason": reason, "count": n} for (name, reason), n in self.found.items()]


class SweepRun(Run):
    """One sweep."""

    screen: SweepScreen
    entries: list[Entry]
    broken: Broken

    def load(self) -> list[Candidate]:
        path = self.options["sweep"]
        self.broken = Broken(path, strict=self.options["strict"], verbose=self.options["verbose"])
        self.entries = read_sweep(path, tokenizer=self.options["tokenizer"], on_broken=self.broken)
        if not self.entries:
            raise ConfigError("no candidate can be tested", where=path, got=f"{self.broken.count} broken ones")
        return [entry.candidate for entry in self.entries]

    def inputs(self) -> tuple[str, ...]:
        return (*self.paths, self.options["sweep"], *(entry.source for entry in self.entries))

    def make_screen(self, predictor: ModelPredictor | None) -> SweepScreen:
        return SweepScreen(
            self.entries, tokenizer=self.options["tokenizer"], statistic=self.statistic, fallbacks=self.options["fallbacks"],
            predictor=predictor, on_error=self.skipped, origin=self.options["sweep"],
            on_drop=lambda entry, error: self.broken(entry.name, error),
        )

    def object_of(self, one: Screened) -> dict[str, Any]:
        best = one.best()
        return {
            "record": one.record, "where": one.where, "log10_p": best.log10_p, "n_scored": best.n_scored, **_name(best),
        }

    def finish(self, out: TextIO, *, complete: bool) -> list[str]:
        if not self.screen.panel.places:
            return []
        outcome = self.screen.outcome(", ".join(self.paths), self.alpha, family=self.options["family"])
        layout = self.options["layout"]
        counts = self._summary(outcome)
        if layout == "json":
            data = {
                "schema": SCHEMA, "complete": complete, "alpha": self.alpha, "summary": counts,
                "configuration": self.configuration(), "records": [_record_object(one, self.alpha) for one in outcome.records],
                "corpus": [one.corpus.to_dict(self.alpha) for one in outcome.candidates if one.corpus is not None],
                "candidates": [_candidate_object(one) for one in outcome.candidates], "broken": self.broken.objects(),
            }
            json.dump(data, out, indent=1, ensure_ascii=False)
            out.write("\n")
        elif layout == "jsonl":
            self._write_lines(out, outcome, counts, complete=complete)
        else:
            self._write_rows(layout, out, outcome, counts, complete=complete)
        pooled = [one.corpus for one in outcome.candidates if one.corpus is not None]
        return [str(one.verdict) for one in outcome.records] + [str(test.verdict(self.alpha)) for test in pooled]

    def configuration(self) -> dict[str, Any]:
        unused = ("profile", "key", "tenant", "epoch", "decoys")
        kept = {name: value for name, value in super().configuration().items() if name not in unused}
        return {**kept, "sweep": self.options["sweep"]}

    def _summary(self, outcome: Outcome) -> dict[str, Any]:
        verdicts = [one.verdict for one in outcome.records]
        pooled = [one.corpus for one in outcome.candidates if one.corpus is not None]
        return {
            "records": len(verdicts), "skipped": self.skipped.count,
            **{str(answer): verdicts.count(answer) for answer in Verdict},
            "corpus_detected": sum(test.verdict(self.alpha) is Verdict.DETECTED for test in pooled),
            "correction": outcome.correction, "candidates": len(outcome.candidates), "broken": self.broken.count,
        }

    def _write_lines(self, out: TextIO, outcome: Outcome, counts: dict[str, Any], *, complete: bool) -> None:
        for one in outcome.records:
            out.write(line("verdict", {"alpha": self.alpha, **_record_object(one, self.alpha)}))
        for each in outcome.candidates:
            if each.corpus is not None:
                out.write(line("corpus", each.corpus.to_dict(self.alpha)))
            out.write(line("candidate", _candidate_object(each)))
        more = {"configuration": self.configuration(), "broken_candidates": self.broken.objects()}
        out.write(line("summary", {"complete": complete, **counts, **more}))

    def _write_rows(self, layout: str, out: TextIO, outcome: Outcome, counts: Mapping[str, Any], *, complete: bool) -> None:
        rows = [_record_row(one) for one in outcome.records]
        if layout == "csv":
            rows += [_corpus_row(one, self.alpha) for one in outcome.candidates if one.corpus is not None]
            state = {"alpha": f"{self.alpha:g}", "complete": "yes" if complete else "no"}
            write_csv([{**row, **state} for row in rows], (*RECORD_COLUMNS, *state), out)
            return
        render = render_markdown if layout == "md" else render_table
        out.write(render(rows, _filled(rows, RECORD_COLUMNS)))
        best = sorted(outcome.candidates, key=lambda one: (-one.detected, 0.0 if one.corpus is None else one.corpus.log10_p))
        table = [_candidate_row(one, self.alpha, timed=self.options["verbose"]) for one in best[:SHOWN]]
        out.write("\n" + render(table, _filled(table, CANDIDATE_COLUMNS)))
        if len(best) > SHOWN:
            out.write(f"\n{len(best) - SHOWN} more candidates stand in --format json and csv.\n")
        if not complete:
            out.write("\nINCOMPLETE: the run stopped before the end of the input; only the records above are corrected for.\n")
        out.write(
            f"\nalpha {self.alpha:g}, family-wise, {counts['correction']}. {counts['candidates']} candidates, {counts['broken']} "
            f"broken; {counts['records']} records: {counts['DETECTED']} DETECTED, {counts['NOT_DETECTED']} NOT_DETECTED, "
            f"{counts['INSUFFICIENT']} INSUFFICIENT; {counts['skipped']} skipped.\n"
        )
        if any(one.also for one in outcome.records):
            out.write("also: candidates with the same score on the same tokens, which the text cannot tell apart.\n")
        write_terms(out, [one.best for one in outcome.records])


def _name(test: Detection) -> dict[str, Any]:
    """How a candidate is called in a report."""
    return {
        "candidate": test.profile, "scheme": test.scheme, "contract": test.contract, "key_id": test.key_id,
        "tenant": test.tenant, "epoch": test.epoch,
    }


def _record_object(one: Found, alpha: float) -> dict[str, Any]:
    tests = [one.best, *one.also, *([] if one.runner_up is None else [one.runner_up])]
    return {
        "record": one.record, "where": one.where, "verdict": str(one.verdict), "log10_p": one.best.log10_p,
        "log10_p_adjusted": one.best.log10_p_adjusted, "correction": one.best.correction, "n_scored": one.best.n_scored,
        **_name(one.best), "decoded": one.best.decoded, "also": [_name(test) for test in one.also],
        "runner_up": None if one.runner_up is None else {
            **_name(one.runner_up), "log10_p": one.runner_up.log10_p, "log10_p_adjusted": one.runner_up.log10_p_adjusted,
        },
        "candidates_detected": one.detected, "candidates_insufficient": one.insufficient,
        "tests": [test.to_dict(alpha) for test in tests],
    }


def _candidate_object(one: Summary) -> dict[str, Any]:
    candidate, key = one.entry.candidate, one.entry.candidate.key
    return {
        "candidate": one.entry.name, "scheme": candidate.profile.scheme_name, "contract": candidate.profile.contract,
        "parameters": dict(candidate.profile.parameters), "key": one.entry.source, "key_id": key.id, "tenant": key.tenant_name,
        "epoch": key.epoch, "records_detected": one.detected, "records_best": one.best,
        "corpus_log10_p": None if one.corpus is None else one.corpus.log10_p,
        "corpus_log10_p_adjusted": None if one.corpus is None else one.corpus.log10_p_adjusted,
        "seconds": round(one.seconds, 6), "share": round(one.share, 6),
    }


def _record_row(one: Found) -> dict[str, str]:
    next_one = one.runner_up
    return {
        **_test_cells(one.best), "record": one.record, "verdict": str(one.verdict), "n": str(one.best.n_scored),
        "decoded": one.best.decoded or "",
        "runner-up": "" if next_one is None else f"{next_one.profile} ({next_one.key_id})",
        "its corrected": "" if next_one is None else _number(next_one.log10_p_adjusted),
        "also": ", ".join(f"{test.profile} ({test.key_id})" for test in one.also),
    }


def _corpus_row(one: Summary, alpha: float) -> dict[str, str]:
    assert one.corpus is not None
    return {
        **_test_cells(one.corpus), "record": "(corpus)", "verdict": str(one.corpus.verdict(alpha)),
        "n": str(one.corpus.n_scored), "decoded": one.corpus.decoded or "",
    }


def _candidate_row(one: Summary, alpha: float, *, timed: bool) -> dict[str, str]:
    key = one.entry.candidate.key
    cells = {
        "candidate": one.entry.name, "contract": one.entry.candidate.profile.contract or "", "key id": key.id,
        "tenant": key.tenant_name, "records": str(one.detected),
    }
    if one.corpus is not None:
        cells |= {**_test_cells(one.corpus), "corpus": str(one.corpus.verdict(alpha))}
    if timed:
        cells |= {"seconds": f"{one.seconds:.3f}", "share": f"{one.share:.1%}"}
    return cells


def _test_cells(test: Detection) -> dict[str, str]:
    return {
        "candidate": test.profile, "contract": test.contract or "", "key id": test.key_id, "tenant": test.tenant,
        "log10 p": _number(test.log10_p), "corrected": _number(test.log10_p_adjusted),
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _filled(rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in OPTIONAL or any(row.get(name) for row in rows))
