"""The power planner's prediction beside what real watermarked text of the bundled model shows.

    python benchmarks/planner.py --texts 96 --tokens 400 --out benchmarks/results/planner.md

Predicted: what ``wmcheck power`` says, from ordinary text (red/green: text marked under throw-away keys). Measured: as many
texts generated with the watermark, a key for each, and tested without their prompts at every length of a 5% grid. Both at
the same sampling settings; seeds differ.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch

from wmcheck.watermark import Candidate, Detector, Document, Profile, SecretKey
from wmcheck.watermark.embed import STORY_PROMPTS, LanguageModel, Sampling, embed_records, load_model
from wmcheck.watermark.power import LONGEST, Plan, limit, plan
from wmcheck.watermark.traffic import Traffic, sample_traffic

SCHEMES: list[tuple[str, dict[str, object]]] = [
    ("gumbel", {}), ("tournament", {}), ("redgreen", {}), ("redgreen", {"width": 0}), ("reweight", {}),
]
TEMPERATURES = (1.0, 0.7, 0.3, 0.0)


def sampling_of(temperature: float, tokens: int, seed: int) -> Sampling:
    """The watermark's processors know no temperature 0; one candidate token is the same."""
    if temperature == 0.0:
        return Sampling(tokens, 1.0, 1, seed=seed, ignore_end=True)
    return Sampling(tokens, temperature, seed=seed, ignore_end=True)


def measured(language: LanguageModel, profile: Profile, prompts: list[str], sampling: Sampling, grid: np.ndarray) -> np.ndarray:
    """f64[texts, grid] log p of the first n tokens of each watermarked text, prompt unknown."""
    root, found = SecretKey.new(), []
    keys = [root.tenant(f"text {place}") for place in range(len(prompts))]
    records = embed_records(language, prompts, sampling, profile=profile, keys=keys, batch_size=32)
    for key, record in zip(keys, records, strict=True):
        ids = np.array(record["tokens"], np.int64)
        tested = Detector([Candidate(profile, key)], corpus=False).test([Document(ids[:n]) for n in grid])
        found.append(tested[0].evidence.log_p)
    return np.array(found)


def reached(power: np.ndarray, grid: np.ndarray, level: float) -> str:
    """The least length of the grid from which on the share stays at ``level``."""
    short = np.flatnonzero(power < level)
    at = int(short[-1]) + 1 if len(short) else 0
    return str(grid[at]) if at < len(grid) else f"> {grid[-1]}"


def shown(one: Plan, level: float) -> str:
    n, (low, high) = one.needed[level], one.intervals[level]
    return f"> {LONGEST}" if n is None else f"{n} ({low} to {high or f'> {LONGEST}'})"


def row(one: Plan, hits: np.ndarray, grid: np.ndarray, name: str, temperature: float, traffic: Traffic) -> str:
    power = hits.mean(0)
    shares = []
    for n in (50, 100, 200, 400):
        at = int(np.searchsorted(grid, n))
        shares.append(f"{one.shares[n]:.2f} / {power[at]:.2f}" if at < len(grid) else "-")
    return (
        f"| {'greedy' if temperature == 0 else f'{temperature:g}'} | {traffic.entropy_bits:.2f} | {name} | {one.status} | "
        f"{shown(one, 0.5)} | {reached(power, grid, 0.5)} | {shown(one, 0.9)} | {reached(power, grid, 0.9)} | "
        f"{' | '.join(shares)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--alpha", type=float, default=1e-5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    language, started = load_model("bundled:stories2m"), time.time()
    prompts = [STORY_PROMPTS[place % len(STORY_PROMPTS)] for place in range(args.texts)]
    steps = np.unique(np.rint(np.exp(np.arange(math.log(5), math.log(args.tokens), 0.05))).astype(np.int64))
    grid = np.union1d(steps, [n for n in (50, 100, 200, 400, args.tokens) if n <= args.tokens])
    lines = [
        f"`python benchmarks/planner.py --texts {args.texts} --tokens {args.tokens} --alpha {args.alpha:g}`: bundled model, "
        f"{args.texts} texts of {args.tokens} tokens a cell. Predicted from ordinary text (red/green: marked under throw-away "
        "keys; 90% interval over texts) / measured on watermarked text, a key each, prompt unknown; shares have "
        f"a standard error of at most {0.5 / math.sqrt(args.texts):.2f}.", "",
        "| temperature | bits | scheme | verdict | n50 predicted | measured | n90 predicted | measured | share at 50 | at 100 "
        "| at 200 | at 400 |", "|---" * 12 + "|",
    ]
    for temperature in TEMPERATURES:
        ordinary = sampling_of(temperature, args.tokens, 10_000)
        traffic = sample_traffic(language, prompts, ordinary, batch_size=32)
        best = limit(traffic, args.alpha)
        lines.append(
            f"| {temperature:g} | {traffic.entropy_bits:.2f} | best test of any unbiased watermark | | {best[0.5] or '-'} | | "
            f"{best[0.9] or '-'} | | | | | |"
        )
        for scheme, parameters in SCHEMES:
            profile = Profile.create(scheme, parameters, tokenizer=language.tokenizer)
            log_p = measured(language, profile, prompts, sampling_of(temperature, args.tokens, 0), grid)
            name = " ".join([scheme, *(f"{key}={value}" for key, value in parameters.items())])
            hits = log_p <= math.log(args.alpha)
            own = traffic if profile.scheme.unbiased else sample_traffic(
                language, prompts, ordinary, profile=profile, batch_size=32
            )
            lines.append(row(plan(profile, own, args.alpha), hits, grid, name, temperature, own))
            print(lines[-1], f"{time.time() - started:.0f} s", flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
