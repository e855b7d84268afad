"""What predictions of a model are worth: tokens to p <= 1e-5 of the bundled model's own marked text, by who predicts.

    python benchmarks/proxies.py --texts 64 --out benchmarks/results/proxies.md

Who predicts: the model itself; its weights rounded to 4 and 3 bits; a student with half of its layers, trained here on the
model's laws over its ordinary text; the frequency of each token whatever came before; random weights. Each text has a key of
its own.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from wmcheck.watermark import Candidate, Detector, Profile, SecretKey
from wmcheck.watermark.embed import STORY_PROMPTS, LanguageModel, Sampling, embed_records, load_model
from wmcheck.watermark.law import Law
from wmcheck.watermark.predict import ModelPredictor
from wmcheck.watermark.windows import Document

SCHEMES: list[tuple[str, dict[str, Any]]] = [
    ("gumbel", {"width": 4}), ("tournament", {"width": 4}), ("redgreen", {"width": 4, "green": 64, "delta": 2.0}),
]
LENGTHS = (30, 60, 100, 200)
LOG10_ALPHA = -5.0
GRID = np.unique(np.ceil(6.0 * 1.06 ** np.arange(80)).astype(int))
KEY = SecretKey(bytes((37 * i * i + 11 * i + 5) % 256 for i in range(32)))

Predict = Callable[[Sequence[Document]], list[Law]]
Logits = Callable[[NDArray[np.int64]], torch.Tensor]


@dataclass(frozen=True)
class Proxy:
    """Who predicts: its name, its predictions, and its log probabilities [L, V] for the divergence."""

    name: str
    predict: Predict
    log_p: Logits


def log_laws(model: Any, ids: NDArray[np.int64]) -> torch.Tensor:
    """[L, V] log laws of ids after the ids before them; the start id is among ``ids`` or comes first."""
    with torch.inference_mode():
        found: torch.Tensor = model(torch.from_numpy(ids[None])).logits[0].float().log_softmax(-1)
    return found


def proxy_of(name: str, model: Any, language: LanguageModel) -> Proxy:
    """A transformers model as a proxy."""
    return Proxy(name, ModelPredictor(model, language.tokenizer, name).predict, lambda ids: log_laws(model, ids))


def ordinary(language: LanguageModel, texts: int, tokens: int) -> NDArray[np.int64]:
    """i64[texts, 1 + tokens] ordinary text of the model from its start id on, end ids included."""
    torch.manual_seed(3)
    rows = []
    with torch.inference_mode():
        for _ in range(0, texts, 64):
            start = torch.full((64, 1), language.pad_id)
            rows.append(language.model.generate(
                start, attention_mask=torch.ones_like(start), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                pad_token_id=language.pad_id, min_new_tokens=tokens, max_new_tokens=tokens,
            ).numpy())
    return np.concatenate(rows)[:texts]


def student_of(language: LanguageModel, text: NDArray[np.int64], steps: int) -> Any:
    """A student with the first and last layer of the model's four, trained on the model's laws over its own text.

    The loss is the mean KL(model || student) over a batch of 12 texts; Adam.
    """
    torch.manual_seed(4)
    student, rng = copy.deepcopy(language.model), np.random.default_rng(6)
    layers = student.model.layers
    student.model.layers = torch.nn.ModuleList([layers[0], layers[-1]])
    student.model.layers[1].self_attn.layer_idx = 1
    student.config.num_hidden_layers = 2
    # Generation and caches ask the configuration for the kind of each layer.
    if getattr(student.config, "layer_types", None):
        student.config.layer_types = student.config.layer_types[:2]
    student.requires_grad_(True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        rows = torch.from_numpy(text[rng.integers(0, len(text), 12)])
        with torch.inference_mode():
            target = language.model(rows).logits.log_softmax(-1)
        target = target.clone()
        law = student(rows, use_cache=False).logits.log_softmax(-1)
        loss = (target.exp() * (target - law)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return student.eval()


def rounded_to(model: Any, bits: int) -> Any:
    """A copy with each row of its matrices rounded to ``2^bits`` evenly spaced values."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            if weight.ndim == 2:
                step = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 0.5)
                weight.copy_(((weight / step - 0.5).round() + 0.5) * step)
    return other


def frequencies(text: NDArray[np.int64]) -> Proxy:
    """The share of each token in ordinary text, everywhere."""
    counts = np.bincount(text[:, 1:].ravel(), minlength=1024) + 0.5
    law = counts / counts.sum()
    top = np.argsort(-law)[:50]

    def predict(documents: Sequence[Document]) -> list[Law]:
        laws = []
        for document in documents:
            n = len(document.ids)
            laws.append(Law.of(
                document.ids, np.tile(top, (n, 1)), np.log(law[document.ids]), np.tile(np.log(law[top]), (n, 1)),
                entropy=np.full(n, -(law * np.log(law)).sum()), collision=np.full(n, (law**2).sum()),
            ))
        return laws

    return Proxy("token frequencies", predict, lambda ids: torch.from_numpy(np.log(law)).float().expand(len(ids), -1))


def random_model(language: LanguageModel) -> Any:
    """The same architecture with random weights."""
    torch.manual_seed(5)
    other = type(language.model)(copy.deepcopy(language.model.config))
    with torch.no_grad():
        # Spread that gives peaked laws, as a trained model has: worse than laws near the uniform one.
        for weight in other.parameters():
            if weight.ndim == 2:
                weight.normal_(0.0, 2.0 / math.sqrt(weight.shape[1]))
    return other.eval()


def marked(language: LanguageModel, scheme: str, parameters: dict[str, Any], texts: int, tokens: int) -> list[Document]:
    """Marked texts, text i under tenant ``account i``."""
    profile = Profile.create(scheme, parameters, tokenizer=language.tokenizer)
    prompts = [STORY_PROMPTS[place % len(STORY_PROMPTS)] for place in range(texts)]
    keys = [KEY.tenant(f"account {place}") for place in range(texts)]
    sampling = Sampling(max_new_tokens=tokens, ignore_end=True, seed=1)
    records = embed_records(language, prompts, sampling, profile=profile, keys=keys, batch_size=32)
    pairs = [(record["prompt_tokens"], record["tokens"]) for record in records]
    return [Document(np.array(prompt + output, np.int64), len(prompt)) for prompt, output in pairs]


def cut(document: Document, n: int) -> Document:
    """The first n output tokens."""
    stop = min(document.prompt_length + n, len(document.ids))
    law = None if document.law is None else document.law.take(np.arange(stop))
    return Document(document.ids[:stop], document.prompt_length, law)


def log10_p(profile: Profile, documents: Sequence[Document], statistic: str) -> NDArray[np.float64]:
    """log10 p of each document under its own key."""
    found = []
    for place, document in enumerate(documents):
        detector = Detector([Candidate.of(profile, KEY, f"account {place}")], statistic=statistic, corpus=False)
        found.append(float(detector.test([document])[0].evidence.log_p[0]) / math.log(10.0))
    return np.array(found)


def figures(profile: Profile, documents: Sequence[Document], statistic: str, longest: int) -> str:
    """n50 and n90, and the median log10 p at the lengths, as cells of a row."""
    known: dict[int, NDArray[np.float64]] = {}

    def at(n: int) -> NDArray[np.float64]:
        if n not in known:
            known[n] = log10_p(profile, [cut(document, n) for document in documents], statistic)
        return known[n]

    needed = []
    grid = [*GRID[longest > GRID].tolist(), longest]
    for level in (0.5, 0.9):
        low, high = -1, len(grid)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if (at(grid[middle]) <= LOG10_ALPHA).mean() >= level else (middle, high)
        needed.append(str(grid[high]) if high < len(grid) else f"> {longest}")
    medians = [f"{np.median(at(n)):.1f}" for n in LENGTHS]
    return " | ".join(["/".join(needed), *medians])


def least(language: LanguageModel, documents: Sequence[Document], longest: int) -> str:
    """n50 and n90 of the best test of all, as a cell: with one key its power is E min(1, alpha / P(text))."""
    surprise = np.zeros((len(documents), longest))
    for place, document in enumerate(documents):
        law = log_laws(language.model, document.ids)[document.prompt_length - 1 : -1]
        own = law.gather(1, torch.from_numpy(document.ids[document.prompt_length :, None]))[:, 0]
        surprise[place] = np.cumsum(np.pad(own.double().numpy(), (0, longest - len(own)))) / math.log(10.0)
    share = np.power(10.0, np.minimum(0.0, LOG10_ALPHA - surprise)).mean(0)
    found = [int(np.argmax(share >= level)) + 1 if share.max() >= level else 0 for level in (0.5, 0.9)]
    return "/".join(str(n) if n else f"> {longest}" for n in found)


def divergence(proxy: Proxy, language: LanguageModel, documents: Sequence[Document]) -> float:
    """Mean KL(model || proxy) in nats over the output tokens."""
    total, count = 0.0, 0
    for document in documents:
        own, other = log_laws(language.model, document.ids), proxy.log_p(document.ids)
        part = (own.exp() * (own - other)).sum(-1)[document.prompt_length - 1 : -1]
        total, count = total + float(part.sum()), count + len(part)
    return total / count


def report(language: LanguageModel, proxies: Sequence[Proxy], args: argparse.Namespace) -> list[str]:
    """The table."""
    columns = ["scheme", "who predicts", "prompt", "KL, nats", "n50/n90", *(f"{n}" for n in LENGTHS)]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for scheme, parameters in SCHEMES:
        documents = marked(language, scheme, parameters, args.texts, args.tokens)
        profile = Profile.create(scheme, parameters, tokenizer=language.tokenizer)
        outputs = [Document(document.ids[document.prompt_length :]) for document in documents]
        if scheme != "redgreen":
            blank = " | ".join([""] * len(LENGTHS))
            lines.append(f"| {scheme} | least for any test | known | | {least(language, documents, args.tokens)} | {blank} |")
        for statistic in args.key_only:
            lines.append(f"| {scheme} | nobody: {statistic} | known | | {figures(profile, documents, statistic, args.tokens)} |")
            print(lines[-1], flush=True)
        for proxy in proxies:
            apart = f"{divergence(proxy, language, documents):.2f}"
            for prompt, texts in (("known", documents), ("unknown", outputs)):
                laws = proxy.predict(texts)
                held = [replace(text, law=law) for text, law in zip(texts, laws, strict=True)]
                shown = figures(profile, held, args.statistic, args.tokens)
                lines.append(f"| {scheme} | {proxy.name} | {prompt} | {apart if prompt == 'known' else ''} | {shown} |")
                print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--statistic", default="aided")
    parser.add_argument("--key-only", nargs="*", default=["sum", "robust"])
    parser.add_argument("--corpus", type=int, default=768, help="ordinary texts of 160 tokens that the student learns from")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    language = load_model("bundled:stories2m", device="cpu")
    started = time.process_time()
    text = ordinary(language, args.corpus, 160)
    student = student_of(language, text, args.steps)
    print(f"corpus and student: {time.process_time() - started:.0f} s", flush=True)
    sizes = [sum(weight.numel() for weight in model.parameters()) for model in (language.model, student)]
    proxies = [
        proxy_of("the model itself", language.model, language),
        proxy_of("its weights in 4 bits", rounded_to(language.model, 4), language),
        proxy_of("its weights in 3 bits", rounded_to(language.model, 3), language),
        proxy_of("a distilled student", student, language), frequencies(text),
        proxy_of("random weights", random_model(language), language),
    ]
    lines = [
        f"`python benchmarks/proxies.py --texts {args.texts} --tokens {args.tokens}`: {args.texts} texts of the bundled model a "
        f"scheme, temperature 1, a key for each text. n50/n90: output tokens after which half / nine tenths of the texts have "
        f"p <= 1e-5 (grid of 6%). Then the median log10 p after {', '.join(map(str, LENGTHS))} output tokens. Predictions "
        f"enter by the statistic `{args.statistic}`; each stands for one test of one key, before any correction. KL is "
        "that of the model's laws over these texts to the predictor's, with the prompt known. `least for any test` is "
        "E min(1, 1e-5 / P(text)) over unbiased text with P of the model itself; red/green text is biased and has no such "
        "row. With an unknown prompt the first 4 output tokens have no window and are not scored.", "",
        f"The student has two of the model's four layers ({sizes[1]:,} of {sizes[0]:,} parameters) and was trained for "
        f"{args.steps} steps on the model's laws over {args.corpus} ordinary texts of 160 tokens.", "",
        *report(language, proxies, args),
    ]
    print("\n".join(lines))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
