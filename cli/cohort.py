"""``wmcheck cohort``: build, check and list the reference population of comparisons."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from wmcheck.cli.options import open_output
from wmcheck.cli.skipped import report
from wmcheck.cli.tags import tag_table, tagged

if TYPE_CHECKING:
    from wmcheck.fingerprint.behaviour import Behaviour
    from wmcheck.fingerprint.cohort import Cohort
    from wmcheck.fingerprint.cohort_check import CohortCheck

LAYOUTS = click.Choice(["table", "json", "md"])


@click.group()
def cohort() -> None:
    """Build and check the unrelated models that a suspect is compared against."""


@cohort.command()
@click.argument("folder")
@click.option("--format", "layout", type=LAYOUTS, default="table", show_default=True, help="Layout of the result.")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE instead of stdout.")
@click.option("--strict", is_flag=True, help="Exit with 3 if the cohort has a problem.")
def check(folder: str, layout: str, output: str | None, strict: bool) -> None:
    """Big enough? Drifted? Duplicates? FOLDER is a cohort folder, or 'bundled'."""
    from wmcheck.cli import exits
    from wmcheck.fingerprint.cohort_check import check_cohort

    found = check_cohort(load(folder))
    with open_output(output, [folder]) as out:
        if layout == "json":
            out.write(json.dumps(found.to_dict(), indent=2, ensure_ascii=False) + "\n")
        else:
            out.write(_text(found, layout))
    if strict and found.problems:
        raise click.exceptions.Exit(exits.INSUFFICIENT)


@cohort.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "-o", "--output", required=True, metavar="FOLDER", help="Cohort folder to write; members that are there already stay."
)
@click.option("--from", "adapter", metavar="FORMAT", help="SOURCEs are logs of this format; each model in them becomes a member.")
@click.option(
    "--tags", metavar="FILE",
    help='JSON object: member name -> {"family", "vendor", "base", "date", "teachers", "data", "kind", "same_as", "channel"}.',
)
def build(sources: tuple[str, ...], output: str, adapter: str | None, tags: str | None) -> None:
    """Add models to a cohort: run logs, behaviour tables, or the logs of other tools.

    Only decisions are stored, as labels and hashed choices; no text.
    """
    from pathlib import Path

    from wmcheck.fingerprint.cohort import INDEX, Cohort

    old = Cohort.load(output) if (Path(output) / INDEX).exists() else None
    behaviours = _behaviours(sources, adapter)
    known = tag_table(tags)
    fresh = [
        tagged(behaviour, {**known.pop(behaviour.model, {}), "name": behaviour.model}, tags or "tags") for behaviour in behaviours
    ]
    for name in sorted(known):
        click.echo(f"note: {tags}: no model {name!r} in the sources", err=True)
    names = {subject.name for subject in fresh}
    kept = [subject for subject in old or () if subject.name not in names]
    built = Cohort(subjects=(*kept, *fresh), source=output, about=old.about if old else {})
    built.save(output)
    untagged = [subject.name for subject in fresh if not subject.member.vendor]
    click.echo(f"{len(built)} models of {len(built.clusters)} vendors in {output}", err=True)
    if untagged:
        click.echo(f"note: without a vendor tag, and so taken as unrelated to all others: {', '.join(untagged)}", err=True)


@cohort.command()
@click.argument("folder")
@click.option("--format", "layout", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the N pairs with the highest LR.")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE instead of stdout.")
def pairs(folder: str, layout: str, limit: int | None, output: str | None) -> None:
    """Score every pair of FOLDER, each with an LR from a calibration that never saw its vendors."""
    from wmcheck.fingerprint.cohort_pairs import pair_rows
    from wmcheck.watermark.core.writers import render_table, write_csv

    rows = [row.to_dict() for row in pair_rows(load(folder))[:limit]]
    with open_output(output, [folder]) as out:
        if layout == "json":
            out.write(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
            return
        columns = list(rows[0]) if rows else ["one", "other", "relation", "log10_lr"]
        cells = [{name: _cell(value) for name, value in row.items()} for row in rows]
        if layout == "csv":
            write_csv(cells, columns, out)
        else:
            out.write(render_table(cells, columns))


@cohort.command()
@click.argument("folder")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(folder: str, as_json: bool) -> None:
    """List the members of FOLDER with their tags."""
    from wmcheck.watermark.core.writers import render_table

    group = load(folder)
    if as_json:
        click.echo(json.dumps([subject.member.to_dict() for subject in group], indent=2, ensure_ascii=False))
        return
    columns = ("name", "family", "vendor", "base", "date", "teachers", "kind", "channel", "decisions")
    rows = []
    for subject in group:
        values = {**subject.member.to_dict(), "decisions": sum(map(len, subject.behaviour.signatures.values()))}
        rows.append(
            {name: ", ".join(value) if isinstance(value := values.get(name, "-"), list) else str(value) for name in columns}
        )
    click.echo(render_table(rows, columns), nl=False)


def load(folder: str) -> Cohort:
    """The cohort in a folder, or the one that ships where the name is ``bundled``."""
    from wmcheck.fingerprint.bundled import cohort_folder
    from wmcheck.fingerprint.cohort import Cohort

    return Cohort.load(cohort_folder() if folder == "bundled" else folder)


def _behaviours(sources: tuple[str, ...], adapter: str | None) -> list[Behaviour]:
    from wmcheck.fingerprint.adapter import import_transcripts
    from wmcheck.fingerprint.cohort import load_subject_file
    from wmcheck.fingerprint.observe import observe
    from wmcheck.watermark.core.errors import InputError

    if adapter is None:
        return [load_subject_file(source) for source in sources]
    imported = import_transcripts(adapter, list(sources))
    report(imported.problems)
    found = []
    for name, transcripts in imported.runs.items():
        try:
            found.append(observe(name, transcripts, source=name))
        except InputError as error:
            click.echo(f"skipped: {error}", err=True)
    return found


def _text(found: CohortCheck, layout: str) -> str:
    from wmcheck.watermark.core.writers import render_markdown, render_table

    render = render_markdown if layout == "md" else render_table
    span = f"; release dates span {found.months} months" if found.months is not None else ""
    parts = [f"{found.models} models of {found.vendors} vendors, {found.lines} product lines{span}\n\n"]
    columns = (
        "signature",
        "usable",
        "pairs of one line or teacher",
        "unrelated pairs",
        "Cllr",
        "AUC",
        "log10 LR within",
        "p floor",
    )
    rows = []
    for one in found.signatures:
        bounds = "-" if one.bounds is None else f"{one.bounds[0]:.2f} to {one.bounds[1]:.2f}"
        rows.append({
            "signature": one.name, "usable": str(one.usable), "pairs of one line or teacher": f"{one.targets} ({one.examples})",
            "unrelated pairs": str(one.alternatives), "Cllr": "-" if one.validation is None else f"{one.validation.cllr:.3f}",
            "AUC": "-" if one.validation is None else f"{one.validation.auc:.3f}", "log10 LR within": bounds,
            "p floor": f"{one.p_floor:.3g}",
        })
    parts.append(render(rows, columns))
    parts.append("\nexamples: " + ", ".join(f"{name} {count}" for name, count in found.examples.items()) + "\n")
    for one in found.signatures:
        if one.excluded and one.primary:
            parts.append(f"{one.name} says nothing about {len(one.excluded)} models: " + _first(one.excluded) + "\n")
    parts += [f"problem: {problem}\n" for problem in found.problems] or ["no problem found\n"]
    parts += [f"advice: {advice}\n" for advice in found.advice]
    return "".join(parts)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _first(reasons: dict[str, str]) -> str:
    name, reason = next(iter(reasons.items()))
    return f"{name} ({reason})" + (", ..." if len(reasons) > 1 else "")
