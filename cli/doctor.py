"""``wmcheck doctor``: is this installation, and a running server, what the profile says?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from wmcheck.cli import exits
from wmcheck.cli.options import read_secret

if TYPE_CHECKING:
    from wmcheck.watermark.serving.doctor import Finding


@click.command()
@click.option("--serving", metavar="FILE", envvar="WMCHECK_SERVING",
              help="Serving file to check, with the processes that run under it.")
@click.option("--tokenizer", metavar="PATH", help="The engine's tokenizer or model folder, compared with the profile's.")
@click.option("--url", metavar="URL", help="Also ask the running server (OpenAI protocol, ends in /v1) for marked texts.")
@click.option("--model", metavar="NAME", help="Model name there.")
@click.option("--tenant", metavar="NAME", help="Tenant to ask as; the default tenant otherwise.")
@click.option("--field", type=click.Choice(["vllm_xargs", "custom_params"]), default="vllm_xargs", show_default=True,
              help="Where the server takes parameters of plug-ins: vLLM, SGLang.")
@click.option("--channel", type=click.Choice(["completion", "chat"]), default="completion", show_default=True)
@click.option("--answers", type=click.IntRange(1, 64), default=4, show_default=True, help="Texts of 256 tokens to ask for.")
@click.option("--api-key-source", metavar="SOURCE", help="Where the server's API key is: env:NAME or file:PATH.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(
    serving: str | None, tokenizer: str | None, url: str | None, model: str | None, tenant: str | None, field: str, channel: str,
    answers: int, api_key_source: str | None, as_json: bool,
) -> int:
    """Check the installed engines; with --serving a deployment and its processes; with --url what the server answers.

    Exit code 0: nothing failed (warnings may be printed). 2: something failed.
    """
    from wmcheck.watermark.core.errors import ConfigError
    from wmcheck.watermark.serving.doctor import FAIL, environment
    from wmcheck.watermark.serving.doctor import serving as check_serving

    if url and not (serving and model):
        expected = "--serving FILE and --model NAME"
        raise ConfigError("asking a server needs to know what to expect", where="--url", expected=expected)
    findings = list(environment())
    if serving:
        findings += check_serving(serving, tokenizer=tokenizer)
    if url and not any(one.check == "serving file" for one in findings):
        findings += _live(
            str(serving), api_key_source, url=url, model=str(model), tenant=tenant, field=field, channel=channel, answers=answers
        )
    failed = sum(one.status == FAIL for one in findings)
    _print(findings, failed, as_json)
    return exits.INPUT if failed else exits.OK


def _live(serving: str, api_key_source: str | None, **settings: Any) -> Iterator[Finding]:
    from wmcheck.cli.doctor_live import LiveCheck
    from wmcheck.watermark.serving.deployment import Deployment

    click.echo(f"asking {settings['url']} for {settings['answers']} texts", err=True)
    secret = read_secret(api_key_source, "--api-key-source") if api_key_source else None
    yield from LiveCheck(Deployment.load(serving), api_key=secret, **settings).run()


def _print(findings: list[Finding], failed: int, as_json: bool) -> None:
    if as_json:
        rows = [{"check": one.check, "status": one.status, "detail": one.detail, "hint": one.hint} for one in findings]
        click.echo(json.dumps({"schema": "wmcheck.doctor/1", "failed": failed, "findings": rows}, indent=1))
        return
    from wmcheck.watermark.core.writers import render_table

    names = ("check", "status", "detail")
    click.echo(render_table([{name: getattr(one, name) for name in names} for one in findings], names), nl=False)
    for one in findings:
        if one.hint:
            click.echo(f"{one.check}: {one.detail}\n  hint: {one.hint}", err=True)
