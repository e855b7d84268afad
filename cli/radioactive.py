"""One run of ``wmcheck radioactivity``: the hypotheses, the tests that fit, and their controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from wmcheck.cli.options import load_candidates
from wmcheck.cli.radioactive_report import Found
from wmcheck.cli.radioactive_samples import bar
from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError, printable
from wmcheck.watermark.core.results import LOG10

if TYPE_CHECKING:
    from wmcheck.cli.radioactive_suspects import Suspect
    from wmcheck.watermark.profile import Profile
    from wmcheck.watermark.radioactivity import Collected, Excess, Radioactivity
    from wmcheck.watermark.radioactivity.decoys import DecoyRun

WEIGHTED, READING, SAMPLED, CONTRAST = TESTS = ("weighted", "reading", "sampled", "contrast")
# Options that the result depends on, as the JSON document has them.
CONFIGURATION = (
    "model", "endpoint", "profile", "key", "tenant", "epoch", "layers", "tests", "texts", "field", "marked", "filters",
    "filter_top", "decoys", "base", "base_log", "reference", "reference_share", "tokenizer", "max_contexts", "top", "budget",
    "log", "answer_tokens", "channel", "logprobs", "extra", "seed", "batch_size", "alpha", "family",
)


class Case:
    """One invocation.

    Args:
        options: of the verb.

    Raises:
        ConfigError: options that contradict one another, or a profile or key is missing.
        KeyFileError, ProfileError: a key or profile that cannot be used.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        from wmcheck.cli.skipped import Skipped

        self.options = options
        check(options)
        self.tests = tests_of(options)
        self.candidates, self.chains = layered(
            load_candidates(options["profile"], options["key"], options["tenant"], options["epoch"]), options["layers"]
        )
        self.references = self._references()
        for name in dict.fromkeys(one.profile.name for one in self.candidates if one.committed == "no"):
            click.echo(f"warning: {printable(name)}: does not commit to the key", err=True)
        self._decoys: list[tuple[Profile, str, DecoyRun]] = []
        self.skipped = Skipped(strict=options["strict"], verbose=options["verbose"])
        read = (options["base_log"], options["reference"], options["log"])
        files = [*options["profile"], *options["key"], *options["texts"], *options["filters"], *(name for name in read if name)]
        self.inputs: list[str] = files

    def _references(self) -> dict[str, Excess]:
        """What a model of known dose showed, by test; read before anything is asked."""
        from wmcheck.watermark.radioactivity import reference_excess

        path, share = self.options["reference"], self.options["reference_share"]
        if not path:
            return {}
        if len(self.candidates) > 1:
            raise ConfigError(
                "a reference is for one key", where="--reference", got=f"{len(self.candidates)} keys and layers",
                hint="name one profile, key, tenant and layer",
            )
        return {test: reference_excess(path, test, share) for test in self.tests if test != CONTRAST}

    def execute(self) -> Found:
        """Ask the suspect, test, and correct for all tests of the run."""
        from wmcheck.cli.radioactive_suspects import opened
        from wmcheck.cli.runs import run_record

        with opened(self.options, self.skipped) as suspect:
            results = [one for candidate in self.candidates for one in self._results(candidate, suspect)]
            described, notes = suspect.describe(), suspect.notes
        self.skipped.summarize(int(described.get("texts", described.get("answers", 0))))
        return Found(
            results=corrected(results, len(self.tests), self.chains, self.options["family"]), alpha=self.options["alpha"],
            suspect=described, configuration=self._configuration(), run=run_record([*self.inputs, *suspect.files]),
            skipped=self.skipped.count, notes=notes,
        )

    def _results(self, candidate: Candidate, suspect: Suspect) -> Iterator[Radioactivity]:
        """All tests under one key."""
        for test in self.tests:
            yield self._dosed(self._result(candidate, suspect, test), candidate, suspect)

    def _result(self, candidate: Candidate, suspect: Suspect, test: str) -> Radioactivity:
        from wmcheck.watermark.radioactivity import with_base
        from wmcheck.watermark.radioactivity.contrast import contrast_plan
        from wmcheck.watermark.radioactivity.weighted import judge

        profile = candidate.profile
        held, base = suspect.collected(profile, test), suspect.base(profile, test)
        if test == CONTRAST:
            if base is None:
                raise ConfigError("a contrast needs the base model", where="--tests", got=test, hint="name it with --base")
            return judge(contrast_plan(held, base, profile), candidate, test)
        result = judge(plan_of(held, profile, test), candidate, test)
        if self.options["decoys"]:
            result = self._ranked(result, held, profile)
        return result if base is None else with_base(result, judge(plan_of(base, profile, test), candidate, test))

    def _ranked(self, result: Radioactivity, held: Collected, profile: Profile) -> Radioactivity:
        """The result among random keys, which are the same for all keys of a profile and tried once."""
        from wmcheck.watermark.radioactivity.decoys import ranked, run_decoys

        known = next((run for own, test, run in self._decoys if (own, test) == (profile, result.test)), None)
        if known is None:
            count = self.options["decoys"]
            with bar(count, "random keys", quiet=self.options["quiet"]) as progress:
                known = run_decoys(held, profile, result.test, count=count, seed=self.options["seed"], progress=progress)
            self._decoys.append((profile, result.test, known))
        return ranked(result, known)

    def _dosed(self, result: Radioactivity, candidate: Candidate, suspect: Suspect) -> Radioactivity:
        """The result with a dose, where a reference or marked text is at hand; it is no part of the p-value."""
        from wmcheck.watermark.radioactivity import marked_excess, with_dose

        if result.test == CONTRAST:
            return result
        if self.references:
            return with_dose(result, self.references[result.test])
        # A likeliest token carries more of a mark than the text does, and would bound nothing.
        documents = [] if result.test == READING else suspect.marked_documents(candidate.profile)
        if not documents:
            return result
        key = candidate.key
        tenant, epoch = getattr(key, "tenant_name", ""), getattr(key, "epoch", "")
        return with_dose(result, marked_excess(documents, candidate.profile, key, tenant=tenant, epoch=epoch))

    def _configuration(self) -> dict[str, Any]:
        from wmcheck import __version__

        plain = {name: list(v) if isinstance(v := self.options[name], tuple) else v for name in CONFIGURATION}
        return {"version": __version__, **plain}


def plan_of(held: Collected, profile: Profile, test: str) -> Any:
    """The items of one test."""
    from wmcheck.watermark.radioactivity.weighted import Plan

    return Plan(held.readings() if test == READING else held, profile, f"--tests {test}")


def layered(candidates: Sequence[Candidate], wanted: Sequence[str]) -> tuple[list[Candidate], list[list[int]]]:
    """Every candidate of a layered profile as one of each layer, each key of a layer once.

    Returns:
        All candidates, and for each layered one the places of its layers in the order in which they are tested.

    Raises:
        ConfigError: a layer is wanted that no profile has.
    """
    from wmcheck.watermark.layers import layer_profile, layer_tenant, layers_of

    found: list[Candidate] = []
    places: dict[tuple[str, str], int] = {}
    chains = []
    known = {layer for one in candidates for layer in layers_of(one.profile)}
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(
            "no such layer", where="--layer", got=unknown[0], expected=", ".join(sorted(known)) or "a layered profile",
        )
    for one in candidates:
        names, key = layers_of(one.profile), one.key
        chosen: list[Candidate] = [one]
        if names:
            profiles = {layer: layer_profile(one.profile, layer) for layer in names if layer in wanted or not wanted}
            keys: dict[str, Any] = {layer: layer_tenant(key, layer, key.tenant_name, key.epoch) for layer in profiles}  # type: ignore[arg-type]
            chosen = [Candidate(profile, keys[layer], one.committed) for layer, profile in profiles.items()]
        chain = []
        for own in chosen:
            place = places.setdefault((own.profile.name, own.key.commitment), len(found))
            if place == len(found):
                found.append(own)
            chain.append(place)
        chains += [chain] if names else []
    return found, chains


def corrected(
    results: Sequence[Radioactivity], tests: int, chains: Sequence[Sequence[int]], family: int | None
) -> list[Radioactivity]:
    """Results corrected for one another: Holm, and for layers the fixed sequence of each test.

    With s sequences and k other tests in a family of m >= s + k, each sequence is tested at alpha / m, and the others by Holm in
    the same family: the first true one of k' to be rejected falls at most at alpha / (s + k'), so that all false rejections
    together have probability at most alpha k' / (s + k') + alpha s / m, which is at most alpha.

    Args:
        results: all tests of the first candidate, then those of the next.
        tests: how many tests a candidate has.
        chains: places of candidates that are layers of one profile, in order.
        family: number of tests and sequences, if there were more elsewhere.
    """
    from wmcheck.watermark.layers import ORDER, fixed_sequence
    from wmcheck.watermark.radioactivity import correct

    inside = {place for chain in chains for place in chain}
    alone = [place for place in range(len(results)) if place // tests not in inside]
    size = max(len(alone) + tests * len(chains), family or 0)
    found = list(results)
    for place, result in zip(alone, correct([results[place] for place in alone], family=size), strict=True):
        found[place] = result
    best: dict[int, float] = {}
    for chain in chains:
        for test in range(tests):
            places = [candidate * tests + test for candidate in chain]
            adjusted = fixed_sequence([results[place].log10_p * LOG10 for place in places], family=size) / LOG10
            best.update({place: min(best.get(place, 0.0), float(p)) for place, p in zip(places, adjusted, strict=True)})
    label = f"fixed sequence {' > '.join(ORDER)}, Bonferroni over {size} tests and sequences"
    for place, value in best.items():
        found[place] = replace(results[place], log10_p_adjusted=value, correction=label, family=size)
    return found


def tests_of(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The tests of the run: those that were named, else those that fit.

    Raises:
        ConfigError: a name is no test, or the test cannot be made of what is asked.
    """
    closed = bool(options["endpoint"])
    fitting = [SAMPLED] if closed else [WEIGHTED, READING, SAMPLED]
    if closed and (options["logprobs"] or options["endpoint"].startswith("replay:")):
        fitting += [WEIGHTED, READING]
    if not closed and options["base"] and not options["marked"]:
        fitting.append(CONTRAST)
    if options["tests"] is None:
        if not closed:
            return (WEIGHTED, READING)
        return (SAMPLED, WEIGHTED) if options["logprobs"] else (SAMPLED,)
    names = [name.strip() for name in options["tests"].split(",") if name.strip()]
    for name in names:
        if name not in TESTS:
            raise ConfigError("no such test", where="--tests", got=repr(name)[:60], expected=", ".join(TESTS))
        if name not in fitting:
            hint = {
                WEIGHTED: "an endpoint gives probabilities only with --logprobs", READING: "see --logprobs, for endpoints",
                CONTRAST: "it needs open weights, --base and texts without the mark", SAMPLED: "",
            }[name]
            expected = ", ".join(fitting)
            raise ConfigError("the test does not fit what is asked", where="--tests", got=name, expected=expected, hint=hint)
    if not names or len(set(names)) != len(names):
        raise ConfigError("tests by comma, each once", where="--tests", got=repr(options["tests"])[:60])
    return tuple(names)


def check(options: Mapping[str, Any]) -> None:
    """Refuse options that contradict one another before anything is asked or read.

    Raises:
        ConfigError: the first that does.
    """
    closed, texts = bool(options["endpoint"]), bool(options["texts"])
    replayed = closed and options["endpoint"].startswith("replay:")
    refused = (
        (closed and texts, "--texts", "a model behind an endpoint reads no texts", "leave --texts out: it is asked for answers"),
        (options["marked"] and not texts, "--marked", "no texts that could be marked", "name them with --texts"),
        (closed and options["base"], "--base", "open weights are no control of sampled answers", "sample them: --base-log RUN"),
        (not closed and options["base_log"], "--base-log", "a run is no control of open weights", "name the model: --base MODEL"),
        (options["filter_top"] and not options["filters"], "--filter-top", "no logs to count in", "name them with --filter"),
        (options["reference_share"] and not options["reference"], "--reference-share", "no reference", "name it: --reference"),
        (options["logprobs"] and not closed, "--logprobs", "no server to ask", "open weights give all probabilities"),
        (options["logprobs"] and replayed, "--logprobs", "a run is not asked", "name the test: --tests weighted"),
        (closed and not replayed and options["log"] in (None, "-"), "--log", "no run log", "name a file, new or to go on with"),
        (replayed and options["log"], "--log", "a run that is read again has a log", "leave --log out"),
        (not closed and texts and options["log"] and SAMPLED not in (options["tests"] or ""), "--log",
         "nothing is sampled where texts are given", "leave --log out"),
    )  # fmt: skip
    for wrong, where, what, hint in refused:
        if wrong:
            raise ConfigError(what, where=where, hint=hint)
