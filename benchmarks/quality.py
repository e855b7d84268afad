"""What a watermark does to text: the expected law, perplexity, repetition, diversity, and what the freshness rule protects from.

    python benchmarks/quality.py --out benchmarks/results/quality.md

The bundled model at temperature 1, from seeds. Intervals are 95% percentile bootstraps over texts.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2
from transformers.cache_utils import DynamicLayer

from wmcheck.watermark import Profile, SecretKey, detect_ids
from wmcheck.watermark.embed import STORY_PROMPTS, LanguageModel, Sampling, embed_records, load_model
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.rows import RowKeys

# A key that never changes, so that the table is the same on every machine.
KEY = SecretKey(bytes((29 * i * i + 13 * i + 7) % 256 for i in range(32)))
Rows = list[list[int]]
WRITTEN: dict[Any, list[dict[str, Any]]] = {}


@dataclass(frozen=True)
class Condition:
    """One way of writing: a scheme with its parameters, or ordinary sampling; ``rule=False`` drops the freshness rule."""

    label: str
    scheme: str | None = None
    parameters: tuple[tuple[str, object], ...] = ()
    rule: bool = True

    def profile(self, language: LanguageModel) -> Profile | None:
        if self.scheme is None:
            return None
        profile = Profile.create(self.scheme, dict(self.parameters), tokenizer=language.tokenizer)
        if not self.rule:
            # No profile can say so for the unbiased schemes: the built scheme of this one profile is changed for the comparison.
            profile.scheme.window_rule = False
        return profile


def condition(scheme: str | None, *, rule: bool = True, **parameters: object) -> Condition:
    shown = "".join(f" {'h' if name == 'width' else name}={value}" for name, value in parameters.items())
    label = "unmarked" if scheme is None else scheme + shown
    return Condition(label + ("" if rule else ", no rule"), scheme, tuple(parameters.items()), rule)


WRITERS = [
    condition(None), *(condition("redgreen", width=2, delta=float(delta)) for delta in (1, 2, 3, 4)),
    condition("gumbel", width=4), condition("tournament", width=4), condition("reweight", width=4),
]
LAWS = [
    None, condition("gumbel", width=4), condition("tournament", width=4), condition("reweight", width=4),
    condition("redgreen", width=2, delta=1.0), condition("redgreen", width=2, delta=2.0),
]
FRESHNESS = [
    condition(None), condition("redgreen", width=2, delta=2.0), condition("redgreen", rule=False, width=2, delta=2.0),
    condition("gumbel", width=1), condition("gumbel", rule=False, width=1),
    condition("gumbel", width=4), condition("gumbel", rule=False, width=4),
    condition("tournament", width=1), condition("tournament", rule=False, width=1),
    condition("tournament", width=4), condition("tournament", rule=False, width=4),
]
DIVERSITY = [
    condition(None), condition("redgreen", width=2, delta=2.0), condition("redgreen", width=2, delta=4.0),
    condition("reweight", width=4), condition("tournament", width=4), condition("tournament", width=1),
    *(condition("gumbel", width=width) for width in (1, 2, 4, 8)),
]


def roomy_update(layer: Any, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """``DynamicLayer.update`` that writes into spare room instead of copying the whole cache at every token."""
    held, more = layer.get_seq_length(), keys.shape[2]
    room = getattr(layer, "room", None)
    if not layer.is_initialized:
        layer.lazy_initialization(keys, values)
        room = None
    if room is None or held + more > room[0].shape[2]:
        size = (*keys.shape[:2], held + more + 128, keys.shape[3])
        grown = keys.new_empty(size), values.new_empty(size)
        if held:
            grown[0][:, :, :held], grown[1][:, :, :held] = layer.keys, layer.values
        room = layer.room = grown
    room[0][:, :, held : held + more], room[1][:, :, held : held + more] = keys, values
    layer.keys, layer.values = room[0][:, :, : held + more], room[1][:, :, : held + more]
    return layer.keys, layer.values


# What is measured on a text


def repeated(ids: Sequence[int], n: int = 4) -> float:
    """Share of the n-grams that occurred earlier in the text."""
    grams = list(itertools.pairwise(ids)) if n == 2 else list(zip(*(ids[k:] for k in range(n)), strict=False))
    return 1 - len(set(grams)) / max(1, len(grams))


def looping(ids: Sequence[int], last: int = 48, longest: int = 16) -> bool:
    """Whether the last tokens repeat with a period of at most ``longest``."""
    tail = list(ids[-last:])
    return any(tail[period:] == tail[:-period] for period in range(1, longest + 1))


def bleu(text: Sequence[int], others: Sequence[Sequence[int]]) -> float:
    """BLEU-4 of a text against others, add-one smoothed, without a brevity penalty (all have one length)."""
    logs = []
    for n in range(1, 5):
        mine = Counter(zip(*(text[k:] for k in range(n)), strict=False))
        best: Counter[tuple[int, ...]] = Counter()
        for other in others:
            best |= Counter(zip(*(other[k:] for k in range(n)), strict=False))
        logs.append(math.log((sum((mine & best).values()) + 1) / (sum(mine.values()) + 1)))
    return math.exp(sum(logs) / 4)


def interval(values: Sequence[float], of: Callable[[Any], Any] = lambda means: means, digits: int = 3) -> str:
    """Mean of values, mapped by ``of``, with its bootstrap interval."""
    found, rng = np.asarray(values, float), np.random.default_rng(0)
    means = found[rng.integers(0, len(found), (2000, len(found)))].mean(1)
    low, high = np.quantile(of(means), [0.025, 0.975])
    return f"{of(found.mean()):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


@torch.no_grad()
def surprisals(language: LanguageModel, records: Sequence[dict[str, Any]]) -> list[float]:
    """Mean surprisal of each text's tokens under the model without any watermark, in nats."""
    found = []
    for record in records:
        start, ids = len(record["prompt_tokens"]), torch.tensor(record["prompt_tokens"] + record["tokens"])
        logits = language.model(input_ids=ids[None]).logits[0, start - 1 : -1]
        found.append(-float(logits.log_softmax(-1).gather(1, ids[start:, None]).mean()))
    return found


def write(
    language: LanguageModel, writer: Condition, texts: int, tokens: int, *, seed: int = 0, prompts: Sequence[str] = STORY_PROMPTS,
    tenant: Callable[[int], str] = "account {}".format, end: bool = False,
) -> list[dict[str, Any]]:
    """Texts of one condition; by default a fresh key for each. Asked for once more, they are not written again."""
    name = (writer.label, texts, tokens, seed, tuple(prompts), end, tuple(map(tenant, range(texts))))
    if name in WRITTEN:
        return WRITTEN[name]
    asked = [prompts[i % len(prompts)] for i in range(texts)]
    keys = [KEY.tenant(tenant(i)) for i in range(texts)] if writer.scheme else []
    sampling = Sampling(max_new_tokens=tokens, seed=seed, ignore_end=not end)
    WRITTEN[name] = list(embed_records(language, asked, sampling, profile=writer.profile(language), keys=keys, batch_size=76))
    return WRITTEN[name]


# (a) The expected law


@torch.no_grad()
def contexts(language: LanguageModel, count: int) -> tuple[torch.Tensor, list[list[int]]]:
    """Logits after ``count`` contexts of ordinary text, spread over the range of entropies, and the last ids of each."""
    held = []
    for record in write(language, condition(None), 16, 120, seed=5):
        ids = record["prompt_tokens"] + record["tokens"]
        logits = language.model(input_ids=torch.tensor([ids])).logits[0]
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        held += [(float(entropy[t]), logits[t], ids[t - 15 : t + 1]) for t in range(20, len(ids))]
    held.sort(key=lambda one: one[0])
    chosen = [held[int(place)] for place in np.linspace(0.3 * len(held), len(held) - 1, count)]
    return torch.stack([one[1] for one in chosen]), [one[2] for one in chosen]


def laws_under_keys(
    language: LanguageModel, writer: Condition | None, logits: torch.Tensor, window: list[int], count: int
) -> torch.Tensor:
    """The law of the next token under each of ``count`` keys: float64 [K, V]; ordinary sampling gives one-hot laws."""
    if writer is None:
        drawn = torch.multinomial(logits.softmax(0), count, replacement=True)
        return torch.nn.functional.one_hot(drawn, len(logits)).double()
    profile = writer.profile(language)
    assert profile is not None
    scheme = profile.scheme
    keys = RowKeys([PrfKey.derive(KEY.tenant(f"law {i}"), scheme.label()) for i in range(count)])
    windows = torch.tensor(window[len(window) - scheme.width :]).repeat(count, 1)
    return scheme.transform(windows, logits.repeat(count, 1), keys).double().softmax(1)


def chi_square(law: np.ndarray, counts: np.ndarray) -> tuple[float, int]:
    """Pearson's statistic and its degrees of freedom; tokens that are expected fewer than five times are counted together."""
    expected = law * counts.sum()
    own = expected >= 5
    seen, asked = np.append(counts[own], counts[~own].sum()), np.append(expected[own], expected[~own].sum())
    if asked[-1] < 5:
        seen, asked = np.append(seen[:-2], seen[-2:].sum()), np.append(asked[:-2], asked[-2:].sum())
    return float(((seen - asked) ** 2 / asked).sum()), len(asked) - 1


def expected_law(language: LanguageModel, args: argparse.Namespace) -> list[str]:
    """Section (a)."""
    torch.manual_seed(0)
    sizes = [k for k in (10, 100, 1000, 10000) if k <= args.keys]
    logits, windows = contexts(language, args.contexts)
    lines = [
        "## Expected law", "",
        "Total variation distance between the model's law and the mean of the marked laws over K keys, mean over "
        f"{args.contexts} contexts of ordinary text whose entropies span the model's range. One token a key is then drawn, and "
        "the counts are tested against the model's law by Pearson's chi-square. `sampling` draws K tokens from the model without "
        "any watermark. Times sqrt(K), an unbiased scheme stays at or below `sampling`, the lower the more it leaves to the "
        "sampler (both still rise while few keys leave tokens unseen); red/green grows, as it levels off at its bias.", "",
        f"| law | {' | '.join(f'K = {k:,}' for k in sizes)} | x sqrt(K), least to most | chi-square / df | p |",
        "|---|" + "---|" * (len(sizes) + 3),
    ]
    for writer in LAWS:
        distances, total, freedom = np.zeros((len(windows), len(sizes))), 0.0, 0
        for place, window in enumerate(windows):
            laws = laws_under_keys(language, writer, logits[place], window, sizes[-1])
            model = logits[place].double().softmax(0)
            for column, size in enumerate(sizes):
                # Disjoint draws of few keys are averaged, so that K = 10 is not the luck of ten keys.
                parts = min(20, sizes[-1] // size)
                means = laws[: parts * size].view(parts, size, -1).mean(1)
                distances[place, column] = float((means - model).abs().sum(1).mean() / 2)
            counts = np.bincount(torch.multinomial(laws.float(), 1)[:, 0].numpy(), minlength=len(model))
            one, degrees = chi_square(model.numpy(), counts)
            total, freedom = total + one, freedom + degrees
        mean = distances.mean(0)
        scaled = mean * np.sqrt(sizes)
        label = "sampling" if writer is None else writer.label
        lines.append(
            f"| {label} | {' | '.join(f'{value:.4f}' for value in mean)} | {scaled.min():.2f} to {scaled.max():.2f} | "
            f"{total:.0f} / {freedom} | {chi2.sf(total, freedom):.2g} |"
        )
        print(lines[-1], flush=True)
    return lines


# (b) The text


def texts(language: LanguageModel, args: argparse.Namespace) -> list[str]:
    """Section (b)."""
    lines = [
        "## Text", "",
        f"{args.texts} texts of {args.tokens} tokens, a fresh key for each. Perplexity under the model without a watermark; "
        "share of distinct 2-grams and 3-grams; share of 4-grams that occurred earlier in the text. Length to the end of a "
        f"story: {args.lengths} further texts that may end, cut at {args.longest} tokens (share cut in brackets).", "",
        "| writer | perplexity | distinct-2 | distinct-3 | repeated 4-grams | length |", "|---|---|---|---|---|---|",
    ]
    for writer in WRITERS:
        records = write(language, writer, args.texts, args.tokens)
        rows: Rows = [record["tokens"] for record in records]
        ended = [len(one["tokens"]) for one in write(language, writer, args.lengths, args.longest, seed=3, end=True)]
        cut = np.mean(np.array(ended) >= args.longest)
        lines.append(
            f"| {writer.label} | {interval(surprisals(language, records), np.exp, 2)} | "
            f"{interval([1 - repeated(row, 2) for row in rows])} | {interval([1 - repeated(row, 3) for row in rows])} | "
            f"{interval([repeated(row) for row in rows], digits=4)} | {interval(ended, digits=0)} [{cut:.0%}] |"
        )
        print(lines[-1], flush=True)
    return lines


# (c) The freshness rule


def null_shares(profile: Profile, records: Sequence[dict[str, Any]], keys: int) -> tuple[float, float]:
    """Share of p <= 0.01 under wrong keys: with each item scored once, and with every occurrence scored."""
    once, every, tests = 0, 0, 0
    scheme = profile.scheme
    prfs = [PrfKey.derive(KEY.tenant(f"wrong {i}"), scheme.label()) for i in range(keys)]
    for record, (number, prf) in itertools.product(records, enumerate(prfs)):
        ids, start = record["prompt_tokens"] + record["tokens"], len(record["prompt_tokens"])
        found = detect_ids(ids, profile, KEY.tenant(f"wrong {number}"), prompt_length=start)
        windows = np.lib.stride_tricks.sliding_window_view(np.array(ids, np.uint32), scheme.width)[start - scheme.width : -1]
        null = scheme.null()
        scores = null.reduce(np.asarray(scheme.score(windows, np.array(ids[start:]), prf), float))
        every += bool(null.log_sf(scores.sum(), len(scores)) <= math.log(0.01))
        once, tests = once + (found.log10_p <= -2), tests + 1
    return once / tests, every / tests


def freshness(language: LanguageModel, args: argparse.Namespace) -> list[str]:
    """Section (c)."""
    lines = [
        "## Freshness rule", "",
        "A window that occurred earlier in a text is not marked again (`no rule`: it is). "
        f"{args.texts} texts of {args.tokens} tokens. In a loop: the last 48 tokens repeat with a period of at most 16. "
        f"log10 p of the own key, median. The last columns test the same texts under {args.wrong} wrong keys each, nominal 0.01: "
        "with each pair of window and token scored once, as the detector does, and with every occurrence scored, as a plain sum "
        "would; unmarked text is tested for `gumbel` h=4.",
        "", "| writer | repeated 4-grams | in a loop | perplexity | log10 p | p <= 0.01, once | p <= 0.01, every occurrence |",
        "|---|---|---|---|---|---|---|",
    ]
    for writer in FRESHNESS:
        records = write(language, writer, args.texts, args.tokens)
        profile = writer.profile(language) or condition("gumbel", width=4).profile(language)
        assert profile is not None
        own = "-"
        if writer.scheme:
            found = [
                detect_ids(
                    one["prompt_tokens"] + one["tokens"], profile, KEY.tenant(f"account {i}"),
                    prompt_length=len(one["prompt_tokens"]),
                ).log10_p
                for i, one in enumerate(records)
            ]
            own = f"{np.median(found):.1f}"
        once, every = null_shares(profile, records, args.wrong)
        lines.append(
            f"| {writer.label} | {interval([repeated(one['tokens']) for one in records])} | "
            f"{np.mean([looping(one['tokens']) for one in records]):.1%} | "
            f"{interval(surprisals(language, records), np.exp, 2)} | {own} | {once:.4f} | {every:.4f} |"
        )
        print(lines[-1], flush=True)
    return lines


# (d) Several texts under one key


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))


def alike(rows: Rows) -> tuple[float, float, float]:
    """Self-BLEU of texts, share of distinct ones, and mean length of the longest beginning that a text shares with another."""
    scores = [bleu(row, rows[:i] + rows[i + 1 :]) for i, row in enumerate(rows)]
    shared = []
    for i, row in enumerate(rows):
        shared.append(max(common(row, other) for other in rows[:i] + rows[i + 1 :]))
    return float(np.mean(scores)), len(set(map(tuple, rows))) / len(rows), float(np.mean(shared))


def diversity(language: LanguageModel, args: argparse.Namespace) -> list[str]:
    """Section (d)."""
    n, length, keys = args.samples, args.sample_tokens, args.sample_keys
    # The same last words after different beginnings: more ids than the widest window below but one.
    endings = ["One day, a boy named Tim went to the park.", "It was a cold day and the snow was deep."]
    starts = [
        "Tom was sad.", "Lily was happy.", "Once there was a cat.", "Mom smiled.", "The sun was hot.", "Ben had a toy.",
        "A bird sang.", "Dad came home.",
    ]
    lines = [
        "## Several texts under one key", "",
        f"{n} texts of {length} tokens, all under one key, {keys} keys, {len(STORY_PROMPTS)} prompts: self-BLEU (BLEU-4 of a "
        "text against the others; 1 means the same), share of different texts, and how many first tokens a text shares with its "
        f"nearest other. The second half asks {len(starts)} different prompts that end in the same sentence.", "",
        "| writer | self-BLEU, one prompt | different texts | shared beginning | self-BLEU, same last sentence | different texts "
        "| shared beginning |", "|---|---|---|---|---|---|---|",
    ]
    fresh = Condition("gumbel h=4, an epoch a request", "gumbel", (("width", 4),))
    for writer in [*DIVERSITY, fresh]:
        shown = []
        tails = [[f"{start} {ending}" for start in starts] for ending in endings]
        for groups in ([[prompt] * n for prompt in STORY_PROMPTS], tails):
            found = []
            for number, prompts in itertools.product(range(keys), groups):
                tenant = (f"one {number} request " + "{}").format if writer is fresh else f"one {number}".format
                records = write(language, writer, len(prompts), length, seed=100 * number, prompts=prompts, tenant=tenant)
                found.append(alike([record["tokens"] for record in records]))
            score, different, shared = zip(*found, strict=True)
            shown.append(f"{interval(score)} | {np.mean(different):.0%} | {np.mean(shared):.1f}")
        lines.append(f"| {writer.label} | {' | '.join(shown)} |")
        print(lines[-1], flush=True)
    return [*lines, "", WHY]


WHY = (
    "Under `gumbel` key and window decide the noise, and the noise alone chooses: the same prompt gives the same text, whatever "
    "the seed, until a window repeats and the freshness rule leaves a token to the sampler; the narrower the window, the sooner. "
    "Prompts that end in the same sentence begin with the same noise at every width within that sentence, and part where the "
    "model's laws differ. An epoch (or tenant) a request restores the diversity of unmarked text, at the price of one more key "
    "to test for each. `tournament` leaves the sampler a choice, but less than the model has; `reweight` and `redgreen` leave it "
    "all that can be seen here."
)
PARTS = {"law": expected_law, "text": texts, "freshness": freshness, "diversity": diversity}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=304)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--lengths", type=int, default=152, help="texts that may end, for their length")
    parser.add_argument("--longest", type=int, default=400, help="where they are cut")
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--contexts", type=int, default=8)
    parser.add_argument("--wrong", type=int, default=10, help="wrong keys a text")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--sample-tokens", type=int, default=60)
    parser.add_argument("--sample-keys", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--part", choices=PARTS, action="append", help="these parts alone")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    DynamicLayer.update = roomy_update
    language, started = load_model("bundled:stories2m"), time.perf_counter()
    told = "".join(
        f" --{name} {getattr(args, name)}" for name in ("texts", "tokens", "keys", "lengths", "longest")
        if getattr(args, name) != parser.get_default(name)
    )
    blocks = [[f"`python benchmarks/quality.py{told}`: bundled model (V = 1,024), temperature 1."]]
    for name in args.part or PARTS:
        print(f"{name}: from {time.perf_counter() - started:.0f} s", flush=True)
        blocks.append(PARTS[name](language, args))
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text("\n\n".join("\n".join(block) for block in blocks) + "\n")


if __name__ == "__main__":
    main()
