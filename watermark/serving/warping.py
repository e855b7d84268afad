"""The request's own temperature, top-k, top-p and min-p on logits: the law that an unbiased scheme must see and keep.

Engines run processors before they cut the law, so an unbiased scheme would choose among tokens that the request excludes. The
marker therefore cuts the law itself, marks it, and gives logits that the engine's own sampling leaves as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wmcheck.watermark.listed import finite_lists
from wmcheck.watermark.serving.sessions import Sampling

# Temperatures below it are greedy decoding in every engine.
GREEDY = 1e-5
# Which cut comes first: transformers and llama.cpp; vLLM. The two differ where a request asks for top-p and min-p.
ORDER, VLLM_ORDER = ("top_k", "top_p", "min_p"), ("min_p", "top_k", "top_p")


def column(values: Sequence[float], like: Tensor) -> Tensor:
    """float [b, 1] on the device of ``like``."""
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None]


def temperatures(sampling: Sequence[Sampling], like: Tensor) -> Tensor | None:
    """float32 [b, 1], 1 for greedy rows; None if all are 1."""
    values = [one.temperature if one.temperature >= GREEDY else 1.0 for one in sampling]
    return column(values, like) if any(value != 1.0 for value in values) else None


def cut(logits: Tensor, sampling: Sequence[Sampling], *, order: Sequence[str] = ORDER) -> Tensor:
    """Logits [b, V] at temperature 1 without what top-k, top-p and min-p exclude (``-inf``).

    Ties at the last place of top-k stay; top-p keeps the smallest set of likeliest tokens that has the mass, at least one token.

    Args:
        logits: floating [b, V].
        sampling: b settings.
        order: which cut an engine makes first: the share of top-p is one of the mass that the cuts before it left.
    """
    width = logits.shape[1]
    ks = [one.top_k if 0 < one.top_k < width else width for one in sampling]
    ps, floors = [one.top_p for one in sampling], [one.min_p for one in sampling]
    wanted = {"top_k": min(ks) < width, "top_p": min(ps) < 1.0, "min_p": max(floors) > 0.0}
    if not any(wanted.values()):
        return logits
    if max(ks) < width:
        # The candidates of every row are among its likeliest tokens.
        ranked, _ = logits.topk(max(ks), dim=1)
    elif wanted["top_k"] or wanted["top_p"]:
        ranked = logits.sort(dim=1, descending=True).values
    else:
        ranked = logits.amax(1, keepdim=True)
    # The mass of all tokens, also of those that are not ranked, until a cut leaves fewer.
    total = logits.float().logsumexp(1, keepdim=True) if wanted["top_p"] else torch.zeros_like(ranked[:, :1])
    limit = torch.full_like(ranked[:, :1], -torch.inf)
    for step in order:
        if not wanted[step]:
            continue
        if step == "top_k":
            place = torch.tensor([min(k, ranked.shape[1]) - 1 for k in ks], device=logits.device)[:, None]
            found, asked = ranked.gather(1, place), column(ks, logits) < width
        elif step == "min_p":
            found = ranked[:, :1] + column([max(one, 1e-30) for one in floors], logits).log()
            asked = column(floors, logits) > 0.0
        else:
            mass = (ranked.float() - total).exp()
            inside = (mass.cumsum(1) - mass < column(ps, logits)).sum(1, keepdim=True).clamp(min=1) - 1
            found, asked = ranked.gather(1, inside), column(ps, logits) < 1.0
        limit = torch.where(asked, torch.maximum(limit, found.to(limit.dtype)), limit)
        ranked = ranked.masked_fill(ranked < limit, -torch.inf)
        if wanted["top_p"]:
            # Rows that this step did not cut keep the mass of all their tokens.
            total = torch.where(asked, ranked.float().logsumexp(1, keepdim=True), total)
    return logits.masked_fill(logits < limit, -torch.inf)


def draw(logits: Tensor, sampling: Sequence[Sampling], lengths: Sequence[int]) -> Tensor:
    """One token drawn from the law of each row: int64 [b].

    A request with a seed gives the same tokens again, in whatever batch and after preemption: its noise depends on the seed and
    the length of the history alone. The others draw from torch's own generator.
    """
    generators = [
        None if one.seed is None else torch.Generator(device=logits.device).manual_seed((one.seed * 0x9E3779B1 + length) % 2**63)
        for one, length in zip(sampling, lengths, strict=True)
    ]
    if logits.device.type == "cpu":
        # Noise for the few tokens that are left, and not for the whole vocabulary.
        return torch.tensor([_drawn(*row) for row in zip(logits, finite_lists(logits), generators, strict=True)])
    noise = torch.empty_like(logits, dtype=torch.float32).exponential_()
    for row, generator in enumerate(generators):
        if generator is not None:
            noise[row].exponential_(generator=generator)
    return (logits.float() - noise.log_()).argmax(1)


def _drawn(logits: Tensor, listed: NDArray[np.int64] | None, generator: torch.Generator | None) -> int:
    ids = None if listed is None or not len(listed) else torch.from_numpy(listed)
    plain = (logits if ids is None else logits[ids]).float()
    place = int((plain - torch.empty_like(plain).exponential_(generator=generator).log_()).argmax())
    return place if ids is None else int(ids[place])
