"""Time and cost of one comparison: a simulated cohort of 60 models, 2,000 refusal items and 2,000 tool items.

    python benchmarks/compare.py --models 60 --items 2000 --out benchmarks/results/compare.md

Prints wall and processor time of ``compare`` with its defaults (bootstrap, sensitivity table, residual map), of rendering the
HTML report, and the calls and prompt tokens that probing one model with the shipped suites takes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from wmcheck.fingerprint.ledger import estimate_tokens
from wmcheck.fingerprint.probe import ProbeProtocol, make_suite
from wmcheck.fingerprint.provenance import compare
from wmcheck.fingerprint.reports.render import render
from wmcheck.fingerprint.simulate import ChoiceWorld, Population, RaschWorld, cohort, subject, suspect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=60)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    recipes = Population(vendors=max(arguments.models // 4, 3), students=arguments.models // 6).recipes(rng)[: arguments.models]
    worlds = [
        RaschWorld(rng, items=arguments.items), RaschWorld(rng, items=arguments.items, signature="tool_call"),
        ChoiceWorld(rng, items=arguments.items),
    ]
    group = cohort(worlds, recipes)
    teacher = subject(worlds, recipes[0])
    accused = subject(worlds, suspect(teacher=recipes[0], dose=0.5))
    walls, processors, renders = [], [], []
    for _ in range(arguments.rounds):
        wall, processor = time.perf_counter(), time.process_time()
        result = compare(accused, teacher, group.without([teacher.name]))
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
        wall = time.perf_counter()
        page = render(result, "html")
        renders.append(time.perf_counter() - wall)
    lines = [
        f"Command: `python benchmarks/compare.py --models {arguments.models} --items {arguments.items} --out {arguments.out}`",
        "",
        f"compare, {len(group)} models x {arguments.items} items x {len(worlds)} signatures: "
        f"median {np.median(walls):.1f} s wall, "
        f"{np.median(processors):.1f} s processor time ({arguments.rounds} rounds); target 60 s",
        "",
        f"HTML report: {np.median(renders):.2f} s, {len(page) / 1024:.0f} KiB",
        "",
        "| suite | calls | prompt tokens (estimate) | answer tokens at most |",
        "|---|---|---|---|",
    ]
    total = np.zeros(3, dtype=int)
    for name in ("refusal", "tools", "pairs", "canary"):
        made = make_suite(name, 0)
        prompts = sum(estimate_tokens(probe, ProbeProtocol()) for probe in made.probes)
        cost = np.array([len(made.probes), prompts, sum(probe.max_tokens for probe in made.probes)])
        total += cost if name != "canary" else 0
        lines.append(f"| {name} | {cost[0]:,} | {cost[1]:,} | {cost[2]:,} |")
    lines.append(f"| refusal, tools and pairs: one report on one model | {total[0]:,} | {total[1]:,} | {total[2]:,} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
