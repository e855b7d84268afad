"""``wmcheck probe``: ask a model the probe suites and log every answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from wmcheck.cli import exits
from wmcheck.cli.options import read_secret

if TYPE_CHECKING:
    from wmcheck.fingerprint.collect import Collector, Pace
    from wmcheck.fingerprint.endpoint import Endpoint
    from wmcheck.fingerprint.probe import ProbeProtocol, Suite
    from wmcheck.fingerprint.runlog import Run

OUR_KEY = "env:OPENAI_API_KEY"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command()
@click.option("--endpoint", metavar="URL", help="OpenAI-compatible server, usually ending in /v1; or NAME:ADDRESS of a "
              "registered endpoint, as replay:FILE. Without it the model runs here.")
@click.option("--model", required=True, metavar="NAME", help="The model's name there; else a model folder or bundled:NAME.")
@click.option("--suite", "suites", default="refusal,tools,pairs", show_default=True, metavar="NAMES",
              help="Suites, by comma; published sets as xstest=PATH, speechmap=PATH, bfcl=PATH.")
@click.option("-o", "--output", metavar="FILE", help="The run log: new, or one to go on with.")
@click.option("--seed", type=click.IntRange(min=0), help="Public seed of wording and order. [default: 0]")
@click.option("--seed-source", metavar="SOURCE", help="Private seed, env:NAME or file:PATH; the log holds its commitment alone.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Probes a suite.")
@click.option("--samples", type=click.IntRange(min=1), default=1, show_default=True, metavar="K", help="Answers a probe.")
@click.option("--temperature", type=click.FloatRange(min=0.0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-p", type=click.FloatRange(0.0, 1.0, min_open=True), default=1.0, show_default=True)
@click.option("--system", "system_file", metavar="FILE", help="System prompt put before every probe.")
@click.option("--channel", type=click.Choice(["chat", "completion"]),
              help="completion is for models without a chat format. [default: chat, if the model has one]")
@click.option("--extra", metavar="JSON", help="More request parameters; null leaves one of ours out.")
@click.option("--max-calls", type=click.IntRange(min=1), metavar="N", help="Stop after N calls of this run, repeated ones too.")
@click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="Stop before the run has used N tokens.")
@click.option("--concurrency", type=click.IntRange(1, 256), metavar="N",
              help="Calls in flight at once; prompts a batch of a model that runs here. [default: 4; 16]")
@click.option("--timeout", type=click.FloatRange(min=0.0, min_open=True), default=120.0, show_default=True,
              help="Seconds a call.")
@click.option("--retries", type=click.IntRange(min=0), default=5, show_default=True, help="After 429, 5xx and lost connections.")
@click.option("--retry-failures", is_flag=True, help="Ask again what the endpoint rejected.")
@click.option("--api-key-source", metavar="SOURCE", help="env:NAME or file:PATH, never the key itself. "
              f"[default: {OUR_KEY}, for openai.com and this machine only]")
@click.option("--dry-run", is_flag=True, help="Show calls and estimated tokens; ask nothing.")
@click.option("--strict", is_flag=True, help="Exit with 3 if a probe was rejected or the budget ended the run.")
@click.option("--format", "layout", type=click.Choice(["table", "json"]), default="table", show_default=True,
              help="Of the summary on stdout.")
def probe(**options: Any) -> int:
    """Ask a model the probe suites and log every answer.

    The log is hash-chained and written before and after each call. Stopped in whatever way, the same command goes on where
    it was: no call is repeated that was answered. A run that its budget ends is incomplete and exits with 0 (--strict: 3);
    one with calls that got no answer exits with 2.
    """
    from wmcheck.cli.probed import write_plan, write_summary

    suites, commitment = _suites(options)
    if options["dry_run"]:
        write_plan(sys.stdout, options["layout"], suites, _protocol(options, options["channel"] or "chat"))
        return exits.OK
    endpoint = _endpoint(options)
    protocol = _protocol(options, options["channel"] or _channel(endpoint))
    collector, run = _collect(options, endpoint, suites, protocol, commitment)
    write_summary(sys.stdout, options["layout"], suites, run, stopped=collector.stopped, asked=collector.asked)
    return _conclude(options, collector, run)


def _suites(options: dict[str, Any]) -> tuple[list[Suite], str | None]:
    """The suites under the seed, and the commitment to a private one."""
    from wmcheck.fingerprint.ledger import private_seed
    from wmcheck.fingerprint.probe import make_suite
    from wmcheck.watermark.core.errors import ConfigError

    names = [name.strip() for name in options["suites"].split(",") if name.strip()]
    if not names:
        raise ConfigError("no suite", where="--suite", expected="names by comma")
    if len(set(names)) != len(names):
        raise ConfigError("a suite is named twice", where="--suite", got=", ".join(names))
    seed, commitment = options["seed"] or 0, None
    if options["seed_source"]:
        if options["seed"] is not None:
            raise ConfigError("two seeds", where="--seed-source", hint="leave out --seed: it is public")
        seed, commitment = private_seed(read_secret(options["seed_source"], "--seed-source"))
    return [make_suite(name, seed, limit=options["limit"]) for name in names], commitment


def _protocol(options: dict[str, Any], channel: str) -> ProbeProtocol:
    from wmcheck.fingerprint.probe import ProbeProtocol

    return ProbeProtocol(
        channel=channel, system=_system(options["system_file"]), temperature=options["temperature"], top_p=options["top_p"],
        samples=options["samples"], extra=read_extra(options["extra"]),
    )


def _system(path: str | None) -> str:
    from wmcheck.watermark.core.errors import ConfigError

    if path is None:
        return ""
    try:
        with open(path, encoding="utf-8") as handle:
            return handle.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        got = getattr(error, "strerror", None) or "no UTF-8"
        raise ConfigError("cannot read the system prompt", where=path, got=got) from None


def read_extra(text: str | None) -> dict[str, Any]:
    """The request parameters of ``--extra``.

    Raises:
        ConfigError: no JSON object.
    """
    from wmcheck.fingerprint.transcript import canonical_json
    from wmcheck.watermark.core.errors import ConfigError

    try:
        value = json.loads(text) if text is not None else {}
        canonical_json(value)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        expected = "for example '{\"reasoning_effort\": \"low\"}'"
        raise ConfigError("not a JSON object", where="--extra", got=repr(text)[:60], expected=expected)
    return value


def api_key_of(options: Mapping[str, Any]) -> str | None:
    """The key to send. Without a source that was named, ours goes to nobody but OpenAI and this machine."""
    import os
    from urllib.parse import urlsplit

    from wmcheck.fingerprint.endpoints.openai_chat import is_openai

    if options["api_key_source"]:
        return read_secret(options["api_key_source"], "--api-key-source")
    address = options["endpoint"] or ""
    try:
        ours = urlsplit(address).hostname in LOOPBACK or is_openai(address)
    except ValueError:
        return None
    return os.environ.get(OUR_KEY.removeprefix("env:")) if ours else None


def _endpoint(options: dict[str, Any]) -> Endpoint:
    from wmcheck.fingerprint.endpoint import open_endpoint
    from wmcheck.watermark.core.errors import ConfigError

    if options["output"] in (None, "-"):
        raise ConfigError("no run log", where="-o", expected="a file", hint="name it: -o suspect.run")
    return open_endpoint(
        options["endpoint"], model=options["model"], api_key=api_key_of(options), batch=options["concurrency"] or 16
    )


def _channel(endpoint: Endpoint) -> str:
    if getattr(endpoint, "has_chat_template", True):
        return "chat"
    click.echo(f"note: {endpoint.model} has no chat template; it is asked by --channel completion", err=True)
    return "completion"


def _collect(
    options: dict[str, Any], endpoint: Endpoint, suites: list[Suite], protocol: ProbeProtocol, commitment: str | None
) -> tuple[Collector, Run]:
    from wmcheck.fingerprint.collect import Collector, Pace
    from wmcheck.fingerprint.ledger import Budget

    total = sum(len(suite.probes) for suite in suites) * protocol.samples
    with _calm(options), _progress(total) as progress:
        collector = Collector(
            endpoint, suites, protocol, options["output"], seed_commitment=commitment, progress=progress,
            budget=Budget(calls=options["max_calls"], tokens=options["max_tokens"]), pace=_pace(options, Pace),
        )
        return collector, collector.run()


def _pace(options: dict[str, Any], made: type[Pace]) -> Pace:
    return made(
        concurrency=options["concurrency"] or 4, timeout=options["timeout"], retries=options["retries"],
        retry_failures=options["retry_failures"],
    )


def _calm(options: dict[str, Any]) -> Any:
    if options["endpoint"]:
        return nullcontext()
    from wmcheck.cli.embed import calm_torch

    return calm_torch(options["model"])


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=total, label="probing", file=sys.stderr, hidden=hidden) as bar:
        yield lambda done, _: bar.update(done - bar.pos)


def _conclude(options: dict[str, Any], collector: Collector, run: Run) -> int:
    """Say how the run stands, and with which code the command exits."""
    from wmcheck.cli.probed import rejected_calls

    place, again = options["output"], "run the same command again"
    if run.complete and not collector.asked:
        click.echo(f"{place}: the run is complete; nothing was asked", err=True)
    if collector.spent:
        more = "with a larger --max-calls or --max-tokens"
        click.echo(f"{place}: INCOMPLETE, {collector.stopped}\n  hint: {again} {more} to go on", err=True)
        return exits.INSUFFICIENT if options["strict"] else exits.OK
    if not run.complete:
        click.echo(f"error: {place}: INCOMPLETE, {collector.stopped}\n  hint: {again} to go on", err=True)
        return exits.INPUT
    return exits.INSUFFICIENT if options["strict"] and rejected_calls(run) else exits.OK
