"""The SGLang adapter over stand-ins: histories that are one token late, chunks, resumed requests, refusals."""

import importlib
import json
import sys
import types
import weakref
from array import array
from types import SimpleNamespace

import pytest
import torch

from wmcheck.watermark import Profile, SecretKey, detect_ids
from wmcheck.watermark.bundled import bundled_path
from wmcheck.watermark.core.errors import ConfigError, RequestError
from wmcheck.watermark.key_sources import write_key_file
from wmcheck.watermark.serving.sessions import ContextError
from wmcheck.watermark.tokenizer import load_tokenizer

MODEL, VOCABULARY = str(bundled_path("bundled:stories2m")), 1024
ADAPTER, PLUGIN = "wmcheck.watermark.serving.sglang", "wmcheck.watermark.serving.sglang_plugin"
ARGS = {
    "enable_custom_logit_processor": True, "speculative_algorithm": None, "enable_watermark": False, "dllm_algorithm": None,
    "disaggregation_mode": "null", "skip_server_warmup": True, "skip_tokenizer_init": False,
    "tokenizer_path": MODEL, "device": "cpu",
}


class CustomLogitProcessor:
    @classmethod
    def to_str(cls):
        return json.dumps({"callable": cls.__module__.encode().hex()})

    @staticmethod
    def from_str(text):
        return sys.modules[ADAPTER].WatermarkLogitProcessor()


class SamplingParams:
    def __init__(self, **given):
        fields = {
            "temperature": 1.0, "top_k": 1 << 30, "top_p": 1.0, "min_p": 0.0, "sampling_seed": None, "custom_params": None,
            "max_new_tokens": 128, "beam_width": None,
        }
        self.__dict__.update(fields | given)


class Request:
    """SGLang's ``Req``: ids in arrays, and a weak proxy of itself among the parameters of its processor."""

    def __init__(self, asked, custom_logit_processor=None):
        self.sampling_params, self.origin_input_ids, self.output_ids = asked.sampling_params, asked.input_ids, []
        self.custom_logit_processor, self.done, self.aborted = custom_logit_processor, False, None
        if custom_logit_processor is not None:
            self.params = {**asked.sampling_params.custom_params, "__req__": weakref.proxy(self)}

    def finished(self):
        return self.done

    def set_finish_with_abort(self, message):
        self.aborted = message


@pytest.fixture
def adapter(monkeypatch, tmp_path):
    names = ("sglang", "sglang.srt", "sglang.srt.sampling", "sglang.srt.sampling.custom_logit_processor")
    made = {name: types.ModuleType(name) for name in (*names, "sglang.srt.sampling.sampling_params")}
    made["sglang"].__version__ = "0.5.23"
    made[names[-1]].CustomLogitProcessor = CustomLogitProcessor
    made["sglang.srt.sampling.sampling_params"].SamplingParams = SamplingParams
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in (ADAPTER, PLUGIN):
        monkeypatch.delitem(sys.modules, name, raising=False)
    key = SecretKey.new()
    write_key_file(key, str(tmp_path / "lab.wmk"))
    monkeypatch.setenv("WMCHECK_SERVING", str(tmp_path / "serving.toml"))
    monkeypatch.setenv("WMCHECK_SERVING_RUN", "this server")
    module = importlib.import_module(PLUGIN)
    module.folder, module.key, module.processor = tmp_path, key, importlib.import_module(ADAPTER).WatermarkLogitProcessor()
    deploy(module)
    yield module
    for name in (ADAPTER, PLUGIN):
        sys.modules.pop(name, None)


def deploy(adapter, scheme="redgreen", *, lines=(), **parameters):
    profile = Profile.create(scheme, {"width": 2, **parameters}, tokenizer=load_tokenizer(MODEL), keys=(adapter.key,))
    profile.save(adapter.folder / "p.json")
    head = ['schema = "wmcheck.serving/1"', 'profile = "p.json"', 'key = "file:lab.wmk"', 'tenants = ["a", "b", "c"]']
    text = "\n".join([*head, 'opt_out = ["a"]', 'state = "state"', *lines])
    (adapter.folder / "serving.toml").write_text(text, "utf-8")
    return profile


def started(adapter, **options):
    plugin = adapter.Plugin()
    scheduler = SimpleNamespace(model_config=SimpleNamespace(vocab_size=VOCABULARY))
    plugin.start(lambda *given: None, scheduler, SimpleNamespace(**{**ARGS, **options}), "ports")
    return plugin


def asked(prompt=(5, 6, 7), processor=None, rid="r", **params):
    fields = {key: params.pop(key) for key in list(params) if key.startswith("wmcheck_")}
    sampling = SamplingParams(custom_params=fields or None, **params)
    return SimpleNamespace(
        sampling_params=sampling, custom_logit_processor=processor, rid=rid, return_sampling_mask=False,
        mm_inputs=None, input_ids=array("q", prompt),
    )


def create(plugin, request):
    return plugin.create(lambda scheduler, asked, **more: Request(asked, **more), None, request)


def batch(adapter, requests, last, lengths, *, extends=None):
    entry = SimpleNamespace(processor=adapter.processor, rows=list(range(len(requests))))
    info = SimpleNamespace(custom_logit_processor={1: entry}, custom_params=[one.params for one in requests])
    return SimpleNamespace(
        sampling_info=info, forward_mode=SimpleNamespace(is_extend=lambda: extends is not None), input_ids=torch.tensor(last),
        seq_lens=torch.tensor(lengths), extend_seq_lens=None if extends is None else torch.tensor(extends),
    )


def generate(adapter, plugin, requests, count, *, late=1, seed=0):
    """Histories of requests that go through a prefill and then steps in which SGLang's lists lack the last ``late`` ids."""
    generator, truth = torch.Generator().manual_seed(seed), [[] for _ in requests]
    for step in range(count):
        ids = [[*one.origin_input_ids, *made] for one, made in zip(requests, truth, strict=True)]
        for one, made in zip(requests, truth, strict=True):
            one.output_ids = made[: max(len(made) - late, 0)]
        first = step == 0
        forward = batch(
            adapter, requests, [token for one in ids for token in (one if first else one[-1:])], [len(one) for one in ids],
            extends=[len(one) for one in ids] if first else None,
        )
        plugin.read(None, None, forward)
        logits = torch.randn(len(requests), VOCABULARY, generator=generator)
        out = adapter.processor(logits.clone(), forward.sampling_info.custom_params)
        for row, made in enumerate(truth):
            made.append(int(torch.multinomial(out[row].softmax(0), 1, generator=generator)))
    return truth


def found(adapter, profile, tenant, request, output):
    ids = [*request.origin_input_ids, *output]
    return detect_ids(ids, profile, adapter.key.tenant(tenant), prompt_length=len(request.origin_input_ids)).log10_p


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("scheme", ["redgreen", "gumbel"])
def test_tenants_in_one_batch_whether_or_not_the_ids_are_late(adapter, scheme, late):
    profile, plugin = deploy(adapter, scheme), started(adapter)
    fields = [{"wmcheck_tenant": "a"}, {"wmcheck_tenant": "b"}, {"wmcheck_tenant": "a", "wmcheck_opt_out": True}]
    requests = [create(plugin, asked(**one)) for one in fields]
    texts = generate(adapter, plugin, requests, 100, late=late)
    for owner, request, output in zip(("a", "b", None), requests, texts, strict=True):
        for tenant in ("a", "b", "c"):
            value = found(adapter, profile, tenant, request, output)
            assert (value < -7) if tenant == owner else (value > -7)


def test_without_the_hooks_record_the_call_raises(adapter):
    plugin = started(adapter)
    request = create(plugin, asked(wmcheck_tenant="a"))
    with pytest.raises(ContextError, match="got nothing"):
        adapter.processor(torch.zeros(1, VOCABULARY), [request.params])
    generate(adapter, plugin, [request], 3)
    with pytest.raises(ContextError, match="got nothing"):
        # A record serves one step.
        adapter.processor(torch.zeros(1, VOCABULARY), [request.params])
    with pytest.raises(ContextError):
        adapter.processor(torch.zeros(1, VOCABULARY), [None])


@pytest.mark.parametrize(
    ("known", "last", "length"), [([9], 8, 6), ([9, 8, 7], 7, 5), ([9, 8], 4, 5), ([], 6, 3), ([9], 9, 2)],
    ids=["two late", "ahead", "another last id", "another prompt", "shorter than the prompt"],
)
def test_ids_that_do_not_fit_are_refused(adapter, known, last, length):
    plugin = started(adapter)
    request = create(plugin, asked(wmcheck_tenant="a"))
    request.output_ids = known
    forward = batch(adapter, [request], [last], [length])
    plugin.read(None, None, forward)
    with pytest.raises(ContextError, match="not those that the model read"):
        adapter.processor(torch.zeros(1, VOCABULARY), forward.sampling_info.custom_params)


def test_a_sampler_that_leaves_the_processor_out_is_noticed(adapter):
    plugin = started(adapter)
    request = create(plugin, asked(wmcheck_tenant="a"))
    plugin.read(None, None, batch(adapter, [request], [7], [3]))
    with pytest.raises(ContextError, match="a step without the processor"):
        plugin.read(None, None, batch(adapter, [request], [9], [4]))


def test_chunks_resumed_and_finished_requests(adapter):
    profile, plugin = deploy(adapter, "gumbel"), started(adapter)
    request = create(plugin, asked(prompt=range(10, 30), wmcheck_tenant="a"))
    part = batch(adapter, [request], list(range(10, 18)), [8], extends=[8])
    plugin.read(None, None, part)
    logits = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(1))
    assert torch.equal(adapter.processor(logits.clone(), [request.params]), logits), "a part of the prompt is not marked"
    (first,) = generate(adapter, plugin, [request], 60)
    # Taken back, and resumed from its ids in a prefill: the same mark as before.
    request.output_ids = array("q", first[:40])
    ids = [*range(10, 30), *first[:40]]
    again = batch(adapter, [request], ids, [60], extends=[60])
    plugin.read(None, None, again)
    marked = adapter.processor(logits.clone(), [request.params])
    assert request.params["__wmcheck__"].session.output == first[:40]
    fresh = create(plugin, asked(prompt=ids, wmcheck_tenant="a"))
    other = batch(adapter, [fresh], ids, [60], extends=[60])
    plugin.read(None, None, other)
    assert torch.equal(marked, adapter.processor(logits.clone(), [fresh.params]))
    assert found(adapter, profile, "a", request, first) < -6
    request.done = True
    plugin.read(None, None, batch(adapter, [request], [3], [99]))
    assert torch.equal(adapter.processor(logits.clone(), [request.params]), logits), "its token will be thrown away"


def test_what_is_kept_of_a_request_goes_with_it(adapter):
    plugin = started(adapter)
    requests = [create(plugin, asked(wmcheck_tenant="a")) for _ in range(16)]
    generate(adapter, plugin, requests, 3)
    sessions = [weakref.ref(one.params["__wmcheck__"]) for one in requests]
    assert plugin.marker.counters.audit._waiting
    del requests
    assert all(one() is None for one in sessions)
    assert not plugin.marker.counters.audit._waiting


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"wmcheck_tenant": "nobody"}, "unknown tenant"), ({}, "names no tenant"), ({"wmcheck_tenant": 5}, "malformed field"),
        ({"wmcheck_tenant": "b", "wmcheck_opt_out": True}, "opt out"), ({"wmcheck_tenant": "b", "beam_width": 2}, "beam_width"),
        ({"wmcheck_tenant": "b", "processor": '{"callable": "00"}'}, "custom_logit_processor"),
        ({"rid": "HEALTH_CHECK_1"}, "names no tenant"), ({"rid": "HEALTH_CHECK_1", "max_new_tokens": 1}, "names no tenant"),
    ],
)
def test_bad_requests_are_refused_at_the_front_and_in_the_scheduler(adapter, fields, reason):
    plugin = started(adapter)
    with pytest.raises(RequestError, match=reason):
        plugin.judge(asked(**fields))
    refused = create(plugin, asked(**fields))
    assert reason in refused.aborted
    assert refused.custom_logit_processor is None


def test_requests_that_pass_get_the_processor(adapter):
    plugin = started(adapter)
    spelled = json.dumps({"callable": f"8004{ADAPTER.encode().hex()}2e"})
    for request in (asked(wmcheck_tenant="a"), asked(wmcheck_tenant="a", processor=spelled)):
        plugin.judge(request)
        assert request.custom_logit_processor == adapter.PROCESSOR
    for request, kept in (
        (asked([0], rid="HEALTH_CHECK_1", max_new_tokens=1), None), (asked(max_new_tokens=0), None),
        (asked(wmcheck_tenant="a", wmcheck_opt_out=True, processor="own"), "own"),
    ):
        plugin.judge(request)
        assert request.custom_logit_processor == kept
    plugin.judge(SimpleNamespace(rid="an embedding"))


def test_no_request_passes_the_front_while_no_scheduler_marks(adapter):
    with pytest.raises(RequestError, match="no heartbeat"):
        adapter.Plugin().judge(asked(wmcheck_tenant="a"))
    deploy(adapter, lines=["require_heartbeat = false"])
    adapter.Plugin().judge(asked(wmcheck_tenant="a"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"enable_custom_logit_processor": False}, "start with --enable-custom-logit-processor"),
        ({"speculative_algorithm": "EAGLE"}, "speculative_algorithm"), ({"enable_watermark": True}, "enable_watermark"),
        ({"dllm_algorithm": "x"}, "dllm_algorithm"), ({"disaggregation_mode": "decode"}, "disaggregation_mode"),
    ],
)
def test_settings_that_lose_the_watermark_stop_the_start(adapter, options, reason):
    with pytest.raises(ConfigError) as caught:
        started(adapter, **options)
    assert reason in f"{caught.value} {caught.value.hint}"
    with pytest.raises(ConfigError):
        adapter.Plugin().launch(None, server_args=SimpleNamespace(**{**ARGS, **options}))


def test_settings_of_sglang(adapter):
    of = sys.modules[ADAPTER].sampling_of
    assert of(SamplingParams(top_k=1)).temperature == 0.0
    assert of(SamplingParams()).cuts is False
    assert of(SamplingParams(temperature=0.5, top_k=40, top_p=0.9, min_p=0.1, sampling_seed=3)) == type(of(SamplingParams()))(
        temperature=0.5, top_k=40, top_p=0.9, min_p=0.1, seed=3
    )


def test_registered_without_a_serving_file_it_hooks_nothing(adapter, monkeypatch, caplog):
    monkeypatch.delenv("WMCHECK_SERVING")
    sys.modules[ADAPTER].register()
    assert "WMCHECK_SERVING is not set: nothing is marked" in caplog.text
