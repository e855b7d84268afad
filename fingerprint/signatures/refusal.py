"""Which odd items a model declines, beyond how readily it declines and how delicate the item is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from wmcheck.fingerprint.behaviour import Observation
from wmcheck.fingerprint.decision_panel import Decisions, explain, panel, residual_scores, undecided
from wmcheck.fingerprint.decisions.labels import declined, label
from wmcheck.fingerprint.signature import Contribution, PairScores, Table, by_question, offers_tools
from wmcheck.fingerprint.transcript import Transcript


def label_of(transcript: Transcript) -> str:
    """The decision that the source states, else the one that the rules find in the answer."""
    return transcript.label or label(transcript.text, refusal=transcript.refusal, stop=transcript.stop)


class Refusal:
    """Rasch residuals of two decisions, to decline and to decline outright, compared by Q3.

    Propensity is taken out for each topic on its own, so that neither readiness nor a topic's politics counts.
    Source: specs, "refusal / decision signature"; the second decision separates evasion from denial.
    """

    name: ClassVar[str] = "refusal"
    summary: ClassVar[str] = "which items are declined, given readiness and difficulty (Rasch residual Q3)"
    primary: ClassVar[bool] = True
    least: ClassVar[int] = 50

    def observe(self, transcripts: Iterable[Transcript]) -> dict[str, Observation]:
        """The label of every answer to an item without tools; empty answers are no decision."""
        chats = (transcript for transcript in transcripts if not offers_tools(transcript) and not transcript.group)
        seen: dict[str, Observation] = {}
        for question, samples in by_question(chats).items():
            labels = tuple(found for found in map(label_of, samples) if found != "empty")
            if labels:
                seen[question] = Observation(f"{samples[0].suite}/{samples[0].stratum}", labels)
        return seen

    def score(self, tables: Sequence[Table]) -> PairScores:
        """Q3 of the residuals; models that decline fewer than ten items, or nearly all, are left out with the reason."""
        panels, excluded = _panels(tables)
        return residual_scores(panels, excluded=excluded, least=self.least)

    def explain(self, tables: Sequence[Table], one: int, other: int) -> list[Contribution]:
        """The items that two models decline, or answer, against expectation together."""
        panels, excluded = _panels(tables)
        return explain(panels, excluded, one, other)


def _panels(tables: Sequence[Table]) -> tuple[list[Decisions], dict[int, str]]:
    soft = panel(tables, declined)
    return [soft, panel(tables, lambda token: token == "refuse")], undecided(soft, what="declined")
