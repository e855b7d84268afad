"""On which odd items a model calls a tool, answers or asks back, beyond how readily it does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from wmcheck.fingerprint.behaviour import Observation
from wmcheck.fingerprint.decision_panel import explain, panel, residual_scores, undecided
from wmcheck.fingerprint.decisions.tool_tokens import action
from wmcheck.fingerprint.signature import Contribution, PairScores, Table, by_question, offers_tools
from wmcheck.fingerprint.transcript import Transcript

_VOTES = {"CALL": True, "NOCALL": False, "CLARIFY": False}


class ToolCallDecision:
    """Rasch residuals of the decision to call a tool, compared by Q3.

    Kept apart from the choice of tool: a model that is forced to call, or seldom does, would look like every other such
    model if calls were compared as they are. Answers that cannot be parsed are no decision. Source: specs, "tool-call
    signature", strata (d) and (e), conditioned as in "refusal / decision signature".
    """

    name: ClassVar[str] = "tool_call"
    summary: ClassVar[str] = "where a tool is called at all, given readiness and difficulty (Rasch residual Q3)"
    primary: ClassVar[bool] = True
    least: ClassVar[int] = 50

    def observe(self, transcripts: Iterable[Transcript]) -> dict[str, Observation]:
        """What each answer to an item with tools did; an answer that ends normally without a word calls nothing."""
        offered = (transcript for transcript in transcripts if offers_tools(transcript) and not transcript.group)
        seen: dict[str, Observation] = {}
        for question, samples in by_question(offered).items():
            did = tuple(found for found in map(_decision, samples) if found in _VOTES)
            if did:
                seen[question] = Observation(f"{samples[0].suite}/{samples[0].stratum}", did)
        return seen

    def score(self, tables: Sequence[Table]) -> PairScores:
        """Q3 of the residuals; models that call on all items or on none are left out with the reason."""
        calls = panel(tables, _VOTES.get)
        return residual_scores([calls], excluded=undecided(calls, what="called a tool"), least=self.least)

    def explain(self, tables: Sequence[Table], one: int, other: int) -> list[Contribution]:
        """The items on which two models call, or do not call, against expectation together."""
        calls = panel(tables, _VOTES.get)
        return explain([calls], undecided(calls, what="called a tool"), one, other)


def _decision(sample: Transcript) -> str:
    did = action(sample)
    return "NOCALL" if did == "EMPTY" and sample.stop == "stop" else did
