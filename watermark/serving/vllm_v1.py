"""vLLM's Model Runner V1: a dictionary of rows, kept by batch updates; histories are the engine's own lists."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.serving.marker import Marker
from wmcheck.watermark.serving.selftest import OPTED_OUT, PROBE, Step, self_test
from wmcheck.watermark.serving.sessions import Sampling, Session


def sampling_of(params: Any) -> Sampling:
    """The sampling settings of vLLM's ``SamplingParams``."""
    return Sampling(
        temperature=params.temperature, top_k=max(params.top_k, 0), top_p=params.top_p, min_p=params.min_p, seed=params.seed
    )


def engine_name() -> str:
    """``"vllm VERSION"``."""
    import vllm

    return f"vllm {vllm.__version__}"


class VllmV1:
    """Marks the batch of Model Runner V1.

    Unbiased schemes stand among the processors that keep the argmax: after penalties and temperature.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.marker = Marker(deployment, engine_name(), cooled=deployment.profile.scheme.unbiased)
        self._sessions: dict[int, Session] = {}
        self._listed: tuple[list[int], list[Session]] = ([], [])

    @classmethod
    def start(cls, deployment: Deployment, vllm_config: Any, device: torch.device, pinned: bool, *, vocabulary: int) -> VllmV1:
        """An instance that passed the self-test."""
        self_test(deployment, _open_rows, vocabulary=vocabulary, device=device, engine=engine_name())
        made = cls(deployment)
        made.marker.counters.write()
        return made

    def update_state(self, update: Any) -> None:
        """Follow the batch: removed, then added, then moved. A row that is filled anew in the same step is not in ``removed``."""
        if update is None:
            return
        rows = self._sessions
        for row in update.removed:
            self._drop(row)
        for row, params, prompt, output in update.added:
            self._drop(row)
            rows[row] = Session.open(self.marker.deployment, params.extra_args, prompt or [], output, sampling_of(params))
            self.marker.counters.requests["opted_out" if rows[row].prf is None else "keyed"] += 1
        for one, other, way in update.moved:
            first, second = rows.pop(one, None), rows.pop(other, None)
            if first is not None:
                rows[other] = first
            if way.name == "SWAP" and second is not None:
                rows[one] = second
            elif second is not None:
                self.marker.close(second)
        self._listed = (sorted(rows), [rows[row] for row in sorted(rows)])

    def _drop(self, row: int) -> None:
        gone = self._sessions.pop(row, None)
        if gone is not None:
            self.marker.close(gone)

    def apply(self, logits: Tensor, ctx: None = None) -> None:
        """Mark the rows of a step in place."""
        rows, sessions = self._listed
        if sessions:
            self.marker.mark(logits, sessions, rows)


def _open_rows(probe: Deployment, prompt: list[int], outputs: list[list[int]]) -> Step:
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor.interface import BatchUpdate

    runner = VllmV1(probe)
    added = [
        (row, SamplingParams(temperature=1.0, extra_args=dict(asked)), prompt, outputs[row])
        for row, asked in enumerate((PROBE, OPTED_OUT))
    ]
    first = [BatchUpdate(batch_size=2, removed=[], added=added, moved=[])]

    def step(logits: Tensor) -> Tensor:
        runner.update_state(first.pop() if first else None)
        runner.apply(logits)
        return logits

    return step
