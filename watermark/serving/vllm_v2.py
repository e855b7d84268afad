"""vLLM's Model Runner V2: slots that are recycled, histories on the device, a row for every draft token.

Windows and freshness are found where the ids are, so nothing waits for the device; what a request may not change (key, sampling
settings) is kept by slot on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.rows import RowKeys
from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.serving.marker import Marker, inside
from wmcheck.watermark.serving.selftest import OPTED_OUT, PROBE, Step, self_test
from wmcheck.watermark.serving.sessions import Sampling
from wmcheck.watermark.serving.vllm_v1 import engine_name, sampling_of
from wmcheck.watermark.serving.warping import GREEDY, VLLM_ORDER
from wmcheck.watermark.windows import fresh_rows

# Places outside a history: no token has this id, and no window that holds it is marked.
OUTSIDE = -1
# Steps between looks at what the engine chose: each look waits for the device.
AUDIT_EVERY = 64


@dataclass(frozen=True, slots=True)
class _Slot:
    prf: PrfKey
    sampling: Sampling


class VllmV2:
    """Marks the batch of Model Runner V2, draft rows included."""

    def __init__(self, deployment: Deployment, req_states: Any) -> None:
        self.marker = Marker(deployment, engine_name(), order=VLLM_ORDER)
        self._states, self._slots, self._step = req_states, dict[int, _Slot](), 0
        device = req_states.device
        self._special = torch.tensor([OUTSIDE, *deployment.profile.special_ids], device=device)
        self._counted = torch.zeros(2, dtype=torch.int64, device=device)
        self._noted: tuple[list[int], Tensor, Tensor, Tensor] | None = None

    @classmethod
    def start(cls, deployment: Deployment, vllm_config: Any, req_states: Any, *, vocabulary: int) -> VllmV2:
        """An instance that passed the self-test."""
        self_test(deployment, _open_rows, vocabulary=vocabulary, device=req_states.device, engine=engine_name())
        made = cls(deployment, req_states)
        made.marker.counters.write()
        return made

    def add_request(self, slot: int, params: Any) -> bool:
        """Take a slot; False for a request that opted out or that no watermark can mark."""
        self._slots.pop(slot, None)
        decision, sampling = self.marker.deployment.policy.decide(params.extra_args), sampling_of(params)
        prf = self.marker.deployment.keyed(decision)
        self.marker.counters.requests["keyed" if prf else "opted_out"] += 1
        if prf is None or (self.marker.scheme.unbiased and sampling.temperature < GREEDY):
            return False
        self._slots[slot] = _Slot(prf, sampling)
        return True

    def apply(self, logits: Tensor, ctx: Any) -> None:
        """Mark the rows of a step in place."""
        # With drafts a request has several rows, and only the device knows which.
        drafted = logits.shape[0] != len(ctx.idx_mapping_np)
        slots = (ctx.expanded_idx_mapping if drafted else ctx.idx_mapping_np).tolist()
        rows = [row for row, slot in enumerate(slots) if slot in self._slots]
        if not rows:
            return
        device, width = logits.device, self.marker.scheme.width
        index = torch.tensor(rows, device=device)
        history = self._histories(ctx, index, longest=int(ctx.seq_lens_upper_bound_np.max()))
        fresh = fresh_rows(history, width, self._special, window_rule=self.marker.scheme.window_rule)
        if self.marker.deployment.reasoning:
            fresh &= ~inside(history, self.marker.deployment.reasoning)
        windows = history[:, history.shape[1] - width :].clamp(min=0)
        held = [self._slots[slots[row]] for row in rows]
        more = getattr(self.marker.scheme, "fresh", None)
        if more is not None:
            fresh &= more(history, RowKeys([one.prf for one in held], device))
        lengths = [0] * len(rows)
        if any(one.sampling.seed is not None for one in held):
            lengths = (ctx.pos[index] + 1).tolist()
        self._count(held, fresh, windows, history, [slots[row] for row in rows], drafted)
        self.marker.transform(
            logits, windows, rows, [one.prf for one in held], [one.sampling for one in held], lengths, keep=fresh
        )

    def _histories(self, ctx: Any, index: Tensor, *, longest: int) -> Tensor:
        """int64 [b, L]: the ids up to each row's position, right-aligned; :data:`OUTSIDE` before their beginning."""
        longest = max(longest, self.marker.scheme.width)
        place = ctx.pos[index].long()[:, None] + torch.arange(1 - longest, 1, device=index.device)
        slot = ctx.expanded_idx_mapping[index].long()[:, None]
        committed = self._states.total_len.gpu[slot].long()
        found = self._states.all_token_ids.gpu[slot, place.clamp(min=0, max=self._states.all_token_ids.gpu.shape[1] - 1)].long()
        # Beyond the committed ids stand the drafts of this step: the inputs of the rows before this one, and its own.
        back = (index[:, None] - (ctx.pos[index].long()[:, None] - place)).clamp(min=0)
        own = place == ctx.pos[index].long()[:, None]
        found = torch.where((place >= committed) | own, ctx.input_ids[back].long(), found)
        return torch.where(place >= 0, found, OUTSIDE)

    def _count(
        self, held: list[_Slot], fresh: Tensor, windows: Tensor, history: Tensor, slots: list[int], drafted: bool
    ) -> None:
        """Counts stay on the device, and one step in many is looked at."""
        self._counted += torch.stack([fresh.sum(), (~fresh).sum()])
        self._step += 1
        if self._noted is not None:
            where, before, marked, ends = self._noted
            self._noted = None
            tokens = dict(zip(slots, history[:, -1].tolist(), strict=True)) if not drafted else {}
            parents = dict(zip(slots, history[:, -2].tolist(), strict=True)) if not drafted and history.shape[1] > 1 else {}
            for slot, window, was, end in zip(where, before.tolist(), marked.tolist(), ends.tolist(), strict=True):
                # The slot still holds the request if the token before the new one is the one that stood last.
                if was and slot in self._slots and parents.get(slot) == end:
                    self.marker.counters.audit.add(self._slots[slot].prf, window, tokens[slot])
        if self._step % AUDIT_EVERY == 0 or self._step < 4:
            marked, other = self._counted.tolist()
            self._counted.zero_()
            self.marker.counters.tokens["marked"] += marked
            self.marker.counters.tokens["repeated_or_special"] += other
            self.marker.counters.count([])
            if not drafted:
                self._noted = (slots, windows.clone(), fresh.clone(), history[:, -1].clone())


class _Tensors:
    """Stands for vLLM's device buffers in the self-test."""

    def __init__(self, tensor: Tensor) -> None:
        self.gpu = tensor


def _open_rows(probe: Deployment, prompt: list[int], outputs: list[list[int]]) -> Step:
    from types import SimpleNamespace

    import numpy as np
    from vllm import SamplingParams

    made: list[VllmV2] = []
    ids = torch.zeros((2, 2048), dtype=torch.int32)
    lengths = torch.zeros(2, dtype=torch.int32)

    def step(logits: Tensor) -> Tensor:
        device = logits.device
        for row in (0, 1):
            known = prompt + outputs[row]
            ids[row, : len(known)] = torch.tensor(known, dtype=torch.int32)
            lengths[row] = len(known)
        # As in the runner, the newest id is in the inputs of the step and may not be committed yet.
        committed = _Tensors(lengths.to(device) - 1)
        states = SimpleNamespace(device=device, all_token_ids=_Tensors(ids.to(device)), total_len=committed)
        if not made:
            made.append(VllmV2(probe, states))
            for slot, asked in enumerate((PROBE, OPTED_OUT)):
                made[0].add_request(slot, SamplingParams(temperature=1.0, extra_args=dict(asked)))
        made[0]._states = states
        slots = torch.arange(2, device=device)
        made[0].apply(logits, SimpleNamespace(
            expanded_idx_mapping=slots, idx_mapping=slots, idx_mapping_np=np.arange(2),
            expanded_local_pos=torch.zeros_like(slots),
            input_ids=ids[torch.arange(2), (lengths - 1).long()].to(device), pos=(lengths - 1).to(device),
            seq_lens_upper_bound_np=lengths.numpy(),
        ))
        return logits

    return step
