"""``wmcheck compare``: weigh whether a model was trained on another's outputs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from wmcheck.cli.options import open_output

if TYPE_CHECKING:
    from wmcheck.cli.subjects import Case
    from wmcheck.fingerprint.comparison import Comparison
    from wmcheck.fingerprint.provenance import Settings

_SUFFIXES = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md", ".json": "json"}
_TAGS_HELP = "as KEY=VALUE, by comma: family, vendor, base, date, teachers (a+b), data, kind, same_as, channel; or @FILE (JSON)."


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="SUSPECT | LOGS...")
@click.option("--teacher", multiple=True, metavar="FILE", help="The teacher's run log or behaviour table; with --from, its name "
              "(repeatable: several teachers make one report).")
@click.option("--cohort", metavar="FOLDER", help="The unrelated models to compare against: a cohort folder, or 'bundled' "
              "[default: bundled; with --from, the other models of the logs].")
@click.option("--base", metavar="FILE", help="The suspect's base model, or its version before the training in question.")
@click.option("--from", "adapter", metavar="FORMAT", help="LOGS are those of another tool: inspect, bfcl, openai, anthropic, "
              "lm-eval, otel, labelled. No call is made.")
@click.option("--suspect", metavar="NAME", help="With --from: the suspect's name in the logs.")
@click.option("--tags", metavar="FILE", help="With --from: JSON object, model -> tags.")
@click.option("--suspect-tags", metavar="TAGS", help=f"What is known of the suspect, {_TAGS_HELP}")
@click.option("--teacher-tags", multiple=True, metavar="TAGS", help="The same of the teacher; once for each, in order.")
@click.option("--base-tags", metavar="TAGS", help="The same of the base.")
@click.option("--signature", "signatures", multiple=True, metavar="NAME",
              help="Use this signature only (repeatable) [default: all].")
@click.option("--draws", type=click.IntRange(min=40), default=400, show_default=True,
              help="Bootstrap resamples behind the intervals.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of bootstrap and sensitivity draws.")
@click.option("--family", type=click.IntRange(min=1), metavar="N",
              help="Comparisons of the whole investigation, if other suspects or teachers were tried too [default: those of "
              "this call].")
@click.option("--loose-protocol", is_flag=True, help="Compare runs made under different protocols, and say so.")
@click.option("--no-sensitivity", is_flag=True, help="Do not repeat the analysis under changed choices.")
@click.option("--format", "layout", type=click.Choice(["table", "json", "md", "html"]),
              help="Output format [default: by the ending of -o, else table].")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, complete or not at all.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def compare(paths: tuple[str, ...], **options: Any) -> None:
    """Compare the behaviour of SUSPECT with a teacher's, against unrelated models.

    The report gives the likelihood ratio of "the suspect's training data included outputs of the teacher" against every
    alternative that the cohort has examples of, the smallest first, and what is not excluded.
    """
    from wmcheck.cli.runs import run_record
    from wmcheck.fingerprint.provenance import Settings
    from wmcheck.fingerprint.reports.render import render

    _check(paths, options)
    settings = Settings(
        signatures=options["signatures"] or None, draws=options["draws"], seed=options["seed"],
        loose_protocol=options["loose_protocol"], sensitivity=not options["no_sensitivity"],
    )
    inputs = _inputs(paths, options)
    with open_output(options["output"], inputs) as out:
        case = _read(paths, options)
        found = [_compare(case, place, settings, quiet=options["quiet"]) for place in range(len(case.teachers))]
        layout = _layout(options)
        # Tags stand among the inputs, as texts or as files.
        run = run_record([name for name in inputs if os.path.exists(name)]) if layout == "json" else None
        out.write(render(found, layout, family=options["family"], run=run))


def _check(paths: tuple[str, ...], options: Mapping[str, Any]) -> None:
    """Options that contradict one another, before anything is read."""
    from wmcheck.fingerprint.adapter import ADAPTERS
    from wmcheck.fingerprint.signature import SIGNATURES
    from wmcheck.watermark.core.errors import ConfigError

    for name in options["signatures"]:
        if name not in SIGNATURES:
            raise ConfigError("no such signature", where="--signature", got=repr(name), expected=", ".join(SIGNATURES))
    if options["family"] is not None and options["family"] < len(options["teacher"]):
        raise ConfigError(
            "the family is smaller than what is compared here", where="--family", got=str(options["family"]),
            expected=f"at least {len(options['teacher'])}",
        )
    adapter = options["adapter"]
    if adapter is not None and adapter not in ADAPTERS:
        raise ConfigError("no such format", where="--from", got=repr(adapter), expected=", ".join(ADAPTERS))
    if adapter is None and len(paths) > 1:
        raise ConfigError(
            "one suspect at a time", where="SUSPECT", got=f"{len(paths)} files", expected="1",
            hint="logs of other tools need --from FORMAT; teachers are given with --teacher",
        )
    for name in ("suspect", "tags"):
        if adapter is None and options[name] is not None:
            raise ConfigError(f"--{name} names models in logs", where=f"--{name}", hint="say which logs: --from FORMAT LOGS...")


def _inputs(paths: tuple[str, ...], options: Mapping[str, Any]) -> list[str]:
    tags = [options["suspect_tags"], *options["teacher_tags"], options["base_tags"]]
    given = [*paths, *options["teacher"], options["base"], options["tags"], *(text.removeprefix("@") for text in tags if text)]
    return [name for name in given if name]


def _layout(options: Mapping[str, Any]) -> str:
    ending = os.path.splitext(options["output"] or "")[1].lower()
    return options["layout"] or _SUFFIXES.get(ending, "table")


def _read(paths: tuple[str, ...], options: Mapping[str, Any]) -> Case:
    from wmcheck.cli.subjects import read_files, read_logs

    return read_files(paths[0], options) if options["adapter"] is None else read_logs(paths, options)


def _compare(case: Case, place: int, settings: Settings, *, quiet: bool) -> Comparison:
    from wmcheck.fingerprint import provenance

    teacher = case.teachers[place]
    several = f"{teacher.name}: " if len(case.teachers) > 1 else ""

    def tell(text: str) -> None:
        if not quiet and sys.stderr.isatty():
            click.echo(f"{several}{text}", err=True)

    found = provenance.compare(case.suspect, teacher, case.cohort, base=case.base, settings=settings, progress=tell)
    names = set(found.cohort.get("names", ()))
    members = [member.to_dict() for member in case.cohort.members if member.name in names]
    return replace(found, downgrades=[*found.downgrades, *case.remarks], cohort={**found.cohort, "members": members})
