"""``wmcheck attest``: sign a result with all that it rests on, or a plan before the data are seen."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from wmcheck.cli.options import open_output

if TYPE_CHECKING:
    from wmcheck.watermark.evidence.bundle import Sealed
    from wmcheck.watermark.evidence.signing import Signer
    from wmcheck.watermark.evidence.statement import PlanStatement, ResultStatement

PASSPHRASE = "WMCHECK_SIGNER_PASSPHRASE"
_NEVER = "signers are never overwritten: choose another name"


@click.command()
@click.argument("result", required=False, metavar="[RESULT]")
@click.option("--sign", metavar="FILE", help="The signer's private key (PEM, Ed25519). An encrypted one asks for its passphrase, "
              f"or reads {PASSPHRASE}.")
@click.option("--plan", metavar="FILE", help="With RESULT: the signed plan that it kept to. Without: a plan (TOML) to sign.")
@click.option("--reveal-key", "reveal", multiple=True, metavar="SOURCE",
              help="Show this tenant's key in the bundle, so that anyone can run the test again.")
@click.option("--timestamp", metavar="URL|FILE", help="RFC 3161: ask this authority, or add its reply from a file to a bundle.")
@click.option("--html", metavar="FILE", help="Also write a page for people.")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, complete or not at all.")
@click.option("--new-signer", metavar="FILE", help="Make a signer: FILE (0600) and FILE with .pub.pem at its end.")
@click.option("--passphrase", is_flag=True, help="With --new-signer: encrypt it under a passphrase.")
@click.option("--valid-days", type=click.IntRange(1, 36500), metavar="N",
              help="With --new-signer: a certificate; signatures hold for N days.")
@click.option("--name", default="", help="With --valid-days: the signer's name in it.")
@click.pass_context
def attest(ctx: click.Context, /, result: str | None, **options: Any) -> None:
    """Sign RESULT, a JSON result of check, trace, radioactivity, compare or reduce.

    The bundle holds the result, the digests of its inputs, the profile, commitments of keys, the command line, software versions
    and every correction. 'wmcheck verify' checks it and runs the test again. RESULT may be a bundle or a signed plan, to add a
    timestamp to it.
    """
    if options["new_signer"]:
        _new_signer(options)
        return
    for name in ("passphrase", "valid_days", "name"):
        if options[name]:
            raise click.UsageError(f"--{name.replace('_', '-')} belongs to --new-signer", ctx)
    if result is None and not options["plan"]:
        raise click.UsageError("nothing to sign: give RESULT, or --plan FILE", ctx)
    if not options["sign"]:
        raise click.UsageError("no signer: give --sign FILE", ctx)
    if result is None and (options["html"] or options["reveal"]):
        raise click.UsageError("--html and --reveal-key belong to a result", ctx)
    inputs = [name for name in (result, options["sign"], options["plan"], *options["reveal"]) if name]
    with open_output(options["output"], inputs) as out:
        out.write(_signed(result, options, inputs).to_bytes().decode("ascii"))


def _signed(result: str | None, options: Mapping[str, Any], inputs: Sequence[str]) -> Sealed:
    from wmcheck.watermark.evidence.bundle import BUNDLE, PLAN, Sealed, read_bytes
    from wmcheck.watermark.evidence.strict import parse

    signer = _signer(options["sign"])
    statement: PlanStatement | ResultStatement
    if result is None:
        from wmcheck.cli.planned import read_plan

        statement = read_plan(options["plan"], signer.identity, _now())
        return _stamped(Sealed(PLAN, signer.sign(statement.payload())), signer, options["timestamp"])
    data = read_bytes(result)
    found = parse(data, result)
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema in (BUNDLE, PLAN):
        return _add_timestamp(Sealed.parse(data, schema, result), signer, options, result)
    statement = _statement(found, result, signer, options)
    sealed = _stamped(Sealed(BUNDLE, signer.sign(statement.payload())), signer, options["timestamp"])
    if options["html"]:
        from wmcheck.watermark.evidence.page import render_page

        page = render_page(sealed, statement, plan=_plan_of(statement))
        with open_output(options["html"], [*inputs, *filter(None, [options["output"]])]) as out:
            out.write(page)
    return sealed


def _plan_of(statement: ResultStatement) -> PlanStatement | None:
    from wmcheck.watermark.evidence.statement import PlanStatement

    return None if statement.plan is None else PlanStatement.parse(statement.plan.envelope.payload, "plan")


def _statement(found: Any, where: str, signer: Signer, options: Mapping[str, Any]) -> ResultStatement:
    """The statement of a result, if it can be run again."""
    from wmcheck.watermark.core.errors import InputError
    from wmcheck.watermark.evidence.statement import ResultStatement, check_inputs, signer_of
    from wmcheck.watermark.evidence.summary import summarize

    run = found.get("run") if isinstance(found, dict) else None
    if not isinstance(run, dict) or not isinstance(run.get("inputs"), list):
        raise InputError(
            "no result that says how it was made", where=where, got="no field 'run'", expected="a JSON result of a test",
            hint="make one with: wmcheck check suspect.jsonl ... --json -o result.json",
        )
    if found.get("complete") is False:
        raise InputError("the run stopped before its end", where=where, got="complete: false", expected="a complete result")
    result = {name: value for name, value in found.items() if name != "run"}
    check_inputs(run["inputs"], f"{where}, run")
    _check_now(run["inputs"], where)
    summary = summarize(result)
    statement = ResultStatement(
        _now(), result, run, _profiles(run, where), [_revealed(source, summary, where) for source in options["reveal"]], summary,
        _plan(options["plan"], signer), signer_of(signer.identity),
    )
    # What a reader will refuse is not signed.
    checked = ResultStatement.parse(statement.payload(), where)
    _warn(checked)
    if checked.plan is not None:
        _check_plan(checked, options["plan"])
    return checked


def _check_now(inputs: Sequence[Mapping[str, Any]], where: str) -> None:
    from wmcheck.watermark.core.errors import InputError, printable
    from wmcheck.watermark.evidence.digests import digest_path

    for one in inputs:
        if not os.path.exists(one["name"]):
            click.echo(f"warning: {printable(one['name'])}: not at hand; its digest is that of the result", err=True)
            continue
        now = digest_path(one["name"])
        if {"name": one["name"], **now.to_dict()} != one:
            raise InputError(
                "the input changed after the test", where=one["name"], got=f"SHA-256 {now.sha256}", expected=str(one["sha256"]),
                hint=f"run the test that made {where} again",
            )


def _profiles(run: Mapping[str, Any], where: str) -> list[dict[str, str]]:
    """Names, digests and texts of the watermark profiles of a run."""
    from wmcheck.cli.replay import options
    from wmcheck.watermark.core.errors import InputError

    digests = {one["name"]: one["sha256"] for one in run["inputs"]}
    found = []
    for name in dict.fromkeys(options(run["argv"], run["settings"]).get("profile", [])):
        try:
            with open(name, encoding="utf-8", newline="") as file:
                text = file.read()
        except (OSError, ValueError) as error:
            got = getattr(error, "strerror", None) or type(error).__name__
            hint = "attest the result where its profile is"
            raise InputError("cannot read the profile", where=name, got=got, hint=hint) from None
        if name not in digests:
            raise InputError("the profile is not among the inputs", where=f"{where}, run", got=name)
        found.append({"name": name, "sha256": digests[name], "text": text})
    return found


def _revealed(source: str, summary: Mapping[str, Any], where: str) -> dict[str, str]:
    from wmcheck.watermark.core.errors import KeyFileError
    from wmcheck.watermark.keys import TenantKey, load_key

    key = load_key(source)
    if not isinstance(key, TenantKey):
        raise KeyFileError(
            "a root key is not shown: it would expose every tenant", where=source, got="a root key", expected="a tenant's key",
            hint="derive one with: wmcheck key tenant NAME --key SOURCE -o tenant.wmk",
        )
    if key.commitment not in summary["commitments"]:
        raise KeyFileError(
            "the key was not tested", where=source, got=f"commitment {key.commitment}",
            expected=f"one of {where}: {', '.join(summary['commitments'])}"[:300],
        )
    return {"id": key.id, "commitment": key.commitment, "key": key.reveal()}


def _warn(statement: ResultStatement) -> None:
    from wmcheck.watermark.evidence.summary import objects

    rooted = any(one.get("key_committed") == "root" for one in objects(statement.result))
    if statement.revealed and rooted:
        click.echo(
            "warning: the profile commits to the root key alone; who has the shown key can run the test again, but not check "
            "that commitment (hint: publish the tenant's: 'wmcheck key commit --tenant NAME')", err=True,
        )


def _plan(path: str | None, signer: Signer) -> Sealed | None:
    from wmcheck.watermark.evidence.bundle import PLAN, Sealed

    if path is None:
        return None
    sealed = Sealed.load(path, PLAN)
    sealed.check(signer.identity, path)
    return sealed


def _check_plan(statement: ResultStatement, path: str) -> None:
    from wmcheck.cli.planned import departures
    from wmcheck.watermark.core.errors import InputError

    plan = _plan_of(statement)
    assert plan is not None
    for one in departures(plan, statement):
        raise InputError(
            "the result was not made as planned", where=f"{path}: {one.where}", got=one.got, expected=one.expected,
            hint="attest it without the plan, which is then said in the bundle",
        )


def _stamped(sealed: Sealed, signer: Signer, source: str | None) -> Sealed:
    """What was just signed, with a timestamp if one is asked for."""
    from wmcheck.watermark.core.errors import ConfigError
    from wmcheck.watermark.evidence.timestamp import ADDRESSES, fetch

    if source is None:
        return sealed
    if not source.startswith(ADDRESSES):
        raise ConfigError(
            "a reply is over a bundle that exists", where="--timestamp", got=source[:80], expected="http(s)://...",
            hint="sign first; then 'wmcheck attest bundle.json --sign FILE --timestamp reply.tsr -o stamped.json'",
        )
    return sealed.stamped(fetch(source, sealed.envelope.signature), signer)


def _add_timestamp(sealed: Sealed, signer: Signer, options: Mapping[str, Any], where: str) -> Sealed:
    """A bundle or plan with a timestamp from an authority, or from a file."""
    import hashlib

    from wmcheck.watermark.core.errors import ConfigError
    from wmcheck.watermark.evidence.bundle import read_bytes
    from wmcheck.watermark.evidence.timestamp import ADDRESSES, fetch, read

    source, signature = options["timestamp"], sealed.envelope.signature
    if source is None or options["plan"] or options["html"] or options["reveal"]:
        imprint = hashlib.sha256(signature).hexdigest()
        raise ConfigError(
            "this is signed already", where=where, expected="--timestamp and -o alone",
            hint=f"a request for an authority: openssl ts -query -sha256 -cert -digest {imprint} -out request.tsq",
        )
    sealed.check(signer.identity, where)
    if source.startswith(ADDRESSES):
        return sealed.stamped(fetch(source, signature), signer)
    reply = read_bytes(source)
    read(reply, signature, source)
    return sealed.stamped(reply, signer)


def _new_signer(options: Mapping[str, Any]) -> None:
    from wmcheck.watermark.core.errors import ConfigError, OutputError
    from wmcheck.watermark.evidence.signing import Signer
    from wmcheck.watermark.key_sources import write_secret

    path = options["new_signer"]
    public = public_name(path)
    if options["name"] and options["valid_days"] is None:
        raise ConfigError("only a certificate has a name", where="--name", hint="add --valid-days N")
    if os.path.exists(public):
        raise OutputError("the file exists", where=public, hint=_NEVER)
    secret = os.environ.get(PASSPHRASE, "").encode()
    if options["passphrase"] and not secret:
        secret = click.prompt("passphrase", hide_input=True, confirmation_prompt=True, err=True).encode()
    signer = Signer.new()
    text = signer.public_pem(name=options["name"], days=options["valid_days"])
    write_secret(signer.private_pem(secret or None), path, what="the private key", hint=_NEVER)
    with open_output(public, [path]) as out:
        out.write(text)
    click.echo(f"wrote {path} (secret) and {public}: signer {signer.identity.id}")


def public_name(path: str) -> str:
    """Where the public half of a signer stands."""
    return f"{path.removesuffix('.pem')}.pub.pem"


def _signer(path: str) -> Signer:
    """The signer behind a file, unless its certificate beside it does not hold today.

    Raises:
        KeyFileError: see :meth:`Signer.load`.
        InputError: an expired certificate.
    """
    from wmcheck.watermark.evidence.signing import Identity, Signer

    def ask() -> bytes:
        known = os.environ.get(PASSPHRASE)
        return (click.prompt("passphrase", hide_input=True, err=True) if known is None else known).encode()

    signer = Signer.load(path, ask)
    public = public_name(path)
    if os.path.isfile(public):
        identity = Identity.load(public)
        if identity.id == signer.identity.id:
            identity.check_time(_now(), public)
    return signer


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
