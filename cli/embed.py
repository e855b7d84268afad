"""``wmcheck embed``: generate watermarked text with the bundled model or any ``transformers`` causal model."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from wmcheck.cli.options import key_option, open_output, profile_option, tenant_options


@click.command()
@click.argument("prompts_file", required=False, metavar="[PROMPTS]")
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="A prompt (repeatable).")
@click.option("--field", help="Field of PROMPTS that holds the prompt [default: as in 'wmcheck check'].")
@profile_option(multiple=False)
@key_option(multiple=False)
@tenant_options(multiple=False)
@click.option("--payload", metavar="N", help="Message that the texts carry, e.g. 0x2f3a; of profiles with a payload.")
@click.option("--model", default="bundled:stories2m", show_default=True, envvar="WMCHECK_MODEL", metavar="NAME",
              help="bundled:stories2m, a model folder or a hub name.")
@click.option("--no-watermark", is_flag=True, help="Ordinary text, for comparison.")
@click.option("-n", "--count", type=click.IntRange(min=1), default=1, show_default=True, help="Texts a prompt.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--temperature", type=click.FloatRange(min=0.0, min_open=True), default=1.0, show_default=True)
@click.option("--top-k", type=click.IntRange(min=0), default=0, show_default=True, help="0 is off.")
@click.option("--top-p", type=click.FloatRange(0.0, 1.0, min_open=True), default=1.0, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the ordinary randomness.")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("-o", "--output", metavar="FILE", help="JSON lines; complete or not at all.")
@click.option("--resume", is_flag=True, help="Go on from FILE.partial, which an interrupted run left behind.")
def embed(prompts_file: str | None, prompts: tuple[str, ...], **options: Any) -> None:
    """Generate text that carries the watermark of a profile under a tenant's key.

    PROMPTS is any file that 'wmcheck check' reads (one prompt a record); without prompts, story openings are used.
    Writes one JSON line a text, with its token ids.
    """
    from wmcheck.watermark.core.errors import ConfigError

    profile, key = _watermark(options)
    found = list(prompts) + (_read_prompts(prompts_file, options["field"]) if prompts_file else [])
    inputs = [name for name in (prompts_file, options["profile"], options["key"]) if name]
    with open_output(options["output"], inputs) as out, calm_torch(options["model"]):
        from wmcheck.watermark.embed import STORY_PROMPTS, Sampling, embed_records, load_model

        if not found and options["model"] != "bundled:stories2m":
            raise ConfigError("no prompts", where="PROMPTS", expected="a file of prompts or --prompt TEXT")
        jobs = [prompt for prompt in found or STORY_PROMPTS for _ in range(options["count"])]
        sampling = Sampling(
            options["max_new_tokens"], options["temperature"], options["top_k"], options["top_p"], options["seed"]
        )
        done = _read_partial(options, jobs, key) if options["resume"] else []
        out.writelines(done)
        left = jobs[len(done) :]
        records = embed_records(
            load_model(options["model"]), left, sampling, profile=profile, keys=[key] * len(left),
            batch_size=options["batch_size"], first=len(done),
        )
        hidden = not sys.stderr.isatty()
        with click.progressbar(records, length=len(left), label="embedding", file=sys.stderr, hidden=hidden) as bar:
            for record in bar:
                out.write(json.dumps(record | message_of(key), ensure_ascii=False) + "\n")


def _read_partial(options: dict[str, Any], jobs: list[str], key: Any) -> list[str]:
    """The whole lines of an interrupted run, if they belong to this one."""
    from wmcheck.watermark.core.errors import ConfigError

    path = f"{options['output']}.partial"
    if not options["output"] or not os.path.exists(path):
        raise ConfigError("nothing to resume", where="--resume", expected=path if options["output"] else "-o FILE")
    with open(path, encoding="utf-8") as file:
        lines = [line for line in file if line.endswith("\n")]
    records = [json.loads(line) for line in lines]
    same = [record["prompt"] for record in records] == jobs[: len(records)]
    messages = {record.get("payload") for record in records} - {message_of(key).get("payload")}
    if not same or messages or {record["key_id"] for record in records} - {key.id if key else None}:
        raise ConfigError("the partial file belongs to another run", where=path, expected="the same prompts, key and payload")
    return lines


def message_of(key: Any) -> dict[str, str]:
    """The field of a record that says which message it carries."""
    from wmcheck.watermark.payload import Payload

    return {"payload": f"{key.message:#x}"} if isinstance(key, Payload) else {}


def _watermark(options: dict[str, Any]) -> tuple[Any, Any]:
    from wmcheck.cli.options import load_keys
    from wmcheck.watermark.core.errors import ConfigError
    from wmcheck.watermark.keys import as_tenant
    from wmcheck.watermark.profile import Profile

    if options["no_watermark"]:
        if options["payload"] is not None:
            raise ConfigError("ordinary text carries no payload", where="--payload", hint="leave out --no-watermark")
        return None, None
    if not options["profile"]:
        raise ConfigError(
            "no profile", where="--profile", expected="a profile file",
            hint="make one with 'wmcheck profile new', or say --no-watermark",
        )
    key = load_keys([options["key"]] if options["key"] else [])[0]
    profile = Profile.load(options["profile"])
    return profile, _with_message(profile, as_tenant(key, options["tenant"] or "", options["epoch"] or ""), options["payload"])


def _with_message(profile: Any, key: Any, payload: str | None) -> Any:
    """The key, with the message that the texts shall carry."""
    from wmcheck.watermark.core.errors import ConfigError
    from wmcheck.watermark.payload import Payload, parse_message
    from wmcheck.watermark.scheme import keyed

    if payload is None:
        if hasattr(profile.scheme, "messages") and profile.scheme.message is None:
            raise ConfigError(
                "the profile carries a payload, and none is given", where="--payload", expected="a message, e.g. 0x2f3a",
                hint="--payload 0 embeds the message 0",
            )
        return key
    profile.need_own("--payload")
    found = Payload(key, parse_message(payload))
    # Before the model is loaded: a scheme without messages, one that does not fit, a missing library.
    keyed(profile.scheme, found)
    return found


@contextmanager
def calm_torch(model: str) -> Iterator[None]:
    """Keep loading bars out of logs, and the threads of a bundled model at one.

    Threads gain nothing on a model this small, and where other work has the cores they wait for one another: minutes
    instead of seconds.
    """
    import torch
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    threads = torch.get_num_threads()
    try:
        if model.startswith("bundled:"):
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


def _read_prompts(path: str, field: str | None) -> list[str]:
    from wmcheck.watermark.core.errors import RecordError
    from wmcheck.watermark.core.readers import read_records

    found = []
    for record in read_records(path, field=field, input_format="lines" if path.endswith(".txt") else None):
        if isinstance(record, RecordError):
            # The reader's own hint never names the prompt, which is what is wanted here.
            hint = "--field prompt" if field is None and "prompt" in record.what else record.hint
            raise RecordError(record.what, where=record.where, got=record.got, expected=record.expected, hint=hint)
        if record.text is None:
            raise RecordError("no prompt, only token ids", where=record.where, hint="--field NAME")
        found.append(record.text)
    return found
