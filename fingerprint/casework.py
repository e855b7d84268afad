"""The panel of one case: cohort, suspect, teacher and base side by side, what may be compared, and what had to be left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wmcheck.fingerprint.behaviour import Behaviour
from wmcheck.fingerprint.cohort import Cohort, Subject
from wmcheck.fingerprint.member import Member, related, same_model
from wmcheck.fingerprint.scores import LEAST_REFERENCES, Scores, score
from wmcheck.fingerprint.signature import SIGNATURES, Table
from wmcheck.watermark.core.errors import ConfigError, InputError

_LEAST_CLUSTERS = 3


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The models of a case, in a fixed order: cohort, then suspect, teacher and, if given, base.

    Attributes:
        subjects: all of them.
        controls: (models,) bool, members of the cohort.
        suspect, teacher, base: places of the three; base may be None.
        references: (models, models) bool, true where column may normalise row.
        notes: what was left out of the cohort, and other downgrades.
    """

    subjects: tuple[Subject, ...]
    controls: NDArray[np.bool_]
    suspect: int
    teacher: int
    base: int | None
    references: NDArray[np.bool_]
    notes: tuple[str, ...]

    @property
    def members(self) -> list[Member]:
        """Tags, in the order of the panel."""
        return [subject.member for subject in self.subjects]

    @property
    def cohort(self) -> list[Member]:
        """Tags of the members of the cohort, which come first."""
        return self.members[: int(self.controls.sum())]

    def tables(self, signature: str) -> list[Table]:
        """Tables of one signature, empty where a model has none."""
        return [subject.behaviour.signatures.get(signature, {}) for subject in self.subjects]

    def score(self, signature: str, tables: Sequence[Table] | None = None) -> Scores:
        """Scores of every pair of the panel under one signature."""
        return score(signature, tables if tables is not None else self.tables(signature), self.members, self.references)


def assemble(suspect: Subject, teacher: Subject, cohort: Cohort, *, base: Subject | None = None, loose: bool = False) -> Panel:
    """Put a case together and refuse what cannot be compared.

    Cohort members that are the suspect, the teacher or the base under another name are left out, with a note.

    Args:
        suspect, teacher: the two models in question.
        cohort: the reference population.
        base: the suspect's base or its version before, for difference in differences.
        loose: go on where protocols differ, with a note, instead of raising.

    Raises:
        ConfigError: suspect and teacher are one model, or the cohort is too small or of one vendor.
        InputError: protocols differ, or suspect and teacher share no question.
    """
    notes: list[str] = []
    cases = [suspect, teacher, *([base] if base is not None else [])]
    _distinct(suspect, teacher)
    kept = []
    for subject in cohort:
        twin = next(
            (case for case in cases if same_model(case.member, subject.member) or _identical(case.behaviour, subject.behaviour)),
            None,
        )
        if twin is None:
            kept.append(subject)
        else:
            notes.append(f"{subject.name} is left out of the cohort: it is {_role(twin, cases)}")
    _big_enough(kept, cohort)
    notes += _protocols([*cases, *kept], loose)
    subjects = (*kept, *cases)
    members = [subject.member for subject in subjects]
    controls = np.arange(len(subjects)) < len(kept)
    references = np.array([[bool(control) and not related(one, other) for other, control in zip(members, controls, strict=True)]
                           for one in members])
    shadow = np.array([related(member, teacher.member) for member in members])
    # The teacher's relatives would hide what is special about the teacher: they are no reference for the suspect.
    references[len(kept)] &= ~shadow
    return Panel(
        subjects=subjects, controls=controls, suspect=len(kept), teacher=len(kept) + 1,
        base=len(kept) + 2 if base is not None else None, references=references, notes=tuple(notes),
    )


def _role(twin: Subject, cases: Sequence[Subject]) -> str:
    return f"the {('suspect', 'teacher', 'base')[cases.index(twin)]}, {twin.name}"


def _distinct(suspect: Subject, teacher: Subject) -> None:
    if suspect.behaviour.evidence and suspect.behaviour.evidence == teacher.behaviour.evidence:
        raise ConfigError(
            "suspect and teacher are the same run", where=suspect.behaviour.source, got=teacher.behaviour.source,
            hint="give the teacher's own run with --teacher",
        )


def _identical(one: Behaviour, other: Behaviour) -> bool:
    """True for one set of answers under two names: equal on everything that both observed, in all signatures."""
    shared = [
        (table[item].tokens, other.signatures[name][item].tokens)
        for name, table in one.signatures.items()
        if name in other.signatures
        for item in table.keys() & other.signatures[name].keys()
    ]
    return len(shared) >= 50 and all(mine == theirs for mine, theirs in shared)


def _big_enough(kept: Sequence[Subject], cohort: Cohort) -> None:
    clusters = {subject.member.cluster for subject in kept}
    if len(clusters) < _LEAST_CLUSTERS or len(kept) < LEAST_REFERENCES:
        raise ConfigError(
            "the cohort cannot say what is usual",
            where=cohort.source,
            got=f"{len(kept)} usable models of {len(clusters)} vendors",
            expected=f"at least {LEAST_REFERENCES} models of {_LEAST_CLUSTERS} vendors",
            hint="add unrelated models, or use the cohort that ships (--cohort bundled); 'wmcheck cohort check' says how many "
            "are enough",
        )


def _protocols(subjects: Sequence[Subject], loose: bool) -> list[str]:
    first = subjects[0].behaviour
    notes: list[str] = []
    unknown = 0
    for subject in subjects[1:]:
        behaviour = subject.behaviour
        if first.protocol is None or behaviour.protocol is None:
            unknown += 1
            continue
        differences = first.protocol.differences(behaviour.protocol)
        if not differences:
            continue
        if not loose:
            raise InputError(
                "the protocols differ",
                where=behaviour.source or subject.name,
                got=differences[0],
                expected=f"the protocol of {first.source or first.model}",
                hint="probe both under one protocol, or pass --loose-protocol for a comparison that says so",
            )
        notes.append(f"{subject.name} was asked under another protocol ({'; '.join(differences)})")
    if unknown:
        notes.append(f"{unknown} of {len(subjects) - 1} models have no recorded protocol: that they were asked alike is assumed")
    return notes


def usable_signatures(
    panel: Panel, wanted: Sequence[str] | None, *, known: tuple[Panel, Mapping[str, Scores]] | None = None,
) -> tuple[dict[str, Scores], dict[str, str]]:
    """Score every signature that suspect and teacher both have.

    Args:
        panel: the case.
        wanted: names to use; default all.
        known: another panel and its scores, which hold for every signature whose tables are the same.

    Returns:
        Scores by name, and the reason for every signature that says nothing here.

    Raises:
        ConfigError: a wanted name is not registered.
        InputError: none is usable.
    """
    found: dict[str, Scores] = {}
    silent: dict[str, str] = {}
    for name in wanted or SIGNATURES:
        if name not in SIGNATURES:
            raise ConfigError("no such signature", got=repr(name), expected=", ".join(SIGNATURES))
        tables = panel.tables(name)
        both = tables[panel.suspect].keys() & tables[panel.teacher].keys()
        if not both:
            silent[name] = "suspect and teacher share no item of this kind"
            continue
        scores = _known(panel, name, known) or panel.score(name, tables)
        reason = _why_silent(scores, panel)
        if reason:
            silent[name] = reason
        else:
            found[name] = scores
    if not any(SIGNATURES[name].primary for name in found):
        raise InputError(
            "nothing to compare", where=panel.subjects[panel.suspect].behaviour.source,
            got="; ".join(f"{name}: {reason}" for name, reason in silent.items()) or "only secondary signatures",
            hint="suspect, teacher and cohort must have answered the same suites under the same seed",
        )
    return found, silent


def _known(panel: Panel, name: str, known: tuple[Panel, Mapping[str, Scores]] | None) -> Scores | None:
    if known is None or len(known[0].subjects) != len(panel.subjects):
        return None
    same = all(one is other for one, other in zip(known[0].tables(name), panel.tables(name), strict=True))
    return known[1].get(name) if same else None


def _why_silent(scores: Scores, panel: Panel) -> str:
    for role, place in (("suspect", panel.suspect), ("teacher", panel.teacher)):
        if place in scores.excluded:
            return f"the {role}: {scores.excluded[place]}"
    if np.isnan(scores.z[panel.suspect, panel.teacher]):
        shared = int(scores.shared[panel.suspect, panel.teacher])
        least = SIGNATURES[scores.signature].least
        if shared < least:
            return f"{shared} shared decisions; at least {least} are needed"
        return "too few unrelated models in the cohort answered these items"
    return ""


def with_tables(panel: Panel, signature: str, tables: Sequence[Table]) -> Panel:
    """The panel with other tables of one signature, for sensitivity analyses."""
    subjects = tuple(
        replace(subject, behaviour=replace(subject.behaviour, signatures={**subject.behaviour.signatures, signature: table}))
        for subject, table in zip(panel.subjects, tables, strict=True)
    )
    return replace(panel, subjects=subjects)
