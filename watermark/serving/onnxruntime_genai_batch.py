"""ONNX Runtime's generate() API: one batch in the loop of ``og.Generator``. See :mod:`.onnxruntime_genai`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wmcheck.watermark.core.errors import MissingExtraError, RequestError
from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.serving.marker import Marker
from wmcheck.watermark.serving.sessions import Sampling, Session
from wmcheck.watermark.serving.warping import GREEDY

try:
    import onnxruntime_genai as og
except ImportError as error:
    raise MissingExtraError("onnxruntime-genai is not installed", where=__name__, hint="pip install onnxruntime-genai") from error

# Options that act on logits after they are set, with their neutral values: they would undo what an unbiased scheme chose.
LATE = {"repetition_penalty": 1.0, "min_length": 0.0, "no_repeat_ngram_size": 0.0, "guidance": None}
Prompts = Sequence[Sequence[int]]
Requests = Sequence[Mapping[str, Any] | None]


class Batch:
    """Requests that are generated together; made by ``WatermarkedGenerator.start``.

    Attributes:
        outputs: ids of each row so far, without the end id.
        live: for each row, whether it is neither finished nor cancelled.
    """

    def __init__(
        self, model: Any, config: Mapping[str, Any], marker: Marker, prompts: Prompts, requests: Requests, room: int,
        given: dict[str, Any],
    ) -> None:
        pad = int(config["pad_token_id"])
        if not prompts or len(prompts) != len(requests) or any(not len(one) or one[-1] == pad for one in prompts):
            expected = f"a prompt a request, none of them empty or ending in the padding id {pad}"
            raise RequestError("malformed prompts", where="prompts", got=f"{len(prompts)} for {len(requests)}", expected=expected)
        self._ends = end_ids(config)
        width = max(len(prompt) for prompt in prompts)
        params, found = _parameters(model, config, {**given, "max_length": width + room, "batch_size": len(prompts)})
        self.outputs: list[list[int]] = [[] for _ in prompts]
        self.live = [True] * len(prompts)
        self._marker, rows = marker, enumerate(zip(requests, prompts, self.outputs, strict=True))
        self._sessions = [_open(marker.deployment, row, *one, found) for row, one in rows]
        late = [name for name, neutral in LATE.items() if found[name] != neutral]
        chosen = any(one.prf is not None and one.sampling.temperature >= GREEDY for one in self._sessions)
        if late and chosen and marker.scheme.unbiased:
            raise RequestError(
                "the engine would undo what an unbiased scheme chose", where=", ".join(late), expected="the neutral value",
                hint="a profile of scheme redgreen goes with it",
            )
        marker.counters.requests.update("opted_out" if one.prf is None else "keyed" for one in self._sessions)
        self._generator = og.Generator(model, params)
        self._generator.append_tokens(np.array([[*one, *[pad] * (width - len(one))] for one in prompts], np.int32))

    @property
    def done(self) -> bool:
        """Whether no row goes on."""
        return not any(self.live) or bool(self._generator.is_done())

    def step(self) -> list[tuple[int, int]]:
        """Generate one token a row: the new ones as (row, id), without end ids."""
        logits = np.array(self._generator.get_logits(), np.float32).reshape(len(self.live), -1)
        return self.advance(self.mark(torch.from_numpy(logits)))

    def cancel(self, row: int) -> None:
        """End a row; the others go on."""
        self.live[row] = False
        self._marker.close(self._sessions[row])

    def mark(self, logits: Tensor) -> Tensor:
        """Mark the logits [B, V] of a step in place, and give them."""
        rows = [row for row, left in enumerate(self.live) if left]
        self._marker.mark(logits, [self._sessions[row] for row in rows], rows)
        return logits

    def advance(self, logits: Tensor) -> list[tuple[int, int]]:
        """Let the engine choose from logits; what :meth:`step` gives."""
        self._generator.get_logits()
        self._generator.set_logits(logits.numpy())
        self._generator.generate_next_token()
        new = [(row, token) for row, token in enumerate(self._generator.get_next_tokens().tolist()) if self.live[row]]
        for row, token in new:
            if token in self._ends:
                self.cancel(row)
            else:
                self.outputs[row].append(token)
        return [(row, token) for row, token in new if self.live[row]]


def engine_name() -> str:
    """``"onnxruntime_genai VERSION"``."""
    return f"onnxruntime_genai {og.__version__}"


def end_ids(config: Mapping[str, Any]) -> frozenset[int]:
    """The ids that end a row, by the model's configuration."""
    ends = config["eos_token_id"]
    return frozenset(ends if isinstance(ends, list) else [ends])


def _parameters(model: Any, config: Mapping[str, Any], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The engine's parameters, and all options that hold, those of the model's folder included."""
    params, guidance = og.GeneratorParams(model), options.pop("guidance", None)
    params.set_search_options(**{"do_sample": True, **options})
    found = params.get_search_options()
    if found["num_beams"] > 1 or found["num_return_sequences"] > 1:
        raise RequestError("beams and several sequences a prompt are not supported", where="num_beams", expected="1")
    if found["top_k"] == 0 and found["top_p"] < 1.0:
        params.set_search_options(top_k=int(config["vocab_size"]))
    if guidance is not None:
        params.set_guidance(*guidance)
    return params, {**found, "guidance": guidance}


def _open(
    deployment: Deployment, row: int, request: Any, prompt: Sequence[int], output: list[int], found: dict[str, Any]
) -> Session:
    greedy, seed = not found["do_sample"] or found["top_k"] == 1, int(found["random_seed"])
    # A batch has one seed, and its rows must not share their noise.
    sampling = Sampling(
        temperature=0.0 if greedy else found["temperature"], top_k=int(found["top_k"]), top_p=found["top_p"] or 1.0,
        seed=None if seed < 0 else seed * 4096 + row,
    )
    try:
        return Session.open(deployment, request, [int(number) for number in prompt], output, sampling)
    except RequestError as error:
        where = f"row {row}: {error.where}"
        raise RequestError(error.what, where=where, got=error.got, expected=error.expected, hint=error.hint) from None
