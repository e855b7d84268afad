"""What a model does differently when one constraint changes: the difference cancels the prompt and much of the harness."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from wmcheck.fingerprint.agreement import agreement, explain
from wmcheck.fingerprint.behaviour import Observation, choice
from wmcheck.fingerprint.decisions.tool_tokens import action, names, optional_token
from wmcheck.fingerprint.signature import Contribution, PairScores, Table, by_question, offers_tools
from wmcheck.fingerprint.signatures.refusal import label_of
from wmcheck.fingerprint.transcript import Transcript

_BASE = "base"
_LEAST_CHANGES = 10


class PairChange:
    """Surprisal-weighted agreement on the change between the two sides of a constraint pair.

    A change is what was decided before and after: action, tools and argument names of an item with tools, label of any other;
    an item on which nothing changed has the choice ``same``. Source: specs, "tool-call signature", off-manifold pairs.
    """

    name: ClassVar[str] = "pair_change"
    summary: ClassVar[str] = "how behaviour changes when one constraint of a prompt changes"
    primary: ClassVar[bool] = True
    least: ClassVar[int] = 40

    def observe(self, transcripts: Iterable[Transcript]) -> dict[str, Observation]:
        """One decision for every pair and side that differs from the base side; first samples are compared with first ones."""
        groups: dict[str, dict[str, dict[str, list[Transcript]]]] = {}
        for question, samples in by_question(sample for sample in transcripts if sample.group).items():
            first = samples[0]
            turn = question.rsplit("/", 1)[-1] if first.item.rpartition("/")[2].isdigit() else ""
            sides = groups.setdefault(f"{first.suite}/{first.group}", {}).setdefault(turn, {})
            sides[first.variant] = samples
        seen: dict[str, Observation] = {}
        for group, turns in groups.items():
            for turn, sides in turns.items():
                seen.update(_changes(f"{group}/{turn}" if turn else group, sides))
        return seen

    def score(self, tables: Sequence[Table]) -> PairScores:
        """Nats of shared surprisal per pair; models that hardly ever change are left out."""
        excluded = {}
        for model, table in enumerate(tables):
            changes = sum(token != "same" for seen in table.values() for token in seen.tokens)
            if changes < _LEAST_CHANGES:
                excluded[model] = f"{changes} changes of behaviour within pairs; at least {_LEAST_CHANGES} are needed"
        return agreement(tables, excluded=excluded, least=self.least)

    def explain(self, tables: Sequence[Table], one: int, other: int) -> list[Contribution]:
        """The changes that two models share, less chance."""
        return explain(tables, one, other)


def _changes(group: str, sides: Mapping[str, Sequence[Transcript]]) -> dict[str, Observation]:
    base = sides.get(_BASE)
    found: dict[str, Observation] = {}
    for variant, samples in sorted(sides.items()):
        if base is None or variant == _BASE:
            continue
        before, after = (tuple(map(_decision, side)) for side in (base, samples))
        tokens = tuple("same" if was == now else choice(f"{was}>{now}") for was, now in zip(before, after, strict=False))
        if tokens:
            stratum = f"{samples[0].suite}/{samples[0].stratum or variant}"
            found[f"{group}/{variant}"] = Observation(stratum, tokens)
    return found


def _decision(sample: Transcript) -> str:
    if not offers_tools(sample):
        return label_of(sample)
    did = action(sample)
    return f"{did}:{','.join(names(sample))}:{optional_token(sample)}" if did == "CALL" else did
