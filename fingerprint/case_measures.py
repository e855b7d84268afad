"""What a case shows besides the likelihood ratio: rank among controls, difference in differences, neighbours, residual map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmcheck.fingerprint.casework import Panel
from wmcheck.fingerprint.conformal import Ranked, RankTest, rank_test
from wmcheck.fingerprint.member import related
from wmcheck.fingerprint.scores import LEAST_REFERENCES, Scores, jackknife_error
from wmcheck.fingerprint.signature import SIGNATURES, Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """Difference in differences: did post-training move the suspect towards this teacher in particular?

    Attributes:
        signature: its name.
        suspect: score of suspect and teacher, less the suspect's mean with control teachers.
        base: the same for the base.
        difference: ``suspect - base``, in standard deviations of unrelated pairs.
        error: standard error over items.
    """

    signature: str
    suspect: float
    base: float
    difference: float
    error: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in self.__slots__}


def control_teachers(panel: Panel) -> NDArray[np.bool_]:
    """(models,) mask: chat models of the cohort with no known link to suspect or teacher, on the teacher's channel if enough."""
    return _controls(panel, panel.teacher)


def control_suspects(panel: Panel) -> NDArray[np.bool_]:
    """(models,) mask: the same, on the suspect's channel if enough."""
    return _controls(panel, panel.suspect)


def _controls(panel: Panel, like: int) -> NDArray[np.bool_]:
    members = panel.members
    suspect, teacher = members[panel.suspect], members[panel.teacher]
    free = np.array([
        bool(control) and member.kind == "chat" and not related(member, suspect) and not related(member, teacher)
        for member, control in zip(members, panel.controls, strict=True)
    ])
    near = free & np.array([member.channel == members[like].channel for member in members])
    return near if near.sum() >= LEAST_REFERENCES else free


def rank(panel: Panel, scores: Mapping[str, Floats]) -> RankTest:
    """Conformal rank of the pair, in both directions; every vendor of controls counts once.

    The statistic is the mean over signatures of the raw score, normalised for each candidate by the *other* candidates that it
    is not related to. Candidate and controls are treated alike, so the rank is uniform if their vendors are exchangeable.

    Args:
        panel: the case.
        scores: raw (models, models) scores by signature.
    """
    sides = []
    for fixed, moving, controls in (
        (panel.suspect, panel.teacher, control_teachers(panel)), (panel.teacher, panel.suspect, control_suspects(panel)),
    ):
        group = [moving, *np.flatnonzero(controls).tolist()]
        pool = [*group, *_kin(panel, moving, fixed, controls)]
        values = np.mean([_normalised(raw, fixed, group, pool, panel) for raw in scores.values()], axis=0)
        vendors = [panel.members[model].cluster for model in group[1:]]
        sides.append(Ranked(value=float(values[0]), controls=values[1:], groups=vendors))
    return rank_test(sides[0], sides[1])


def _kin(panel: Panel, moving: int, fixed: int, controls: NDArray[np.bool_]) -> list[int]:
    """Models that would be controls but for their relation to the candidate: they normalise, as a control's relatives do."""
    members = panel.members
    channels = {members[model].channel for model in np.flatnonzero(controls)}
    return [
        place for place, (member, control) in enumerate(zip(members, panel.controls, strict=True))
        if control and member.kind == "chat" and member.channel in channels and related(member, members[moving])
        and not related(member, members[fixed])
    ]


def _normalised(raw: Floats, fixed: int, group: Sequence[int], pool: Sequence[int], panel: Panel) -> Floats:
    """Score of ``fixed`` with each model of the group, in standard deviations of that model's scores within the pool."""
    members = panel.members
    values = np.full(len(group), np.nan)
    for place, model in enumerate(group):
        others = [other for other in pool if other != model and not related(members[model], members[other])]
        against = raw[model, others]
        against = against[~np.isnan(against)]
        if len(against) >= LEAST_REFERENCES - 1 and against.std() > 0.0:
            values[place] = (raw[fixed, model] - against.mean()) / against.std(ddof=1)
    return values


def shifts(panel: Panel, scores: Mapping[str, Scores]) -> list[Shift]:
    """Difference in differences against the base for every signature, with its jackknife error over questions."""
    if panel.base is None:
        return []
    found = []
    controls = control_teachers(panel)
    for name, whole in scores.items():
        suspect, base = (_advantage(whole.one_sided, place, panel.teacher, controls) for place in (panel.suspect, panel.base))
        if np.isnan(suspect) or np.isnan(base):
            continue
        parts = np.array([
            _advantage(part, panel.suspect, panel.teacher, controls) - _advantage(part, panel.base, panel.teacher, controls)
            for part in whole.parts
        ])
        found.append(Shift(signature=name, suspect=suspect, base=base, difference=suspect - base, error=jackknife_error(parts)))
    return found


def _advantage(one_sided: Floats, model: int, teacher: int, controls: NDArray[np.bool_]) -> float:
    # Normalised by the teacher's (or control's) own pairs: comparable over candidates for one model.
    row = one_sided[model]
    others = row[controls & (np.arange(len(row)) != model)]
    others = others[~np.isnan(others)]
    return float(row[teacher] - others.mean()) if len(others) else float("nan")


def nearest(panel: Panel, scores: Mapping[str, Scores], *, limit: int = 12) -> list[dict[str, Any]]:
    """The models of the panel that the suspect is most like, by mean normalised score over primary signatures."""
    primary = [value.z[panel.suspect] for name, value in scores.items() if SIGNATURES[name].primary]
    mean = np.mean(primary, axis=0)
    order = [int(place) for place in np.argsort(-np.nan_to_num(mean, nan=-np.inf)) if not np.isnan(mean[place])]
    rows = []
    for position, place in enumerate(order, 1):
        if position > limit and place != panel.teacher:
            continue
        member = panel.members[place]
        role = "teacher" if place == panel.teacher else "base" if place == panel.base else ""
        rows.append({
            "rank": position, "name": member.name, "family": member.line, "vendor": member.vendor, "role": role,
            "z": float(mean[place]),
        })
    return rows


def residual_map(panel: Panel, scores: Mapping[str, Scores], *, limit: int = 12) -> dict[str, Any]:
    """Where the score of suspect and teacher comes from: shares by stratum, and the decisions that weigh most either way."""
    found: dict[str, Any] = {}
    for name in scores:
        tables = panel.tables(name)
        contributions = SIGNATURES[name]().explain(tables, panel.suspect, panel.teacher)
        if not contributions:
            continue
        strata: dict[str, list[float]] = {}
        for entry in contributions:
            strata.setdefault(entry.stratum, []).append(entry.value)
        ranked = sorted(contributions, key=lambda entry: entry.value)
        top = [*reversed(ranked[-limit:]), *ranked[: limit // 3]] if len(ranked) > limit + limit // 3 else [*reversed(ranked)]
        found[name] = {
            "strata": [
                {"stratum": stratum, "decisions": len(values), "sum": float(sum(values))}
                for stratum, values in sorted(strata.items())
            ],
            "decisions": [
                {
                    "decision": entry.decision,
                    "stratum": entry.stratum,
                    "value": entry.value,
                    "suspect": list(tables[panel.suspect][entry.decision].tokens),
                    "teacher": list(tables[panel.teacher][entry.decision].tokens),
                }
                for entry in top
            ],
            "values": [entry.value for entry in ranked],
        }
    return found
