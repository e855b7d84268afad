"""``wmcheck profile``: make and inspect watermark profiles."""

from __future__ import annotations

import json
import os

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
    """Make a profile for SCHEME: redgreen, gumbel, tournament or reweight."""
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
