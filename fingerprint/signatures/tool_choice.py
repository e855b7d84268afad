"""Which tool, which optional arguments and which values a model chooses, given that it calls one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import ClassVar

from wmcheck.fingerprint.agreement import agreement, explain
from wmcheck.fingerprint.behaviour import Observation, choice
from wmcheck.fingerprint.decisions.tool_tokens import action, canonical_value, names, optional_token
from wmcheck.fingerprint.signature import Contribution, PairScores, Table, by_question, offers_tools, part
from wmcheck.fingerprint.transcript import Transcript

_LEAST_CALLS = 30


class ToolChoice:
    """Surprisal-weighted agreement on the parts of a single call: tool, set of arguments, value of each argument.

    Several calls on one item are a capability (some interfaces cannot make them), so such answers are left out, as are items of
    strata named for parallel calls: kept in, they make a cluster of all models that can only call once. Source: specs, "tool-call
    signature" and finding 4; the parts give a near miss its due.
    """

    name: ClassVar[str] = "tool_choice"
    summary: ClassVar[str] = "tool, arguments and values of single calls (surprisal-weighted agreement)"
    primary: ClassVar[bool] = True
    least: ClassVar[int] = 50

    def observe(self, transcripts: Iterable[Transcript]) -> dict[str, Observation]:
        """Hashed choices, one decision for the tool, one for the argument names, one for each argument."""
        calls = (
            transcript for transcript in transcripts
            if offers_tools(transcript) and not transcript.group and "parallel" not in transcript.stratum
        )
        seen: dict[str, Observation] = {}
        for question, samples in by_question(calls).items():
            single = [sample for sample in samples if action(sample) == "CALL" and len(sample.tool_calls) == 1]
            tokens: dict[str, list[str]] = {}
            for sample in single:
                for name, token in _parts(sample).items():
                    tokens.setdefault(name, []).append(token)
            stratum = f"{samples[0].suite}/{samples[0].stratum}"
            seen.update({part(question, name): Observation(stratum, tuple(found)) for name, found in tokens.items()})
        return seen

    def score(self, tables: Sequence[Table]) -> PairScores:
        """Nats of shared surprisal per decision; models with fewer than thirty calls are left out."""
        calls = [sum(item.endswith("#tool") for item in table) for table in tables]
        excluded = {
            model: f"{count} single tool calls; at least {_LEAST_CALLS} are needed"
            for model, count in enumerate(calls) if count < _LEAST_CALLS
        }
        return agreement(tables, excluded=excluded, least=self.least)

    def explain(self, tables: Sequence[Table], one: int, other: int) -> list[Contribution]:
        """The choices that two models share, less chance."""
        return explain(tables, one, other)


def _parts(sample: Transcript) -> dict[str, str]:
    call = sample.tool_calls[0]
    tool = choice(",".join(names(sample)))
    found = {"tool": tool, "arguments": choice(f"{tool}:{optional_token(sample)}")}
    for name, value in sorted((call.arguments or {}).items()):
        found[f"value:{choice(name)}"] = choice(json.dumps(canonical_value(value), sort_keys=True, default=str))
    return found
