"""ONNX Runtime's generate() API: the loop around ``og.Generator``, with a tenant for every row.

The engine has no plug-ins; whoever serves with it writes the loop, and this is that loop::

    server = WatermarkedGenerator("./model-onnx", Deployment.load())
    texts = server.generate(prompts, [{"wmcheck_tenant": "acct-17"}, ...], max_new_tokens=200, temperature=0.8, top_p=0.95)

:meth:`WatermarkedGenerator.start` gives the same batch step by step, to stream rows or to cancel them. What 0.18.0 does, found
by running it: temperature, top-k and top-p come after the logits are set, and so do penalties and the mask of ``guidance``;
top-p is ignored where top-k is 0; rows of unequal length are padded on the right, so ``get_sequence`` has padding between prompt
and output, and the ids are kept here instead; a prompt that ends in the padding id gives wrong logits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wmcheck.watermark.core.errors import ConfigError, MissingExtraError
from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.serving.marker import Marker
from wmcheck.watermark.serving.onnxruntime_genai_batch import LATE, Batch, Prompts, Requests, end_ids, engine_name
from wmcheck.watermark.serving.selftest import OPTED_OUT, PROBE, Step, self_test

try:
    import onnxruntime_genai as og
except ImportError as error:
    raise MissingExtraError("onnxruntime-genai is not installed", where=__name__, hint="pip install onnxruntime-genai") from error

# Parts of a model that draft tokens ahead.
DRAFTERS = ("draft", "mtp", "dflash2", "dspark")


class WatermarkedGenerator:
    """Marks what one model writes.

    Args:
        folder: the model's folder, with ``genai_config.json`` and its tokenizer.
        deployment: profile, key and policy.
        model: the ``og.Model`` of that folder, if it is loaded already.

    Raises:
        ConfigError: a model that drafts tokens ahead, a smaller vocabulary, or an engine under which the watermark is lost.
        TokenizerError: another tokenizer than the profile's.
    """

    def __init__(self, folder: str | Path, deployment: Deployment, *, model: Any = None) -> None:
        self.config = _read_config(Path(folder))
        vocabulary = int(self.config["vocab_size"])
        deployment.check_model(tokenizer=str(folder), vocabulary=vocabulary)
        self.model = model if model is not None else og.Model(str(folder))
        ends = end_ids(self.config)
        self_test(deployment, self._open_rows, vocabulary=vocabulary, engine=engine_name(), ends=ends)
        self.marker = Marker(deployment, engine_name())
        self.marker.counters.write()

    def start(self, prompts: Prompts, requests: Requests, *, max_new_tokens: int, **options: Any) -> Batch:
        """Open a batch; nothing is generated before every request of it is accepted.

        Args:
            prompts: token ids of each prompt.
            requests: the parameters of each request (``wmcheck_tenant`` and others; :mod:`~wmcheck.watermark.serving.policy`).
            max_new_tokens: at most so many ids a row.
            **options: search options of the engine, ``do_sample`` on unless said otherwise; and ``guidance``, the kind and data
                of ``set_guidance``.

        Raises:
            RequestError: a request that the policy refuses, naming its row, or options under which the watermark would be lost.
        """
        return Batch(self.model, self.config, self.marker, prompts, requests, max_new_tokens, options)

    def generate(self, prompts: Prompts, requests: Requests, *, max_new_tokens: int, **options: Any) -> list[list[int]]:
        """The new ids of each prompt, without the end id; arguments and errors as :meth:`start`."""
        batch = self.start(prompts, requests, max_new_tokens=max_new_tokens, **options)
        while not batch.done:
            batch.step()
        return batch.outputs

    def _open_rows(self, probe: Deployment, prompt: list[int], outputs: list[list[int]]) -> Step:
        room = int(self.config["context_length"]) - len(prompt)
        plain = {**LATE, "do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
        marker = Marker(probe, engine_name())
        batch = Batch(self.model, self.config, marker, [prompt, prompt], [PROBE, OPTED_OUT], room, plain)

        def step(logits: Tensor) -> Tensor:
            if outputs[0]:
                # The engine has to go on with the tokens of the step before.
                forced = torch.full_like(logits, -1e4)
                forced[[0, 1], [one[-1] for one in outputs]] = 0.0
                batch.advance(forced)
                if any(left and one != other for left, one, other in zip(batch.live, batch.outputs, outputs, strict=True)):
                    raise ConfigError("the engine does not sample from the logits that are set", where=engine_name())
            return batch.mark(logits)

        return step


def _read_config(folder: Path) -> dict[str, Any]:
    """The part ``model`` of the model's own configuration."""
    file = folder / "genai_config.json"
    try:
        config = json.loads(file.read_text("utf-8"))
        model: dict[str, Any] = config["model"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError("not a model of onnxruntime-genai", where=str(file), got=str(error)[:100]) from None
    ahead = [name for name in DRAFTERS if model.get(name)]
    if ahead or config.get("speculative", {}).get("ngram_size"):
        got = ", ".join(ahead) or "speculative.ngram_size"
        raise ConfigError("the model drafts tokens ahead", where=str(file), got=got, expected="no speculative decoding")
    return model
