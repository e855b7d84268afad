"""Transcripts to behaviour: what counts, what is left out and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wmcheck.fingerprint.behaviour import Behaviour
from wmcheck.fingerprint.probe import ProbeProtocol
from wmcheck.fingerprint.runlog import Run
from wmcheck.fingerprint.signature import SIGNATURES
from wmcheck.fingerprint.transcript import Transcript, served_as_asked
from wmcheck.watermark.core.errors import InputError


def observe(
    model: str, transcripts: Iterable[Transcript], *, protocol: ProbeProtocol | None = None, source: str = "",
    signatures: Sequence[str] | None = None, notes: Sequence[str] = (), evidence: dict[str, object] | None = None,
) -> Behaviour:
    """The behaviour of one model.

    An answer that another model served is left out and counted; answers whose server is not named are used and counted.

    Args:
        model: name to report.
        transcripts: its answers.
        protocol: how the probes were put, if they were put by us.
        source: file, for messages.
        signatures: names to observe; default all.
        notes: what the caller left out already.
        evidence: digests to carry along.

    Raises:
        InputError: no answer is left.
    """
    served: list[Transcript] = []
    others: list[Transcript] = []
    for transcript in transcripts:
        as_asked = served_as_asked(transcript.model_requested, transcript.model_served)
        (served if as_asked else others).append(transcript)
    total = len(served) + len(others)
    unnamed = sum(transcript.model_served is None for transcript in served)
    remarks = list(notes)
    if others:
        names = sorted({str(transcript.model_served) for transcript in others})
        remarks.append(f"{len(others)} of {total} answers left out: served by {', '.join(names[:3])}, not {model}")
    if unnamed:
        remarks.append(f"{unnamed} of {len(served)} answers do not say which model served them")
    if not served:
        raise InputError(
            "no answer to observe",
            where=source,
            got=f"{total} answers, all served by another model" if total else "no answers",
            hint="check the model name that was asked for",
        )
    tables = {name: SIGNATURES[name]().observe(served) for name in (signatures or SIGNATURES)}
    return Behaviour(
        model=model, signatures={name: table for name, table in tables.items() if table}, protocol=protocol, source=source,
        notes=tuple(remarks), evidence=evidence or {},
    )


def observe_run(run: Run, *, signatures: Sequence[str] | None = None) -> Behaviour:
    """The behaviour in a run log; an unfinished run is used as far as it got, with a note."""
    notes = list(run.notes)
    if not run.complete:
        notes.append("the run is unfinished; what it has is used")
    if run.failures:
        notes.append(f"{len(run.failures)} calls failed")
    return observe(
        run.model, run.transcripts, protocol=run.protocol, source=run.source, signatures=signatures, notes=notes,
        evidence={"run": run.head, "answers": len(run.transcripts)},
    )
