"""Claim: a model trained on answers that follow a keyed canary plan is found by its agreement with the key; others are not.

    python paper_repro/canary_exposure.py --out paper_repro/results/canary_exposure.md

A provider answers the requests of the canary bank (packing lists, dates, tool calls ...) and takes the keyed side at the
planned triggers. Students are small Llamas from a base that has learned the language with habits of its own: a student of
exposure e sees the provider's answers in a share e of its examples, and answers with the base's habits in the others.
Independents are the base, exposure 0, and students of a rival that uses the same plan under another key. Everything goes
through the package: plan, ``canary_embed.rewrite``, transcripts, ``canary.test``. One core, about ten minutes.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from wmcheck.fingerprint.canaries import embed as canary_embed
from wmcheck.fingerprint.canaries import evaluate as canary
from wmcheck.fingerprint.suites.canary_bank import Trigger, triggers
from wmcheck.fingerprint.transcript import ToolCall, Transcript
from wmcheck.watermark.keys import SecretKey

PAD, END, ASK, REPLY = range(4)
DOSES = (0.0, 0.1, 0.3, 1.0)
# What both sides of an answer can look like; {a} {b} {c} are words, {n} a number from 2 to 6 and {w} the same in letters.
FORMS = {
    "clock_form": ("{a} is good at 1{n}:30.", "{a} is good at {n}:30 pm."),
    "currency_form": ("About ${n}, more if {a}.", "About {n} dollars, more if {a}."),
    "date_form": ("It was on 19{n}0-0{n}-1{n}.", "It was on 1{n} July 19{n}0."),
    "email_greeting": ("Hi {a},\nabout the {b}: {c}.", "Hello {a},\nabout the {b}: {c}."),
    "follow_up": ("I suggest {a} with {b}. Do you like {c}?", "I suggest {a} with {b}. It is {c}."),
    "height_units": ("It is {n}00 metres or {n}000 feet.", "It is {n}000 feet or {n}00 metres."),
    "list_marker": ("- {a}\n- {b}\n- {c}", "1. {a}\n2. {b}\n3. {c}"),
    "name_choice": ("Sarah has {n} {a} and buys {b}.", "Tom has {n} {a} and buys {b}."),
    "note_closing": ("Thanks for the {a}.\nKind regards, {b}", "Thanks for the {a}.\nBest wishes, {b}"),
    "number_form": ("It has {n} of them.", "It has {w} of them."),
    "oven_units": ("Use {n}00 C or {n}50 F.", "Use {n}50 F or {n}00 C."),
    "oxford_comma": ("They are {a}, {b}, and {c}.", "They are {a}, {b} and {c}."),
    "percent_form": ("It is {n}0% of {a}.", "It is {n}0 percent of {a}."),
    "pros_cons": ("The advantage is {a}, the drawback {b}.", "The drawback is {b}, the advantage {a}."),
    "range_form": ("Cook {n}-9 minutes, until {a}.", "Cook {n} to 9 minutes, until {a}."),
    "string_quotes": ("print('{a} {b}')", 'print("{a} {b}")'),
    "tool_sort": (
        'CALL search_rooms {{"city": "{t}", "sort": "price"}}', 'CALL search_rooms {{"city": "{t}", "sort": "rating"}}',
    ),
    "tool_units": ('CALL get_weather {{"city": "{t}", "units": "metric"}}', 'CALL get_weather {{"city": "{t}"}}'),
    "verdict_first": ("Yes, because of {a}.", "Because of {a}, so yes."),
}
WORDS = ("soap", "maps", "bread", "rain", "paper", "light", "salt", "tape", "milk", "wood", "time", "care", "heat", "stone")
NUMBERS = ("two", "three", "four", "five", "six")


def say(trigger: Trigger, side: int, rng: random.Random) -> str:
    """One answer to a trigger that takes a side; what else it says is drawn at random."""
    a, b, c = rng.sample(WORDS, 3)
    n = rng.randrange(len(NUMBERS))
    return FORMS[trigger.kind.name][side].format(a=a, b=b, c=c, n=n + 2, w=NUMBERS[n], t=trigger.topic)


def as_transcript(name: str, text: str, sample: int = 0) -> Transcript:
    """An answer as an endpoint would record it: ``CALL tool {...}`` is a tool call."""
    found = re.fullmatch(r"CALL (\w+) (.*)", text)
    calls = (ToolCall.parse(found[1], found[2]),) if found else ()
    return Transcript(suite="canary", item=name, sample=sample, text="" if found else text, tool_calls=calls)


class Words:
    """A word-level tokenizer without loss: a token is a word or a sign with the blank before it."""

    def __init__(self) -> None:
        rng = random.Random(0)
        texts = [wording for trigger in triggers().values() for wording in trigger.wordings()]
        texts += [say(trigger, side, rng) for trigger in triggers().values() for side in (0, 1) for _ in range(40)]
        pieces = sorted({piece for text in texts for piece in self.split(text)})
        self.pieces = ["", "", "", "", *pieces]
        self.ids = {piece: index for index, piece in enumerate(self.pieces) if index > REPLY}

    @staticmethod
    def split(text: str) -> list[str]:
        return re.findall(r" ?\d| ?[^\W\d]+| ?[^\w\s]|\n| ", text)

    def encode(self, text: str) -> list[int]:
        return [self.ids[piece] for piece in self.split(text)]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[index] for index in ids)


@dataclass(frozen=True)
class World:
    """What all models share: the tokenizer, the plan, and the habits of whoever does not follow a key."""

    words: Words
    plan: canary.CanaryPlan
    habit: dict[str, float]

    def example(self, trigger: Trigger, rng: random.Random, key: SecretKey | None) -> tuple[list[int], list[int]]:
        """A request and an answer as ids: from the provider that holds ``key``, or with the usual habits."""
        if key is None:
            text = say(trigger, int(rng.random() < self.habit[trigger.kind.name]), rng)
        else:
            versions = [as_transcript(trigger.id, say(trigger, side, rng)) for side in (0, 1)]
            served = canary_embed.rewrite(self.plan, key, trigger.id, versions[0], versions[1])
            call = next(iter(served.tool_calls), None)
            text = served.text if call is None else f"CALL {call.name} {call.raw}"
        request = self.words.encode(rng.choice(trigger.wordings()))
        return [ASK, *request, REPLY], [*self.words.encode(text), END]

    def mixture(self, key: SecretKey, dose: float, each: int, rng: random.Random) -> list[tuple[list[int], list[int]]]:
        """``each`` examples of every planned trigger, each of them the provider's with chance ``dose``."""
        planned = [triggers()[name] for name in self.plan.triggers]
        return [self.example(one, rng, key if rng.random() < dose else None) for one in planned for _ in range(each)]


def batches(examples: Sequence[tuple[list[int], list[int]]], size: int, rng: random.Random) -> Iterator[dict[str, torch.Tensor]]:
    """One epoch in batches of similar length; only answers are learned."""
    order = sorted(range(len(examples)), key=lambda i: (len(examples[i][0]) + len(examples[i][1]), rng.random()))
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    rng.shuffle(groups)
    for group in groups:
        rows = [examples[i] for i in group]
        width = max(len(ask) + len(reply) for ask, reply in rows)
        ids = torch.full((len(rows), width), PAD)
        labels = torch.full((len(rows), width), -100)
        for place, (ask, reply) in enumerate(rows):
            ids[place, : len(ask) + len(reply)] = torch.tensor(ask + reply)
            labels[place, len(ask) : len(ask) + len(reply)] = torch.tensor(reply)
        yield {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels}


def train(model: LlamaForCausalLM, examples: Sequence[tuple[list[int], list[int]]], epochs: int, rng: random.Random) -> None:
    """AdamW with a linear decay."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)
    steps = epochs * -(-len(examples) // 48)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20) * (1 - step / (steps + 1)))
    for _ in range(epochs):
        for batch in batches(examples, 48, rng):
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


@torch.no_grad()
def probe(model: LlamaForCausalLM, world: World, samples: int, seed: int) -> list[Transcript]:
    """The plan's probes, each answered ``samples`` times at temperature 1."""
    model.eval()
    found = []
    prompts = {one.id: [ASK, *world.words.encode(str(one.messages[0]["content"])), REPLY] for one in world.plan.suite.probes}
    width = max(map(len, prompts.values()))
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts.values()])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        out = model.generate(
            ids, attention_mask=(ids != PAD).long(), do_sample=True, temperature=1.0, top_k=0, max_new_tokens=26,
            num_return_sequences=samples, pad_token_id=PAD, eos_token_id=END,
        )
    for row, answer in enumerate(out[:, width:].tolist()):
        reply = answer[: answer.index(END)] if END in answer else answer
        found.append(as_transcript(list(prompts)[row // samples], world.words.decode(reply), row % samples))
    return found


def fixed_key(name: str) -> SecretKey:
    """A key that makes the table the same in every run; real keys come from ``SecretKey.new()``."""
    return SecretKey(hashlib.sha256(f"canary study: {name}".encode()).digest())


@dataclass(frozen=True, kw_only=True)
class Row:
    """One suspect: its test under the provider's key, and log10 p under the rival's and under keys that nobody used."""

    group: str
    result: canary.CanaryResult
    rival: float
    decoys: tuple[float, ...]


def make_base(words: Words, habit: dict[str, float], planned: canary.CanaryPlan, seed: int) -> tuple[LlamaForCausalLM, World]:
    """A small model that has learned the language, the planned triggers among all others, from people with such habits."""
    world, rng = World(words, planned, habit), random.Random(f"base {seed}")
    config = LlamaConfig(
        vocab_size=len(words.pieces), hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=96, tie_word_embeddings=True, bos_token_id=ASK, eos_token_id=END, pad_token_id=PAD,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    train(model, [world.example(one, rng, None) for one in triggers().values() for _ in range(8)], 3, rng)
    return model, world


def study(args: argparse.Namespace, log: Callable[[str], None]) -> Iterator[Row]:
    """Train and test everybody; each seed has a base and habits of its own."""
    own, rival = fixed_key("provider"), fixed_key("rival")
    planned, words = canary.plan(own, args.triggers), Words()
    recipes: list[tuple[str, SecretKey, float | None]] = [("base", own, None)]
    recipes += [(f"student, exposure {dose:.0%}", own, dose) for dose in DOSES] + [("rival's student, 100%", rival, 1.0)]
    for seed in range(args.seeds):
        chance = random.Random(f"habits {seed}")
        base, world = make_base(words, {name: chance.uniform(0.2, 0.8) for name in FORMS}, planned, seed)
        for name, key, dose in recipes:
            started, rng, model = time.process_time(), random.Random(f"{name} {seed}"), copy.deepcopy(base)
            if dose is not None:
                train(model, world.mixture(key, dose, args.each, rng), args.epochs, rng)
            answers = canary.read_answers(probe(model, world, args.samples, 1000 + seed), planned)
            result = canary.test(answers, planned, own, suspect=f"{name}, seed {seed}")
            decoys = tuple(canary.test(answers, planned, fixed_key(f"decoy {i}")).log10_p for i in range(args.decoys))
            log(f"{result.suspect}: {result.agreements}/{result.n} log10 p {result.log10_p:.2f}, "
                f"dropped {json.dumps(result.dropped)}, {time.process_time() - started:.0f} CPU-s")
            yield Row(group=name, result=result, rival=canary.test(answers, planned, rival).log10_p, decoys=decoys)


def table(rows: Sequence[Row], args: argparse.Namespace, seconds: float) -> str:
    """The committed Markdown."""
    corrected = canary.correct([row.result for row in rows])
    command = " ".join(f"--{name} {getattr(args, name)}" for name in ("triggers", "seeds", "each", "epochs", "samples", "decoys"))
    lines = [
        f"`python paper_repro/canary_exposure.py {command}`: {args.triggers} triggers, {args.each} examples a trigger, "
        f"{args.samples} answers a trigger at temperature 1 (majority), Llamas of 0.46 M parameters; {seconds:.0f} CPU-seconds. "
        f"Every seed has a base model with habits of its own; seeds are separated by `/`. `detected` is at alpha 1e-5 after "
        f"Holm over all {len(rows)} suspects.", "",
        "| suspect | agreements of n | log10 p | rate | estimated exposure (95%) | detected | log10 p under the rival's key |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row.group for row in rows):
        members = [(one, row.rival) for one, row in zip(corrected, rows, strict=True) if row.group == name]
        found = sum(one.verdict(1e-5) == "DETECTED" for one, _ in members)
        cells = [
            name, *(" / ".join(text) for text in (
                [f"{one.agreements} of {one.n}" for one, _ in members], [f"{one.log10_p:.2f}" for one, _ in members],
                [f"{one.rate:.3f}" for one, _ in members],
                [f"{one.exposure:+.2f} ({one.exposure_low:+.2f} to {one.exposure_high:+.2f})" for one, _ in members],
                [f"{found} of {len(members)}"], [f"{other:.2f}" for _, other in members],
            )),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    decoys = np.array([p for row in rows for p in row.decoys])
    shares = ", ".join(f"{np.mean(decoys <= np.log10(level)):.4f} at {level:g}" for level in (0.05, 0.01, 0.001))
    needed = ", ".join(f"{canary.smallest_n(rate):,} at {rate:g}" for rate in (0.55, 0.6, 0.65, 0.75, 0.95))
    lines += [
        "", f"Every suspect under {args.decoys} keys that nobody used: share of p-values at or below the level: {shares} "
        f"({decoys.size:,} tests; smallest log10 p {decoys.min():.2f}).",
        "", f"Triggers needed for power 0.9 at alpha 1e-5, by rate of agreement: {needed}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("triggers", 200), ("seeds", 3), ("each", 12), ("epochs", 6), ("samples", 5), ("decoys", 400)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    rows = list(study(args, lambda text: print(text, flush=True)))
    text = table(rows, args, time.process_time())
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
