"""``WatermarkedLlama`` over a stand-in for llama-cpp-python that has its traps; the real engine: tests/engines."""

import importlib
import sys
import types
from itertools import islice

import numpy as np
import pytest

from wmcheck.watermark import Profile, SecretKey, detect_ids
from wmcheck.watermark.core.errors import ConfigError, RequestError
from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.serving.policy import Policy
from wmcheck.watermark.serving.sessions import ContextError

KEY = SecretKey(bytes((53 * i * i + 17 * i + 1) % 256 for i in range(32)))
VOCABULARY = 256
PROMPT = [5, 6, 7, 8, 9]
OPTED_OUT = {"wmcheck_tenant": "a", "wmcheck_opt_out": True}
A, B = {"wmcheck_tenant": "a"}, {"wmcheck_tenant": "b"}


class Llama:
    """Runs processors first; prints and forgets their errors; drops them beside a bias; takes sent tokens."""

    def __init__(self, model_path, *, draft_model=None, passes_on=True):
        self.draft_model, self.passes_on, self._model = draft_model, passes_on, types.SimpleNamespace(vocab=None)
        self.rng, self.ids, self.calls = np.random.default_rng(0), [], []

    @property
    def _input_ids(self):
        return np.array(self.ids, np.int32)

    def n_vocab(self):
        return VOCABULARY

    def tokenize(self, text, add_bos=True, special=False):
        return list(text)

    def reset(self):
        self.ids = []

    def sample(self, top_k=40, top_p=0.95, min_p=0.05, temp=0.8, logits_processor=None, **late):
        scores = self.rng.normal(size=VOCABULARY).astype(np.float32)
        try:
            for processor in logits_processor or ():
                scores = processor(self._input_ids, scores)
        except Exception as error:
            print("Exception ignored", error)
        self.calls.append((top_k, top_p, min_p, temp))
        noise = self.rng.gumbel(size=VOCABULARY) if temp else 0.0
        return int((np.asarray(scores, np.float64) / (temp or 1.0) + noise).argmax())

    def generate(
        self, tokens, top_k=40, top_p=0.95, min_p=0.05, typical_p=1.0, temp=0.8, repeat_penalty=1.0, reset=True,
        frequency_penalty=0.0, presence_penalty=0.0, mirostat_mode=0, logits_processor=None, grammar=None,
    ):
        self.ids = [*([] if reset else self.ids), *tokens]
        while True:
            token = self.sample(top_k, top_p, min_p, temp, logits_processor=logits_processor)
            yield token
            self.ids.append(token)

    def create_completion(
        self, prompt, max_tokens=16, temperature=0.8, stream=False, logits_processor=None, logit_bias=None, **given
    ):
        if logit_bias and logits_processor:
            logits_processor = None
        made = islice(self.generate(prompt, temp=temperature, logits_processor=logits_processor, **given), max_tokens)
        return made if stream else list(made)

    __call__ = create_completion

    def create_chat_completion(self, messages, logits_processor=None, response_format=None, **given):
        grammar = "json" if response_format else None
        passed = {"logits_processor": logits_processor} if self.passes_on else {}
        return self.create_completion(PROMPT, grammar=grammar, **passed, **given)


@pytest.fixture
def adapter(monkeypatch, tmp_path):
    import torch

    torch.set_num_threads(1)
    engine = types.ModuleType("llama_cpp")
    engine.__version__, engine.Llama, engine.LogitsProcessorList = "0", Llama, type("LogitsProcessorList", (list,), {})
    engine.LLAMA_TOKEN_ATTR_UNUSED = 2
    engine.llama_vocab_get_attr = lambda vocab, number: 2 * (number == VOCABULARY - 1)
    engine.llama_vocab_get_text = lambda vocab, number: f"token {number}".encode()
    engine.llama_vocab_is_control = lambda vocab, number: number < 2
    monkeypatch.setitem(sys.modules, "llama_cpp", engine)
    names = [f"wmcheck.watermark.serving.llama_cpp{end}" for end in ("_processor", "")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(names[1])
    module.state, module.engine = tmp_path, engine
    yield module
    for name in names:
        sys.modules.pop(name, None)


def start(adapter, scheme="gumbel", *, policy=None, **options):
    profile = Profile.create(scheme, {}, special_ids=(0, 1))
    policy = policy or Policy(tenants=frozenset({"a", "b"}), opt_out=True)
    return adapter.WatermarkedLlama("model.gguf", deployment=Deployment(profile, KEY, policy, state=adapter.state), **options)


def log10_p(llm, tenant, output, prompt=PROMPT):
    profile = llm.marker.deployment.profile
    return detect_ids([*prompt, *output], profile, KEY.tenant(tenant), prompt_length=len(prompt)).log10_p


@pytest.mark.parametrize("scheme", ["redgreen", "gumbel", "tournament"])
@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_texts_are_marked_each_under_its_own_key(adapter, scheme, temperature):
    llm = start(adapter, scheme)
    for request, owner in ((A, "a"), (B, "b"), (OPTED_OUT, None)):
        output = llm.create_completion(PROMPT, max_tokens=150, temperature=temperature, **request)
        for tenant in ("a", "b"):
            found = log10_p(llm, tenant, output)
            assert (found < -6) if tenant == owner else (found > -4), (request, tenant, found)
    assert llm.marker.counters.requests == {"keyed": 2, "opted_out": 1}


def test_the_law_is_cut_once(adapter):
    """For an unbiased mark the cuts are made before it, and the engine makes none; otherwise they are the engine's."""
    cuts = {"top_k": 7, "top_p": 0.8, "min_p": 0.1, "temperature": 0.6}
    for scheme, request, wanted in (
        ("gumbel", A, (0, 1.0, 0.0, 0.6)), ("gumbel", OPTED_OUT, (7, 0.8, 0.1, 0.6)), ("redgreen", A, (7, 0.8, 0.1, 0.6)),
    ):
        llm = start(adapter, scheme)
        llm.calls.clear()
        llm.create_completion(PROMPT, max_tokens=3, **cuts, **request)
        assert llm.calls == [wanted] * 3


def test_a_bias_and_processors_stay_beside_the_watermark(adapter):
    llm, lengths = start(adapter), []

    def count(ids, scores):
        lengths.append(len(ids))
        return scores

    given = adapter.engine.LogitsProcessorList([count])
    output = llm.create_completion(PROMPT, max_tokens=100, logits_processor=given, logit_bias={"33": 50.0, 34: 50}, **A)
    assert lengths == list(range(5, 105))
    assert set(output) == {33, 34}
    low = {str(number): -100 for number in range(99)}
    output = llm.create_completion(PROMPT, max_tokens=100, logits_processor=given, logit_bias=low, **A)
    assert min(output) >= 99
    assert log10_p(llm, "a", output) < -6
    assert given == [count]


@pytest.mark.parametrize("option", [
    {"grammar": object()}, {"repeat_penalty": 1.1}, {"frequency_penalty": 0.1}, {"presence_penalty": 0.1}, {"typical_p": 0.9},
    {"mirostat_mode": 1},
])
def test_what_undoes_an_unbiased_choice_is_refused(adapter, option):
    llm = start(adapter)
    for call in (lambda: llm.create_completion(PROMPT, stream=True, **option, **A), lambda: llm.generate(PROMPT, **option, **A)):
        with pytest.raises(RequestError, match=f"{next(iter(option))}: the engine would undo"):
            call()
    assert llm.create_completion(PROMPT, **option, **OPTED_OUT)
    assert llm.create_completion(PROMPT, temperature=0.0, **option, **A)
    llm = start(adapter, "redgreen")
    assert log10_p(llm, "a", llm.create_completion(PROMPT, max_tokens=150, **option, **A)) < -6


def test_chats_carry_their_tenant_whatever_the_handler_passes_on(adapter):
    for passes_on in (True, False):
        llm = start(adapter, passes_on=passes_on)
        assert log10_p(llm, "b", llm.create_chat_completion([], max_tokens=100, **B)) < -6
        with pytest.raises(RequestError, match="names no tenant"):
            llm.create_chat_completion([])
        with pytest.raises(RequestError, match="grammar: the engine would undo"):
            llm.create_chat_completion([], response_format={"type": "json_object"}, stream=True, **B)
        # Nothing stays behind for the next one.
        with pytest.raises(RequestError, match="names no tenant"):
            llm.create_completion(PROMPT)


def test_a_default_tenant_marks_what_names_none(adapter):
    llm = start(adapter, policy=Policy(default_tenant="house"))
    assert log10_p(llm, "house", llm(PROMPT, max_tokens=100)) < -6
    assert log10_p(llm, "house", list(islice(llm.generate(PROMPT), 100))) < -6


def test_refused_before_a_stream_is_opened(adapter):
    llm = start(adapter)
    for request, message in (
        ({}, "names no tenant"), ({"wmcheck_tenant": "c"}, "unknown tenant"), ({"wmcheck_tenant": 1}, "malformed field"),
        ({"wmcheck_key": "x"}, "unknown field"),
    ):
        for call in (llm, llm.create_completion, llm.create_chat_completion):
            with pytest.raises(RequestError, match=message):
                call(PROMPT, stream=True, **request)
    with pytest.raises(RequestError, match="marks nothing"):
        llm.sample()
    assert llm.marker.counters.requests == {}


def test_errors_reach_the_caller(adapter):
    llm = start(adapter)

    def fail(ids, scores):
        raise OverflowError("from a processor")

    with pytest.raises(OverflowError):
        llm.create_completion(PROMPT, logits_processor=[fail], **A)
    stream = llm.generate(PROMPT, **A)
    next(stream)
    llm.ids[-1] += 1
    with pytest.raises(ContextError, match="another history"):
        list(islice(stream, 3))
    stream = llm.generate(PROMPT, **A)
    next(stream)
    with pytest.raises(RequestError, match="drafts"):
        stream.send([4])


def test_a_text_goes_on_where_it_was(adapter):
    llm = start(adapter)
    output = list(islice(llm.generate(PROMPT, **A), 40))
    # The engine has not taken the last one in yet.
    output += islice(llm.generate(output[-1:], reset=False, **A), 60)
    assert log10_p(llm, "a", output) < -6


def test_streams_that_are_closed_leave_nothing(adapter):
    llm = start(adapter)
    for _ in range(5):
        stream = llm.create_completion(PROMPT, max_tokens=50, stream=True, **A)
        list(islice(stream, 20))
        del stream
    assert not llm.marker.counters.audit._waiting


def test_engines_that_lose_the_watermark_do_not_start(adapter, monkeypatch):
    with pytest.raises(ConfigError, match="draft model"):
        start(adapter, draft_model=object())
    plain = Llama.sample
    monkeypatch.setattr(Llama, "sample", lambda self, *rest, **given: plain(self, *rest, **{**given, "logits_processor": None}))
    with pytest.raises(ConfigError, match="does not sample from the logits"):
        start(adapter)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "llama_cpp", adapter.engine)
    llm = start(adapter)
    monkeypatch.setattr(Llama, "sample", lambda self, *rest, **given: 3)
    with pytest.raises(ContextError, match="left the watermark out"):
        llm.create_completion(PROMPT, **A)
