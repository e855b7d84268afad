"""``wmcheck verify``: check a signed result step by step, and run its test again."""

from __future__ import annotations

import json
import tempfile
from typing import TYPE_CHECKING, Any

import click

from wmcheck.cli import exits
from wmcheck.cli.options import key_option, open_output

if TYPE_CHECKING:
    from wmcheck.cli.verification import Verification

SCHEMA = "wmcheck.verification/1"


@click.command()
@click.argument("bundle", metavar="BUNDLE")
@click.argument("more", nargs=-1, metavar="[PATH]...")
@click.option("--inputs", multiple=True, metavar="PATH...", help="The files and folders that were tested, under any name; "
              "of a folder, the files in it too.")
@key_option(multiple=True)
@click.option("--trust", multiple=True, metavar="FILE", help="Public key or certificate (.pub.pem) of a signer whom you trust.")
@click.option("--profile", "-p", multiple=True, metavar="FILE", help="The watermark profile as published, to compare with.")
@click.option("--tokenizer", metavar="PATH", help="The profile's tokenizer, if not where the profile says.")
@click.option("--tsa", multiple=True, metavar="FILE", help="Certificates (PEM) of timestamp authorities whom you trust.")
@click.option("--digits", type=click.IntRange(6, 16), metavar="N",
              help="Compare real numbers to N significant digits, where the mathematics library is another [default: all].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", metavar="FILE", help="Also write a page for people.")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, complete or not at all.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def verify(bundle: str, more: tuple[str, ...], **options: Any) -> int:
    """Check BUNDLE: signature, statement, inputs, key and profile, then run the test again and compare every number.

    Exit 0 only if all of it holds; 2 if anything does not, with what and where; 3 if something could not be checked, such as
    the test itself without the key.
    """
    from wmcheck.cli.verification import Verification

    paths = (*options["inputs"], *more)
    with open_output(options["output"], [bundle, *paths, *options["key"], *options["trust"]]) as out:
        with tempfile.TemporaryDirectory(prefix="wmcheck-") as folder:
            done = Verification(bundle, paths, options, folder)
            done.execute()
        out.write(_json(done) if options["as_json"] else _table(done))
        if options["html"]:
            _page(done, options["html"], [bundle, *paths])
    if done.conclusion == "REFUTED":
        click.echo(f"error: {done.sentence()}", err=True)
    return {"VERIFIED": exits.OK, "REFUTED": exits.INPUT, "INCOMPLETE": exits.INSUFFICIENT}[done.conclusion]


def _json(done: Verification) -> str:
    data = {
        "schema": SCHEMA, "bundle": done.path, "sha256": done.digest, "conclusion": done.conclusion,
        "signer": done.signer, "created": done.created, "steps": [step.to_dict() for step in done.steps],
    }
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _table(done: Verification) -> str:
    from wmcheck.watermark.core.errors import printable
    from wmcheck.watermark.core.writers import render_table

    rows = [{"step": step.name, "state": step.state, "detail": step.detail} for step in done.steps]
    text = render_table(rows, ("step", "state", "detail"))
    for step in done.steps:
        text += "".join(f"{step.name}: {printable(line)}\n" for line in step.more)
    return f"{text}\n{done.conclusion}: {printable(done.sentence())}\n"


def _page(done: Verification, path: str, inputs: list[str]) -> None:
    from wmcheck.watermark.evidence.page import render_page

    if done.sealed is None or done.statement is None:
        click.echo("no page: the bundle has no statement whose signature holds", err=True)
        return
    steps = [step.to_dict() for step in done.steps]
    said = f"{done.conclusion}. {done.sentence()}"
    text = render_page(done.sealed, done.statement, plan=done.plan, steps=steps, conclusion=said)
    with open_output(path, inputs) as out:
        out.write(text)
