"""Greedy decoding and reproducible sampling of a batch, with no random state that is shared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from wmcheck.fingerprint.endpoint import Call, UnusableError
from wmcheck.fingerprint.probe import ProbeProtocol

SMALL_MODEL = 50_000_000


def generate_rows(
    model: Any, ends: Sequence[int], prompts: Sequence[Sequence[int]], calls: Sequence[Call], protocol: ProbeProtocol
) -> list[list[int]]:
    """The new ids of each prompt, end token included where there is one; at most ``max_tokens`` of its probe.

    Penalties and the like that a model's own configuration asks for are off: the protocol says how to decode.

    Args:
        model: a ``transformers`` causal language model.
        ends: ids that end an answer.
        prompts: token ids; they are padded on the left.
        calls: what each prompt is, for its limit and its seed.
        protocol: temperature and top-p.

    Raises:
        UnusableError: the batch does not fit in memory.
    """
    import torch
    from transformers import GenerationConfig

    pad, longest = next(iter(ends), 0), max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    config = GenerationConfig(
        max_new_tokens=max(call.probe.max_tokens for call in calls), do_sample=False, num_beams=1, repetition_penalty=1.0,
        no_repeat_ngram_size=0, eos_token_id=list(ends) or None, pad_token_id=pad,
    )
    processors = [RowSampler(calls, protocol)] if protocol.temperature > 0.0 else []
    try:
        with few_threads(model):
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=processors)
    except torch.OutOfMemoryError:
        raise UnusableError(
            "the batch does not fit in memory", reason="memory", got=f"{len(prompts)} prompts",
            hint="make it smaller with --concurrency",
        ) from None
    found = []
    for row, call in zip(out[:, longest:].tolist(), calls, strict=True):
        stop = next((place + 1 for place, number in enumerate(row) if number in ends), len(row))
        found.append(row[: min(stop, call.probe.max_tokens)])
    return found


class RowSampler:
    """Turns greedy decoding into sampling: Gumbel noise of each row's own generator, after temperature and top-p.

    The largest of the perturbed scores is a draw from their softmax (Gumbel's max trick), so that no random state is
    shared between rows or with the rest of the process.
    """

    def __init__(self, calls: Sequence[Call], protocol: ProbeProtocol) -> None:
        import torch

        self._protocol = protocol
        self._generators = [torch.Generator().manual_seed(call_seed(call)) for call in calls]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Perturbed scores, [rows, vocabulary]."""
        import torch
        from transformers import TopPLogitsWarper

        scores = scores.float() / self._protocol.temperature
        if self._protocol.top_p < 1.0:
            scores = TopPLogitsWarper(self._protocol.top_p)(input_ids, scores)
        size = scores.shape[1]
        draws = torch.stack([torch.rand(size, generator=one, dtype=torch.float64) for one in self._generators])
        noise = -torch.log(-torch.log(draws.clamp_min(torch.finfo(torch.float64).tiny)))
        return scores.double() + noise.to(scores.device)


def call_seed(call: Call) -> int:
    """63 bits that belong to one item and sample."""
    text = json.dumps(["wmcheck/local-sampling/1", *call.key])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every id that ends an answer: the model's own and the tokenizer's, which chat models tend to set differently."""
    listed = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = [*(listed if isinstance(listed, list) else [listed]), getattr(tokenizer, "eos_token_id", None)]
    return list(dict.fromkeys(number for number in ids if number is not None))


@contextmanager
def few_threads(model: Any) -> Iterator[None]:
    """One thread for a small model: more gain nothing, and wait for one another where other work has the cores."""
    import torch

    threads = torch.get_num_threads()
    try:
        if model.device.type == "cpu" and model.num_parameters() < SMALL_MODEL:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)
