"""transformers' own paths with the watermark: ``watermarking_config``, drafts, beams, and continuous batching."""

from __future__ import annotations

import copy
import json
import pickle
import time

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    ContinuousBatchingConfig,
    GenerationConfig,
    TopKLogitsWarper,
    TopPLogitsWarper,
    WatermarkingConfig,
)

from wmcheck.watermark import Profile, SecretKey, detect_ids
from wmcheck.watermark.core.errors import ConfigError, RequestError
from wmcheck.watermark.embed import load_model
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.scheme import SCHEMES, make_scheme
from wmcheck.watermark.serving.counters import heartbeats
from wmcheck.watermark.serving.deployment import Deployment, Reasoning
from wmcheck.watermark.serving.policy import Policy
from wmcheck.watermark.serving.transformers import SAVED, WatermarkConfig, enforce

SECRET = bytes((57 * i * i + 3 * i + 1) % 256 for i in range(32))
KEY = SecretKey(SECRET)
PARAMETERS = {"redgreen": {"width": 2, "delta": 4.0}}
TENANTS = ("a", "b", "c")


@pytest.fixture(scope="module")
def language():
    torch.set_num_threads(1)
    return load_model("bundled:stories2m", device="cpu")


@pytest.fixture(scope="module")
def prompts(language):
    texts = ["Once upon a time", "One day, a boy named Tim went", "The dog ran."]
    return [ids.tolist() for ids in language.tokenizer.encode(texts)]


def profile_of(language, name, **parameters):
    return Profile.create(name, PARAMETERS.get(name, {}) | parameters, tokenizer=language.tokenizer, entropy_bits=2.0)


def deployment_of(language, name, tmp_path, **policy):
    policy = {"tenants": frozenset(TENANTS), "opt_out": True} | policy
    return Deployment(profile_of(language, name), KEY, Policy(**policy), state=tmp_path)


def log10_p(profile, tenant, prompt, output):
    key = KEY.tenant(tenant) if tenant else KEY
    return detect_ids(list(prompt) + list(output), profile, key, prompt_length=len(prompt)).log10_p


def generate(language, config, prompts, new=100, **options):
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    settings = {"do_sample": True, "max_new_tokens": new, "min_new_tokens": new, "top_k": 0, "pad_token_id": 0} | options
    out = language.model.generate(input_ids=ids, attention_mask=mask, watermarking_config=config, **settings)
    return out if settings.get("return_dict_in_generate") else out[:, longest:].tolist()


@pytest.mark.parametrize("name", list(SCHEMES))
def test_it_comes_after_top_k_and_top_p(language, prompts, name):
    torch.manual_seed(1)
    profile, prompt = profile_of(language, name), prompts[0]
    out = generate(
        language, WatermarkConfig(profile, KEY), [prompt], new=120, top_k=50, top_p=0.95, temperature=1.1,
        output_scores=True, output_logits=True, return_dict_in_generate=True,
    )
    ids = out.sequences
    changed = 0
    for step, (scores, logits) in enumerate(zip(out.scores, out.logits, strict=True)):
        history = ids[:, : len(prompt) + step]
        logits = logits.clone()
        logits[:, 0] = -torch.inf
        warped = TopPLogitsWarper(0.95)(history, TopKLogitsWarper(50)(history, logits / 1.1))
        kept = torch.isfinite(warped)
        assert kept.sum() <= 50
        assert not torch.isfinite(scores[~kept]).any()
        assert kept[0, ids[0, len(prompt) + step]]
        changed += not torch.equal(scores, warped)
    assert changed > 60
    assert log10_p(profile, "", prompt, ids[0, len(prompt) :].tolist()) < (-3 if name == "reweight" else -6)


def test_keys_of_rows_beams_and_sequences(language, prompts):
    torch.manual_seed(2)
    profile = profile_of(language, "redgreen")
    keys = [KEY.tenant("a"), None, KEY.tenant("b")]
    several = {"num_return_sequences": 2}
    for options in (several, {"num_beams": 2, **several}, {"num_beams": 2, "do_sample": False}):
        each = options.get("num_beams", options.get("num_return_sequences", 1))
        rows = generate(language, WatermarkConfig(profile, keys, rows_per_key=each), prompts, new=70, **options)
        for row, output in enumerate(rows):
            place = row * 3 // len(rows)
            for tenant in ("a", "b"):
                own = keys[place] is not None and keys[place].tenant_name == tenant
                found = log10_p(profile, tenant, prompts[place], output)
                assert (found < -4.5) == own, (options, row, tenant, found)


def test_drafts_change_nothing(language, prompts):
    """Without sampling the text is a function of the logits: with an assistant and with prompt lookup it is the same."""
    assistant = copy.deepcopy(language.model)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        for weights in assistant.parameters():
            weights += torch.randn_like(weights) * weights.std() * 0.2
    assistant.generation_config.assistant_confidence_threshold = 0.0
    assistant.generation_config.num_assistant_tokens = 6
    for name in ("redgreen", "gumbel"):
        profile = profile_of(language, name)
        config = WatermarkConfig(profile, KEY.tenant("a"))
        plain = generate(language, config, prompts[:1], new=30, do_sample=False)
        for options in ({"assistant_model": assistant}, {"prompt_lookup_num_tokens": 3}):
            assert generate(language, config, prompts[:1], new=30, do_sample=False, **options) == plain
            drafted = generate(language, config, prompts[:1], new=50, **options)[0]
            assert log10_p(profile, "a", prompts[0], drafted) < -3, (name, options)
    # More than one token a pass was taken from the drafts.
    calls = []
    hook = language.model.register_forward_hook(lambda *_: calls.append(1))
    generate(language, config, prompts[:1], new=40, assistant_model=assistant)
    hook.remove()
    assert len(calls) < 36


def test_a_deployment_names_rows_counts_and_leaves_reasoning_alone(language, prompts, tmp_path):
    torch.manual_seed(4)
    served = deployment_of(language, "gumbel", tmp_path)
    asked = [{"wmcheck_tenant": "a"}, {"wmcheck_tenant": "a", "wmcheck_opt_out": True}, {"wmcheck_tenant": "b"}]
    config = WatermarkConfig.of(served, asked)
    rows = generate(language, config, prompts, new=60)
    for place, owner in enumerate(("a", None, "b")):
        for tenant in TENANTS:
            assert (log10_p(served.profile, tenant, prompts[place], rows[place]) < -6) == (tenant == owner)
    tokens = config._counters.tokens
    assert tokens["opted_out"] == 60
    assert tokens["marked"] + tokens["skipped"] == 120
    assert tokens["marked"] > 90
    assert len(list(heartbeats(tmp_path))) == 1
    with pytest.raises(RequestError, match="unknown tenant"):
        WatermarkConfig.of(served, [{"wmcheck_tenant": "z"}])
    with pytest.raises(RequestError, match="names no tenant"):
        generate(language, WatermarkConfig.of(served), prompts, new=2)
    inside = Deployment(served.profile, KEY, Policy(default_tenant="a"), reasoning=Reasoning(300, 301), state=tmp_path)
    processor = WatermarkConfig.of(inside).construct_processor(1024)
    ids, scores = torch.tensor([[300, 4, 5, 6, 7], [300, 301, 5, 6, 7], [3, 4, 5, 6, 7]]), torch.zeros(3, 1024)
    changed = (processor(ids, scores) != scores).any(1)
    assert changed.tolist() == [False, True, True]


def secrets_in(text):
    data = text if isinstance(text, bytes) else text.encode()
    tenant = KEY.tenant("a")
    raw = (SECRET, tenant._secret, *PrfKey.derive(tenant, make_scheme("gumbel", {}).label()).secrets())
    held = [*raw, *(one.hex().encode() for one in raw), KEY.reveal().encode(), tenant.reveal().encode()]
    return [one for one in held if one in data or repr(one)[2:-1].encode() in data]


def test_nothing_that_is_saved_or_shown_holds_a_key(language, tmp_path):
    config = WatermarkConfig(profile_of(language, "gumbel"), KEY.tenant("a"))
    held = GenerationConfig(watermarking_config=config, do_sample=True)
    made = config.construct_processor(1024)
    shown = [
        repr(config), str(config), config.to_json_string(), json.dumps(config.to_dict()), json.dumps(dict(config)),
        repr(vars(config)), repr(held), held.to_json_string(), held.to_json_string(use_diff=False), repr(held.to_dict()),
        repr(held.to_diff_dict()), repr(made), repr(vars(made)),
    ]
    held.save_pretrained(tmp_path / "config")
    config.to_json_file(tmp_path / "alone.json")
    model = copy.copy(language.model)
    model.generation_config = held
    model.save_pretrained(tmp_path / "model")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(SAVED.encode() in path.read_bytes() for path in files) == 3
    for text in [*shown, *(path.read_bytes() for path in files)]:
        assert not secrets_in(text)
    assert KEY.tenant("a").id in (tmp_path / "alone.json").read_text()
    for one in (config, held, made):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(one)
    assert copy.deepcopy(held).watermarking_config is copy.copy(held).watermarking_config is config
    assert config != WatermarkConfig(profile_of(language, "gumbel"), KEY.tenant("b"))
    # Read back there is no key: an error, never a model that writes unmarked text.
    for load in (
        lambda: GenerationConfig.from_pretrained(tmp_path / "config"),
        lambda: AutoModelForCausalLM.from_pretrained(tmp_path / "model"),
        lambda: GenerationConfig(**json.loads((tmp_path / "config/generation_config.json").read_text())),
    ):
        with pytest.raises(TypeError, match=SAVED):
            load()
    with pytest.raises(ConfigError, match="holds no key"):
        WatermarkConfig.from_dict(config.to_dict())


def test_a_model_of_another_vocabulary_is_refused(language):
    with pytest.raises(ConfigError, match="smaller vocabulary"):
        WatermarkConfig(profile_of(language, "gumbel"), KEY).construct_processor(1000)


def test_enforced_on_a_model_whatever_the_client_configures(language, prompts, tmp_path):
    torch.manual_seed(5)
    served = deployment_of(language, "gumbel", tmp_path, default_tenant="a")
    model = copy.copy(language.model)
    enforce(model, WatermarkConfig.of(served))
    prompt = torch.tensor(prompts[:1])
    own = GenerationConfig(do_sample=True, max_new_tokens=60, min_new_tokens=60)
    for options in ({"generation_config": own}, {"do_sample": True, "max_new_tokens": 60, "min_new_tokens": 60}):
        out = model.generate(prompt, **options)[0].tolist()
        assert log10_p(served.profile, "a", prompts[0], out[len(prompts[0]) :]) < -6
    with pytest.raises(RequestError, match="a watermark of the client's"):
        model.generate(prompt, generation_config=GenerationConfig(watermarking_config=WatermarkingConfig()))
    with pytest.raises(ConfigError, match="incompatible engine version"):
        enforce(object(), WatermarkConfig.of(served))


# Continuous batching. A small cache: without psutil the default takes most of the memory.
SMALL = {"num_blocks": 64, "page_size": 32, "max_batch_tokens": 128}
SAMPLED = {"do_sample": True, "max_new_tokens": 70, "eos_token_id": -1, "top_k": 50, "top_p": 0.95}


def batched(model, served, requests, *, small=SMALL, **config):
    """Outputs by request of a manager that was given requests ``(ids, parameters)``."""
    from wmcheck.watermark.serving.transformers_batching import continuous_batching

    manager = continuous_batching(model, served, GenerationConfig(**SAMPLED | config), ContinuousBatchingConfig(**small))
    manager.start()
    try:
        names = [manager.add_request(ids, **asked) for ids, asked in requests]
        found, wanted, end = {}, len(names) * manager.num_return_sequences, time.monotonic() + 120
        while len(found) < wanted and time.monotonic() < end:
            result = manager.get_result(timeout=0.2)
            if result is not None and result.is_finished():
                found[result.request_id] = result
    finally:
        manager.stop()
        manager.destroy()
    assert not [one.error for one in found.values() if one.error]
    marking = [one.marker for one in manager.logit_processor.logits_processor if hasattr(one, "marker")]
    return names, found, marking[0]


def test_continuous_batching_of_tenants_and_an_opt_out(language, prompts, tmp_path):
    torch.manual_seed(6)
    served = deployment_of(language, "gumbel", tmp_path)
    owners = [*TENANTS, None]
    asked = [{"wmcheck_tenant": one or "a", **({} if one else {"wmcheck_opt_out": True})} for one in owners]
    names, found, marker = batched(language.model, served, [(prompts[place % 3], one) for place, one in enumerate(asked)])
    for name, owner in zip(names, owners, strict=True):
        result = found[name]
        for tenant in TENANTS:
            p = log10_p(served.profile, tenant, result.prompt_ids, result.generated_tokens)
            assert (p < -6) == (tenant == owner), (owner, tenant, p)
    assert marker.counters.requests == {"keyed": 3, "opted_out": 1}
    assert marker.counters.tokens["opted_out"] == 70
    assert next(heartbeats(tmp_path))[1]["engine"].startswith("transformers ")


def test_continuous_batching_under_preemption_and_with_forks(language, prompts, tmp_path, monkeypatch):
    from transformers.generation.continuous_batching.requests import RequestState

    torch.manual_seed(7)
    resets = []
    name = "create_equivalent_initial_request"
    inner = getattr(RequestState, name)
    monkeypatch.setattr(RequestState, name, lambda self: resets.append(self.request_id) or inner(self))
    served = deployment_of(language, "redgreen", tmp_path)
    requests = [(prompts[place % 3], {"wmcheck_tenant": TENANTS[place % 3]}) for place in range(6)]
    tight = {"num_blocks": 20, "page_size": 16, "max_batch_tokens": 64}
    names, found, marker = batched(language.model, served, requests, small=tight)
    assert resets
    for place, name in enumerate(names):
        result = found[name]
        assert len(result.generated_tokens) == 70
        assert log10_p(served.profile, TENANTS[place % 3], result.prompt_ids, result.generated_tokens) < -4
        assert log10_p(served.profile, TENANTS[(place + 1) % 3], result.prompt_ids, result.generated_tokens) > -4
    assert marker.counters.requests["keyed"] >= 6
    _, found, _ = batched(language.model, served, requests[:2], num_return_sequences=2)
    assert len(found) == 4
    for name, result in found.items():
        own = TENANTS[int(name.split("_")[1][0])]
        assert log10_p(served.profile, own, result.prompt_ids, result.generated_tokens) < -4


def test_continuous_batching_that_would_lose_the_watermark_is_refused(language, prompts, tmp_path, monkeypatch):
    from wmcheck.watermark.serving import transformers_batching as batching

    served, model = deployment_of(language, "gumbel", tmp_path), language.model
    sampled = GenerationConfig(**SAMPLED)

    def make(config=sampled, **options):
        return batching.continuous_batching(model, served, config, ContinuousBatchingConfig(**SMALL | options))

    for options in ({"use_async_batching": True}, {"use_cuda_graph": True}):
        with pytest.raises(ConfigError, match="cannot be marked"):
            make(**options)
    with pytest.raises(ConfigError, match="needs sampling"):
        make(GenerationConfig(max_new_tokens=9, eos_token_id=-1))
    # Ways that miss the helper, and what the helper's manager refuses.
    for config in (WatermarkConfig(served.profile, KEY), WatermarkConfig.of(served)):
        held = GenerationConfig(**SAMPLED, watermarking_config=config)
        with pytest.raises(ConfigError, match="would lose this watermark"):
            model.generate_batch(prompts, generation_config=held, continuous_batching_config=ContinuousBatchingConfig(**SMALL))
    with pytest.raises(ConfigError, match="would lose this watermark"):
        WatermarkConfig(served.profile, KEY).construct_processor(1024)(torch.tensor([5, 6]), torch.zeros(2, 1024))
    manager = make()
    for asked in ({"wmcheck_tenant": "z"}, {}, {"wmcheck_tenant": "a", "wmcheck_epoch": "x"}, {"wmcheck_key": "a"}):
        with pytest.raises(RequestError):
            manager.add_request(prompts[0], **asked)
    model._cached_continuous_batching_manager = model.init_continuous_batching(sampled, ContinuousBatchingConfig(**SMALL))
    try:
        with pytest.raises(ConfigError, match="a cached manager"):
            make()
    finally:
        del model._cached_continuous_batching_manager
        model.set_attn_implementation("sdpa")
    monkeypatch.setattr(batching, "_FIELDS", ("position_offset", "renamed"))
    with pytest.raises(ConfigError, match=r"incompatible engine version.*no renamed"):
        make()
