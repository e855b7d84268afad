"""The processor of continuous batching on request states alone: preemption, forks, cancellation, and engines that run ahead."""

import gc

import pytest
import torch
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState

from wmcheck.watermark import Profile, SecretKey, WatermarkProcessor
from wmcheck.watermark.core.errors import ConfigError, KeyFileError, RequestError
from wmcheck.watermark.keys import PREFIX
from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.serving.policy import Decision, Policy
from wmcheck.watermark.serving.sessions import ContextError
from wmcheck.watermark.serving.transformers import MarkingProcessor, WatermarkConfig
from wmcheck.watermark.serving.transformers_batching import DECISION, Continuous, _Gate

KEY = SecretKey(bytes((57 * i * i + 3 * i + 1) % 256 for i in range(32)))
VOCABULARY = 97


@pytest.fixture
def served(tmp_path):
    profile = Profile.create("redgreen", {"width": 2, "delta": 2.0}, special_ids=(0,))
    return Deployment(profile, KEY, Policy(opt_out=True, default_tenant="house", tenants=frozenset("ab")), state=tmp_path)


@pytest.fixture
def processor(served):
    return Continuous(MarkingProcessor(WatermarkConfig.of(served), served))


def state_of(name, prompt, output=(), **decision):
    state = RequestState(name, list(prompt), generated_tokens=list(output), logit_processor_kwargs=decision)
    return known(state)


def known(state):
    state.position_offset = len(state.initial_tokens) + len(state.generated_tokens)
    return state


def step(processor, states, scores):
    processor.prepare_tensor_args([FutureRequestState(known(state), True, {}, 1) for state in states])
    return processor(scores.clone(), torch.zeros(0))


def test_marks_are_those_of_generate_before_and_after_preemption(served, processor):
    torch.manual_seed(0)
    first = state_of("r", [5, 6, 7], **{DECISION: Decision("a")})
    other = state_of("s", [8, 9, 5, 6], **{DECISION: Decision(None)})
    reference = WatermarkProcessor(served.profile, KEY.tenant("a"))
    for turn in range(60):
        scores = torch.randn(2, VOCABULARY)
        if turn in (20, 40):
            first = first.create_equivalent_initial_request()
        marked = step(processor, [other, first], scores)
        history = torch.tensor([first.initial_tokens + first.generated_tokens])
        assert torch.equal(marked[0], scores[0])
        assert torch.allclose(marked[1:], reference(history, scores[1:]))
        first.generated_tokens.append(int(marked[1].argmax()))
        other.generated_tokens.append(turn % 7 + 1)
    assert processor.marker.counters.requests == {"keyed": 1, "opted_out": 1}
    assert processor.marker.counters.tokens["marked"] > 40


def test_forked_requests_and_those_of_no_tenant(served, processor):
    scores = torch.randn(3, VOCABULARY)
    parent = state_of("r", [5, 6, 7], [8], **{DECISION: Decision("b")})
    rows = [parent, parent.fork("r__child#0"), state_of("t", [5, 6, 7], [8])]
    marked, ids = step(processor, rows, scores), torch.tensor([[5, 6, 7, 8]] * 3)
    keys = [KEY.tenant("b"), KEY.tenant("b"), KEY.tenant("house")]
    assert torch.allclose(marked, WatermarkProcessor(served.profile, keys)(ids, scores))


def test_requests_that_ended_are_forgotten_and_late_rows_untouched(processor):
    states = [state_of(str(place), [5, 6, 7]) for place in range(5)]
    step(processor, states, torch.zeros(5, VOCABULARY))
    last = states[0]
    del states
    gc.collect()
    scores = torch.randn(2, VOCABULARY)
    # The second row is a prompt that is still being read.
    assert torch.equal(step(processor, [last], scores)[1], scores[1])
    assert list(processor._open) == ["0"]


def test_an_engine_that_runs_ahead_or_leaves_the_processor_out_is_stopped(processor):
    state = state_of("r", [5, 6, 7])
    future = [FutureRequestState(state, True, {}, 1)]
    state.position_offset = 4
    with pytest.raises(ContextError, match="does not know the last token"):
        processor.prepare_tensor_args(future)
    known(state)
    assert processor.prepare_tensor_args(future).dtype == torch.int32
    with pytest.raises(ContextError, match="a step without the watermark"):
        processor.prepare_tensor_args(future)
    processor(torch.zeros(1, VOCABULARY), torch.zeros(1))
    with pytest.raises(ContextError, match="rows are not those"):
        processor(torch.zeros(1, VOCABULARY), torch.zeros(1))


def test_the_gate_decides_before_the_engine_sees_a_request(served):
    taken = []
    gate = _Gate(lambda ids, *args, **options: taken.append((args, options)), served)
    gate([5], "name", wmcheck_tenant="a", max_new_tokens=3)
    gate([5])
    gate([5], wmcheck_tenant="a", wmcheck_opt_out=True)
    decisions = [options.pop(DECISION) for _, options in taken]
    assert decisions == [Decision("a"), Decision("house"), Decision(None)]
    assert taken[0] == (("name",), {"max_new_tokens": 3})
    for asked in ({"wmcheck_tenant": "z"}, {"wmcheck_tenant": PREFIX + "x"}, {"wmcheck_secret": "x"}):
        with pytest.raises(RequestError):
            gate([5], **asked)
    one = Deployment(served.profile, KEY.tenant("a"), Policy(), state=served.state)
    with pytest.raises(KeyFileError, match="that tenant alone"):
        _Gate(taken.append, one)([5], wmcheck_tenant="b")
    assert len(taken) == 3


def test_a_watermark_without_a_deployment_is_refused(served):
    with pytest.raises(ConfigError, match="would lose this watermark"):
        Continuous(MarkingProcessor(WatermarkConfig(served.profile, KEY), None))
