"""What ``wmcheck probe`` says: the plan before the first call, and the summary after the last."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, TextIO

from wmcheck.fingerprint.collect import calls_of
from wmcheck.fingerprint.ledger import estimate_tokens
from wmcheck.fingerprint.probe import ProbeProtocol, Suite
from wmcheck.fingerprint.runlog import Run
from wmcheck.fingerprint.transcript import Transcript, count_unserved
from wmcheck.watermark.core.writers import render_table

SCHEMA = "wmcheck.probe/1"
PLAN = ("suite", "version", "probes", "calls", "prompt tokens", "answer tokens")
SUMMARY = (
    "suite", "calls", "answered", "rejected", "missing", "with tool calls", "cut", "prompt tokens", "completion tokens",
)


def write_plan(out: TextIO, layout: str, suites: Sequence[Suite], protocol: ProbeProtocol) -> None:
    """Calls and tokens of a run that nobody has made."""
    calls_of(suites, protocol.samples)
    rows: list[dict[str, Any]] = []
    for suite in suites:
        count = protocol.samples
        rows.append({
            "suite": suite.name, "version": suite.version, "probes": len(suite.probes), "calls": len(suite.probes) * count,
            "prompt tokens": sum(estimate_tokens(probe, protocol) for probe in suite.probes) * count,
            "answer tokens": sum(probe.max_tokens for probe in suite.probes) * count,
        })
    calls, prompt, answer = (sum(row[name] for row in rows) for name in PLAN[3:])
    if layout == "json":
        totals = {"dry_run": True, "calls": calls, "prompt_tokens": prompt, "answer_tokens": answer}
        said = [{name.replace(" ", "_"): value for name, value in row.items()} for row in rows]
        _write_json(out, {**totals, "suites": said})
        return
    out.write(render_table([{name: str(value) for name, value in row.items()} for row in rows], PLAN))
    out.write(
        f"\n{calls} calls, about {prompt} prompt tokens (characters by four), at most {answer} answer tokens. "
        "Nothing was asked.\n"
    )


def write_summary(out: TextIO, layout: str, suites: Sequence[Suite], run: Run, *, stopped: str, asked: int) -> None:
    """What the log of a run holds, suite by suite."""
    samples = run.protocol.samples if run.protocol else 1
    rows = [_row(suite, samples, run) for suite in suites]
    served = Counter(transcript.model_served or "(not named)" for transcript in run.transcripts)
    other, _ = count_unserved(run.transcripts)
    if layout == "json":
        _write_json(out, {
            "run": run.source, "model": run.model, "complete": run.complete, "stopped": stopped, "calls": run.calls,
            "calls_now": asked, "interrupted": run.interrupted, "failures": dict(_failures(run)), "served": dict(served),
            "served_as_another": other, "protocol": run.protocol.hash if run.protocol else None, "head": run.head,
            "suites": [{name.replace(" ", "_"): value for name, value in row.items()} for row in rows],
        })
        return
    out.write(render_table([{name: str(value) for name, value in row.items()} for row in rows], SUMMARY))
    repeats = f", {run.interrupted} of them interrupted" if run.interrupted else ""
    failures = ", ".join(f"{count} {reason}" for reason, count in sorted(_failures(run).items())) or "none"
    out.write(
        f"\n{'Complete' if run.complete else 'INCOMPLETE'}: {run.calls} calls ({asked} now){repeats}; failures: {failures}.\n"
        f"Served by {', '.join(f'{name} ({count})' for name, count in served.most_common(5)) or 'nobody yet'}"
        f"{f'; {other} answers by another model than {run.model}, which comparisons leave out' if other else ''}.\n"
        f"Log {run.source}, head {run.head}\n"
    )


def _row(suite: Suite, samples: int, run: Run) -> dict[str, Any]:
    answers = [transcript for transcript in run.transcripts if transcript.suite == suite.name]
    calls = len(suite.probes) * samples
    rejected = sum(key[0] == suite.name for key in rejected_calls(run))
    return {
        "suite": suite.name, "calls": calls, "answered": len(answers), "rejected": rejected,
        "missing": calls - len(answers) - rejected, "with tool calls": sum(bool(one.tool_calls) for one in answers),
        "cut": sum(one.stop == "length" for one in answers), "prompt tokens": _tokens(answers, "prompt_tokens"),
        "completion tokens": _tokens(answers, "completion_tokens"),
    }


def rejected_calls(run: Run) -> set[tuple[str, str, int]]:
    """Calls without an answer whose last failure is a rejection."""
    last = {(one["suite"], one["item"], one["sample"]): one.get("outcome") for one in run.failures}
    return {key for key, outcome in last.items() if outcome == "rejected"} - {one.key for one in run.transcripts}


def _failures(run: Run) -> Counter[str]:
    return Counter(str(failure.get("reason") or failure.get("outcome")) for failure in run.failures)


def _tokens(answers: Sequence[Transcript], name: str) -> int:
    return sum(answer.usage.get(name, 0) for answer in answers)


def _write_json(out: TextIO, data: dict[str, Any]) -> None:
    json.dump({"schema": SCHEMA, **data}, out, indent=1, ensure_ascii=False)
    out.write("\n")
