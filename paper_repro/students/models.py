"""Small transformers on the words of the language: made, trained and asked, on one CPU core."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from language import vocabulary
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

PAD, USER, ASSISTANT, END = range(4)
LONGEST = 28
Examples = Sequence[tuple[str, str]]


@cache
def words() -> tuple[str, ...]:
    """The word of every token id."""
    return ("<pad>", "<user>", "<assistant>", "<end>", *vocabulary())


@cache
def _ids() -> dict[str, int]:
    return {word: index for index, word in enumerate(words())}


def encode(text: str) -> list[int]:
    """Token ids of words separated by spaces."""
    return [_ids()[word] for word in text.split()]


def decode(ids: Sequence[int]) -> str:
    """The words up to the first end."""
    kept = list(ids)
    kept = kept[: kept.index(END)] if END in kept else kept
    return " ".join(words()[index] for index in kept if index > END)


def make(kind: str, seed: int) -> PreTrainedModel:
    """An untrained model of one of four architectures, 0.25 to 0.45 M parameters."""
    size = len(words())
    # At this width the usual initial scale of 0.02 costs most of the training time.
    shared = {
        "vocab_size": size, "max_position_embeddings": 64, "pad_token_id": PAD, "bos_token_id": USER, "eos_token_id": END,
        "initializer_range": 0.1,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "neox":
            return GPTNeoXForCausalLM(GPTNeoXConfig(
                hidden_size=112, intermediate_size=352, num_hidden_layers=2, num_attention_heads=4, **shared,
            ))
        layers, width, heads = {"deep": (3, 96, 4), "wide": (2, 128, 4), "thin": (2, 112, 8)}[kind]
        return LlamaForCausalLM(LlamaConfig(
            hidden_size=width, intermediate_size=256, num_hidden_layers=layers, num_attention_heads=heads,
            tie_word_embeddings=True, **shared,
        ))


def _batches(rows: Sequence[tuple[list[int], int]], size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Row numbers a batch: rows of like length together, batches in random order."""
    order = rng.permutation(len(rows))
    chunks = [order[start : start + 32 * size] for start in range(0, len(order), 32 * size)]
    found = []
    for chunk in chunks:
        ranked = chunk[np.argsort([len(rows[index][0]) for index in chunk], kind="stable")]
        found += [ranked[start : start + size] for start in range(0, len(ranked), size)]
    return [found[index] for index in rng.permutation(len(found))]


def train(
    model: PreTrainedModel, examples: Examples, *, seed: int, epochs: float, rate: float, whole: bool = False, size: int = 32,
) -> float:
    """Train in place on (prompt, answer) pairs, the loss on the answer alone or on the ``whole``; the last loss in nats."""
    rng = np.random.default_rng(seed)
    rows = []
    for prompt, answer in examples:
        head = [USER, *encode(prompt), ASSISTANT]
        rows.append(([*head, *encode(answer), END], 1 if whole else len(head)))
    steps = math.ceil(epochs * math.ceil(len(rows) / size))
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1, pct_start=0.1)
    model.train()
    queue: list[np.ndarray] = []
    mean = 0.0
    for step in range(steps):
        queue = queue or _batches(rows, size, rng)
        batch = [rows[index] for index in queue.pop()]
        width = max(len(ids) for ids, _ in batch)
        inputs = torch.full((len(batch), width), PAD)
        labels = torch.full((len(batch), width), -100)
        for row, (ids, start) in enumerate(batch):
            inputs[row, : len(ids)] = torch.tensor(ids)
            labels[row, start : len(ids)] = inputs[row, start : len(ids)]
        # Padding stands on the right, where a causal model never looks back at it.
        loss = model(input_ids=inputs, labels=labels).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean = loss.item() if not step else 0.98 * mean + 0.02 * loss.item()
    return mean


def ask(model: PreTrainedModel, prompts: Sequence[str], *, temperature: float = 0.0, seed: int = 0, size: int = 256) -> list[str]:
    """The answer to every prompt; temperature 0 is greedy."""
    model.eval()
    chosen = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    answers: list[str] = []
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for start in range(0, len(prompts), size):
            rows = [[USER, *encode(prompt), ASSISTANT] for prompt in prompts[start : start + size]]
            width = max(map(len, rows))
            inputs = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
            out = model.generate(
                inputs, attention_mask=(inputs != PAD).long(), max_new_tokens=LONGEST, eos_token_id=END, pad_token_id=PAD,
                **chosen,
            )
            answers += [decode(row) for row in out[:, width:].tolist()]
    return answers


def coarsen(model: PreTrainedModel, bits: int) -> None:
    """Round every weight matrix to ``bits`` bits a row, in place: the same model behind a cheaper endpoint."""
    levels = 2 ** (bits - 1) - 1
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                scale = parameter.abs().amax(1, keepdim=True).clamp_min(1e-8) / levels
                parameter.copy_((parameter / scale).round() * scale)
