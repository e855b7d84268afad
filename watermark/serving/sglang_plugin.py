"""The hooks that :func:`wmcheck.watermark.serving.sglang.register` sets in SGLang: start-up, requests and the ids of a step."""

from __future__ import annotations

import logging
import pkgutil
from collections.abc import Callable
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from wmcheck.watermark.core.errors import ConfigError, RequestError, WmcheckError
from wmcheck.watermark.serving.counters import heartbeats, running, same_server
from wmcheck.watermark.serving.deployment import Deployment, Server, read_server
from wmcheck.watermark.serving.marker import Marker
from wmcheck.watermark.serving.selftest import OPTED_OUT, PROBE, Step, self_test
from wmcheck.watermark.serving.sglang import REQUEST, ROW, Row, WatermarkLogitProcessor, engine_name, lost, refuse

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("wmcheck")

# Made here, as a class of a module that is still being imported would be sent by value. Other spellings of it hold its module.
PROCESSOR: str = WatermarkLogitProcessor.to_str()
ITSELF = WatermarkLogitProcessor.__module__.encode().hex()
# SGLang's top-k and top-p look at the whole law ("joint"), and min-p at its likeliest token.
JOINT = ("top_p", "top_k", "min_p")
# SGLang's own requests of one token have this in their id, and [0] as prompt: nobody gets a text out of them bit by bit.
HEALTH_CHECK = "HEALTH_CHECK"


class Plugin:
    """The hooks of one process of SGLang.

    Args:
        marker: marks in this process; the scheduler's start makes it.
    """

    def __init__(self, marker: Marker | None = None) -> None:
        self.marker = marker

    def hook(self) -> None:
        """Set the hooks.

        Raises:
            SystemExit: SGLang lacks a place that must be hooked. Of other exceptions SGLang would make a line in its log, and
                serve without the watermark.
        """
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType

        for target, hook, kind in (
            ("sglang.srt.entrypoints.engine.Engine._launch_subprocesses", self.launch, HookType.BEFORE),
            ("sglang.srt.managers.scheduler.Scheduler.__init__", self.start, HookType.AROUND),
            ("sglang.srt.managers.tokenizer_manager.TokenizerManager._create_tokenized_object", self.judge, HookType.AFTER),
            ("sglang.srt.managers.scheduler.Scheduler._create_generation_req", self.create, HookType.AROUND),
            ("sglang.srt.model_executor.model_runner.ModelRunner.sample", self.read, HookType.BEFORE),
        ):
            try:
                pkgutil.resolve_name(target)
            except (ImportError, AttributeError):
                raise SystemExit(f"wmcheck: {engine_name()} has no {target}: see docs/serving.md for tested versions") from None
            HookRegistry.register(target, hook, kind)

    @cached_property
    def server(self) -> Server:
        """The policy, read once."""
        return read_server()

    def launch(self, engine: Any, server_args: Any, *rest: Any, **more: Any) -> None:
        """Before the processes start: refuse a configuration in the words of wmcheck."""
        refuse(server_args)
        if self.server.policy.default_tenant is None and not server_args.skip_server_warmup:
            log.warning("an HTTP server's own warm-up names no tenant: set default_tenant, or start with --skip-server-warmup")

    def start(self, build: Callable[..., None], scheduler: Any, server_args: Any, *rest: Any, **more: Any) -> None:
        """Around the scheduler's start: no scheduler without a watermark that passed the self-test."""
        refuse(server_args)
        deployment = Deployment.load()
        build(scheduler, server_args, *rest, **more)
        width = int(scheduler.model_config.vocab_size)
        source = None if server_args.skip_tokenizer_init else server_args.tokenizer_path or server_args.model_path
        deployment.check_model(tokenizer=source, vocabulary=width)
        self_test(deployment, _open_rows, vocabulary=width, device=server_args.device, engine=engine_name())
        self.marker = Marker(deployment, engine_name(), order=JOINT)
        self.marker.counters.write()
        log.warning("wmcheck: marking %s under key %s", deployment.profile.scheme_name, deployment.key_id)

    def judge(self, tokenized: Any, *rest: Any, **more: Any) -> None:
        """After the front end read a request: HTTP 400 for one that the deployment does not serve."""
        if not hasattr(tokenized, "custom_logit_processor"):
            return
        tokenized.custom_logit_processor = self.admit(tokenized)
        if tokenized.custom_logit_processor == PROCESSOR and self.server.require_heartbeat and not self._alive():
            raise RequestError(
                "the engine does not run the watermark processor", where="sglang", got="no heartbeat of this server",
                expected="a file of a scheduler", hint="front end and scheduler share no disk? require_heartbeat = false",
            )

    def create(self, build: Callable[..., Any], scheduler: Any, asked: Any, *rest: Any, **more: Any) -> Any:
        """Around a request's creation in the scheduler, to which every way into SGLang leads: the last word."""
        try:
            more["custom_logit_processor"] = self.admit(asked)
            if self.marker is not None and more["custom_logit_processor"] == PROCESSOR:
                self.marker.deployment.keyed(self.marker.deployment.policy.decide(asked.sampling_params.custom_params))
        except WmcheckError as error:
            asked.mm_inputs = more["custom_logit_processor"] = None
            request = build(scheduler, asked, *rest, **more)
            request.set_finish_with_abort(str(error))
            return request
        return build(scheduler, asked, *rest, **more)

    def admit(self, asked: Any) -> str | None:
        """The processor that a request runs; its ``custom_params`` become a dictionary.

        Raises:
            RequestError: the deployment does not serve it.
        """
        params, processor = asked.sampling_params, asked.custom_logit_processor
        foreign = processor is not None and ITSELF not in processor
        other = str(processor) if foreign else None
        checks = params.max_new_tokens == 1 and str(asked.rid).startswith(HEALTH_CHECK) and list(asked.input_ids or ()) == [0]
        if params.max_new_tokens == 0 or checks:
            return other
        params.custom_params = params.custom_params or {}
        if not isinstance(params.custom_params, dict):
            raise RequestError("malformed field", where="custom_params", got=type(params.custom_params).__name__)
        decision = self.server.policy.decide(params.custom_params)
        beams = (params.beam_width or 1) > 1
        for name, asks in (
            ("custom_logit_processor", foreign), ("return_sampling_mask", asked.return_sampling_mask), ("beam_width", beams)
        ):
            if asks and decision.tenant is not None:
                raise RequestError("not with a watermark", where=name, expected=f"a request without {name}")
            if asks:
                return other
        return PROCESSOR

    def read(self, runner: Any, logits_output: Any, forward_batch: Any) -> None:
        """Before a step is sampled: hand each request the last id that the model read, and how many it has read.

        Raises:
            ContextError: the processor did not take what it got for the step before.
        """
        info = forward_batch.sampling_info
        entries = (getattr(info, "custom_logit_processor", None) or {}).values()
        places = [place for entry in entries if isinstance(entry.processor, WatermarkLogitProcessor) for place in entry.rows]
        if not places:
            return
        if self.marker is None:
            raise ConfigError("the scheduler started without the watermark", where="sglang", expected="a self-test at its start")
        ids, prefill = forward_batch.input_ids, bool(forward_batch.forward_mode.is_extend())
        if prefill:
            ids = ids[forward_batch.extend_seq_lens.cumsum(0) - 1]
        # The one wait for the device: a token that the host does not know cannot be marked after.
        last, lengths = ids.tolist(), forward_batch.seq_lens.tolist()
        for place in places:
            given = info.custom_params[place]
            if not isinstance(given, dict) or REQUEST not in given:
                continue
            row = given.get(ROW)
            if not isinstance(row, Row):
                row = given[ROW] = Row(self.marker)
            if row.read is not None:
                raise lost("a step without the processor", "one call a step", "does --sampling-backend name a foreign sampler?")
            row.read = (last[place], lengths[place], prefill)

    def _alive(self) -> bool:
        return any(same_server(data) and running(data) for _, data in heartbeats(self.server.state))


def _open_rows(probe: Deployment, prompt: list[int], outputs: list[list[int]]) -> Step:
    import torch
    from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor
    from sglang.srt.sampling.sampling_params import SamplingParams

    plugin = Plugin(Marker(probe, engine_name(), order=JOINT))
    requests, given = [], []
    for asked in (PROBE, OPTED_OUT):
        requests.append(SimpleNamespace(origin_input_ids=prompt, sampling_params=SamplingParams(), finished=lambda: False))
        given.append({**asked, REQUEST: requests[-1]})
    entry = SimpleNamespace(processor=CustomLogitProcessor.from_str(PROCESSOR), rows=[0, 1])

    def step(logits: Tensor) -> Tensor:
        histories = [prompt + output for output in outputs]
        for request, output in zip(requests, outputs, strict=True):
            # As under the overlap scheduler, the newest id is not among them yet.
            request.output_ids = output[:-1]
        plugin.read(None, None, SimpleNamespace(
            sampling_info=SimpleNamespace(custom_logit_processor={0: entry}, custom_params=given),
            forward_mode=SimpleNamespace(is_extend=lambda: False), input_ids=torch.tensor([history[-1] for history in histories]),
            seq_lens=torch.tensor([len(history) for history in histories]),
        ))
        marked: Tensor = entry.processor(logits, given)
        return marked

    return step
