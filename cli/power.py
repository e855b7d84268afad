"""``wmcheck power``: how many tokens a watermark needs on a model's text, before it is deployed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from wmcheck.cli import exits
from wmcheck.cli.options import Listed, check_alpha, open_output, profile_option

if TYPE_CHECKING:
    from wmcheck.watermark.core.records import Record
    from wmcheck.watermark.power import Plan
    from wmcheck.watermark.profile import Profile
    from wmcheck.watermark.traffic import Traffic

SCHEMA = "wmcheck.power/1"
BUNDLED_MODEL = "bundled:stories2m"
SCHEMES = ("gumbel", "tournament", "redgreen", "reweight")
# Fewer texts than this leave the figures to chance.
FEW_TEXTS = 20


@click.command()
@click.option("--model", default=BUNDLED_MODEL, show_default=True, envvar="WMCHECK_MODEL", metavar="NAME",
              help="bundled:stories2m, a model folder or a hub name.")
@click.option("--prompts", metavar="FILE", help="Prompts to sample texts from: any file that 'wmcheck check' reads.")
@click.option("--texts", metavar="FILE", help="Ordinary traffic to read instead of sampling.")
@click.option("--entropy", type=float, metavar="BITS", help="Quick look without a model: mean entropy of a token.")
@click.option("--field", help="Field of the prompts or texts [default: as in 'wmcheck check'].")
@profile_option(multiple=True)
@click.option("--scheme", multiple=True, type=Listed(), metavar="NAME",
              help=f"Scheme with its default parameters (repeatable) [default: {', '.join(SCHEMES)}].")
@click.option("--alpha", type=float, default=1e-5, show_default=True, envvar="WMCHECK_ALPHA", callback=check_alpha,
              help="Family-wise error of a run of 'wmcheck check'.")
@click.option("--keys", type=click.IntRange(min=1), default=1, show_default=True, help="Keys that such a run tests.")
@click.option("--documents", type=click.IntRange(min=1), default=1, show_default=True, help="Documents that it tests.")
@click.option("-n", "--count", type=click.IntRange(min=1), default=64, show_default=True, help="Texts, the prompts in turn.")
@click.option("--tokens", type=click.IntRange(min=8), default=200, show_default=True, help="Most tokens of a text.")
@click.option("--temperature", type=click.FloatRange(min=0.0), default=1.0, show_default=True, help="0 is greedy decoding.")
@click.option("--top-k", type=click.IntRange(min=0), default=0, show_default=True, help="0 is off.")
@click.option("--top-p", type=click.FloatRange(0.0, 1.0, min_open=True), default=1.0, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--format", "layout", type=click.Choice(["table", "json", "md"]), default="table", show_default=True,
              help="Output format.")
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, complete or not at all.")
@click.option("--fail-on", multiple=True, type=click.Choice(["undetectable"]), help="Exit 3 if a scheme is undetectable.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@click.pass_context
def power(ctx: click.Context, /, as_json: bool, **options: Any) -> int:
    """Tokens that a watermark needs on the text of a model, and the share of texts that will be detectable.

    Takes next-token laws from the model at its sampling settings and asks when the exact p-value reaches
    alpha / (keys x documents). No key is needed. Figures are estimates for text like the sample.
    """
    from wmcheck.watermark.power import limit, plan

    options["layout"] = "json" if as_json else options["layout"]
    _check_sources(ctx, options)
    profiles = _profiles(ctx, options)
    inputs = [name for name in (options["prompts"], options["texts"], *options["profile"]) if name]
    with open_output(options["output"], inputs) as out:
        traffic, own = _traffic(options, profiles)
        if traffic.varied and traffic.texts < FEW_TEXTS:
            click.echo(f"warning: only {traffic.texts} texts; shares of texts are rough", err=True)
        family = {"keys": options["keys"], "documents": options["documents"]}
        plans = [
            plan(profile, own.get(place, traffic), options["alpha"], seed=options["seed"], **family)
            for place, profile in enumerate(profiles)
        ]
        best = limit(traffic, options["alpha"], **family)
        out.write(_rendered(plans, best, traffic, options))
    failed = "undetectable" in options["fail_on"] and any(one.status == "undetectable" for one in plans)
    return exits.INSUFFICIENT if failed else exits.OK


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _check_sources(ctx: click.Context, options: Mapping[str, Any]) -> None:
    """One source of laws, and prompts for a model that is not the bundled one."""
    from wmcheck.watermark.core.errors import ConfigError

    if options["entropy"] is not None:
        other = next((name for name in ("prompts", "texts", "model") if _given(ctx, name)), None)
        if other:
            raise ConfigError("--entropy is a quick look without a model", where=f"--{other}", hint="leave one of the two out")
        if not 0.01 <= options["entropy"] <= 8.0:
            raise ConfigError("entropy out of range", where="--entropy", got=f"{options['entropy']:g}",
                              expected="0.01 to 8 bits a token")
    elif options["prompts"] and options["texts"]:
        raise ConfigError("both prompts to sample from and texts to read", where="--texts", hint="leave one of the two out")
    elif not (options["prompts"] or options["texts"]) and options["model"] != BUNDLED_MODEL:
        raise ConfigError("no prompts", where="--prompts", expected="a file of prompts, or ordinary texts with --texts")


def _profiles(ctx: click.Context, options: Mapping[str, Any]) -> list[Profile]:
    """The profiles and schemes that were named; a profile of the settings yields to schemes on the command line."""
    from wmcheck.watermark.core.errors import ConfigError
    from wmcheck.watermark.profile import Profile
    from wmcheck.watermark.scheme import SCHEMES as KNOWN

    names = tuple(options["scheme"])
    for name in names:
        if name not in KNOWN:
            raise ConfigError("unknown scheme", where="--scheme", got=name, expected=", ".join(KNOWN))
    paths = options["profile"] if _given(ctx, "profile") or not names else ()
    loaded = [Profile.load(path) for path in dict.fromkeys(paths)]
    for profile in loaded:
        profile.need_own(profile.name)
    return loaded + [Profile.create(name) for name in dict.fromkeys(names or (() if loaded else SCHEMES))]


def _traffic(options: Mapping[str, Any], profiles: list[Profile]) -> tuple[Traffic, dict[int, Traffic]]:
    """The laws, and those of profiles that lead to other text, by their place; profiles without a tokenizer take the
    special ids of the model's."""
    from wmcheck.watermark.traffic import synthetic_traffic

    if options["entropy"] is not None:
        return synthetic_traffic(options["entropy"], texts=options["count"], seed=options["seed"]), {}
    from wmcheck.cli.embed import calm_torch

    # Before the model is loaded: a misspelt path is found at once.
    path = options["texts"] or options["prompts"]
    records = _records(path, options["field"], prompts=bool(options["prompts"])) if path else []
    with calm_torch(options["model"]):
        from wmcheck.watermark.embed import STORY_PROMPTS, Sampling, load_model
        from wmcheck.watermark.traffic import read_traffic, sample_traffic

        language = load_model(options["model"])
        for place, profile in enumerate(profiles):
            if profile.tokenizer is not None:
                profile.check_tokenizer(language.tokenizer)
            elif not profile.special_ids:
                profiles[place] = replace(profile, special_ids=language.tokenizer.special_ids)
        sampling = Sampling(options["tokens"], options["temperature"], options["top_k"], options["top_p"], options["seed"])
        if options["texts"]:
            read = records[: options["count"]]
            with _progress(len(read), "reading", quiet=options["quiet"]) as step:
                return read_traffic(language, read, sampling, progress=step), {}
        prompts = [record.text or "" for record in records] or list(STORY_PROMPTS)
        jobs = [prompts[place % len(prompts)] for place in range(options["count"])]
        biased = {place: profile for place, profile in enumerate(profiles) if not profile.scheme.unbiased}
        with _progress(len(jobs) * (1 + len(biased)), "sampling", quiet=options["quiet"]) as step:
            run = partial(sample_traffic, language, jobs, sampling, batch_size=options["batch_size"], progress=step)
            return run(), {place: run(profile=profile) for place, profile in biased.items()}


@contextmanager
def _progress(length: int, label: str, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    with click.progressbar(length=length, label=label, file=sys.stderr, hidden=quiet or not sys.stderr.isatty()) as bar:
        yield bar.update


def _records(path: str, field: str | None, *, prompts: bool) -> list[Record]:
    """The records of a file; the first bad one stops the run, because a plan from part of a sample would mislead."""
    from wmcheck.watermark.core.errors import InputError, RecordError
    from wmcheck.watermark.core.readers import read_records

    found = []
    for record in read_records(path, field=field, input_format="lines" if path.endswith(".txt") else None):
        if isinstance(record, RecordError):
            raise record
        if prompts and record.text is None:
            raise RecordError("no prompt, only token ids", where=record.where, hint="--field NAME")
        found.append(record)
    if not found:
        raise InputError("no records", where=path)
    return found


def _rendered(plans: Sequence[Plan], best: Mapping[float, int | None], traffic: Traffic, options: Mapping[str, Any]) -> str:
    if options["layout"] == "json":
        return json.dumps(_object(plans, best, traffic, options), indent=1, ensure_ascii=False) + "\n"
    from wmcheck.watermark.core.writers import render_markdown, render_table

    rows = [_cells(one) for one in plans]
    table = (render_markdown if options["layout"] == "md" else render_table)(rows, tuple(rows[0]))
    return "\n".join([table, *_notes(plans, best, traffic, options)]) + "\n"


def _cells(one: Plan) -> dict[str, str]:
    needed = {f"tokens for {level:.0%}": _tokens(one.needed[level], one.intervals[level]) for level in one.needed}
    shares = {f"at {n}": f"{share:.1%}" for n, share in one.shares.items()}
    return {
        "watermark": one.name, "verdict": one.status, **needed, **shares, "as sampled": f"{one.own:.1%}",
        "mean score": f"{one.mean_score:.3f}", "by chance": f"{one.null_mean:.3f}", "scored": f"{one.scored:.0%}",
    }


def _tokens(n: int | None, interval: tuple[int | None, int | None]) -> str:
    low, high = ("-" if end is None else str(end) for end in interval)
    return "-" if n is None else f"{n} ({low} to {high})"


def _notes(
    plans: Sequence[Plan], best: Mapping[float, int | None], traffic: Traffic, options: Mapping[str, Any]
) -> Iterator[str]:
    from wmcheck.watermark.core.errors import printable
    from wmcheck.watermark.power import LONGEST

    keys, documents, alpha = options["keys"], options["documents"], options["alpha"]
    lengths = traffic.lengths()
    kind = "texts" if traffic.varied else "runs of independent places"
    yield (f"alpha {alpha:g} over {keys} key{'s' * (keys > 1)} x {documents} document{'s' * (documents > 1)}: a text counts "
           f"at p <= {alpha / keys / documents:.2g}, exact sum.")
    yield (f"{traffic.texts} {kind}, {printable(traffic.source)}, {int(lengths.min())} to {int(lengths.max())} tokens, "
           f"{traffic.entropy_bits:.2f} bits a token. Intervals: 90%, over texts.")
    if lengths.max() < LONGEST and traffic.varied:
        yield "Beyond its end a text counts as going on in the same way; give a larger --tokens for lengths that matter."
    yield "The best test of any unbiased watermark, with the model known: " + ", ".join(
        f"{'-' if n is None else n} tokens for {level:.0%}" for level, n in best.items()) + "."
    for one in plans:
        if one.status == "undetectable":
            yield (f"{printable(one.name)}: undetectable: fewer than half of such texts reach the bar at any length up to "
                   f"{LONGEST:,} tokens.")
        elif one.status == "partly":
            yield f"{printable(one.name)}: fewer than 90% of such texts reach the bar at any length up to {LONGEST:,} tokens."


def _object(
    plans: Sequence[Plan], best: Mapping[float, int | None], traffic: Traffic, options: Mapping[str, Any]
) -> dict[str, Any]:
    from wmcheck import __version__
    from wmcheck.watermark.power import LONGEST

    lengths = traffic.lengths()
    names = ("model", "prompts", "texts", "entropy", "field", "profile", "scheme", "keys", "documents", "count", "tokens",
             "temperature", "top_k", "top_p", "seed")
    settings = {name: list(v) if isinstance(v := options[name], tuple) else v for name in names}
    bar = math.log10(options["alpha"]) - math.log10(options["keys"]) - math.log10(options["documents"])
    return {
        "schema": SCHEMA, "alpha": options["alpha"], "log10_bar": bar, "longest": LONGEST,
        "traffic": {
            "source": traffic.source, "texts": traffic.texts, "tokens": int(lengths.sum()),
            "shortest": int(lengths.min()), "longest": int(lengths.max()), "entropy_bits": traffic.entropy_bits,
        },
        "limit": {"n50": best[0.5], "n90": best[0.9]},
        "plans": [_plan_object(one) for one in plans],
        "configuration": {"version": __version__, **settings},
    }


def _plan_object(one: Plan) -> dict[str, Any]:
    return {
        "watermark": one.name, "scheme": one.scheme, "parameters": one.parameters, "status": one.status,
        "n50": one.needed[0.5], "n50_interval": list(one.intervals[0.5]), "n90": one.needed[0.9],
        "n90_interval": list(one.intervals[0.9]), "n_by_mean": one.by_mean,
        "shares": {str(n): share for n, share in one.shares.items()}, "as_sampled": one.own, "mean_score": one.mean_score,
        "null_mean": one.null_mean, "scored": one.scored,
    }
