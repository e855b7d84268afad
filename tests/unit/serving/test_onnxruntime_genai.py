"""The loop around ``og.Generator`` over a stand-in for it; the real engine: tests/engines."""

import importlib
import json
import sys
import types
import typing

import numpy as np
import pytest

from wmcheck.watermark import Profile, SecretKey, detect_ids
from wmcheck.watermark.core.errors import ConfigError, RequestError
from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.serving.policy import Policy

KEY = SecretKey(bytes((37 * i * i + 11 * i + 5) % 256 for i in range(32)))
VOCABULARY, END = 256, 1
DEFAULTS = {
    "do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "random_seed": -1.0, "repetition_penalty": 1.0,
    "min_length": 0.0, "no_repeat_ngram_size": 0.0, "num_beams": 1.0, "num_return_sequences": 1.0,
}
OPTED_OUT = {"wmcheck_tenant": "a", "wmcheck_opt_out": True}


class GeneratorParams:
    def __init__(self, model):
        self.options = dict(DEFAULTS)

    def set_search_options(self, **options):
        self.options.update(options)

    def get_search_options(self):
        return dict(self.options)

    def set_guidance(self, kind, data):
        self.guidance = kind, data


class Generator:
    """Samples what was set; a finished row goes on with padding, and rows are padded on the right."""

    ends: typing.ClassVar = {}

    def __init__(self, model, params):
        self.options, self.logits = params.options, None
        self.rows = int(params.options["batch_size"])
        self.rng = np.random.default_rng(0)

    def append_tokens(self, ids):
        self.ids = ids.tolist()
        self.given = [list(row) for row in self.ids]
        self.over = [False] * self.rows

    def get_logits(self):
        if self.logits is None:
            self.logits = self.rng.normal(size=(self.rows, 1, VOCABULARY)).astype(np.float32)
            self.logits[:, :, :2] = -1e9
            for row in self.ends.get(len(self.ids[0]) - len(self.given[0]), ()):
                self.logits[row] = -1e9
                self.logits[row, 0, END] = 1e9
        return self.logits.copy()

    def set_logits(self, logits):
        self.logits = logits.reshape(self.rows, 1, VOCABULARY).copy()

    def generate_next_token(self):
        logits = self.get_logits()[:, 0].astype(np.float64) / (self.options["temperature"] or 1.0)
        noise = self.rng.gumbel(size=logits.shape) if self.options["do_sample"] else 0.0
        self.next = np.where(self.over, 0, (logits + noise).argmax(1)).astype(np.int32)
        for row, token in enumerate(self.next.tolist()):
            self.ids[row].append(token)
            self.over[row] |= token == END
        self.logits = None

    def get_next_tokens(self):
        return self.next

    def is_done(self):
        return all(self.over) or len(self.ids[0]) >= self.options["max_length"]


@pytest.fixture
def adapter(monkeypatch, tmp_path):
    import torch

    torch.set_num_threads(1)
    engine = types.ModuleType("onnxruntime_genai")
    engine.__version__, engine.Model = "0", lambda folder: folder
    engine.GeneratorParams, engine.Generator = GeneratorParams, Generator
    monkeypatch.setitem(sys.modules, "onnxruntime_genai", engine)
    monkeypatch.setattr(Generator, "ends", {})
    names = [f"wmcheck.watermark.serving.onnxruntime_genai{end}" for end in ("_batch", "")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(names[1])
    config = {"vocab_size": VOCABULARY, "context_length": 1024, "pad_token_id": 0, "eos_token_id": [END]}
    (tmp_path / "genai_config.json").write_text(json.dumps({"model": config}), "utf-8")
    module.folder, module.engine = tmp_path, engine
    yield module
    for name in names:
        sys.modules.pop(name, None)


def start(adapter, scheme="gumbel", **parameters):
    profile = Profile.create(scheme, parameters, special_ids=(0, END))
    policy = Policy(tenants=frozenset({"a", "b"}), opt_out=True)
    return adapter.WatermarkedGenerator(adapter.folder, Deployment(profile, KEY, policy, state=adapter.folder / "state"))


def log10_p(server, tenant, prompt, output):
    profile = server.marker.deployment.profile
    return detect_ids([*prompt, *output], profile, KEY.tenant(tenant), prompt_length=len(prompt)).log10_p


def asked(tenant):
    return {"wmcheck_tenant": tenant}


@pytest.mark.parametrize("scheme", ["redgreen", "gumbel", "tournament"])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 40, "top_p": 0.9}])
def test_rows_are_marked_each_under_its_own_key(adapter, scheme, options):
    server = start(adapter, scheme)
    prompts = [[5, 6, 7, 8, 9, 10], [11], [12, 13]]
    outputs = server.generate(prompts, [asked("a"), asked("b"), OPTED_OUT], max_new_tokens=150, **options)
    assert [len(output) for output in outputs] == [150] * 3
    for row, owner in enumerate(("a", "b", None)):
        for tenant in ("a", "b"):
            found = log10_p(server, tenant, prompts[row], outputs[row])
            assert (found < -6) if tenant == owner else (found > -4)
    assert server.marker.counters.requests == {"keyed": 2, "opted_out": 1}


def test_the_context_of_a_short_prompt_holds_no_padding(adapter):
    """The engine's own sequence has padding between prompt and output: with it, the first windows would be special."""
    server = start(adapter, "gumbel", width=1)
    batch = server.start([[5, 6, 7, 8], [9]], [asked("a"), asked("a")], max_new_tokens=5)
    batch.step()
    assert server.marker.counters.tokens == {"marked": 2}


def test_rows_end_and_are_cancelled_alone(adapter):
    server = start(adapter)
    Generator.ends = {3: [0], 6: [1]}
    batch = server.start([[5], [6], [7]], [asked("a"), asked("b"), asked("a")], max_new_tokens=10)
    seen = []
    while not batch.done:
        seen += batch.step()
        if len(batch.outputs[2]) == 4:
            batch.cancel(2)
    assert [len(output) for output in batch.outputs] == [3, 6, 4]
    assert sorted(seen) == sorted((row, token) for row, output in enumerate(batch.outputs) for token in output)
    assert all(END not in output for output in batch.outputs)


def test_greedy_and_top_k_1_are_greedy(adapter):
    server = start(adapter)
    for options in ({"do_sample": False}, {"top_k": 1}):
        server.marker.counters.tokens.clear()
        server.generate([[5, 6, 7, 8, 9]], [asked("a")], max_new_tokens=5, **options)
        assert server.marker.counters.tokens == {"greedy": 5}


def test_top_p_counts_where_top_k_is_off(adapter):
    batch = start(adapter).start([[5]], [asked("a")], max_new_tokens=5, top_k=0, top_p=0.5)
    assert batch._generator.options["top_k"] == VOCABULARY
    assert (batch._sessions[0].sampling.top_k, batch._sessions[0].sampling.top_p) == (0, 0.5)


@pytest.mark.parametrize("options", [
    {"repetition_penalty": 1.1}, {"min_length": 5}, {"no_repeat_ngram_size": 2}, {"guidance": ("regex", "a*")},
])
def test_what_undoes_an_unbiased_choice_is_refused(adapter, options):
    server = start(adapter)
    with pytest.raises(RequestError, match=f"{next(iter(options))}: the engine would undo"):
        server.start([[5], [6]], [asked("a"), OPTED_OUT], max_new_tokens=5, **options)
    assert server.marker.counters.requests == {}
    for batch in (
        server.start([[5]], [OPTED_OUT], max_new_tokens=5, **options),
        server.start([[5]], [asked("a")], max_new_tokens=5, do_sample=False, **options),
        start(adapter, "redgreen").start([[5]], [asked("a")], max_new_tokens=5, **options),
    ):
        assert batch.step()


def test_malformed_batches_are_refused_before_anything_runs(adapter, monkeypatch):
    server = start(adapter)
    monkeypatch.setattr(adapter.engine, "Generator", None)
    for prompts in ([], [[]], [[5, 0]], [[5], [6]]):
        with pytest.raises(RequestError, match="malformed prompts"):
            server.start(prompts, [asked("a")], max_new_tokens=5)
    with pytest.raises(RequestError, match="row 1: wmcheck_tenant: unknown tenant"):
        server.start([[5], [6]], [asked("a"), asked("c")], max_new_tokens=5)
    with pytest.raises(RequestError, match="beams"):
        server.start([[5]], [asked("a")], max_new_tokens=5, num_beams=2)


@pytest.mark.parametrize("change", [
    {"speculative": {"ngram_size": 2}}, {"draft": {"filename": "x"}}, {"mtp": {"filename": "x"}}, {"dflash2": {"filename": "x"}},
])
def test_models_that_draft_ahead_are_refused(adapter, change):
    file = adapter.folder / "genai_config.json"
    config = json.loads(file.read_text("utf-8"))
    (config if "speculative" in change else config["model"]).update(change)
    file.write_text(json.dumps(config), "utf-8")
    with pytest.raises(ConfigError, match=f"drafts tokens ahead .*{next(iter(change))}"):
        start(adapter)


def test_no_model_no_start(adapter):
    (adapter.folder / "genai_config.json").write_text("{}", "utf-8")
    with pytest.raises(ConfigError, match="not a model of onnxruntime-genai"):
        start(adapter)


def test_an_engine_that_ignores_logits_does_not_start(adapter, monkeypatch):
    monkeypatch.setattr(Generator, "set_logits", lambda self, logits: None)
    with pytest.raises(ConfigError, match="does not sample from the logits that are set"):
        start(adapter)
