"""The request's own temperature, top-k, top-p and min-p on logits: the law that an unbiased scheme must see and keep.

Engines run processors before they cut the law, so an unbiased scheme would choose among tokens that the request excludes. The
marker therefore cuts the law itself, marks it, and gives logits that the engine's own sampling leaves as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wmcheck.watermark.serving.sessions import Sampling

# Temperatures below it are greedy decoding in every engine.
GREEDY = 1e-5


def column(values: Sequence[float], like: Tensor) -> Tensor:
    """float [b, 1] on the device of ``like``."""
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None]


def temperatures(sampling: Sequence[Sampling], like: Tensor) -> Tensor | None:
    """float32 [b, 1], 1 for greedy rows; None if all are 1."""
    values = [one.temperature if one.temperature >= GREEDY else 1.0 for one in sampling]
    return column(values, like) if any(value != 1.0 for value in values) else None


def cut(logits: Tensor, sampling: Sequence[Sampling]) -> Tensor:
    """Logits [b, V] at temperature 1 without what top-k, top-p and min-p exclude (``-inf``).

    Ties at the last place of top-k stay; top-p keeps the smallest set of likeliest tokens that has the mass, at least one token.
    """
    width = logits.shape[1]
    ks = [one.top_k if 0 < one.top_k < width else width for one in sampling]
    ps, floors = [one.top_p for one in sampling], [one.min_p for one in sampling]
    if all(k == width for k in ks) and min(ps) >= 1.0 and max(floors) <= 0.0:
        return logits
    largest = max(ks)
    if largest < width:
        # The candidates of every row are among its `largest` likeliest tokens.
        ranked, _ = logits.topk(largest, dim=1)
    else:
        ranked = logits.sort(dim=1, descending=True).values if min(ps) < 1.0 or min(ks) < width else logits.amax(1, keepdim=True)
    limit = torch.full_like(ranked[:, :1], -torch.inf)
    if min(ks) < width:
        place = torch.tensor([min(k, ranked.shape[1]) - 1 for k in ks], device=logits.device)[:, None]
        limit = torch.where(column(ks, logits) < width, ranked.gather(1, place), limit)
        ranked = ranked.masked_fill(ranked < limit, -torch.inf)
    if min(ps) < 1.0:
        # Mass of the candidates that top-k left, or of the whole vocabulary where it left all.
        mass = ranked.float().softmax(1) if ranked.shape[1] > 1 else ranked
        before = mass.cumsum(1) - mass
        inside = (before < column(ps, logits)).sum(1, keepdim=True).clamp(min=1) - 1
        limit = torch.where(column(ps, logits) < 1.0, torch.maximum(limit, ranked.gather(1, inside)), limit)
    if max(floors) > 0.0:
        floor = ranked[:, :1] + column([max(one, 1e-30) for one in floors], logits).log()
        limit = torch.where(column(floors, logits) > 0.0, torch.maximum(limit, floor.to(limit.dtype)), limit)
    return logits.masked_fill(logits < limit, -torch.inf)


def draw(logits: Tensor, sampling: Sequence[Sampling], lengths: Sequence[int]) -> Tensor:
    """Logits that leave one token, drawn from the law of each row: int64 [b].

    A request with a seed gives the same tokens again, in whatever batch and after preemption: its noise depends on the seed and
    the length of the history alone. The others draw from torch's own generator.
    """
    noise = torch.empty_like(logits, dtype=torch.float32).exponential_()
    for row, one in enumerate(sampling):
        if one.seed is not None:
            generator = torch.Generator(device=logits.device).manual_seed((one.seed * 0x9E3779B1 + lengths[row]) % 2**63)
            noise[row].exponential_(generator=generator)
    return (logits.float() - noise.log_()).argmax(1)
