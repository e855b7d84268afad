"""``wmcheck radioactivity``: whether a model was trained on text under a key."""

from __future__ import annotations

from typing import Any

import click

from wmcheck.cli.options import ListedChoice, check_alpha, key_option, open_output, profile_option, tenant_options
from wmcheck.cli.reading import exit_code, settle_layout

DEFAULT_ALPHA = 1e-5


@click.command()
@click.option("--model", required=True, envvar="WMCHECK_MODEL", metavar="NAME",
              help="Open weights: bundled:NAME, a model folder or a hub name. With --endpoint: the model's name there.")
@click.option("--endpoint", metavar="URL", help="OpenAI-compatible server, usually ending in /v1, or replay:RUN: the model is "
              "asked for text.")
@profile_option(multiple=True)
@key_option(multiple=True)
@tenant_options(multiple=True)
@click.option("--layer", "layers", multiple=True, metavar="NAME", help="Layers of a layered profile. [default: all]")
@click.option("--tests", metavar="NAMES", help="Of weighted, reading, sampled and contrast (needs --base), by comma. "
              "[default: weighted,reading for open weights; sampled, and weighted with --logprobs, for an endpoint]")
@click.option("--texts", multiple=True, metavar="FILE", help="Texts that the model reads, as 'wmcheck check' reads them. "
              "[default: what it writes on neutral prompts]")
@click.option("--field", help="Text field of --texts and --filter.")
@click.option("--marked", is_flag=True, help="The --texts are watermarked, or may be.")
@click.option("--filter", "filters", multiple=True, metavar="FILE",
              help="The provider's logs of marked text, or a stored filter (.npz): only their contexts are scored.")
@click.option("--filter-top", type=click.IntRange(min=1), metavar="N", help="Only the N most frequent contexts of --filter.")
@click.option("--decoys", type=click.IntRange(min=0), default=1000, show_default=True, metavar="N",
              help="Random keys that the key is ranked among; 0 for none.")
@click.option("--base", metavar="MODEL", help="The model before the training in question, as a control.")
@click.option("--base-log", metavar="RUN", help="The log of a run with that model, as a control of the sampled test.")
@click.option("--reference", metavar="RESULT", help="Result of this command for a model of known dose.")
@click.option("--reference-share", type=click.FloatRange(0.0, 1.0, min_open=True), metavar="SHARE",
              help="Share of that model's training tokens that were marked.")
@click.option("--tokenizer", envvar="WMCHECK_TOKENIZER", metavar="PATH", help="Tokenizer of the profile, if not where it says.")
@click.option("--max-contexts", type=click.IntRange(min=1), metavar="N", help="Stop reading texts after N distinct contexts.")
@click.option("--top", type=click.IntRange(min=1), default=64, show_default=True, metavar="K",
              help="Likeliest tokens a context that are scored.")
@click.option("--budget", default="20000tok", show_default=True, metavar="BUDGET",
              help="Most that sampling may spend over all sessions: 20000tok (prompts and answers), 300calls, or both by comma.")
@click.option("--log", "log", metavar="RUN", help="The run log of the sampling: new, or one to go on with.")
@click.option("--answer-tokens", type=click.IntRange(min=16), default=256, show_default=True, help="Longest answer.")
@click.option("--channel", type=click.Choice(["chat", "completion"]),
              help="completion is for models that continue texts. [default: chat, if the model has a chat format]")
@click.option("--logprobs", is_flag=True, help="Ask the server for log probabilities, for the weighted test.")
@click.option("--extra", metavar="JSON", help="More request parameters; null leaves one of ours out.")
@click.option("--concurrency", type=click.IntRange(1, 256), default=4, show_default=True, help="Calls in flight at once.")
@click.option("--timeout", type=click.FloatRange(min=0.0, min_open=True), default=120.0, show_default=True,
              help="Seconds a call.")
@click.option("--retries", type=click.IntRange(min=0), default=5, show_default=True, help="After 429, 5xx and lost connections.")
@click.option("--api-key-source", metavar="SOURCE", help="env:NAME or file:PATH, never the key itself. "
              "[default: env:OPENAI_API_KEY, for openai.com and this machine only]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Of the decoys and of the order of prompts.")
@click.option("--device", metavar="NAME", help="Where open weights run. [default: cuda, if there is one]")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="Texts a forward pass.")
@click.option("--alpha", type=float, default=DEFAULT_ALPHA, show_default=True, envvar="WMCHECK_ALPHA", callback=check_alpha,
              help="Chance of any false detection over all tests, keys and layers of the run.")
@click.option("--family", type=click.IntRange(min=1), metavar="N",
              help="Tests of the whole investigation, if there were other runs. [default: this run]")
@click.option("--format", "layout", type=click.Choice(["table", "json", "csv", "md"]), default="table", show_default=True,
              envvar="WMCHECK_FORMAT")
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, complete or not at all.")
@click.option("--fail-on", multiple=True, type=ListedChoice(["detected", "insufficient"]), envvar="WMCHECK_FAIL_ON",
              help="Exit 1 if the key is detected, 3 if a test could not have found it.")
@click.option("--strict", is_flag=True, envvar="WMCHECK_STRICT", help="Stop at the first bad record; exit 3 if insufficient.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@click.option("-v", "--verbose", is_flag=True, help="Report every bad record.")
@click.pass_context
def radioactivity(ctx: click.Context, /, as_json: bool, **options: Any) -> int:
    """Test whether a model was trained on text that carries the watermark of a profile under a key.

    Open weights are asked for their probabilities over distinct contexts, a model behind an endpoint for text on neutral
    prompts, with a log: stopped in whatever way, the same command goes on where it was. A detection says that the model's
    output law depends on this key: it was trained on text under it, or on text derived from that. It does not say how the
    model came by that text.
    """
    from wmcheck.cli.radioactive import Case
    from wmcheck.cli.radioactive_report import write

    settle_layout(ctx, options, as_json=as_json)
    case = Case(options)
    with open_output(options["output"], case.inputs) as out:
        found = case.execute()
        write(out, options["layout"], found)
    return exit_code(found.verdicts(), options, found.skipped)
