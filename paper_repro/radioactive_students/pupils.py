"""Students: small Llamas, how they are trained, and what they write when nobody marks it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from grid import Pupil, seed_of
from numpy.typing import NDArray
from pools import END, LENGTH, Pools, only_one, whole
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from wmcheck.watermark.generate import generate_ids, warpers

WIDTH, LAYERS = 96, 2
ROWS = 4
EPOCHS, BASE_EPOCHS = 4.0, 2.0
RATE, TUNING_RATE = 5e-3, 2e-3
WRITTEN = 160


def make(vocabulary: int, seed: int) -> LlamaForCausalLM:
    """A fresh model of 0.28 million parameters at a vocabulary of 1,024."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // 32, tie_word_embeddings=True, max_position_embeddings=512, bos_token_id=END,
        eos_token_id=END, pad_token_id=END,
    ))


def train(model: LlamaForCausalLM, rows: Sequence[NDArray[Any]], *, epochs: float, rate: float, seed: int) -> float:
    """Train in place on texts that each begin after the end token; the mean loss of the last 30 steps in nats."""
    rng = np.random.default_rng(seed)
    size = max(map(len, rows))
    data = torch.full((len(rows), size + 1), -100)
    for place, row in enumerate(rows):
        data[place, 0] = END
        data[place, 1 : len(row) + 1] = torch.from_numpy(row.astype(np.int64))
    steps = math.ceil(epochs * len(rows) / ROWS)
    order = np.concatenate([rng.permutation(len(rows)) for _ in range(math.ceil(epochs) + 1)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1, pct_start=0.1)
    model.train()
    losses = []
    for step in range(steps):
        batch = data[order[step * ROWS : (step + 1) * ROWS]]
        # Padding stands on the right, where a causal model never looks back at it.
        logits = model(input_ids=batch[:, :-1].clamp(min=END), use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return float(np.mean(losses[-30:]))


def write(model: LlamaForCausalLM, name: str, count: int = WRITTEN) -> NDArray[np.uint16]:
    """u16[count, length]: what the model writes at temperature 1, from the end token on."""
    model.eval()
    with torch.random.fork_rng(devices=[]):
        rows = generate_ids(
            model, [[END]] * count, warpers(), max_new_tokens=LENGTH, pad_id=END, seed=seed_of("written", name),
            ignore_end=True,
        )
    return np.array(rows, np.uint16)


class School:
    """Makes students in a folder and remembers which it has made."""

    def __init__(self, pools: Pools) -> None:
        self.pools, self.folder = pools, pools.folder
        (self.folder / "pupils").mkdir(parents=True, exist_ok=True)

    def encoded(self, samples: NDArray[np.uint16], *, other: bool) -> Sequence[NDArray[Any]]:
        """Samples in the tokenizer of the student."""
        return self.pools.own_tokenizer.encode(self.pools.decoded(samples)) if other else list(samples)

    def vocabulary(self, *, other: bool) -> int:
        """Number of ids of the student's tokenizer."""
        return self.pools.own_tokenizer.vocabulary if other else self.pools.tokenizer.vocabulary

    def base(self, seed: int, *, other: bool) -> LlamaForCausalLM:
        """What fine-tuned students of a seed start from: a model that has learned all of the unmarked text."""
        name = f"base-s{seed}-{'other' if other else 'same'}"
        model = make(self.vocabulary(other=other), seed_of("init", name))
        path = self.path(name)
        with only_one(path):
            if path.exists():
                model.load_state_dict(torch.load(path, weights_only=True))
                return model
            rows = self.encoded(self.pools.plain(), other=other)
            train(model, rows, epochs=BASE_EPOCHS, rate=RATE, seed=seed_of("order", name))
            keep(path, model)
        return model

    def load(self, pupil: Pupil) -> LlamaForCausalLM:
        """A student that was made."""
        model = make(self.vocabulary(other=pupil.other), 0)
        model.load_state_dict(torch.load(self.path(pupil.name), weights_only=True))
        return model.eval()

    def teach(self, pupil: Pupil) -> tuple[LlamaForCausalLM, float]:
        """The student trained, and its last training loss a token of its own tokenizer."""
        if pupil.tuned:
            model = self.base(pupil.seed, other=pupil.other)
        else:
            model = make(self.vocabulary(other=pupil.other), seed_of("init", pupil.name))
        rows = self.encoded(self.pools.training(pupil), other=pupil.other)
        rate = TUNING_RATE if pupil.tuned else RATE
        return model, train(model, rows, epochs=EPOCHS, rate=rate, seed=seed_of("order", pupil.name))

    def path(self, name: str) -> Path:
        """Where the weights of a model are."""
        return self.folder / "pupils" / f"{name}.pt"


def keep(path: Path, model: LlamaForCausalLM) -> None:
    """Write the weights."""
    with whole(path) as part:
        torch.save(model.state_dict(), part)
