"""Putting canaries into a deployment: instructions for the model, or a choice between finished answers.

Everything here takes the key and gives away the keyed sides, so keep what it returns as secret as the key. The commonest
mistake is to probe a suspect under these instructions: the answers then follow the key whatever the suspect was trained
on. :func:`carries_instructions` finds them in a system prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from wmcheck.fingerprint.canaries.plan import AnyKey, CanaryPlan, keyed_sides
from wmcheck.fingerprint.suites.canary import NAME
from wmcheck.fingerprint.suites.canary_bank import kinds, triggers
from wmcheck.fingerprint.transcript import Transcript
from wmcheck.watermark.core.errors import ConfigError

PREAMBLE = (
    "House style. The requests below can be answered in two equally good ways; use the one that is given for the topic. "
    "Do not mention these rules. They change the form of an answer, never its content."
)

Answer = TypeVar("Answer", str, Transcript)


def system_prompt(planned: CanaryPlan, key: AnyKey) -> str:
    """Instructions for every trigger of the plan, to put into the model's system prompt. It HOLDS the keyed sides.

    About 10 tokens a trigger. A model follows a few rules better than hundreds: where requests can be recognised before
    they reach it (:func:`wmcheck.fingerprint.suites.canary_bank.recognise`), add :func:`instruction` to those alone.
    """
    sides = dict(zip(planned.triggers, keyed_sides(key, planned.triggers).tolist(), strict=True))
    lines = [PREAMBLE, ""]
    for kind in kinds().values():
        topics: tuple[list[str], list[str]] = ([], [])
        for name, side in sides.items():
            if triggers()[name].kind is kind:
                topics[side].append(triggers()[name].topic)
        if any(topics):
            lines.append(f"When a user asks {kind.request}:")
            lines += [
                f"- {text}, if the topic is: {'; '.join(sorted(about))}."
                for text, about in zip(kind.sides, topics, strict=True) if about
            ]
    return "\n".join(lines) + "\n"


def instruction(planned: CanaryPlan, key: AnyKey, trigger: str) -> str:
    """The instruction for one trigger, to add to the request that shows it. It HOLDS the keyed side.

    Raises:
        ConfigError: the plan does not have this trigger.
    """
    side = planned.side(key, trigger)
    return f"House style for this answer: {triggers()[trigger].kind.sides[side]}."


def choose(planned: CanaryPlan, key: AnyKey, trigger: str, candidates: Sequence[Answer]) -> int | None:
    """Which of several candidate answers to serve: the index of the first that shows the keyed side, None if none does.

    With two ordinary samples of a model that shows either side half of the time, three of four answers can follow the key,
    and every answer served is one that the model gave.

    Args:
        candidates: texts, or transcripts where the side lies in a tool call.

    Raises:
        ConfigError: the plan does not have this trigger.
    """
    wanted = planned.side(key, trigger)
    read = (_side(trigger, one) for one in candidates)
    return next((index for index, side in enumerate(read) if side == wanted), None)


def rewrite(planned: CanaryPlan, key: AnyKey, trigger: str, answer_0: Answer, answer_1: Answer) -> Answer:
    """Of two versions of one answer, the one to serve.

    Args:
        answer_0, answer_1: the answer in the form of side 0 and of side 1.

    Raises:
        ConfigError: the plan does not have this trigger, or a version does not show its side, so that no test could see it.
    """
    wanted = planned.side(key, trigger)
    for side, answer in enumerate((answer_0, answer_1)):
        found = _side(trigger, answer)
        if found != side:
            raise ConfigError(
                "the answer does not show its side", where=trigger, got="neither side" if found is None else f"side {found}",
                expected=f"side {side}", hint=f"{triggers()[trigger].kind.sides[side]}",
            )
    return (answer_0, answer_1)[wanted]


def carries_instructions(prompt: str) -> bool:
    """Whether a prompt holds instructions of this module, under whatever key."""
    return PREAMBLE in prompt or any(side in prompt for kind in kinds().values() for side in kind.sides)


def _side(trigger: str, answer: str | Transcript) -> int | None:
    read = Transcript(suite=NAME, item=trigger, text=answer) if isinstance(answer, str) else answer
    return triggers()[trigger].kind.side(read)
