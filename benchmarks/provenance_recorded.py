"""How well recorded models of one line are told from models of other vendors, and whether serving drift passes for a difference.

    python benchmarks/provenance_recorded.py --data DIR --work DIR --out benchmarks/results/provenance_recorded.md

DIR holds ``speechmap/``, ``bfcl_2024-08-11/`` and ``bfcl_v4_gptoss/`` (recorded outputs of real models, not part of this
repository). Tags are in ``recorded_models.json``. Behaviour tables are kept under ``--work``. Calibration never sees the
vendors of the pair it speaks about. Pairs of one line are no students: they share weights or recipe.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from wmcheck.fingerprint.adapter import import_transcripts
from wmcheck.fingerprint.behaviour import Behaviour, Observation, load_behaviour, save_behaviour
from wmcheck.fingerprint.cohort import Cohort, Subject
from wmcheck.fingerprint.cohort_pairs import score_cohort
from wmcheck.fingerprint.crossval import held_out, pair_set
from wmcheck.fingerprint.likelihood import Validation, validate
from wmcheck.fingerprint.member import Member
from wmcheck.fingerprint.observe import observe
from wmcheck.fingerprint.propositions import ALTERNATIVES, alternative_pairs, target_pairs
from wmcheck.fingerprint.scores import Scores
from wmcheck.fingerprint.signature import root
from wmcheck.fingerprint.transcript import Transcript
from wmcheck.watermark.core.errors import InputError

TAGS = json.loads((Path(__file__).parent / "recorded_models.json").read_text())
# The first edition of the questions under the names of the fourth.
RENAMED = {"simple_": "simple_python_", "multiple_function_": "multiple_", "relevance_": "irrelevance_"}


def observed(
    data: Path, folder: str, adapter: str, work: Path, change: Callable[[Transcript], Transcript | None]
) -> dict[str, Behaviour]:
    """Behaviours of every model of a folder, from ``work`` if they are there."""
    place = work / folder
    if not place.exists():
        place.mkdir(parents=True)
        runs = import_transcripts(adapter, [str(data / folder)]).runs
        for name, transcripts in runs.items():
            kept = [changed for transcript in transcripts if (changed := change(transcript)) is not None]
            try:
                behaviour = observe(name, kept)
            except InputError:
                continue
            save_behaviour(behaviour, place / f"{name.replace('/', '__')}.json.gz")
    return {table.model: table for table in map(load_behaviour, sorted(place.glob("*.json.gz")))}


def renamed(transcript: Transcript) -> Transcript:
    """A question of the first edition under its name in the fourth."""
    for old, new in RENAMED.items():
        if re.fullmatch(old + r"\d+", transcript.item):
            return replace(transcript, item=transcript.item.replace(old, new, 1))
    return transcript


def cohort(tables: Mapping[str, Behaviour], tags: Mapping[str, Mapping[str, str]]) -> Cohort:
    """Every tagged model that answered something."""
    return Cohort(subjects=tuple(
        Subject(member=Member.from_dict({"name": name, **tags[name]}, "recorded_models.json"), behaviour=table)
        for name, table in sorted(tables.items()) if name in tags
    ))


def evaluate(group: Cohort, layers: Sequence[Scores], examples: str) -> Validation | None:
    """Held-out performance of same-line against all cross-vendor pairs, whatever their tags say."""
    members = group.members
    apart = [(i, j) for i, one in enumerate(members) for j in range(i) if one.vendor != members[j].vendor]
    near = pair_set(target_pairs(members, examples), [layer.z for layer in layers], members)
    far = pair_set(apart, [layer.z for layer in layers], members)
    if len(near) < 4 or len(far) < 20:
        return None
    held1, held0 = held_out(near, far)
    return validate(held1[~np.isnan(held1)], held0[~np.isnan(held0)])


HEAD = (
    "| set | signatures | pairs of one line | unrelated pairs | AUC | Cllr | Cllr_min | TPR at 1% | TPR at 0.1% | line, LR < 1 | "
    "line, LR > 100 | unrelated, LR > 1 | unrelated, LR > 100 |\n" + "|---" * 13 + "|"
)


def row(title: str, names: Sequence[str], result: Validation | None) -> str:
    """One line of the table."""
    if result is None:
        return f"| {title} | {' + '.join(names)} | too few |" + " |" * 10
    return (
        f"| {title} | {' + '.join(names)} | {len(result.target)} | {len(result.alternative)} | {result.auc:.3f} | "
        f"{result.cllr:.3f} | {result.cllr_min:.3f} | {result.tpr_01:.0%} | {result.tpr_001:.0%} | "
        f"{result.misleading_target:.0%} | {result.strong_target:.0%} | "
        f"{result.misleading_alternative:.1%} | {result.strongly_misleading:.2%} |"
    )


def tables_of(title: str, group: Cohort, combinations: Sequence[Sequence[str]], examples: Sequence[str]) -> list[str]:
    """The rows of one data set."""
    layers = score_cohort(group)
    rows = []
    for kind in examples:
        rows += [
            row(f"{title}, {kind}", names, evaluate(group, [layers[name] for name in names], kind)) for names in combinations
        ]
    return rows


def plain(group: Cohort) -> Cohort:
    """The specification's recipe to compare with: a call is one token, and every model is normalised over all channels."""
    subjects = []
    for subject in group:
        table = subject.behaviour.signatures.get("tool_choice", {})
        calls: dict[str, list[str]] = {}
        for decision, seen in sorted(table.items()):
            calls.setdefault(root(decision), []).append(f"{decision.split('#', 1)[1]}={seen.tokens[0]}")
        strata = {root(decision): seen.stratum for decision, seen in table.items()}
        whole = {f"{name}#tool": Observation(strata[name], (";".join(parts),)) for name, parts in calls.items()}
        subjects.append(
            replace(
                subject,
                member=replace(subject.member, channel=""),
                behaviour=replace(subject.behaviour, signatures={"tool_choice": whole}),
            )
        )
    return Cohort(subjects=tuple(subjects))


def baseline(group: Cohort) -> list[str]:
    """The rows of that recipe, over the same pairs."""
    merged = plain(group)
    layer = score_cohort(merged)["tool_choice"]
    return [
        row(f"BFCL 2024-08-11, {kind}", ["whole call, one norm (baseline)"], evaluate(group, [layer], kind))
        for kind in ("line", "line, any channel")
    ]


def drift(first: Cohort, servings: Mapping[str, Behaviour]) -> list[str]:
    """Servings of gpt-oss among the models of the first edition: alike or different?"""
    subjects = [
        Subject(
            member=Member(
                name=name, family=name.split("@")[0], vendor="openai-oss", same_as=name.split("@")[0], channel="native"
            ),
            behaviour=table,
        )
        for name, table in sorted(servings.items())
    ]
    whole = Cohort(subjects=(*first, *subjects))
    members = whole.members
    start = len(first)
    lines = [
        "| signature | two servings of one model: z | 20b against 120b: z | a serving against other vendors: z (max) | servings "
        "below the 5% most alike unrelated pairs |",
        "|---|---|---|---|---|",
    ]
    layers = score_cohort(whole)
    for name in ("tool_choice", "tool_call"):
        z = layers[name].z
        apart = np.array([z[i, j] for i, j in alternative_pairs(members, ALTERNATIVES[0])])
        limit = np.nanquantile(apart, 0.95)
        mine = range(start, len(members))
        same = [z[i, j] for i in mine for j in mine if j < i and members[i].same_as == members[j].same_as]
        size = [z[i, j] for i in mine for j in mine if j < i and members[i].same_as != members[j].same_as]
        other = [z[i, j] for i in mine for j in range(start)]
        lines.append(
            f"| {name} | {len(same)} pairs, min {np.nanmin(same):.1f}, median {np.nanmedian(same):.1f} | "
            f"{len(size)} pairs, median {np.nanmedian(size):.1f} | {np.nanmax(other):.1f} | "
            f"{int(np.nansum(np.array(same) < limit))} of {len(same)} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    tools = observed(arguments.data, "bfcl_2024-08-11", "bfcl", arguments.work, renamed)
    chats = observed(
        arguments.data, "speechmap", "labelled", arguments.work, lambda seen: None if seen.stratum == "us_hard" else seen,
    )
    servings = observed(arguments.data, "bfcl_v4_gptoss", "bfcl", arguments.work, lambda seen: seen)
    callers = cohort(tools, TAGS["bfcl_2024-08-11"])
    lines = [f"Command: `python benchmarks/provenance_recorded.py --data DIR --work DIR --out {arguments.out}`", "", HEAD]
    lines += tables_of(
        "BFCL 2024-08-11", callers, [["tool_choice"], ["tool_call"], ["tool_choice", "tool_call"]], ["line", "line, any channel"],
    )
    lines += baseline(callers)
    lines += tables_of(
        "SpeechMap, 300 items", cohort(chats, TAGS["speechmap"]),
        [["refusal"], ["refusal_form"], ["refusal", "refusal_form"], ["style"]], ["line"],
    )
    lines += ["", "Benign drift: gpt-oss on several serving versions, on the questions shared with the first edition", ""]
    lines += drift(callers, servings)
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
