"""``wmcheck key``: make, show, derive, commit to and check secret keys. Secrets go to files, never to the screen."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from wmcheck.cli.options import key_option, load_keys

if TYPE_CHECKING:
    from wmcheck.watermark.keys import SecretKey, TenantKey

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def key() -> None:
    """Make and inspect secret keys. No command prints a secret."""


@key.command()
@click.option("-o", "--output", required=True, metavar="FILE", help="New key file, mode 0600; never overwritten.")
@JSON
def new(output: str, as_json: bool) -> None:
    """Make a root key from the system's secure generator."""
    from wmcheck.watermark.key_sources import write_key_file
    from wmcheck.watermark.keys import SecretKey

    made = SecretKey.new()
    write_key_file(made, output)
    _print({"file": output, **_public(made)}, as_json)


@key.command()
@key_option(multiple=False)
@JSON
def show(key: str | None, as_json: bool) -> None:
    """Print the public identity of a key: id, commitment, tenant."""
    _print(_public(_load(key)), as_json)


@key.command()
@click.argument("name")
@key_option(multiple=False)
@click.option("--epoch", default="", help="Epoch of the tenant's key.")
@click.option("-o", "--output", metavar="FILE", help="Write the tenant's own key file, e.g. for an auditor.")
@JSON
def tenant(name: str, key: str | None, epoch: str, output: str | None, as_json: bool) -> None:
    """Derive the key of tenant NAME from a root key."""
    from wmcheck.watermark.key_sources import write_key_file
    from wmcheck.watermark.keys import as_tenant

    derived = as_tenant(_load(key), name, epoch)
    if output:
        write_key_file(derived, output)
    _print({**({"file": output} if output else {}), **_public(derived)}, as_json)


@key.command()
@key_option(multiple=False)
@click.option("--tenant", "tenants", multiple=True, help="Commit to tenants of a root key instead.")
@click.option("--epoch", default="", help="Epoch of the tenants' keys.")
@JSON
def commit(key: str | None, tenants: tuple[str, ...], epoch: str, as_json: bool) -> None:
    """Print commitments to publish before the key is used."""
    from wmcheck.watermark.keys import as_tenant

    loaded = _load(key)
    derived: list[SecretKey | TenantKey] = [as_tenant(loaded, name, epoch) for name in tenants]
    keys = derived or [loaded]
    rows = [{"tenant": one.tenant_name, "epoch": one.epoch, "id": one.id, "commitment": one.commitment} for one in keys]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        click.echo(f"{row['commitment']}  {row['id']}  {row['tenant'] or '-'}")


@key.command("check")
@key_option(multiple=False)
@click.option("--commitment", help="Published commitment that the key must match.")
@JSON
def check_key(key: str | None, commitment: str | None, as_json: bool) -> None:
    """Check that a key is well formed, strong, unaltered and (with --commitment) the committed one."""
    from wmcheck.watermark.core.errors import KeyFileError

    loaded = _load(key)
    wanted = None if commitment is None else commitment.strip().lower()
    matches = None if wanted is None else loaded.commitment == wanted
    _print({**_public(loaded), "sound": True, "matches_commitment": matches}, as_json)
    if wanted is not None and not matches:
        short = len(wanted) < len(loaded.commitment) and loaded.commitment.startswith(wanted)
        raise KeyFileError(
            "the key is not the committed one", where="--commitment", got=wanted[:80], expected=loaded.commitment,
            hint="give all 64 digits of the commitment" if short else
            "another key, tenant or epoch? 'wmcheck key commit --tenant NAME' prints a tenant's commitment",
        )


def _load(source: str | None) -> SecretKey | TenantKey:
    return load_keys([source] if source else [])[0]


def _public(key: SecretKey | TenantKey) -> dict[str, Any]:
    from wmcheck.watermark.keys import SecretKey

    kind = "root" if isinstance(key, SecretKey) else "tenant"
    named = {} if kind == "root" else {"tenant": key.tenant_name, "epoch": key.epoch}
    return {"kind": kind, **named, "id": key.id, "commitment": key.commitment}


def _print(fields: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(fields, indent=1))
        return
    for name, value in fields.items():
        if value is not None:
            shown = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value or "-"
            click.echo(f"{name:<20}{shown}")
