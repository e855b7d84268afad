"""vLLM: one class for both model runners. ``--logits-processors wmcheck.watermark.serving.vllm:WatermarkLogitsProcessor``.

Requests name a tenant in ``extra_args`` (``vllm_xargs`` over HTTP); see :mod:`wmcheck.watermark.serving.policy`. The class is
also an entry point, because Model Runner V2 and the front end load plug-ins that way: without ``WMCHECK_SERVING`` it does
nothing, and loaded twice it marks once.

Fails closed: a request is refused while no engine process of this server runs the processor, as under Model Runner V1 with
speculative decoding, which leaves plug-ins out without an error.
"""

from __future__ import annotations

import logging
import os
import weakref
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from wmcheck.watermark.core.errors import ConfigError, MissingExtraError, RequestError
from wmcheck.watermark.serving.counters import heartbeats, running, same_server
from wmcheck.watermark.serving.deployment import VARIABLE, Deployment, Server, read_server
from wmcheck.watermark.serving.policy import PREFIX_OF_FIELDS

try:
    from vllm.v1.sample.logits_processor.interface import LogitsProcessor as _V1
except ImportError as error:
    raise MissingExtraError("vLLM with its V1 engine is not installed", where=__name__, hint="pip install vllm") from error
try:
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as _V2
except ImportError:
    # Before 0.31 there is one interface.
    _V2 = object

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("wmcheck")

NAME = f"{__name__}:WatermarkLogitsProcessor"
# Configurations that a processor marks already; the same engine may load the class by flag and by entry point.
_MARKED: list[weakref.ref[Any]] = []


class WatermarkLogitsProcessor(_V1, _V2):  # type: ignore[misc]
    """The processor that vLLM loads; its arguments are those of the interface of the running model runner.

    Raises:
        ConfigError: an engine configuration under which the watermark would be lost, or a profile that is not the model's.
    """

    def __init__(self, vllm_config: Any, *rest: Any) -> None:
        flagged = any(one is type(self) or one == NAME for one in vllm_config.model_config.logits_processors or ())
        self._impl: Any = None
        if not _configured(flagged) or _marked_already(vllm_config):
            return
        _refuse(vllm_config, flagged=flagged, first=len(rest) == 2)
        deployment = Deployment.load()
        model = vllm_config.model_config
        width = model.get_vocab_size()
        deployment.check_model(tokenizer=None if model.skip_tokenizer_init else str(model.tokenizer), vocabulary=width)
        if len(rest) == 2:
            from wmcheck.watermark.serving.vllm_v1 import VllmV1 as Runner
        else:
            from wmcheck.watermark.serving.vllm_v2 import VllmV2 as Runner  # type: ignore[assignment]
        self._impl = Runner.start(deployment, vllm_config, *rest, vocabulary=width)
        _MARKED.append(weakref.ref(vllm_config))
        log.warning("wmcheck: marking %s under key %s", deployment.profile.scheme_name, deployment.key_id)

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a request that the deployment does not serve, or while no engine process marks: HTTP 400."""
        given = sampling_params.extra_args
        if not os.environ.get(VARIABLE):
            if any(str(name).startswith(PREFIX_OF_FIELDS) for name in given or {}):
                raise RequestError(f"this server marks nothing: {VARIABLE} is not set", where="vllm", expected="a serving file")
            return
        server = _server()
        server.policy.decide(given)
        if server.require_heartbeat and not _alive(server):
            raise RequestError(
                "the engine does not run the watermark processor", where="vllm", got="no heartbeat of this server",
                expected="a file of the engine's process", hint="speculative decoding under Model Runner V1? see docs/serving.md",
            )

    def is_argmax_invariant(self) -> bool:
        """Whether greedy decoding is left alone: V1 then calls after temperature, and only for rows that sample."""
        return self._impl is None or bool(self._impl.marker.scheme.unbiased)

    def update_state(self, batch_update: Any) -> None:
        """V1: requests that came, went and moved."""
        if self._impl is not None:
            self._impl.update_state(batch_update)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """V2: a request enters a slot; False if its logits stay as they are."""
        return False if self._impl is None else bool(self._impl.add_request(req_idx, sampling_params))

    def apply_staged_writes(self) -> None:
        """V2: nothing is staged."""

    def apply(self, logits: Tensor, ctx: Any = None) -> Tensor:
        """Mark the rows of a step in place."""
        if self._impl is not None:
            self._impl.apply(logits, ctx)
        return logits


def _configured(flagged: bool) -> bool:
    if os.environ.get(VARIABLE):
        return True
    if flagged:
        raise ConfigError("the watermark has no serving file", where=VARIABLE, got="nothing", expected="a path (docs/serving.md)")
    log.warning("wmcheck is installed and %s is not set: nothing is marked", VARIABLE)
    return False


def _marked_already(vllm_config: Any) -> bool:
    _MARKED[:] = [one for one in _MARKED if one() is not None]
    return any(one() is vllm_config for one in _MARKED)


def _refuse(vllm_config: Any, *, flagged: bool, first: bool) -> None:
    """Refuse configurations under which the watermark would be lost or doubled."""
    ahead = bool(getattr(vllm_config.scheduler_config, "async_scheduling", False))
    if first and ahead and not flagged:
        raise ConfigError(
            "under asynchronous scheduling Model Runner V1 hides the last token from plug-ins", where="vllm",
            got="the entry point alone", expected="the flag too", hint=f"start with --logits-processors {NAME}",
        )
    if getattr(vllm_config, "watermark_config", None) is not None:
        raise ConfigError("two watermarks in one text", where="vllm", got="--watermark-config", expected="one of the two")


@lru_cache(maxsize=1)
def _server() -> Server:
    return read_server()


def _alive(server: Server) -> bool:
    return any(same_server(data) and running(data) for _, data in heartbeats(server.state))
