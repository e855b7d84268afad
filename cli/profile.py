"""``wmcheck profile``: make and inspect watermark profiles."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from wmcheck.cli.options import key_option, load_keys


@click.group()
def profile() -> None:
    """Make and inspect watermark profiles: the public contract between embedding and detection."""


@profile.command()
@click.argument("scheme")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Scheme parameter, e.g. --set width=4.")
@click.option("--tokenizer", envvar="WMCHECK_TOKENIZER", metavar="PATH",
              help="Tokenizer of the deployment [default: the bundled model's].")
@click.option("--entropy-bits", type=float, help="Typical entropy a token; decides what is INSUFFICIENT.")
@click.option("--commit-to", multiple=True, metavar="SOURCE", help="Publish this key's commitment in the profile.")
@click.option("-o", "--output", required=True, metavar="FILE", help="New profile; never overwritten.")
def new(
    scheme: str, settings: tuple[str, ...], tokenizer: str | None, entropy_bits: float | None,
    commit_to: tuple[str, ...], output: str,
) -> None:
    """Make a profile for SCHEME: redgreen, gumbel, tournament or reweight.

    The contracts of other projects' watermarks work too: 'wmcheck profile contracts' lists them. Their texts are detected, not
    made.
    """
    from wmcheck.watermark.bundled import DEFAULT_MODEL
    from wmcheck.watermark.core.errors import OutputError
    from wmcheck.watermark.profile import DEFAULT_ENTROPY_BITS, Profile
    from wmcheck.watermark.tokenizer import load_tokenizer

    if os.path.lexists(output):
        raise OutputError("the file exists", where=output, hint="texts in use may depend on it: choose another name")
    made = Profile.create(
        scheme, _parameters(settings), tokenizer=load_tokenizer(tokenizer or DEFAULT_MODEL),
        entropy_bits=DEFAULT_ENTROPY_BITS if entropy_bits is None else entropy_bits,
        keys=tuple(load_keys(commit_to)) if commit_to else (),
    )
    Profile.from_dict(made.to_dict(), where=output)
    made.save(output)
    click.echo(f"wrote {output}: {scheme} {json.dumps(dict(made.parameters))}", err=True)


@profile.command()
@click.argument("path")
@key_option(multiple=False)
def show(path: str, key: str | None) -> None:
    """Print a profile as JSON, after checking it; with --key also whether it commits to that key."""
    from wmcheck.watermark.keys import as_tenant
    from wmcheck.watermark.profile import Profile

    loaded = Profile.load(path)
    data = loaded.to_dict()
    if key:
        root = load_keys([key])[0]
        data["commits_to_key"] = loaded.commits_to(as_tenant(root), root)
    click.echo(json.dumps(data, indent=2))


@profile.command("import")
@click.argument("path", metavar="FILE")
@click.option("-o", "--output", required=True, metavar="FILE", help="New profile, without any key; never overwritten.")
@click.option("--key-out", metavar="FILE", help="Write the configuration's key there, mode 0600; never overwritten.")
@click.option("--contract", metavar="NAME", help="Whose watermark it is, where the file does not say; see 'profile contracts'.")
@click.option("--tokenizer", envvar="WMCHECK_TOKENIZER", metavar="PATH",
              help="Tokenizer of the deployment; without one only recorded token ids can be tested.")
@click.option("--vocabulary", type=click.IntRange(2, 2**31), metavar="N",
              help="Width of the model's logits, for contracts that depend on it.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Another parameter of the contract.")
@click.option("--entropy-bits", type=float, help="Typical entropy a token; decides what is INSUFFICIENT.")
def import_config(
    path: str, output: str, key_out: str | None, contract: str | None, tokenizer: str | None, vocabulary: int | None,
    settings: tuple[str, ...], entropy_bits: float | None,
) -> None:
    """Split another project's watermark configuration into a public profile and a secret key.

    Reads generation_config.json of transformers, configurations of synthid-text, vLLM, SGLang and MarkLLM, and command
    lines or settings files with --watermark-config.
    """
    from wmcheck.watermark.core.errors import ConfigError, OutputError, printable
    from wmcheck.watermark.imports import read_config
    from wmcheck.watermark.key_sources import write_secret
    from wmcheck.watermark.profile import DEFAULT_ENTROPY_BITS, Profile
    from wmcheck.watermark.tokenizer import load_tokenizer

    for name in (output, key_out):
        if name is not None and os.path.lexists(name):
            raise OutputError("the file exists", where=name, hint="choose another name or move it away")
    if key_out is not None and os.path.abspath(key_out) == os.path.abspath(output):
        raise ConfigError("the key and the profile in one file", where="--key-out", got=key_out, expected="another file")
    found, key = read_config(path, contract=contract, vocabulary=vocabulary)
    if key is None and key_out is not None:
        raise ConfigError("the configuration has no key", where=path, hint="leave out --key-out")
    made = Profile.create(
        found.contract, {**found.parameters, **_parameters(settings)},
        tokenizer=None if tokenizer is None else load_tokenizer(tokenizer),
        entropy_bits=DEFAULT_ENTROPY_BITS if entropy_bits is None else entropy_bits,
    )
    Profile.from_dict(made.to_dict(), where=output)
    if key is not None and key_out is not None:
        write_secret(f"# SECRET, do not share or commit: a key of {made.contract}, id {key.id}\n{found.secret}\n", key_out,
                     what="the key file")
    made.save(output)
    for note in found.notes:
        click.echo(f"warning: {printable(path)}: {printable(note)}", err=True)
    click.echo(f"wrote {output}: {found.contract} ({made.contract}) {json.dumps(dict(made.parameters))}", err=True)
    if key is None:
        click.echo("the configuration has no key: check with --key file:PATH, a file that holds the key of the server", err=True)
    elif key_out is not None:
        click.echo(f"wrote {key_out}: its key, id {key.id}, mode 0600; check with --key file:{key_out}", err=True)
    else:
        click.echo("its key was not written: --key-out FILE does, into a file that only you can read", err=True)


@profile.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def contracts(as_json: bool) -> None:
    """List the schemes that wmcheck embeds, and the contracts of other projects' watermarks that it detects."""
    from wmcheck.watermark.core.writers import render_table
    from wmcheck.watermark.peer import PEERS
    from wmcheck.watermark.scheme import SCHEMES

    rows = [_own(name) for name in SCHEMES] + [_peer(name) for name in PEERS]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    words = {True: "yes", False: "no", None: "-"}
    shown = [{**row, "unbiased": words[row["unbiased"]], "version": row["version"] or "-"} for row in rows]
    click.echo(render_table(shown, ("name", "project", "version", "unbiased", "key", "source")), nl=False)


def _own(name: str) -> dict[str, Any]:
    import inspect

    from wmcheck.watermark.scheme import SCHEMES

    kind = SCHEMES[name]
    source = (inspect.getdoc(inspect.getmodule(kind)) or "").split("\n")[0].rstrip(".")
    return {"name": name, "project": "wmcheck", "version": None, "unbiased": kind.unbiased, "key": "wmk1_...", "source": source}


def _peer(name: str) -> dict[str, Any]:
    import numpy as np

    from wmcheck.watermark.peer import PEERS

    try:
        kind = PEERS[name]
        key = kind(**kind.examples()[0]).draw(np.random.default_rng(0)).shape
    except Exception as error:  # a contract of somebody else that does not load must not hide the others
        reason = f"cannot be loaded: {type(error).__name__}"
        return {"name": name, "project": "-", "version": None, "unbiased": None, "key": "-", "source": reason}
    return {
        "name": name, "project": kind.project, "version": kind.version, "unbiased": kind.unbiased, "key": key,
        "source": kind.source,
    }


def _parameters(settings: tuple[str, ...]) -> dict[str, object]:
    from wmcheck.watermark.core.errors import ConfigError

    found: dict[str, object] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise ConfigError("not a setting", where="--set", got=setting, expected="NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
