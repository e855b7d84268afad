"""Continuous batching of transformers, with the key of each request and its whole history.

::

    manager = continuous_batching(model, Deployment.load("serving.toml"), GenerationConfig(do_sample=True, max_new_tokens=200))
    manager.start()
    manager.add_request(ids, wmcheck_tenant="acct-91")

``generate_batch(logits_processor=...)`` is ignored by transformers, without an error; so is a watermark that only ``generate``
was given. A watermark of :class:`~wmcheck.watermark.serving.transformers.WatermarkConfig` that comes here by another way than
:func:`continuous_batching` is refused when the manager is made.
"""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch
import transformers
from torch import Tensor

from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.serving.marker import Marker
from wmcheck.watermark.serving.policy import PREFIX_OF_FIELDS, Decision
from wmcheck.watermark.serving.selftest import OPTED_OUT, PROBE, Step, self_test
from wmcheck.watermark.serving.sessions import ContextError, Sampling, Session
from wmcheck.watermark.serving.transformers import ENGINE, TESTED, MarkingProcessor, WatermarkConfig, unserved

try:
    from transformers.generation.continuous_batching.cb_logits_processors import (
        CLASSIC_TO_CB_PROCESSORS_MAP as _PER_REQUEST,
    )
    from transformers.generation.continuous_batching.cb_logits_processors import (
        ContinuousBatchingLogitsProcessor as _Continuous,
    )
    from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState
except ImportError as error:
    raise ConfigError("incompatible engine version", where=ENGINE, got=str(error)[:100], expected=TESTED) from error

# The keyword of `add_request` under which a request's decision travels: a tenant's name, no key.
DECISION = "wmcheck"
# Private parts of a request's state that are read.
_FIELDS = ("request_id", "initial_tokens", "generated_tokens", "logit_processor_kwargs", "position_offset")


class Continuous(_Continuous):  # type: ignore[misc]
    """Marks the rows of continuous batching, each by its request's decision and its whole history.

    A request is followed by the token ids of its state: preempted, forked and cancelled ones need no event.
    """

    supported_kwargs: dict[str, type] = {DECISION: Decision}  # noqa: RUF012
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, processor: MarkingProcessor) -> None:
        if processor.deployment is None:
            raise unserved()
        self.marker = Marker(processor.deployment, ENGINE)
        self._open: dict[str, tuple[Any, Session]] = {}
        self._step: list[Session] | None = None

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """Nothing travels in the tensor."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Tensor:
        """Note whose rows the next logits are.

        Raises:
            ContextError: the last step was not marked, or the engine schedules ahead of the tokens it knows.
        """
        if self._step:
            raise ContextError("the engine took a step without the watermark", where=ENGINE, hint="CUDA graphs must be off")
        states = [one.state for one in requests_with_new_token]
        for state in states:
            if state.position_offset != len(state.initial_tokens) + len(state.generated_tokens):
                raise ContextError(
                    "the engine does not know the last token yet", where=ENGINE, hint="asynchronous batching must be off"
                )
        if len(self._open) > len(states):
            for name in [name for name, (alive, _) in self._open.items() if alive() is None]:
                self._close(name)
        self._step = [self._session(state) for state in states]
        return torch.zeros(len(states), dtype=torch.int32)

    def _session(self, state: Any) -> Session:
        alive, session = self._open.get(state.request_id, (None, None))
        if alive is not None and session is not None and alive() is state:
            return session
        # A preempted request comes back as another state, whose prompt holds what was written.
        decision = state.logit_processor_kwargs.get(DECISION)
        if decision is None:
            decision = session.decision if session is not None else self.marker.deployment.policy.decide(None)
        prf = self.marker.deployment.keyed(decision)
        if session is None:
            self.marker.counters.requests["opted_out" if prf is None else "keyed"] += 1
        self._close(state.request_id)
        opened = Session(decision, prf, Sampling(), state.initial_tokens, state.generated_tokens)
        self._open[state.request_id] = weakref.ref(state), opened
        return opened

    def _close(self, name: str) -> None:
        gone = self._open.pop(name, None)
        if gone is not None:
            self.marker.close(gone[1])

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """The marked scores."""
        step, self._step = self._step, None
        # Rows beyond those announced belong to prompts that are not read to their end yet: nothing is sampled from them.
        if step is None or len(step) > scores.shape[0]:
            raise ContextError("the engine's rows are not those it announced", where=ENGINE, got=f"{scores.shape[0]} rows")
        self.marker.mark(scores, step)
        return scores


_PER_REQUEST[MarkingProcessor] = Continuous


def continuous_batching(
    model: Any, deployment: Deployment, generation_config: Any = None, continuous_batching_config: Any = None
) -> Any:
    """``model.init_continuous_batching`` with a watermark: its manager takes ``add_request(ids, wmcheck_tenant=...)``.

    A request without such a field is the default tenant's; one that the policy refuses raises ``RequestError`` in
    ``add_request``. Asynchronous batching and CUDA graphs, which hide the last token, are off, and refused if asked for.

    Raises:
        ConfigError: an incompatible version or setting, another manager cached on the model, or a failed self-test.
    """
    missing = [name for name in _FIELDS if name not in RequestState.__dataclass_fields__]
    if missing:
        raise ConfigError("incompatible engine version", where=ENGINE, got=f"no {', '.join(missing)}", expected=TESTED)
    config = copy.deepcopy(generation_config or model.generation_config)
    config.watermarking_config = WatermarkConfig.of(deployment)
    if deployment.profile.scheme.unbiased and not config.do_sample:
        raise ConfigError("an unbiased watermark needs sampling", where=ENGINE, got="do_sample=False", expected="do_sample=True")
    batching = copy.copy(continuous_batching_config or transformers.ContinuousBatchingConfig())
    ahead = bool(batching.use_async_batching) or batching.use_cuda_graph not in (None, False, (False, False))
    batching.per_request_processors, batching.use_async_batching, batching.use_cuda_graph = True, False, False
    width = model.config.get_text_config().vocab_size
    self_test(deployment, _open_rows, vocabulary=width, device=model.device, engine=ENGINE)
    manager = model.init_continuous_batching(config, batching)
    resolved, marking = manager.continuous_batching_config, manager.logit_processor.logits_processor
    found = [one.marker.deployment for one in marking if isinstance(one, Continuous)]
    ahead = ahead or resolved.use_async_batching or any(resolved.cuda_graph_booleans)
    if found != [deployment] or ahead or resolved.varlen_compile_config or resolved.decode_compile_config:
        raise ConfigError(
            "this manager cannot be marked", where=ENGINE,
            got="asynchronous batching, CUDA graphs or compilation" if found == [deployment] else "a cached manager",
            expected="synchronous batching, made anew",
        )
    manager.add_request = _Gate(manager.add_request, deployment)
    return manager


class _Gate:
    """``add_request`` behind the policy: refuses in the caller's thread, as an error in the engine's ends every request."""

    def __init__(self, inner: Any, deployment: Deployment) -> None:
        self._inner, self._deployment = inner, deployment

    def __call__(self, input_ids: Any, *args: Any, **options: Any) -> Any:
        asked = {name: options.pop(name) for name in list(options) if name.startswith(PREFIX_OF_FIELDS)}
        if asked or DECISION not in options:
            options[DECISION] = self._deployment.policy.decide(asked)
        self._deployment.keyed(options[DECISION])
        return self._inner(input_ids, *args, **options)


def _open_rows(probe: Deployment, prompt: list[int], outputs: list[list[int]]) -> Step:
    processor = Continuous(MarkingProcessor(WatermarkConfig.of(probe), probe))
    states = [
        RequestState(str(row), prompt, generated_tokens=out, logit_processor_kwargs={DECISION: probe.policy.decide(asked)})
        for row, (asked, out) in enumerate(zip((PROBE, OPTED_OUT), outputs, strict=True))
    ]

    def step(logits: Tensor) -> Tensor:
        for state in states:
            state.position_offset = len(prompt) + len(state.generated_tokens)
        future = [FutureRequestState(state, True, {}, 1) for state in states]
        return processor(logits, processor.prepare_tensor_args(future))

    return step
