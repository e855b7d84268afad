"""The same case under changed choices: what the headline hangs on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from wmcheck.fingerprint.behaviour import Observation
from wmcheck.fingerprint.casework import Panel, with_tables
from wmcheck.fingerprint.scores import LEAST_REFERENCES, half
from wmcheck.fingerprint.signature import Table

Variation = Callable[[Panel, np.random.Generator], Panel | None]


def _flip(share: float) -> Variation:
    """Swap a share of refusal labels: what a poor labeller would do to every model alike."""

    def vary(panel: Panel, rng: np.random.Generator) -> Panel | None:
        tables = panel.tables("refusal")
        if not tables[panel.suspect] or not tables[panel.teacher]:
            return None
        return with_tables(panel, "refusal", [_flipped(table, share, rng) for table in tables])

    return vary


def _flipped(table: Table, share: float, rng: np.random.Generator) -> dict[str, Observation]:
    flips = iter(rng.random(sum(len(seen.tokens) for seen in table.values())) < share)
    opposite = {"refuse": "comply", "deflect": "comply", "mixed": "comply"}
    return {
        item: Observation(
            seen.stratum, tuple(opposite.get(token, "refuse") if next(flips) else token for token in seen.tokens),
        )
        for item, seen in sorted(table.items())
    }


def _half(number: int) -> Variation:
    """Keep one half of the questions."""

    def vary(panel: Panel, rng: np.random.Generator) -> Panel | None:
        names = {name for subject in panel.subjects for name in subject.behaviour.signatures}
        changed = panel
        for name in sorted(names):
            changed = with_tables(changed, name, half(changed.tables(name), number))
        return changed

    return vary


def _largest_vendor(panel: Panel, rng: np.random.Generator) -> Panel | None:
    """Take the vendor with most models out of the cohort."""
    clusters = Counter(member.cluster for member, control in zip(panel.members, panel.controls, strict=True) if control)
    if len(clusters) < 4:
        return None
    largest = min(clusters, key=lambda name: (-clusters[name], name))
    keep = [place for place, member in enumerate(panel.members) if not panel.controls[place] or member.cluster != largest]
    place = {old: new for new, old in enumerate(keep)}
    if sum(bool(panel.controls[old]) for old in keep) < LEAST_REFERENCES:
        return None
    return replace(
        panel, subjects=tuple(panel.subjects[old] for old in keep), controls=panel.controls[keep], suspect=place[panel.suspect],
        teacher=place[panel.teacher], base=None if panel.base is None else place[panel.base],
        references=panel.references[np.ix_(keep, keep)],
    )


def _without(signature: str) -> Variation:
    """Leave one signature out."""

    def vary(panel: Panel, rng: np.random.Generator) -> Panel | None:
        if not panel.tables(signature)[panel.suspect] or not panel.tables(signature)[panel.teacher]:
            return None
        return with_tables(panel, signature, [{} for _ in panel.subjects])

    return vary


# What is changed, in words -> how.
VARIATIONS: Mapping[str, Variation] = {
    "5% of refusal labels flipped": _flip(0.05),
    "10% of refusal labels flipped": _flip(0.10),
    "one half of the questions": _half(0),
    "other half of the questions": _half(1),
    "without the vendor that has most models": _largest_vendor,
    "without the refusal signature": _without("refusal"),
    "without the refusal_form signature": _without("refusal_form"),
    "without the tool_choice signature": _without("tool_choice"),
}
