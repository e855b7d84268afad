"""What is claimed, and everything that could explain the same behaviour: H_T and A0 to A7, with the pairs that stand for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wmcheck.fingerprint.member import Member, learned_from, related, same_model

TARGET = "the training data of the suspect included outputs of the teacher"

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """One explanation other than the target proposition.

    Attributes:
        name: A0 to A7.
        claim: what it says.
        holds: whether a pair of cohort members (student or later model first) is an example of it; None where behaviour alone
            cannot show an example.
        why_not: why no pairs can stand for it, where ``holds`` is None.
        falling: it explains high scores better than the target proposition does.
    """

    name: str
    claim: str
    holds: Callable[[Member, Member], bool] | None
    why_not: str = ""
    falling: bool = False


def _independent(one: Member, other: Member) -> bool:
    return not related(one, other) and one.kind == other.kind == "chat"


def _shares_base(one: Member, other: Member) -> bool:
    return _base_related(one, other) and one.line != other.line and not _taught(one, other) and not same_model(one, other)


def _shares_data(one: Member, other: Member) -> bool:
    return (
        bool(set(one.data) & set(other.data))
        and one.line != other.line
        and not _base_related(one, other)
        and not _taught(one, other)
    )


def _siblings(one: Member, other: Member) -> bool:
    common = set(one.teachers) & set(other.teachers)
    return bool(common) and one.line != other.line and not _base_related(one, other) and not _direct(one, other)


def _contaminated(one: Member, other: Member) -> bool:
    """A model without any teacher, base or human-data, against a chat model that was on the web before it."""
    plain = one.kind in ("base", "human") and other.kind == "chat"
    return plain and not related(one, other) and bool(one.date and other.date) and one.date >= other.date


def _base_related(one: Member, other: Member) -> bool:
    return bool(one.base and one.base == other.base) or _made_from(one, other) or _made_from(other, one) or same_model(one, other)


def _made_from(one: Member, other: Member) -> bool:
    return bool(one.base) and one.base in (other.name, other.family)


def _direct(one: Member, other: Member) -> bool:
    return learned_from(one, other) or learned_from(other, one)


def _taught(one: Member, other: Member) -> bool:
    return _direct(one, other) or bool(set(one.teachers) & set(other.teachers))


ALTERNATIVES: tuple[Alternative, ...] = (
    Alternative(name="A0", claim="the suspect is independent of the teacher", holds=_independent),
    Alternative(
        name="A1", claim="the suspect is derived from the teacher's weights, or shares its base model", holds=_shares_base
    ),
    Alternative(name="A2", claim="both were trained on the same public data", holds=_shares_data),
    Alternative(name="A3", claim="both were trained on outputs of a third model", holds=_siblings),
    Alternative(
        name="A4",
        claim="the teacher was trained on outputs of the suspect",
        holds=None,
        why_not="similarity has no direction: only the dates of the two models can speak to this",
    ),
    Alternative(
        name="A5",
        claim="outputs of the teacher reached the suspect through a web crawl",
        holds=_contaminated,
    ),
    Alternative(
        name="A6",
        claim="the suspect's endpoint is the teacher, or routes to it",
        holds=same_model,
        falling=True,
    ),
    Alternative(
        name="A7",
        claim="the teacher's vendor trained on data like the suspect's, or both used one contractor",
        holds=None,
        why_not="no public tags name contractors: no pair of models is a known example",
    ),
)


EXAMPLES = ("teacher", "line", "line, any channel")


def target_pairs(members: Sequence[Member], examples: str) -> list[Pair]:
    """Pairs that stand for the target proposition.

    Args:
        members: the cohort.
        examples: ``teacher``: declared students and their teachers. ``line``: versions of one product line (one recipe, or
            the same weights trained on), asked through one channel; ``line, any channel``: whatever the channel.
            Lines are a stand-in, and reports say so.

    Returns:
        Pairs of indices; (student, teacher) where the direction is known.
    """
    if examples == "teacher":
        return [
            (i, j) for i, one in enumerate(members) for j, other in enumerate(members)
            if i != j and learned_from(one, other) and not _base_related(one, other)
        ]
    loose = examples == "line, any channel"
    return _pairs(
        members,
        lambda one, other: one.line == other.line and not same_model(one, other) and (loose or one.channel == other.channel),
    )


def alternative_pairs(members: Sequence[Member], alternative: Alternative) -> list[Pair]:
    """Pairs of the cohort that stand for ``alternative``; empty where behaviour cannot show any."""
    holds = alternative.holds
    if holds is None:
        return []
    return _pairs(members, lambda one, other: holds(one, other) or holds(other, one))


def _pairs(members: Sequence[Member], holds: Callable[[Member, Member], bool]) -> list[Pair]:
    return [(i, j) for i in range(len(members)) for j in range(i) if holds(members[i], members[j])]
