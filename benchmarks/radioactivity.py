"""Radioactivity tests on synthetic suspects: level, power at equal tokens, cost.

    python benchmarks/radioactivity.py --out benchmarks/results/radioactivity.md

A suspect is a table of next-token laws, one a context: softmax(-s log(rank + 2.7)) over 64 tokens in random order, with noise, s
drawn so that the mean entropy is as asked. A suspect of dose d has the mixture (1 - d) law + d marked law, in contexts that it
has learnt. Sampled answers are as many tokens as there are contexts, one a context. Keys are drawn afresh. Times are of the
process, on one thread.
"""

from __future__ import annotations

import argparse
import math
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark import Document, Profile
from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.intervals import clopper_pearson
from wmcheck.watermark.decoys import candidates_of, decoy_keys
from wmcheck.watermark.radioactivity import (
    Occurrences,
    pool,
    reading_test,
    sampled_items,
    sampled_test,
    weighted_test,
    with_decoys,
)
from wmcheck.watermark.radioactivity.weighted import Plan

LISTED = 64
SCHEMES: dict[str, dict[str, float]] = {"redgreen": {"green": 128, "delta": 2.0}, "gumbel": {}, "tournament": {"layers": 30}}
COSTS = [(name, size) for size in (1024, 128_256) for name in SCHEMES]
DOSES = {1.0: (0.1, 0.3), 2.0: (0.03, 0.1, 0.3), 4.0: (0.03, 0.1)}
CONTEXTS = 3000


def profile_of(name: str) -> Profile:
    return Profile.create(name, {"width": 2, **SCHEMES[name]})


def laws(contexts: int, bits: float, vocabulary: int, rng: np.random.Generator) -> Occurrences:
    """Laws over the 64 likeliest tokens of each context, of about this mean entropy."""
    slope = rng.lognormal(math.log({1.0: 6.41, 2.0: 3.74, 4.0: 1.64}[bits]), 0.5, (contexts, 1))
    logits = -slope * np.log(np.arange(LISTED) + 2.7) + 0.5 * rng.normal(size=(contexts, LISTED))
    mass = np.exp(logits - logits.max(1, keepdims=True))
    mass /= mass.sum(1, keepdims=True)
    tokens = np.argsort(rng.random((contexts, 256)), axis=1)[:, :LISTED] + rng.integers(1, vocabulary - 256, (contexts, 1))
    windows = rng.permutation(1 << 24)[:contexts]
    return Occurrences(
        np.stack([windows >> 12, windows & 4095], 1).astype(np.uint32), np.repeat(np.arange(contexts), LISTED),
        tokens.ravel(), np.maximum(mass.ravel(), 1e-12), tokens[np.arange(contexts), mass.argmax(1)],
    )


def learnt(found: Occurrences, profile: Profile, candidate: Candidate, dose: float) -> Occurrences:
    """The suspect's laws after it has learnt the marked ones at a dose."""
    contexts = len(found.best)
    law, tokens = found.weights.reshape(contexts, -1), found.tokens.reshape(contexts, -1)
    raw = np.asarray(profile.scheme.score(found.windows[found.owner], found.tokens, candidate.prf))
    if profile.scheme_name == "redgreen":
        marked = law * np.exp(2.0 * raw.reshape(law.shape))
        marked /= marked.sum(1, keepdims=True)
    elif profile.scheme_name == "gumbel":
        uniform = np.clip(-np.expm1(-raw.reshape(law.shape)), 2.0**-33, 1 - 2.0**-33)
        marked = np.zeros_like(law)
        marked[np.arange(contexts), (np.log(law) - np.log(-np.log(uniform))).argmax(1)] = 1.0
    else:
        marked = law.copy()
        for layer in raw.reshape(contexts, LISTED, -1).transpose(2, 0, 1).astype(float):
            marked = marked * (1 + layer - (layer * marked).sum(1, keepdims=True))
        marked = np.maximum(marked, 0) / np.maximum(marked, 0).sum(1, keepdims=True)
    mixed = np.maximum((1 - dose) * law + dose * marked, 1e-12)
    mixed /= mixed.sum(1, keepdims=True)
    return Occurrences(found.windows, found.owner, found.tokens, mixed.ravel(), tokens[np.arange(contexts), mixed.argmax(1)])


def drawn(found: Occurrences, rng: np.random.Generator) -> list[Document]:
    """One sampled token a context, each a text of its own."""
    law = found.weights.reshape(len(found.best), -1)
    place = (np.cumsum(law, 1) < rng.random((len(law), 1))).sum(1).clip(max=law.shape[1] - 1)
    tokens = found.tokens.reshape(law.shape)[np.arange(len(law)), place]
    return [Document(np.array([*window, token], np.int64)) for window, token in zip(found.windows, tokens, strict=True)]


def level(keys: int) -> Iterator[str]:
    yield f"\n## Level: a suspect that knows no key, {keys} keys, 1,000 contexts of 2 bits; 95% intervals\n\n"
    yield "| scheme | test | p <= 0.1 | p <= 0.01 | p <= 0.001 |\n|---|---|---|---|---|\n"
    rng = np.random.default_rng(0)
    for name in SCHEMES:
        profile, found = profile_of(name), laws(1000, 2.0, 4096, rng)
        held = pool(found)
        candidates = candidates_of(profile, decoy_keys(keys, np.random.default_rng(5).bytes))
        tests = {"weighted": held, "reading": held.readings(), "sampled": sampled_items(drawn(found, rng), profile)}
        for test, one in tests.items():
            plan = Plan(one, profile)
            totals = np.array([plan.under(candidate).total() for candidate in candidates])
            log_p = plan.log_p_of(totals, plan.under(candidates[0]))
            cells = []
            for alpha in (0.1, 0.01, 0.001):
                hits = int((log_p <= math.log(alpha)).sum())
                low, high = clopper_pearson(hits, keys)
                cells.append(f"{hits / keys:.4f} [{low:.4f}, {high:.4f}]")
            yield f"| {name} | {test} | {' | '.join(cells)} |\n"


def power(repeats: int) -> Iterator[str]:
    yield f"\n## Power at equal tokens: {CONTEXTS:,} contexts, as many sampled tokens, medians of log10 p over {repeats} keys\n\n"
    yield "| scheme | bits | dose | weighted | reading | sampled | weighted / sampled |\n|---|---|---|---|---|---|---|\n"
    for name in SCHEMES:
        profile = profile_of(name)
        for bits, doses in DOSES.items():
            for dose in doses:
                rng, rows = np.random.default_rng(int(1000 * dose + bits)), []
                for key in decoy_keys(repeats, rng.bytes):
                    found = learnt(laws(CONTEXTS, bits, 4096, rng), profile, Candidate.of(profile, key), dose)
                    held = pool(found)
                    rows.append([
                        weighted_test(held, profile, key).log10_p, reading_test(held, profile, key).log10_p,
                        sampled_test(drawn(found, rng), profile, key).log10_p,
                    ])
                weighted, reading, sampled = np.median(rows, axis=0)
                cells = f"{weighted:.1f} | {reading:.1f} | {sampled:.1f} | {weighted / sampled:.1f}"
                yield f"| {name} | {bits:g} | {dose:g} | {cells} |\n"


def cost() -> Iterator[str]:
    yield "\n## Cost: 10,000 contexts with 64 tokens each; CPU seconds, peak memory of the process\n\n"
    yield "| scheme | vocabulary | items | one test, s | decoys | all decoys, s | null holds | peak, MB |\n"
    yield "|---|---|---|---|---|---|---|---|\n"
    for name, vocabulary in COSTS:
        done = subprocess.run(
            [sys.executable, __file__, "--one", name, str(vocabulary)], capture_output=True, text=True, check=True
        )
        yield done.stdout


def decoys_of(vocabulary: int) -> int:
    """Decoys to run: what they cost does not depend on the vocabulary, so fewer do for the large one."""
    return 1000 if vocabulary < 5000 else 100


def one_cost(name: str, vocabulary: int) -> str:
    profile = profile_of(name)
    held = pool(laws(10_000, 2.0, vocabulary, np.random.default_rng(0)))
    key = decoy_keys(1, np.random.default_rng(1).bytes)[0]
    start = time.process_time()
    result = weighted_test(held, profile, key)
    once = time.process_time() - start
    start = time.process_time()
    checked = with_decoys(result, held, profile, count=decoys_of(vocabulary))
    many, decoys = time.process_time() - start, checked.decoys or {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"| {name} | {vocabulary:,} | {result.n_items:,} | {once:.2f} | {decoys['count']} | {many:.1f} | "
        f"{'yes' if decoys['null_holds'] else 'no'} ({decoys['share_05']:.3f} at .05) | {peak:.0f} |\n"
    )


def entropies() -> str:
    found: list[str] = []
    for bits in (1.0, 2.0, 4.0):
        law: NDArray[np.float64] = laws(5000, bits, 4096, np.random.default_rng(1)).weights.reshape(5000, -1)
        found.append(f"{-(law * np.log2(law)).sum(1).mean():.2f} bits (collision {np.square(law).sum(1).mean():.2f})")
    return "Mean entropies as drawn: " + ", ".join(found) + ".\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="-")
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=2, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sys.stdout.write(one_cost(options.one[0], int(options.one[1])))
        return
    lines = [f"`python benchmarks/radioactivity.py --keys {options.keys} --repeats {options.repeats}`\n\n", entropies()]
    for part in (cost(), power(options.repeats), level(options.keys)):
        for line in part:
            lines.append(line)
            if options.out != "-":
                Path(options.out).write_text("".join(lines), "utf-8")
            sys.stderr.write(line)
    if options.out == "-":
        sys.stdout.write("".join(lines))


if __name__ == "__main__":
    main()
