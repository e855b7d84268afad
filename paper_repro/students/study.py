"""Put every pair of teacher and other model to the package's inference, and tabulate what it says.

    python paper_repro/students/train.py --out DIR
    python paper_repro/students/study.py --runs DIR --out paper_repro/results/students.md

Each case is assembled, scored and calibrated as ``wmcheck compare`` does it: the cohort is all other models, without the two of
the case; calibration leaves out every model of their vendors. Findings are kept in DIR/findings.jsonl.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from cases import PRIMARY, ROWS, Finding, cases, weigh
from zoo import DOSES, zoo

from wmcheck.fingerprint.cohort import Cohort
from wmcheck.fingerprint.likelihood import auc, cllr, cllr_min, true_positive_rate
from wmcheck.fingerprint.propositions import ALTERNATIVES
from wmcheck.fingerprint.provenance import Settings, compare

LOG10 = np.log(10.0)
COLUMNS = [(base, dose) for base in ("other", "same") for dose in DOSES]


def find(folder: Path) -> list[Finding]:
    """Findings of all cases; those that an earlier session made are read."""
    path = folder / "findings.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    known = {(found.case.suspect, found.case.teacher): found for found in (Finding.from_dict(json.loads(line)) for line in lines)}
    cohort = Cohort.load(folder)
    subjects = {subject.name: subject for subject in cohort}
    wanted = list(cases(zoo()))
    with path.open("a") as handle:
        for number, case in enumerate(wanted, 1):
            if (case.suspect, case.teacher) in known:
                continue
            started = time.process_time()
            found = known[case.suspect, case.teacher] = weigh(case, subjects, cohort)
            handle.write(json.dumps(found.to_dict()) + "\n")
            print(f"{number}/{len(wanted)} {case} {time.process_time() - started:.1f} s", flush=True)
    return [known[case.suspect, case.teacher] for case in wanted]


def pick(findings: Sequence[Finding], *rows: str) -> list[Finding]:
    """The findings of some rows."""
    return [found for found in findings if found.case.row in rows]


def values(findings: Sequence[Finding], of: str) -> np.ndarray:
    """Log10 LRs against one alternative, or the smallest: ``headline`` of all, ``rising`` without A6."""
    smallest = of in ("headline", "rising")
    return np.array([getattr(found, of) if smallest else found.log10_lr.get(of, np.nan) for found in findings])


def _share(mask: np.ndarray) -> str:
    return f"{100.0 * mask.mean():.0f}%"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def students_table(findings: Sequence[Finding]) -> list[str]:
    """One row a dose and base: how far students stand out from unrelated models."""
    none = values(pick(findings, "A0"), "A0")
    head = ["teacher's share", "base", "students", "AUC", "TPR at 1% FPR", "median log10 LR(A0)", "LR(A0) > 1", "LR(A0) > 10",
            "LR(A0) > 100", "A0-A3 > 1", "headline > 1", "median rank p", "p <= .05"]
    rows = []
    for base, dose in COLUMNS:
        these = pick(findings, f"{dose} {base}")
        found, p = values(these, "A0"), np.array([one.p for one in these])
        rows.append([
            f"{dose}%", f"{base}", str(len(these)), f"{auc(found, none):.3f}", f"{true_positive_rate(found, none, 0.01):.2f}",
            f"{np.median(found):.2f}", *(_share(found > limit) for limit in (0, 1, 2)), _share(values(these, "rising") > 0),
            _share(values(these, "headline") > 0), f"{np.median(p):.3f}", _share(p <= 0.05),
        ])
    return _table(head, rows)


def alternatives_table(findings: Sequence[Finding]) -> list[str]:
    """One row an alternative: false accusations, and how well the LR against it tells students from it."""
    full = pick(findings, "100 other", "100 same")
    every = pick(findings, *(f"{dose} {base}" for base, dose in COLUMNS))
    head = ["what is true", "pairs", "median log10 LR(A0)", "LR(A0) > 1", "LR(A0) > 100", "A0-A3 > 1", "headline > 1",
            "headline > 10", "rank p <= .05", "AUC, 100%", "AUC, all", "Cllr, 100%", "Cllr, all", "Cllr_min, all"]
    rows = []
    for row, words in ROWS.items():
        these = pick(findings, row)
        name = row.split()[0]
        tested = all(name in found.log10_lr for found in these)
        plain, best, p = values(these, "A0"), values(these, "headline"), np.array([one.p for one in these])
        against, target, whole = (values(group, name if tested else "A0") * LOG10 for group in (these, full, every))
        costs = (cllr(target, against), cllr(whole, against), cllr_min(whole, against))
        rows.append([
            words, str(len(these)), f"{np.median(plain):.2f}", _share(plain > 0), _share(plain > 2),
            _share(values(these, "rising") > 0), _share(best > 0), _share(best > 1), _share(p <= 0.05),
            f"{auc(target, against):.3f}", f"{auc(whole, against):.3f}",
            *(f"{cost:.2f}" if tested else "not tested" for cost in costs),
        ])
    return _table(head, rows)


def signatures_table(findings: Sequence[Finding]) -> list[str]:
    """One row a signature: AUC of its normalised score by dose, against unrelated models."""
    none = pick(findings, "A0")

    def score(these: Sequence[Finding], name: str) -> np.ndarray:
        found = np.array([one.z[name] for one in these])
        return found[~np.isnan(found)]

    rows = [
        [name, *(f"{auc(score(pick(findings, f'{dose} {base}'), name), score(none, name)):.3f}" for base, dose in COLUMNS)]
        for name in PRIMARY
    ]
    return _table(["signature", *(f"{dose}%, {base} base" for base, dose in COLUMNS)], rows)


def printed_table(folder: Path) -> list[str]:
    """What ``wmcheck compare`` states of the students of one teacher: ratios within the bounds that this cohort can support."""
    cohort = Cohort.load(folder)
    subjects = {subject.name: subject for subject in cohort}
    settings = Settings(signatures=PRIMARY, sensitivity=False)
    names = [alternative.name for alternative in ALTERNATIVES if alternative.holds is not None and alternative.name != "A5"]
    rows = []
    for dose in DOSES:
        suspect = f"student-1-{dose}-other"
        result = compare(subjects[suspect], subjects["teacher-1"], cohort, settings=settings)
        stated = {one.name: one for one in result.alternatives}
        cells = []
        for name in names:
            lr, interval = stated[name].log10_lr, stated[name].interval
            cells.append("not tested" if lr is None or interval is None else f"{lr:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]")
        rows.append([suspect, *cells])
    return _table(["suspect", *(f"log10 LR({name})" for name in names)], rows)


def made_table(folder: Path) -> list[str]:
    """One row a role: models, and how often they do what their own policy likes best."""
    made = json.loads((folder / "made.json").read_text())
    rows = []
    for role in dict.fromkeys(spec.role for spec in zoo()):
        these = [facts for facts in made.values() if facts["role"] == role]
        own = [np.mean([facts[name] for facts in these]) for name in ("own_refusal", "own_tools")]
        rows.append([role, str(len(these)), f"{own[0]:.2f}", f"{own[1]:.2f}"])
    return _table(["role", "models", "own refusal decisions", "own tool answers"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    findings = find(args.runs)
    parts = {
        "Models": made_table(args.runs), "Students": students_table(findings), "Alternatives": alternatives_table(findings),
        "Signatures": signatures_table(findings), "As stated by compare": printed_table(args.runs),
    }
    if (args.runs / "sampled" / "cohort.json").exists():
        sampled = find(args.runs / "sampled")
        parts |= {"Students, four answers a probe": students_table(sampled)}
        parts |= {"Alternatives, four answers a probe": alternatives_table(sampled)}
    tables = "\n\n".join("\n".join([f"## {title}", "", *lines]) for title, lines in parts.items())
    command = f"python paper_repro/students/train.py --out DIR\npython paper_repro/students/study.py --runs DIR --out {args.out}"
    args.out.write_text(f"# Students trained here\n\n```\n{command}\n```\n\n{tables}\n")
    print(tables)


if __name__ == "__main__":
    main()
