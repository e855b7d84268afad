"""``wmcheck canary``: plan, test and size keyed behavioural canaries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from wmcheck.cli import exits
from wmcheck.cli.options import ListedChoice, check_alpha, key_option, load_keys, open_output, tenant_options

if TYPE_CHECKING:
    from wmcheck.fingerprint.canaries.evaluate import CanaryPlan, CanaryResult
    from wmcheck.fingerprint.runlog import Run
    from wmcheck.watermark.keys import TenantKey

SCHEMA = "wmcheck.canary-test/1"
COLUMNS = (
    "suspect", "verdict", "log10 p", "corrected", "agree", "n", "rate", "95% interval", "exposure", "key id", "tenant",
    "committed", "dropped",
)
LAYOUT = click.option("--format", "layout", type=click.Choice(["table", "json", "md"]), default="table", show_default=True,
                      help="Output format.")
ALPHA = click.option("--alpha", type=float, default=1e-5, show_default=True, envvar="WMCHECK_ALPHA", callback=check_alpha,
                     help="Family-wise error.")


@click.group()
def canary() -> None:
    """Keyed behavioural canaries: does a model's behaviour follow a secret key?

    The key draws which of two harmless behaviours the deployed model shows at each trigger. A model trained on its answers
    tends to follow; a model independent of the key agrees with a Binomial(n, 1/2) number of triggers, exactly.
    """


@canary.command()
@key_option(multiple=True)
@tenant_options(multiple=True)
@click.option("-n", "--count", type=click.IntRange(min=1), default=200, show_default=True, help="Number of triggers.")
@click.option("--seed", type=int, default=0, show_default=True, help="Chooses triggers and wording; not secret.")
@click.option("-o", "--output", metavar="FILE", help="Plan file [default: stdout].")
@click.option("--system-prompt", metavar="FILE",
              help="Also write the instructions for the model: as SECRET as the key; mode 0600, never overwritten.")
def plan(
    key: tuple[str, ...], tenant: tuple[str, ...], epoch: tuple[str, ...], count: int, seed: int, output: str | None,
    system_prompt: str | None,
) -> None:
    """Choose triggers and commit to them under the key.

    The plan holds no secret. Publish its commitments before the release, and keep the triggers back until the test.
    """
    from wmcheck.fingerprint.canaries import evaluate as canaries
    from wmcheck.fingerprint.canaries.embed import system_prompt as instructions
    from wmcheck.watermark.core.errors import ConfigError
    from wmcheck.watermark.key_sources import write_secret

    keys = _keys(key, tenant, epoch)
    if system_prompt is not None and len(keys) != 1:
        raise ConfigError("instructions are those of one key", where="--system-prompt", got=f"{len(keys)} keys", expected="1")
    made = canaries.plan(keys, count, seed=seed)
    text = json.dumps(made.to_dict(), indent=1, ensure_ascii=False) + "\n"
    with open_output(output, key) as out:
        # Before the plan, so that a refused file leaves no plan that seems complete.
        if system_prompt is not None:
            write_secret(instructions(made, keys[0]), system_prompt)
        out.write(text)
    kinds = len({probe.stratum for probe in made.suite.probes})
    click.echo(f"{made.n} triggers of {kinds} kinds; publish before the release:", err=True)
    for one in made.commitments:
        click.echo(f"  key {one.key_id}: key {one.key_commitment}, plan {one.plan_commitment}", err=True)
    if system_prompt is not None:
        click.echo(f"warning: {system_prompt} holds the keyed sides; keep it as secret as the key", err=True)


@canary.command("test")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@key_option(multiple=True)
@tenant_options(multiple=True)
@click.option("--plan", "plan_file", metavar="FILE", help="Plan file [default: the triggers that the run asked].")
@ALPHA
@click.option("--family", type=click.IntRange(min=1), metavar="N",
              help="Tests of the whole investigation, if other keys or suspects were tried too [default: those of this call].")
@click.option("--own", is_flag=True, help="RUN is the deployed model itself, asked under the keyed instructions.")
@LAYOUT
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, complete or not at all.")
@click.option("--fail-on", multiple=True, type=ListedChoice(["detected", "insufficient"]), envvar="WMCHECK_FAIL_ON",
              help="Exit 1 if anything is detected, 3 if there were too few triggers to tell.")
def test_runs(runs: tuple[str, ...], **options: Any) -> int:
    """Test the answers in RUN... (made by 'wmcheck probe --suite canary') under the keys.

    One row for each suspect and key; p-values are exact, and corrected over all rows (Holm).
    """
    from wmcheck.fingerprint.canaries.evaluate import CanaryPlan, correct, read_answers, test
    from wmcheck.fingerprint.runlog import load_run
    from wmcheck.watermark.core.errors import printable

    keys = _keys(options["key"], options["tenant"], options["epoch"])
    path = options["plan_file"]
    plan_made = CanaryPlan.load(path) if path else None
    results = []
    for source in dict.fromkeys(runs):
        run = load_run(source)
        _check_run(run, own=options["own"])
        planned = plan_made or _asked(run)
        answers = read_answers(run.transcripts, planned)
        results += [test(answers, planned, key, suspect=run.model or source) for key in keys]
    results = correct(results, family=options["family"])
    for one in results:
        if one.committed is False:
            click.echo(f"warning: {path}: does not commit to key {one.key_id}", err=True)
    for suspect, count in {one.suspect: one.reworded for one in results if path and one.reworded}.items():
        click.echo(f"warning: {printable(suspect)}: {count} answers are to other words than the plan's; p holds if no key "
                   "had a part in them", err=True)
    with open_output(options["output"], [*runs, *options["key"], *([path] if path else [])]) as out:
        out.write(_rendered(results, runs, options))
    verdicts = [str(one.verdict(options["alpha"])) for one in results]
    if "detected" in options["fail_on"] and "DETECTED" in verdicts:
        return exits.DETECTED
    return exits.INSUFFICIENT if "insufficient" in options["fail_on"] and "INSUFFICIENT" in verdicts else exits.OK


@canary.command()
@click.option("-n", "--count", type=click.IntRange(min=1), default=200, show_default=True, help="Number of triggers.")
@click.option("--rate", type=float, default=0.6, show_default=True,
              help="Share of triggers on which the student takes the keyed side; 0.5 is chance.")
@ALPHA
@click.option("--power", "target", type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True), default=0.9,
              show_default=True, help="Power asked for.")
@LAYOUT
def power(count: int, rate: float, alpha: float, target: float, layout: str) -> None:
    """How likely n canaries detect a student, and how many are needed (exact)."""
    from wmcheck.fingerprint.canaries.power import power as power_of
    from wmcheck.fingerprint.canaries.power import smallest_n
    from wmcheck.watermark.core.errors import ConfigError

    chance = power_of(count, rate, alpha)
    try:
        needed: int | None = smallest_n(rate, alpha, target)
    except ConfigError:
        # At a rate too close to chance no number is enough, and the power of this one is still an answer.
        needed = None
    data = {"n": count, "rate": rate, "alpha": alpha, "power": chance, "target": target, "needed": needed}
    if layout == "json":
        click.echo(json.dumps(data, indent=1))
        return
    shown = {"n": str(count), "rate": f"{rate:g}", "alpha": f"{alpha:g}", "power": f"{chance:.4g}",
             f"n for power {target:g}": "-" if needed is None else str(needed)}
    click.echo(_table(layout, [shown], tuple(shown)), nl=False)


def _keys(sources: Sequence[str], tenants: Sequence[str], epochs: Sequence[str]) -> list[TenantKey]:
    """Every tenant and epoch that was named, of every key, without duplicates."""
    from wmcheck.watermark.keys import SecretKey, as_tenant

    found: dict[TenantKey, None] = {}
    for key in load_keys(sources):
        root = isinstance(key, SecretKey)
        for tenant in (tenants if root or key.tenant_name not in tenants else ()) or [""]:
            for epoch in (epochs if root or key.epoch not in epochs else ()) or [""]:
                found[as_tenant(key, tenant, epoch)] = None
    return list(found)


def _check_run(run: Run, *, own: bool) -> None:
    """Refuse runs from which nothing follows: without canaries, of another bank, or asked with the answers in the prompt."""
    from wmcheck.fingerprint.canaries.embed import carries_instructions
    from wmcheck.fingerprint.suites.canary import NAME
    from wmcheck.fingerprint.suites.canary_bank import BANK_VERSION
    from wmcheck.watermark.core.errors import InputError

    for one in run.suites:
        version = one.get("version") if one.get("name") == NAME else None
        if version not in (None, BANK_VERSION):
            raise InputError("the run asked another version of the suite", where=run.source, got=repr(version),
                             expected=repr(BANK_VERSION), hint="use the release of wmcheck that made the run")
    if not any(answer.suite == NAME for answer in run.transcripts):
        raise InputError("the run has no answers to canaries", where=run.source,
                         hint="ask them with 'wmcheck probe --suite canary'")
    if not own and run.protocol is not None and carries_instructions(run.protocol.system):
        raise InputError("the suspect was asked under canary instructions", where=run.source,
                         got="a system prompt that holds them", expected="none",
                         hint="probe again without them; if this is your own deployment, say --own")


def _asked(run: Run) -> CanaryPlan:
    """The triggers that a run's header names, or all of the bank; no key has a part in the choice."""
    from wmcheck.fingerprint.canaries.plan import CanaryPlan
    from wmcheck.fingerprint.suites.canary import NAME
    from wmcheck.fingerprint.suites.canary_bank import triggers

    most = len(triggers())
    for one in run.suites:
        seed, n = one.get("seed"), one.get("probes")
        if isinstance(seed, int) and isinstance(n, int) and one.get("name") == NAME and 1 <= n <= most:
            asked = CanaryPlan(seed=seed, n=n)
            if asked.suite.digest == one.get("digest"):
                return asked
    return CanaryPlan(seed=0, n=most)


def _rendered(results: Sequence[CanaryResult], runs: Sequence[str], options: Mapping[str, Any]) -> str:
    alpha = options["alpha"]
    if options["layout"] == "json":
        from wmcheck import __version__

        names = ("key", "tenant", "epoch", "plan_file", "alpha", "family", "own")
        settings = {name: list(v) if isinstance(v := options[name], tuple) else v for name in names}
        data = {
            "schema": SCHEMA, "alpha": alpha, "configuration": {"version": __version__, "runs": list(runs), **settings},
            "results": [one.to_dict(alpha) for one in results],
        }
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    first = results[0]
    notes = [
        f"alpha {alpha:g}, family-wise, {first.correction}. Null: Binomial(n, 1/2).",
        "p-values hold if " + "; ".join(first.assumptions) + ".",
        "A small p says that the answers depend on the key. It does not exclude that " + "; that ".join(first.not_excluded) + ".",
    ]
    if options["own"]:
        notes.append("Asked under the keyed instructions: shows how well the deployment follows them, nothing of its training.")
    table = _table(options["layout"], [_cells(one, alpha) for one in results], COLUMNS)
    return "\n".join([table, *notes]) + "\n"


def _cells(one: CanaryResult, alpha: float) -> dict[str, str]:
    dropped = ", ".join(f"{count} {reason}" for reason, count in one.dropped.items())
    adjusted = one.log10_p if one.log10_p_adjusted is None else one.log10_p_adjusted
    return {
        "suspect": one.suspect, "verdict": str(one.verdict(alpha)), "log10 p": f"{one.log10_p:.2f}",
        "corrected": f"{adjusted:.2f}", "agree": str(one.agreements), "n": str(one.n),
        "rate": f"{one.rate:.3f}" if one.n else "-", "95% interval": f"{one.rate_low:.3f} to {one.rate_high:.3f}",
        "exposure": f"{one.exposure:+.2f}" if one.n else "-", "key id": one.key_id, "tenant": one.tenant or "-",
        "committed": {True: "yes", False: "no", None: "-"}[one.committed], "dropped": dropped or "-",
    }


def _table(layout: str, rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> str:
    from wmcheck.watermark.core.writers import render_markdown, render_table

    return (render_markdown if layout == "md" else render_table)(rows, columns)
