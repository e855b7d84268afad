"""Localised detection: power and overlap by length, false spans on unmarked texts, cost.

    python benchmarks/segments.py --rounds 400 --documents 2000 --out benchmarks/results/segments.md
    python benchmarks/segments.py --text DIR ...        # more unmarked text: *.jsonl.gz files with a field `text`
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import synthetic

from wmcheck.watermark import Document, Profile, SecretKey, load_tokenizer
from wmcheck.watermark.bundled import DEFAULT_MODEL
from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.dyadic import find_dyadic
from wmcheck.watermark.core.experts import experts
from wmcheck.watermark.core.intervals import clopper_pearson
from wmcheck.watermark.core.karlin import walk
from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull, Null, WeightedBernoulliNull
from wmcheck.watermark.core.segments import CERTIFIED, SHARP, best_interval, find, item_ratios
from wmcheck.watermark.embed import STORY_PROMPTS, Sampling, embed_records, load_model
from wmcheck.watermark.scan import Scanner, characters
from wmcheck.watermark.schemes.tournament import layer_weights

BAR = math.log(1e-5)
LENGTHS = (50, 100, 150, 200, 300)
NULLS: dict[str, Null] = {
    "gumbel": ExponentialNull(bound=True), "tournament": WeightedBernoulliNull(layer_weights(30)),
    "redgreen, gamma 1/4": BernoulliNull(1, 4), "reweight": BernoulliNull(1, 2),
}
SCHEMES = {"gumbel": {}, "tournament": {}, "redgreen": {}, "reweight": {}}


def table(head: str, rows: list[str]) -> list[str]:
    return ["", f"| {head} |", "|" + "---|" * (head.count("|") + 1), *(f"| {row} |" for row in rows)]


def overlap(one: tuple[int, int], other: tuple[int, int]) -> float:
    """Intersection over union of two intervals."""
    common = max(0, min(one[1], other[1]) - max(one[0], other[0]))
    return common / (one[1] - one[0] + other[1] - other[0] - common)


@cache
def pool(scheme: str, bits: int) -> np.ndarray:
    """Scores of marked items at a mean entropy."""
    rng = np.random.default_rng([7, bits])
    if scheme == "gumbel":
        return np.concatenate([-np.log1p(-synthetic.gumbel_pivots(law, rng)) for law in synthetic.batches(20_000, bits, rng)])
    return np.concatenate([synthetic.tournament_scores(law, 30, rng) for law in synthetic.batches(2000, bits, rng)])


def power_row(scheme: str, bits: int, length: int, n: int, scores: np.ndarray, rounds: int, rng: np.random.Generator) -> str:
    null, count = NULLS[scheme], np.zeros(5)
    shared: dict[str, list[float]] = {"segments": [], "dyadic": []}
    for _ in range(rounds):
        text, start = null.sample(n, rng), int(rng.integers(0, n - length + 1))
        text[start : start + length] = scores[rng.integers(0, len(scores), length)]
        best, found = find(text, null, log_bar=BAR)
        sharp, _ = find(text, null, log_bar=BAR, rule=SHARP)
        window, windows = find_dyadic(text, null, log_bar=BAR)
        count += (
            null.log_sf([text.sum()], [n])[0] <= BAR, window.log_p <= BAR,
            math.log(len(experts(null)) * n) - best.score <= BAR, best.log_p <= BAR, sharp.log_p_sharp <= BAR,
        )
        for name, spans in (("segments", found), ("dyadic", windows)):
            held = [one for each in spans for one in each.settle(BAR, CERTIFIED)]
            if held:
                shared[name].append(max(overlap((one.start, one.stop), (start, start + length)) for one in held))
    cells = " | ".join(f"{value / rounds:.2f}" for value in count)
    iou = [f"{np.mean(found):.2f} ({np.median(found):.2f})" if found else "-" for found in shared.values()]
    return f"{scheme} | {bits} | {n} | {length} | {cells} | {' | '.join(iou)}"


def power(rounds: int) -> list[str]:
    rng, rows = np.random.default_rng(1), []
    for scheme, n, lengths in (("gumbel", 10_000, LENGTHS), ("gumbel", 100_000, (100,)), ("tournament", 10_000, (100, 200))):
        for bits in (1, 2, 4):
            scores = pool(scheme, bits)
            few = rounds if n == 10_000 and scheme == "gumbel" else rounds // 4
            rows += [power_row(scheme, bits, length, n, scores, few, rng) for length in lengths]
            print(rows[-1], file=sys.stderr, flush=True)
    return table(
        "scheme | bits | items | marked | whole text | dyadic | 3 n e^-x | certified | sharp | IoU certified | IoU dyadic",
        rows,
    )


def rate(hits: int, count: int) -> str:
    low, high = clopper_pearson(hits, count)
    return f"{hits / count:.4f} [{low:.4f}, {high:.4f}]"


def rates(least: dict[str, np.ndarray]) -> str:
    return " | ".join(
        rate(int((least[rule] <= math.log(alpha)).sum()), len(least[rule]))
        for alpha in (0.05, 0.01) for rule in (CERTIFIED, SHARP, "dyadic")
    )


HEAD = " | ".join(f"{rule} at {alpha:g}" for alpha in (0.05, 0.01) for rule in (CERTIFIED, SHARP, "dyadic"))


def smallest(scores: np.ndarray, null: Null) -> tuple[float, float, float]:
    """Smallest log p of a text by each rule."""
    best = [find(scores, null, log_bar=-1e3, rule=rule)[0] for rule in (CERTIFIED, SHARP)]
    window = find_dyadic(scores, null, log_bar=-1e3)[0]
    return (
        best[0].log_p if best[0] else 0.0, best[1].log_p_sharp if best[1] else 0.0, window.log_p if window else 0.0,
    )


def false_spans(documents: int, n: int) -> list[str]:
    rows = []
    for name, null in NULLS.items():
        rng = np.random.default_rng(2)
        found = np.array([smallest(null.sample(n, rng), null) for _ in range(documents)])
        rows.append(f"{name} | {n} | {documents} | {rates(dict(zip((CERTIFIED, SHARP, 'dyadic'), found.T, strict=True)))}")
        print(rows[-1], file=sys.stderr, flush=True)
    return table(f"law | items | texts | {HEAD}", rows)


def texts(folder: Path | None) -> Iterator[str]:
    """Unmarked documents."""
    yield "\n\n".join(topics.values())
    for path in sorted(folder.glob("*.jsonl.gz")) if folder else ():
        if path.name.startswith("tinystories"):
            continue
        with gzip.open(path, "rt", encoding="utf-8") as handle:
            yield "\n".join(json.loads(line)["text"][:60_000] for _, line in zip(range(30), handle, strict=False))


def real_text(folder: Path | None, documents: int, length: int) -> list[str]:
    tokenizer, rows, root = load_tokenizer(DEFAULT_MODEL), [], SecretKey.new()
    rng = np.random.default_rng(3)
    cut = [
        ids[start : start + length]
        for text in texts(folder) for ids in tokenizer.encode([text]) for start in range(0, len(ids) - length + 1, length // 2)
    ]
    for scheme, parameters in SCHEMES.items():
        least, spans = {rule: np.zeros(documents) for rule in (CERTIFIED, SHARP, "dyadic")}, 0
        for place in range(documents):
            candidate = Candidate(Profile.create(scheme, parameters), root.tenant(f"{scheme} {place}"))
            document = Document(cut[rng.integers(len(cut))])
            for rule, settings in ((CERTIFIED, {}), (SHARP, {"rule": SHARP}), ("dyadic", {"method": "dyadic"})):
                scanner = Scanner([candidate], alpha=1e-5, **settings)
                (found,) = scanner.scan(document)
                least[rule][place] = found.best.by(scanner.rule) * math.log(10) if found.best else 0.0
                spans += len(found.spans(scanner.log_bar, scanner.rule))
        rows.append(f"{scheme} | {len(cut)} | {documents} | {rates(least)} | {spans}")
        print(rows[-1], file=sys.stderr, flush=True)
    return table(f"scheme | pieces of {length} tokens | texts x keys | {HEAD} | spans at 1e-5", rows)


def timed(function: Callable[[], object], times: int = 5) -> float:
    """Median milliseconds."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        function()
        found.append((time.perf_counter() - started) * 1e3)
    return float(np.median(found))


def cost() -> list[str]:
    rows = []
    for name, null in NULLS.items():
        scores, known = null.sample(1_000_000, np.random.default_rng(4)), experts(null)
        find(scores[:100], null, log_bar=BAR)
        look = timed(lambda null=null, known=known, scores=scores: item_ratios(null, known[0], scores))
        values = item_ratios(null, known[0], scores)
        one = timed(lambda values=values: best_interval(values))
        whole = timed(lambda null=null, scores=scores: find(scores, null, log_bar=BAR))
        dyadic = timed(lambda null=null, scores=scores: find_dyadic(scores, null, log_bar=BAR))
        rows.append(f"{name} | {len(known)} | {look:.1f} | {one:.1f} | {whole:.0f} | {dyadic:.0f}")
    found = table("law | experts | ratios of one, ms | best interval of one, ms | all experts, ms | dyadic, ms", rows)
    rows = []
    for scheme in SCHEMES:
        done = subprocess.run([sys.executable, __file__, "--memory", scheme], capture_output=True, text=True, check=True)
        rows.append(done.stdout.strip())
    return [*found, *table("scheme | tokens to spans, s | peak above start, MiB", rows)]


def memory(scheme: str) -> None:
    """Print time and memory of one document of a million tokens."""
    candidate = Candidate(Profile.create(scheme, SCHEMES[scheme]), SecretKey.new().tenant("a"))
    ids = np.random.default_rng(0).integers(0, 50_000, 1_000_000)
    start = most_memory()
    seconds = timed(lambda: Scanner([candidate], alpha=1e-5).scan(Document(ids)), 1) / 1e3
    print(f"{scheme} | {seconds:.2f} | {most_memory() - start:.0f}")


def most_memory() -> float:
    """Most resident memory of this process so far, MiB. (``getrusage`` starts from the parent's.)"""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def insertions(count: int) -> list[str]:
    """Stories of the bundled model, marked, inside the Python documentation: text in, characters out."""
    language = load_model(DEFAULT_MODEL, device="cpu")
    tokenizer, rng, rows = language.tokenizer, np.random.default_rng(5), []
    around = "\n\n".join(topics.values())
    for scheme, parameters in SCHEMES.items():
        profile, root = Profile.create(scheme, parameters, tokenizer=tokenizer), SecretKey.new()
        keys = [root.tenant(str(place)) for place in range(count)]
        prompts = [STORY_PROMPTS[place % len(STORY_PROMPTS)] for place in range(count)]
        made = list(embed_records(
            language, prompts, Sampling(max_new_tokens=400, ignore_end=True), profile=profile, keys=keys, batch_size=25
        ))
        for length in (50, 100, 200, 400):
            hits, false, shared = 0, 0, []
            for record, key in zip(made, keys, strict=True):
                story = tokenizer.decode(record["tokens"][:length])
                place = int(rng.integers(0, len(around) - 20_000))
                before, after = around[place : place + 10_000], around[place + 10_000 : place + 20_000]
                text = f"{before}\n{story}\n{after}"
                truth = (len(before) + 1, len(before) + 1 + len(story))
                (ids,) = tokenizer.encode([text])
                scanner = Scanner([Candidate(profile, key)], alpha=1e-5)
                spans = scanner.scan(Document(ids))[0].spans(scanner.log_bar)
                found = characters(tokenizer, ids, text, [(one.start, one.stop) for one in spans], encoded=True)
                near = [overlap(one, truth) for one in found if one is not None]
                hits += any(value > 0 for value in near)
                false += sum(value == 0 for value in near)
                shared += [max(near)] if near and max(near) > 0 else []
            iou = f"{np.mean(shared):.2f} ({np.median(shared):.2f})" if shared else "-"
            rows.append(f"{scheme} | {length} | {count} | {hits / count:.2f} | {iou} | {false}")
        print(rows[-1], file=sys.stderr, flush=True)
    return table("scheme | marked tokens | texts | recall at 1e-5 | IoU of characters | spans elsewhere", rows)


def constants() -> list[str]:
    rows = [
        f"{name} | {expert.name} | {law.start:.3f} | {law.rise:.3f} | {law.start * law.rise:.4f} | {law.k:.4f}"
        for name, null in NULLS.items() for expert in experts(null) for law in [walk(null, expert)]
    ]
    return table("law | expert | u | v | proven: u v | sharp: K", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--stories", type=int, default=100)
    parser.add_argument("--memory", metavar="SCHEME", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.memory:
        memory(args.memory)
        return
    shown = " --text DIR" if args.text else ""
    lines = [
        f"`python benchmarks/segments.py{shown} --rounds {args.rounds} --documents {args.documents} --stories {args.stories}`",
        "", "Power at p <= 1e-5 for the whole text, one marked stretch at a random place (a quarter of the rounds for "
        "100,000 items and for tournament). Overlap (IoU) of the found spans: mean (median).",
        *power(args.rounds),
        "", "Texts with a false span, items drawn from the null law; 95% intervals.", *false_spans(args.documents, 5000),
        "", "Unmarked text, a fresh key for each scan.", *real_text(args.text, args.documents, 2000),
        "", "Marked stories of the bundled model (temperature 1) inside 20,000 characters of the Python documentation, "
        "scanned as text.", *insertions(args.stories),
        "", "A million items, one core.", *cost(),
        "", "Constants of the bound: p <= experts x u v x n e^-x for long texts.", *constants(),
    ]
    text = "\n".join(lines) + "\n"
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
