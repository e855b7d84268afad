"""Do provenance p-values, e-values and likelihood ratios hold when the truth is known, and what is found by dose?

    python paper_repro/provenance_null.py --worlds 150 --out paper_repro/results/provenance_null.md

Simulated worlds (``wmcheck.fingerprint.simulate``): 20 vendors with two lines, 8 students of three teachers, refusals and tool
choices. In each world suspects of a known history meet teachers; everything runs as ``wmcheck compare`` does it, without
the bootstrap. Figures under the null are shares of suspects over fresh worlds, with 95% Clopper-Pearson intervals.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from wmcheck.fingerprint.case_measures import rank
from wmcheck.fingerprint.casework import assemble, usable_signatures
from wmcheck.fingerprint.conformal import e_value
from wmcheck.fingerprint.evidence_lr import against_all, evidence_of, headline, targets
from wmcheck.fingerprint.simulate import ChoiceWorld, Population, RaschWorld, cohort, subject, suspect
from wmcheck.watermark.core.intervals import clopper_pearson
from wmcheck.watermark.core.multiplicity import holm

LEVELS = (0.05, 0.1, 0.2)
POPULATION = Population(vendors=20, lines=2, versions=1, students=8, teachers=3, open_share=0.4)


def interval(hits: int, count: int) -> str:
    """Share with its exact 95% interval."""
    low, high = clopper_pearson(hits, count)
    return f"{hits / count:.3f} [{low:.3f}, {high:.3f}]"


def weigh(accused, teacher, group):
    """Rank test, and bounded log10 LRs by alternative with the headline."""
    panel = assemble(accused, teacher, group.without([teacher.name]))
    scores, _ = usable_signatures(panel, None)
    test = rank(panel, {name: value.raw for name, value in scores.items()})
    evidence = evidence_of(panel, scores, list(scores))
    results = against_all(evidence, targets(evidence, panel.cohort)[0], panel.cohort, draws=0, rng=np.random.default_rng(0))
    best = headline(results)
    ratios = {result.name: result.log10_lr for result in results if result.log10_lr is not None}
    return test, ratios, None if best is None else best.log10_lr


def one_world(seed: int, items: int, found: dict[str, list]) -> None:
    """Add one world's cases to ``found``, by what is true."""
    rng = np.random.default_rng([seed, items])
    recipes = POPULATION.recipes(rng)
    worlds = [RaschWorld(rng, items=items), ChoiceWorld(rng, items=items)]
    group = cohort(worlds, recipes)
    plain = [recipe for recipe in recipes if recipe.teacher is None]
    chosen = [plain[place] for place in rng.permutation(len(plain))[:3]]
    based = [recipe for recipe in plain if recipe.member.base]
    histories = {"independent": suspect("independent")}
    if based:
        histories["shares the teacher's base"] = suspect("based", base=based[0].member.base)
    for dose in (0.1, 0.3, 1.0):
        histories[f"dose {dose:g}"] = suspect(f"dosed{dose:g}", teacher=chosen[0], dose=dose)
    for truth, recipe in histories.items():
        accused = subject(worlds, recipe)
        first = based[0] if truth.startswith("shares") else chosen[0]
        teachers = chosen if truth == "independent" else [first]
        found[truth].append([weigh(accused, subject(worlds, teacher), group) for teacher in teachers])


def null_table(found: dict[str, list]) -> list[str]:
    """Ranks, e-values, families and misleading LRs."""
    alone = [case[0] for case in found["independent"]]
    lines = ["| under independence | at | share, or mean | allowed |", "|---|---|---|---|"]
    for name, pick in (
        ("p, teacher among teachers", lambda test: test.p_teachers), ("p, suspect among suspects", lambda test: test.p_suspects),
        ("p, the larger", lambda test: test.p),
    ):
        values = np.array([pick(test) for test, _, _ in alone], dtype=float)
        for level in LEVELS:
            lines.append(f"| {name} | {level} | {interval(int((values <= level).sum()), len(values))} | {level} |")
    values = np.array([e_value(test.p) for test, _, _ in alone])
    lines.append(f"| e-value | | {values.mean():.3f} +- {values.std() / np.sqrt(len(values)):.3f} | 1 |")
    families = np.array([holm(np.log([test.p for test, _, _ in case])).min() for case in found["independent"]])
    for level in LEVELS:
        hits = int((families <= np.log(level)).sum())
        lines.append(f"| any of 3 teachers, Holm | {level} | {interval(hits, len(families))} | {level} |")
    for truth, name in (("independent", "A0"), ("shares the teacher's base", "A1")):
        ratios = np.array([ratios[name] for case in found[truth] for _, ratios, _ in case[:1] if name in ratios])
        for limit in (1.0, 3.0, 10.0):
            hits = int((ratios >= np.log10(limit)).sum()) if limit > 1 else int((ratios > 0).sum())
            allowed = f"{1 / limit:.2f}"
            share = interval(hits, len(ratios))
            lines.append(f"| LR against {name} at least {limit:g}, where {name} is true | | {share} | {allowed} |")
        best = np.array([best for case in found[truth] for _, _, best in case[:1] if best is not None])
        lines.append(f"| headline above 1, where {name} is true | | {interval(int((best > 0).sum()), len(best))} | |")
    return lines


def power_rows(found: dict[str, list], items: int) -> list[str]:
    """What is found by dose."""
    rows = []
    for dose in (0.1, 0.3, 1.0):
        cases = [case[0] for case in found[f"dose {dose:g}"]]
        best = np.array([best for _, _, best in cases if best is not None])
        p = np.array([test.p for test, _, _ in cases])
        rows.append(
            f"| {items} | {dose:g} | {len(cases)} | {np.median(best):.2f} | {(best > 0).mean():.0%} | {(best >= 1).mean():.0%} | "
            f"{np.median(p):.3f} | {(p <= 0.1).mean():.0%} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=150)
    parser.add_argument("--items", type=int, nargs="*", default=[300, 1000])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    head = (
        "| items a suite | dose | students | median headline log10 LR | headline > 1 | headline >= 10 | median p | p <= .1 |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    power, null = [head], []
    for items in arguments.items:
        found: dict[str, list] = defaultdict(list)
        started, worlds = time.process_time(), arguments.worlds if items == arguments.items[0] else arguments.worlds // 5
        for seed in range(worlds):
            one_world(seed, items, found)
        print(f"{worlds} worlds of {items} items: {time.process_time() - started:.0f} s", flush=True)
        null = null or null_table(found)
        power += power_rows(found, items)
    text = "\n".join([
        f"Command: `python paper_repro/provenance_null.py --worlds {arguments.worlds} --out {arguments.out}`", "",
        f"{arguments.worlds} worlds, {arguments.items[0]} items a suite", "", *null, "", *power, "",
    ])
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
