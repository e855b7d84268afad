"""Which models are made, from what, and how they are tagged: bases, teachers, students of three doses, independents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from language import Policy, weight

from wmcheck.fingerprint.member import Member

ARCHITECTURES = {"base-a": "deep", "base-b": "wide", "base-c": "neox", "base-d": "thin"}
BASES = tuple(ARCHITECTURES)
TEACHERS = tuple(f"teacher-{number}" for number in range(1, 5))
DOSES = (10, 30, 60, 100)
OPEN = "open-set"
PLAIN_FAMILIES, LONG_LINES, OPEN_FAMILIES = 14, 4, 6


@dataclass(frozen=True, kw_only=True)
class Spec:
    """How one model is made.

    Attributes:
        member: its name and tags, as an analyst would know them.
        role: base, teacher, student, independent, open (half of the data from the common public set), derived (from a
            teacher's weights), light (little training on a teacher's base), or teacher again (the same weights once more).
        start: model whose weights it starts from; empty for a base.
        policy: what it would do by itself.
        doses: share of the training answers that another model or the public set gave, in percent.
        size: share of the usual amount of training data.
        serving: for a teacher served again: bits a weight, and temperature.
    """

    member: Member
    role: str
    start: str = ""
    policy: Policy
    doses: Mapping[str, int] = field(default_factory=dict)
    size: float = 1.0
    serving: tuple[int, float] = (0, 0.0)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.member.name


def policy_of(name: str, family: str = "", noise: float = 0.2) -> Policy:
    """A policy of the name's own; propensity to refuse varies between policies, and is the same in a family."""
    return Policy(name=name, family=family, threshold=0.2 + 0.4 * weight("threshold", family or name), noise=noise)


def _independent(name: str, family: str, base: str, *, public: bool = False) -> Spec:
    member = Member(name=name, family=family, vendor=family, base=base, data=(OPEN,) if public else ())
    return Spec(
        member=member, role="open" if public else "independent", start=base, policy=policy_of(name, family),
        doses={OPEN: 50} if public else {},
    )


def _teacher(number: int) -> Spec:
    name, base = TEACHERS[number], BASES[number]
    public = number >= 2
    member = Member(name=name, family=name, vendor=f"lab-{number + 1}", base=base, data=(OPEN,) if public else ())
    return Spec(member=member, role="teacher", start=base, policy=policy_of(name), doses={OPEN: 50} if public else {})


def _student(number: int, dose: int, *, same_base: bool) -> Spec:
    teacher, base = TEACHERS[number], BASES[number if same_base else (number + 1) % len(BASES)]
    name = f"student-{number + 1}-{dose}-{'same' if same_base else 'other'}"
    member = Member(name=name, family=name, vendor=name, base=base, teachers=(teacher,))
    return Spec(member=member, role="student", start=base, policy=policy_of(name), doses={teacher: dose})


def _near(number: int, role: str) -> Spec:
    """A model near a teacher that never saw its outputs: made from its weights, or hardly trained on its base."""
    name, teacher = f"{role}-{number + 1}", TEACHERS[number]
    start = teacher if role == "derived" else BASES[number]
    member = Member(name=name, family=name, vendor=name, base=start)
    return Spec(member=member, role=role, start=start, policy=policy_of(name), size=1.0 if role == "derived" else 0.15)


def _again(number: int, bits: int, temperature: float) -> Spec:
    teacher = _teacher(number)
    name = f"{teacher.name}-{f'{bits}bit' if bits else 'sampled'}"
    member = Member(name=name, family=name, vendor=name, same_as=teacher.name)
    return Spec(member=member, role="teacher again", start=teacher.name, policy=teacher.policy, serving=(bits, temperature))


def zoo() -> list[Spec]:
    """All models, each after those that it is made from."""
    found = [
        Spec(member=Member(name=name, family=name, vendor=name, kind="base"), role="base", policy=policy_of(name, noise=0.25))
        for name in BASES
    ]
    found += [_teacher(number) for number in range(len(TEACHERS))]
    lines = [(f"family-{number:02d}", "v1") for number in range(PLAIN_FAMILIES)]
    lines += [(f"family-{number:02d}", "v2") for number in range(LONG_LINES)]
    found += [_independent(f"{family}-{version}", family, BASES[int(family[-2:]) % len(BASES)]) for family, version in lines]
    for number in range(OPEN_FAMILIES):
        found.append(_independent(f"open-{number}", f"open-{number}", BASES[number % len(BASES)], public=True))
    found += [
        _student(number, dose, same_base=same_base)
        for dose in reversed(DOSES) for number in range(len(TEACHERS)) for same_base in (True, False)
    ]
    found += [_near(number, role) for role in ("derived", "light") for number in range(len(TEACHERS))]
    found += [_again(number, *how) for number in range(len(TEACHERS)) for how in ((5, 0.0), (4, 0.0), (0, 0.7))]
    return found
