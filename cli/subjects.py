"""The models of a comparison: their files, their tags, and logs of other tools."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wmcheck.cli.skipped import report
from wmcheck.cli.tags import parse_tags, tag_table, tagged
from wmcheck.watermark.core.errors import ConfigError, InputError

if TYPE_CHECKING:
    from wmcheck.fingerprint.adapter import Imported
    from wmcheck.fingerprint.behaviour import Behaviour
    from wmcheck.fingerprint.cohort import Cohort, Subject
    from wmcheck.fingerprint.member import Member
    from wmcheck.fingerprint.runlog import Run
    from wmcheck.fingerprint.transcript import Transcript

_SHOWN, _PROBLEMS = 20, 5


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is compared with what.

    Attributes:
        suspect, teachers, base: the models in question.
        cohort: the reference population.
        remarks: what reading them left out or assumed, for the report.
    """

    suspect: Subject
    teachers: tuple[Subject, ...]
    base: Subject | None
    cohort: Cohort
    remarks: tuple[str, ...]


def read_files(path: str, options: Mapping[str, Any]) -> Case:
    """A case of run logs and behaviour tables.

    Raises:
        ConfigError: an option is missing, or a tag malformed.
        InputError: a file cannot be read, or another version of a suite was asked.
    """
    if not options["teacher"]:
        raise ConfigError(
            "no teacher", where="--teacher", expected="a run log or behaviour table", hint="make one with 'wmcheck probe'"
        )
    tags = _each(options["teacher"], options["teacher_tags"])
    suspect = _file_subject(path, options["suspect_tags"], "--suspect-tags")
    teachers = tuple(_file_subject(name, tags[place], "--teacher-tags") for place, name in enumerate(options["teacher"]))
    base = _file_subject(options["base"], options["base_tags"], "--base-tags") if options["base"] else None
    return _case(suspect, teachers, base, _load_cohort(options["cohort"] or "bundled"), [], loose=options["loose_protocol"])


def read_logs(paths: Sequence[str], options: Mapping[str, Any]) -> Case:
    """A case of models in the logs of another tool; those that are neither suspect nor teacher nor base are the cohort.

    Raises:
        ConfigError: an option is missing, or a tag malformed.
        InputError: the logs cannot be read.
    """
    from wmcheck.fingerprint.adapter import import_transcripts

    imported = import_transcripts(options["adapter"], list(paths))
    report(imported.problems, shown=_PROBLEMS)
    if not options["suspect"] or not options["teacher"]:
        _list_models(imported)
        missing = "suspect" if not options["suspect"] else "teacher"
        raise ConfigError(
            f"the logs hold {len(imported.runs)} models, and none is named as the {missing}", where=f"--{missing}",
            expected="one of the models listed above",
            hint="name both: --suspect NAME --teacher NAME; the others become the cohort",
        )
    logs = _Logs(imported, ", ".join(paths), tag_table(options["tags"]), options["tags"] or "--tags")
    tags = _each(options["teacher"], options["teacher_tags"])
    suspect = logs.subject(options["suspect"], options["suspect_tags"], "suspect")
    teachers = tuple(logs.subject(name, tags[place], "teacher") for place, name in enumerate(options["teacher"]))
    base = logs.subject(options["base"], options["base_tags"], "base") if options["base"] else None
    cohort = _load_cohort(options["cohort"]) if options["cohort"] else logs.cohort()
    logs.mention_unknown_tags()
    return _case(suspect, teachers, base, cohort, logs.remarks, loose=options["loose_protocol"])


def _case(
    suspect: Subject, teachers: tuple[Subject, ...], base: Subject | None, cohort: Cohort, remarks: Sequence[str], *,
    loose: bool,
) -> Case:
    known = {member.name: member for member in cohort.members}
    suspect, *rest = (_tagged(subject, known) for subject in (suspect, *teachers))
    teachers, base = tuple(rest), None if base is None else _tagged(base, known)
    names = [subject.name for subject in (suspect, *teachers, *([base] if base else []))]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            "two models of the comparison have one name", where="--teacher", got=repr(twice), expected="a name for each",
            hint="name them apart: --suspect-tags name=..., --teacher-tags name=...",
        )
    found = list(remarks)
    for role, subject in (("suspect", suspect), *(("teacher", teacher) for teacher in teachers)):
        member = subject.member
        if not (member.family or member.vendor or member.base):
            found.append(
                f"the {role} {subject.name} has no family, vendor or base tag: relatives that it may have in the cohort count as "
                "unrelated"
            )
        if subject is not suspect and not loose:
            _same_suites(suspect, subject)
    return Case(suspect=suspect, teachers=teachers, base=base, cohort=cohort, remarks=tuple(found))


def _load_cohort(folder: str) -> Cohort:
    """A cohort with one digest over its index and every file that the index names."""
    from wmcheck.cli.cohort import load
    from wmcheck.fingerprint.cohort import INDEX
    from wmcheck.fingerprint.transcript import digest

    cohort = load(folder)
    index = Path(cohort.source) / INDEX if Path(cohort.source).is_dir() else Path(cohort.source)
    names = sorted(entry["file"] for entry in json.loads(index.read_bytes())["members"])
    pinned = digest([[INDEX, _sha256(index)], *([name, _sha256(index.parent / name)] for name in names)])
    return replace(cohort, about={**cohort.about, "sha256": pinned})


def _tagged(subject: Subject, known: Mapping[str, Member]) -> Subject:
    """The subject with the tags that the cohort has for a model of its name, if it was given none."""
    tags = subject.member.to_dict().keys() - {"name", "kind"}
    return subject if tags or subject.name not in known else replace(subject, member=known[subject.name])


def _same_suites(one: Subject, other: Subject) -> None:
    """Say which suite differs, and how; that the protocols differ in other ways is found later."""
    mine, theirs = one.behaviour.protocol, other.behaviour.protocol
    if mine is None or theirs is None:
        return
    for name in mine.suites.keys() & theirs.suites.keys():
        if mine.suites[name] != theirs.suites[name]:
            raise InputError(
                f"the runs asked different editions of the suite {name!r}", where=other.behaviour.source,
                got=_edition(other, name), expected=f"{_edition(one, name)}, as in {one.behaviour.source}",
                hint="probe both with one release of wmcheck and one --seed, or pass --loose-protocol to compare what they share",
            )


def _edition(subject: Subject, name: str) -> str:
    protocol = subject.behaviour.protocol
    digest = f"digest {protocol.suites[name][:12]}" if protocol else ""
    for suite in subject.behaviour.evidence.get("suites") or ():
        if isinstance(suite, Mapping) and suite.get("name") == name:
            return f"version {suite.get('version')}, seed {suite.get('seed')}, {digest}"
    return digest


def _file_subject(path: str, tags: str | None, where: str) -> Subject:
    from wmcheck.fingerprint.behaviour import is_table, load_behaviour
    from wmcheck.fingerprint.observe import observe_run
    from wmcheck.fingerprint.runlog import load_run

    evidence: dict[str, Any] = {}
    if is_table(path):
        behaviour = load_behaviour(path)
    else:
        run = load_run(path)
        behaviour, evidence = observe_run(run), _evidence(run)
    evidence["sha256"] = _sha256(path)
    return _subject(replace(behaviour, evidence={**behaviour.evidence, **evidence}), tags, where)


def _sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _evidence(run: Run) -> dict[str, Any]:
    return {
        "suites": run.suites, "calls": run.calls, "failures": len(run.failures), **_tokens(run.transcripts),
    }


def _tokens(transcripts: Sequence[Transcript]) -> dict[str, int]:
    """Tokens where the source counts them."""
    names = ("prompt_tokens", "completion_tokens")
    return {
        name: sum(int(transcript.usage.get(name, 0)) for transcript in transcripts) for name in names
        if any(name in transcript.usage for transcript in transcripts)
    }


def _subject(behaviour: Behaviour, tags: str | None, where: str, known: Mapping[str, Any] | None = None) -> Subject:
    return tagged(behaviour, {**(known or {}), **(parse_tags(tags, where) if tags else {})}, where)


class _Logs:
    """Imported transcripts, model by model, with the tags of each."""

    def __init__(self, imported: Imported, source: str, tags: dict[str, dict[str, Any]], tags_source: str) -> None:
        self._imported, self._source, self._tags, self._tags_source = imported, source, tags, tags_source
        self._used: set[str] = set()
        self.remarks = list(imported.notes)
        if imported.problems:
            self.remarks.append(f"{len(imported.problems)} records of the logs could not be read")

    def subject(self, name: str, tags: str | None, role: str) -> Subject:
        """A model of the logs, or of a run log or behaviour table of that name."""
        if name not in self._imported.runs and Path(name).is_file():
            return _file_subject(name, tags, f"--{role}-tags")
        if name not in self._imported.runs:
            close = get_close_matches(name, self._imported.runs, n=3)
            raise ConfigError(
                "no such model in the logs", where=f"--{role}", got=repr(name),
                expected=", ".join(list(self._imported.runs)[:_SHOWN]),
                hint=f"did you mean {' or '.join(close)}?" if close else "without --suspect, the models found are listed",
            )
        self._used.add(name)
        return _subject(self._observe(name), tags, f"--{role}-tags" if tags else self._tags_source, self._tags.get(name))

    def cohort(self) -> Cohort:
        """Every other model."""
        from wmcheck.fingerprint.cohort import Cohort

        subjects = []
        for name in self._imported.runs:
            if name in self._used:
                continue
            try:
                behaviour = self._observe(name)
            except InputError as error:
                self.remarks.append(f"{name} is left out of the cohort: {error.what}")
                continue
            subjects.append(_subject(behaviour, None, self._tags_source, self._tags.get(name)))
        untagged = [subject.name for subject in subjects if not (subject.member.family or subject.member.vendor)]
        if untagged:
            self.remarks.append(
                f"{len(untagged)} of {len(subjects)} models of the cohort have no family or vendor tag, and count as unrelated "
                "to all others"
            )
        return Cohort(subjects=tuple(subjects), source=self._source, about={"name": "the other models of the logs"})

    def mention_unknown_tags(self) -> None:
        """Tags of models that the logs do not hold are a slip of the pen, or another log's."""
        for name in sorted(self._tags.keys() - self._imported.runs.keys()):
            click.echo(f"note: {self._tags_source}: no model {name!r} in the logs", err=True)

    def _observe(self, name: str) -> Behaviour:
        from wmcheck.fingerprint.observe import observe
        from wmcheck.fingerprint.transcript import digest

        transcripts = self._imported.runs[name]
        evidence: dict[str, object] = {
            "model": name, "answers": len(transcripts), "digest": digest([[*one.key, one.response] for one in transcripts]),
            **_tokens(transcripts),
        }
        return observe(name, transcripts, source=self._source, evidence=evidence)


def _list_models(imported: Imported) -> None:
    from wmcheck.watermark.core.writers import render_table

    rows = [{"model": name, "answers": str(len(run))} for name, run in imported.runs.items()]
    click.echo(render_table(rows, ("model", "answers")), err=True, nl=False)


def _each(names: Sequence[str], tags: Sequence[str]) -> list[str | None]:
    """The tags of each teacher, in the order of the options."""
    if tags and len(tags) != len(names):
        raise ConfigError(
            "tags for some teachers only", where="--teacher-tags", got=f"{len(tags)} for {len(names)} teachers",
            expected="one for each --teacher, in the same order",
        )
    return list(tags) if tags else [None] * len(names)
