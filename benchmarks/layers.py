"""Layered keys against a plain watermark: tokens to detect each layer, edits, and the cost of a step.

    python benchmarks/layers.py --texts 200 --tokens 700 --out benchmarks/results/layers.md

Texts are written by the real transform, each under a root key of its own, from synthetic laws whose tokens are shuffled at every
place, so that hardly any window recurs. Detection is that of `wmcheck check` (exact sum).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wmcheck.watermark.candidate import Batch, Candidate
from wmcheck.watermark.core.planning import SYNTHETIC_VOCABULARY, synthetic_laws
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.layers import LayeredRoot, layer_profile, layers_of
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.rows import RowKeys
from wmcheck.watermark.windows import Document

I64, Floats = NDArray[np.int64], NDArray[np.float64]
LOG_ALPHA, WIDTH = float(np.log(1e-5)), 4
EDITED = 0.1


def written(profile: Profile, prfs: list[PrfKey], tokens: int, bits: float, seed: int) -> I64:
    """i64[texts, WIDTH + tokens]: texts that a model of random laws wrote under the watermark, after random ids."""
    rng, generator, scheme = np.random.default_rng(seed), torch.Generator().manual_seed(seed), profile.scheme
    keys, rows = RowKeys(prfs), np.arange(len(prfs))[:, None]
    ids = rng.integers(0, SYNTHETIC_VOCABULARY, (len(prfs), WIDTH))
    for _ in range(tokens):
        law = synthetic_laws(len(prfs), bits, rng)
        law = law[rows, rng.random(law.shape).argsort(1)]
        logits = torch.from_numpy(np.log(np.maximum(law, 1e-300))).float()
        windows = torch.from_numpy(ids[:, ids.shape[1] - scheme.width :])
        marked = scheme.transform(windows, logits, keys).softmax(-1)
        ids = np.concatenate([ids, torch.multinomial(marked, 1, generator=generator).numpy()], axis=1)
    return ids


def scored(profile: Profile, root: SecretKey, ids: I64) -> tuple[I64, Floats]:
    """Places, from 0 for the first written token, and scores of the items of a text."""
    batch, candidate = Batch([Document(ids, WIDTH)], profile), Candidate.of(profile, root, "acct-17", "2026-11")
    kept = batch.select(candidate)
    return batch.items.place[kept] - WIDTH, batch.scores(candidate)[0]


def needed(profile: Profile, place: I64, scores: Floats, tokens: int) -> float:
    """Tokens of the text until p is at most 1e-5; infinite if it never is."""
    log_p = profile.scheme.null().log_sf(scores.cumsum(), np.arange(1, len(scores) + 1))
    below = np.flatnonzero(log_p <= LOG_ALPHA)
    return float(place[below[0]] + 1) if len(below) and place[below[0]] < tokens else np.inf


def edited(ids: I64, rng: np.random.Generator) -> I64:
    """The text with a share of its tokens replaced by random ones."""
    hit = rng.random(len(ids)) < EDITED
    hit[:WIDTH] = False
    return np.where(hit, rng.integers(0, SYNTHETIC_VOCABULARY, len(ids)), ids)


def detection(texts: int, tokens: int, bits: float, seed: int) -> Iterator[str]:
    """Rows of the first table."""
    rng = np.random.default_rng([seed, 1])
    roots = [SecretKey(rng.bytes(32)) for _ in range(texts)]
    plain, layered = Profile.create("gumbel", {"width": 4}), Profile.create("layered")
    shares = {layer["name"]: (layer["share"], layer["width"]) for layer in layered.parameters["layers"]}
    cases = [("plain, h = 4", plain, plain, 1.0, 4), ("plain, h = 2", *[Profile.create("gumbel", {"width": 2})] * 2, 1.0, 2)]
    cases += [("all layers", layered, layered, 1.0, 0)]
    cases += [(name, layered, layer_profile(layered, name), *shares[name]) for name in layers_of(layered)]
    made: dict[str, I64] = {}
    base = 0.0
    for name, writer, reader, share, width in cases:
        label = f"{writer.scheme_name} {writer.scheme.width}"
        if label not in made:
            prfs = [Candidate.of(writer, root, "acct-17", "2026-11").prf for root in roots]
            made[label] = written(writer, prfs, tokens, bits, seed)
        found = [scored(reader, root, ids) for root, ids in zip(roots, made[label], strict=True)]
        counts = np.array([needed(reader, *one, tokens) for one in found])
        half, most = np.quantile(counts, [0.5, 0.9], method="higher")
        base = base or half
        mean = reader.scheme.null().mean()
        after = [scored(reader, root, edited(ids, rng))[1] for root, ids in zip(roots, made[label], strict=True)]
        excess = [sum(float((scores - mean).sum()) for scores in group) for group in ([one[1] for one in found], after)]
        survive = f"{(1 - EDITED) ** (width + 1):.2f}" if width else "-"
        yield (
            f"| {bits:g} | {name} | {share:.0%} | {half:.0f} | {most:.0f} | {half / base:.1f} | {1 / share:.1f} | "
            f"{excess[1] / excess[0]:.2f} | {survive} |"
        )


def cost(batch: int, vocabulary: int, repeats: int) -> str:
    """A row of the second table: milliseconds of a step, the best of several."""
    root, logits = LayeredRoot.of(SecretKey.new()), torch.randn(batch, vocabulary)
    windows = torch.randint(0, 50_000, (repeats, batch, WIDTH))
    times = []
    for name in ("gumbel", "layered"):
        profile = Profile.create(name)
        keys = RowKeys([Candidate.of(profile, root, f"acct-{row}", "2026-11").prf for row in range(batch)])
        best = np.inf
        for step in range(repeats):
            start = time.perf_counter()
            profile.scheme.transform(windows[step], logits, keys)
            best = min(best, time.perf_counter() - start)
        times.append(best * 1e3)
    return f"| {batch} | {vocabulary:,} | {times[0]:.2f} | {times[1]:.2f} | {times[1] / times[0]:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=700)
    parser.add_argument("--bits", type=float, action="append")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        f"`python benchmarks/layers.py --texts {args.texts} --tokens {args.tokens}`: gumbel, one thread, a root for each text.",
        "", "Tokens of the text until the exact sum of the layer has p at most 1e-5, in half and in 90% of texts; then the share "
        f"of the mean excess score that is left after {EDITED:.0%} of tokens were replaced, beside 0.9^(h + 1).", "",
        "| bits | layer | share | half of texts | 90% | times plain | 1 / share | left after edits | 0.9^(h + 1) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for bits in args.bits or [2.0]:
        for row in detection(args.texts, args.tokens, bits, args.seed):
            print(row, flush=True)
            lines.append(row)
    lines += [
        "", f"Milliseconds of a step on a CPU, the best of {args.repeats}, every row of its own account.", "",
        "| rows | vocabulary | plain gumbel | layered | ratio |", "|---|---|---|---|---|",
    ]
    for batch, vocabulary in ((1, 1024), (32, 1024), (1, 128_256), (32, 32_000), (32, 128_256)):
        lines.append(cost(batch, vocabulary, args.repeats if batch * vocabulary < 1 << 20 else max(5, args.repeats // 4)))
        print(lines[-1], flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
