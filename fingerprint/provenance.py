"""Compare a suspect with a named teacher against a cohort: scores, likelihood ratios, ranks, and what they rest on."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from wmcheck import __version__
from wmcheck.fingerprint.case_measures import nearest, rank, residual_map, shifts
from wmcheck.fingerprint.casework import Panel, assemble, usable_signatures
from wmcheck.fingerprint.cohort import Cohort, Subject
from wmcheck.fingerprint.comparison import Comparison, SignatureResult
from wmcheck.fingerprint.crossval import PairSet
from wmcheck.fingerprint.evidence_lr import (
    LOG10,
    AlternativeResult,
    Evidence,
    against,
    against_all,
    choose,
    evidence_of,
    headline,
    targets,
)
from wmcheck.fingerprint.likelihood import tippett
from wmcheck.fingerprint.propositions import ALTERNATIVES
from wmcheck.fingerprint.scores import Scores
from wmcheck.fingerprint.sensitivity import VARIATIONS
from wmcheck.fingerprint.signature import BLOCKS, SIGNATURES
from wmcheck.watermark.core.errors import WmcheckError

_GRID = np.linspace(-4.0, 4.0, 161)

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Choices of the analyst, all of them in the report.

    Attributes:
        signatures: names to use; None for all registered.
        draws: bootstrap resamples.
        seed: of bootstrap and sensitivity draws.
        loose_protocol: compare across protocols, with a downgrade.
        sensitivity: whether to repeat the analysis under changed choices.
    """

    signatures: tuple[str, ...] | None = None
    draws: int = 400
    seed: int = 0
    loose_protocol: bool = False
    sensitivity: bool = True


def compare(
    suspect: Subject, teacher: Subject, cohort: Cohort, *, base: Subject | None = None, settings: Settings | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Weigh "trained on outputs of the teacher" against every alternative that the cohort has examples of.

    Args:
        suspect, teacher: the models in question, with their tags.
        cohort: the reference population; members that are suspect, teacher or base are left out.
        base: the suspect's base model, or its version before the training in question.
        settings: the analyst's choices.
        progress: told what is being done.

    Returns:
        The comparison; it has no truth value and states no source.

    Raises:
        ConfigError: the cohort is too small or of one vendor, suspect and teacher are one run, or a signature is unknown.
        InputError: protocols differ, or nothing can be compared.
    """
    chosen = settings or Settings()
    tell = progress or (lambda text: None)
    panel = assemble(suspect, teacher, cohort, base=base, loose=chosen.loose_protocol)
    tell("scoring")
    scores, silent = usable_signatures(panel, chosen.signatures)
    evidence, target, examples, unused = _evidence(panel, scores)
    rng = np.random.default_rng(chosen.seed)
    tell("calibrating")
    results = against_all(evidence, target, panel.cohort, draws=chosen.draws, rng=rng)
    used = {name: scores[name] for name in evidence.signatures}
    primary = {name: value.raw for name, value in scores.items() if SIGNATURES[name].primary}
    rows = _sensitivity(panel, chosen, scores, results, tell) if chosen.sensitivity else []
    return Comparison(
        suspect=_describe(panel.subjects[panel.suspect]), teacher=_describe(panel.subjects[panel.teacher]),
        base=_describe(panel.subjects[panel.base]) if panel.base is not None else None, cohort=_describe_cohort(panel, cohort),
        alternatives=results, target_examples=examples, rank=rank(panel, primary),
        signatures=_signature_results(panel, scores, silent | unused, evidence.signatures),
        shifts=shifts(panel, scores), nearest=nearest(panel, used), map=residual_map(panel, used),
        tippett=_tippett(results), sensitivity=rows,
        downgrades=_downgrades(panel, examples, target, results), settings=_settings(chosen, evidence),
    )


def _evidence(panel: Panel, scores: Mapping[str, Scores]) -> tuple[Evidence, PairSet, str, dict[str, str]]:
    """Choose the primary signatures that leave enough target examples, widest coverage first."""
    primary = [name for name in scores if SIGNATURES[name].primary]
    taken, unused = choose(primary, lambda names: len(targets(evidence_of(panel, scores, names), panel.cohort)[0]))
    evidence = evidence_of(panel, scores, taken)
    target, examples = targets(evidence, panel.cohort)
    return evidence, target, examples, unused


def _signature_results(
    panel: Panel, scores: Mapping[str, Scores], reasons: Mapping[str, str], used: Sequence[str],
) -> list[SignatureResult]:
    found = []
    for name in SIGNATURES:
        if name not in scores and name not in reasons:
            continue
        z = error = lr = None
        shared = 0
        if name in scores:
            alone = evidence_of(panel, scores, [name])
            z, error = float(alone.score[0]), float(alone.spread[0])
            shared = int(scores[name].shared[panel.suspect, panel.teacher])
            target, _ = targets(alone, panel.cohort)
            lr = against(ALTERNATIVES[0], alone, target, panel.cohort, draws=0, rng=np.random.default_rng(0)).log10_lr
        found.append(SignatureResult(
            name=name, summary=SIGNATURES[name].summary, primary=SIGNATURES[name].primary, z=z, error=error, shared=shared,
            used=name in used, log10_lr=lr, reason=reasons.get(name, ""),
        ))
    return found


def _tippett(results: Sequence[AlternativeResult]) -> dict[str, Any]:
    curves: dict[str, Any] = {}
    for result in results:
        if result.validation is not None:
            sides = {"target": result.validation.target, "alternative": result.validation.alternative}
            shares = {name: tippett(held / LOG10, _GRID).tolist() for name, held in sides.items()}
            curves[result.name] = {"grid": _GRID.round(4).tolist(), **shares}
    return curves


def _sensitivity(
    panel: Panel, chosen: Settings, scores: Mapping[str, Scores], results: Sequence[AlternativeResult], tell: Progress,
) -> list[dict[str, Any]]:
    best = headline(results)
    if best is None:
        return []
    number = [alternative.name for alternative in ALTERNATIVES].index(best.name)
    rows = [{"change": "as reported", "log10_lr": best.log10_lr, "note": f"against {best.name}"}]
    for name, vary in VARIATIONS.items():
        tell(f"sensitivity: {name}")
        changed = vary(panel, np.random.default_rng(chosen.seed))
        if changed is None:
            continue
        try:
            varied, _ = usable_signatures(changed, [name for name in scores if SIGNATURES[name].primary], known=(panel, scores))
        except WmcheckError as error:
            rows.append({"change": name, "log10_lr": None, "note": str(error)})
            continue
        evidence, target, _, _ = _evidence(changed, varied)
        result = against(
            ALTERNATIVES[number], evidence, target, changed.cohort, draws=0, rng=np.random.default_rng(chosen.seed),
        )
        rows.append({"change": name, "log10_lr": result.log10_lr, "note": result.reason})
    return rows


def _downgrades(panel: Panel, examples: str, target: PairSet, results: Sequence[AlternativeResult]) -> list[str]:
    notes = list(panel.notes)
    for place, role in ((panel.suspect, "suspect"), (panel.teacher, "teacher")):
        notes += [f"{role}: {note}" for note in panel.subjects[place].behaviour.notes]
    if examples != "teacher" and len(target):
        notes.append(
            f"the cohort declares too few students with their teachers: pairs of one product line ({examples}) stand in for the "
            "target proposition. They are more alike than a student of an unrelated vendor, so the LR of a real student may come "
            "out too low or too high"
        )
    if all(result.log10_lr is None for result in results):
        notes.append("no likelihood ratio could be calibrated")
    return notes


def _describe(subject: Subject) -> dict[str, Any]:
    return {
        "name": subject.name, "tags": subject.member.to_dict(), "source": subject.behaviour.source,
        "notes": list(subject.behaviour.notes), "evidence": dict(subject.behaviour.evidence),
        "protocol": subject.behaviour.protocol.hash if subject.behaviour.protocol is not None else None,
        "decisions": {name: len(table) for name, table in sorted(subject.behaviour.signatures.items())},
    }


def _describe_cohort(panel: Panel, cohort: Cohort) -> dict[str, Any]:
    members = panel.cohort
    return {
        **{name: value for name, value in cohort.about.items() if isinstance(value, str)}, "source": cohort.source,
        "models": len(members), "vendors": len({member.cluster for member in members}),
        "names": sorted(member.name for member in members),
    }


def _settings(chosen: Settings, evidence: Evidence) -> dict[str, Any]:
    return {
        "signatures": list(evidence.signatures), "draws": chosen.draws, "seed": chosen.seed, "item_blocks": BLOCKS,
        "loose_protocol": chosen.loose_protocol, "wmcheck": __version__,
        "python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__,
    }
