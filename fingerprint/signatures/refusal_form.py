"""How a model declines, once it does: apology, policy, alternative, referral, length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from wmcheck.fingerprint.agreement import agreement, explain
from wmcheck.fingerprint.behaviour import Observation
from wmcheck.fingerprint.decisions.labels import declined, form
from wmcheck.fingerprint.signature import Contribution, PairScores, Table, by_question, offers_tools, part, root
from wmcheck.fingerprint.signatures.refusal import label_of
from wmcheck.fingerprint.transcript import Transcript

_LEAST_REFUSALS = 10


class RefusalForm:
    """Surprisal-weighted agreement on the features of a refusal, over the items that both models declined.

    The features mean the same on every item, so how common each value is is counted over all items together. Source:
    specs, "refusal / decision signature", step 5.
    """

    name: ClassVar[str] = "refusal_form"
    summary: ClassVar[str] = "apology, policy, alternative and length of a refusal, given that both decline"
    primary: ClassVar[bool] = True
    least: ClassVar[int] = 60

    def observe(self, transcripts: Iterable[Transcript]) -> dict[str, Observation]:
        """One decision a feature, for every declined item whose words are at hand."""
        seen: dict[str, Observation] = {}
        chats = (transcript for transcript in transcripts if not offers_tools(transcript) and transcript.text.strip())
        for question, samples in by_question(chats).items():
            tokens: dict[str, list[str]] = {}
            for sample in samples:
                if declined(label_of(sample)):
                    for name, value in form(sample.text).items():
                        tokens.setdefault(name, []).append(value)
            seen.update({part(question, name): Observation(name, tuple(found)) for name, found in tokens.items()})
        return seen

    def score(self, tables: Sequence[Table]) -> PairScores:
        """Nats of shared surprisal per feature; models with fewer than ten refusals are left out."""
        excluded = {}
        for model, table in enumerate(tables):
            refusals = len({root(item) for item in table})
            if refusals < _LEAST_REFUSALS:
                excluded[model] = f"{refusals} refusals in words; at least {_LEAST_REFUSALS} are needed"
        return agreement(tables, excluded=excluded, least=self.least, pool=True)

    def explain(self, tables: Sequence[Table], one: int, other: int) -> list[Contribution]:
        """The features of refusals that two models share, less chance."""
        return explain(tables, one, other, pool=True)
