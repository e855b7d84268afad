"""``wmcheck audit-prf``: the weaknesses of keyed functions, measured."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from wmcheck.cli.options import open_output

if TYPE_CHECKING:
    from wmcheck.watermark.audit_words import Audited

SECONDS = 20.0


@click.command("audit-prf")
@click.argument("contracts", nargs=-1, metavar="[CONTRACT]...")
@click.option("--all", "every", is_flag=True, help="Every scheme of ours and every contract of a peer.")
@click.option("--windows", type=click.IntRange(min=1000), default=1_000_000, show_default=True, metavar="N",
              help="(Context, token) pairs to score at most; slow functions get fewer, and the output says how many.")
@click.option("--seconds", type=click.FloatRange(min=0.0), default=SECONDS, show_default=True,
              help="About how long a function may take; 0 for as long as --windows needs, and the same figures on any machine.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of what is drawn, keys included.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Parameter of the one named contract (repeatable).")
@click.option("--format", "layout", type=click.Choice(["table", "json", "md"]), default="table", show_default=True,
              help="Output format.")
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, complete or not at all.")
@click.option("-v", "--verbose", is_flag=True, help="Report every check on stderr, and print what each figure stands on.")
def audit_prf(contracts: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Measure what p-values take for granted about the keyed functions CONTRACT...

    No key is read: random keys are drawn from --seed, and keys that are related to them.
    """
    from wmcheck.watermark.audit import audit

    names = _names(contracts, every=options["every"])
    parameters = _parameters(options["settings"], names)
    with open_output(options["output"], ()) as out:
        found = []
        for place, name in enumerate(names):
            tell = _teller(f"{name} ({place + 1} of {len(names)})", verbose=options["verbose"])
            found.append(audit(
                name, parameters, windows=options["windows"], seed=options["seed"], seconds=options["seconds"], progress=tell,
            ))
        layout = "json" if as_json else options["layout"]
        out.write(_json(found, names, parameters, options) if layout == "json" else _text(found, layout, options))


def _names(given: Sequence[str], *, every: bool) -> list[str]:
    from wmcheck.watermark.audit import contracts
    from wmcheck.watermark.core.errors import ConfigError

    known = contracts()
    for name in given:
        if name not in known:
            from difflib import get_close_matches

            close = get_close_matches(name, known, n=1)
            raise ConfigError(
                "no such contract", where="CONTRACT", got=repr(name)[:80], expected=", ".join(known),
                hint=f"did you mean {close[0]}?" if close else "",
            )
    if not given and not every:
        raise ConfigError("no contract", where="CONTRACT", expected=", ".join(known), hint="name some, or give --all")
    return known if every else list(dict.fromkeys(given))


def _parameters(settings: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    from wmcheck.watermark.core.errors import ConfigError

    found = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError("not a parameter", where="--set", got=repr(text)[:80], expected="NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    if found and len(names) != 1:
        raise ConfigError("parameters belong to one contract", where="--set", got=f"{len(names)} contracts", expected="1")
    return found


def _teller(name: str, *, verbose: bool) -> Callable[[str], None]:
    def tell(check: str) -> None:
        if verbose or (check == "sample" and sys.stderr.isatty()):
            click.echo(f"auditing {name}" + (f": {check}" if verbose else ""), err=True)

    return tell


def _text(found: Sequence[Audited], layout: str, options: Mapping[str, Any]) -> str:
    from wmcheck.watermark.audit_words import NOTE, row
    from wmcheck.watermark.core.writers import render_markdown, render_table

    rows = [row(one) for one in found]
    table = (render_markdown if layout == "md" else render_table)(rows, list(rows[0]))
    bullet = ("- **{}**: {}." if layout == "md" else "{}: {}.").format
    lines = [table, NOTE, f"Random keys of seed {options['seed']}; no key was read.", ""]
    if layout == "md":
        limit = "without a limit of time" if not options["seconds"] else f"about {options['seconds']:g} s a function"
        lines.insert(0, f"`wmcheck audit-prf`, at most {options['windows']:,} pairs, {limit}.\n")
    lines += [bullet(one.name, one.consequence) for one in found]
    if options["verbose"]:
        lines += ["", *(_basis(one) for one in found)]
    return "\n".join(lines) + "\n"


def _basis(one: Audited) -> str:
    """Every figure of a function and what it stands on."""
    whose = f"{one.project} {one.version}".rstrip()
    lines = [f"{one.name}: {whose}, {one.prf}, {json.dumps(dict(one.parameters))}; p holds if {one.ideal}."]
    for finding in one.findings:
        shown = finding.to_dict()
        rest = {name: value for name, value in shown.items() if name not in ("check", "state", "words")}
        lines.append(f"  {finding.check}: {finding.state}; {json.dumps(rest)}")
    return "\n".join(lines)


def _json(found: Sequence[Audited], names: Sequence[str], parameters: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    from wmcheck import __version__
    from wmcheck.watermark.audit_words import SCHEMA

    settings = {name: options[name] for name in ("windows", "seconds", "seed")}
    data = {
        "schema": SCHEMA, "complete": True, "functions": [one.to_dict() for one in found],
        "configuration": {"version": __version__, "contracts": list(names), "parameters": dict(parameters), **settings},
    }
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"
