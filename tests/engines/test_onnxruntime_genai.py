"""onnxruntime-genai: batches of tenants, rows that end early, options that would lose a watermark, models that are refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import FOUND, TENANTS, name_of

from wmcheck.watermark.core.errors import ConfigError, KeyFileError, RequestError, TokenizerError
from wmcheck.watermark.serving.counters import heartbeats
from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.tokenizer import load_tokenizer

pytestmark = pytest.mark.engines

TEXTS = (
    "Once upon a time there was a little dog named Max who loved to", "The girl said", "One day, Tom and his mom went to", "Lily",
)
SAMPLED = {"temperature": 0.8, "top_p": 0.95, "top_k": 40}
PROMPTS = [[int(number) for number in ids] for ids in load_tokenizer("bundled:stories2m").encode(TEXTS)]
OPTED_OUT = {"wmcheck_tenant": TENANTS[0], "wmcheck_opt_out": True}
REQUESTS = [*({"wmcheck_tenant": tenant} for tenant in TENANTS), OPTED_OUT]
OWNERS = (*TENANTS, None)


def engine():
    return name_of("onnxruntime-genai")


@pytest.fixture(scope="module")
def onnx(tmp_path_factory):
    import torch
    from models import to_onnx

    # The engine has threads of its own; those of torch, which only marks here, would fight with them.
    torch.set_num_threads(1)
    return to_onnx(tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="module")
def long(onnx):
    from models import endless

    return endless(onnx)


def serve(folder, path):
    from wmcheck.watermark.serving.onnxruntime_genai import WatermarkedGenerator

    return WatermarkedGenerator(folder, Deployment.load(path))


@pytest.mark.parametrize("scheme", ["redgreen", "gumbel", "tournament"])
def test_three_tenants_and_an_opt_out_in_one_batch(lab, long, scheme):
    server = serve(long, lab.serving(scheme))
    outputs = server.generate(PROMPTS, REQUESTS, max_new_tokens=350, **SAMPLED)
    assert [len(output) for output in outputs] == [350] * 4
    lab.judge(engine(), lab.profile(scheme), list(zip(OWNERS, PROMPTS, outputs, strict=True)), note="one batch, unequal prompts")


def test_64_requests_of_which_some_are_cancelled(lab, long):
    server = serve(long, lab.serving("gumbel"))
    texts = []
    for start in range(0, 64, 16):
        owners = [OWNERS[(start + row) % 4] for row in range(16)]
        prompts = [PROMPTS[(start + row) // 4 % 4] for row in range(16)]
        asked = [{"wmcheck_tenant": owner} if owner else OPTED_OUT for owner in owners]
        batch = server.start(prompts, asked, max_new_tokens=150)
        streamed = [[] for _ in owners]
        for step in range(150):
            for row, token in batch.step():
                streamed[row].append(token)
            if step == 49:
                for row in range(0, 16, 5):
                    batch.cancel(row)
        assert batch.done
        assert streamed == batch.outputs
        assert [len(output) for output in batch.outputs] == [50 if row % 5 == 0 else 150 for row in range(16)]
        texts += [one for one in zip(owners, prompts, batch.outputs, strict=True) if len(one[2]) == 150]
    # All under their own key; a dozen under those of the others too, which is as many as the bound on luck goes with.
    profile = lab.profile("gumbel")
    assert max(lab.log10_p(profile, *text) for text in texts if text[0]) < FOUND
    lab.judge(engine(), profile, texts[-12:], note="64 requests in batches of 16, 16 cancelled")
    counters = server.marker.counters
    assert counters.requests == {"keyed": 48, "opted_out": 16}
    assert counters.tokens["marked"] > 5000
    assert counters.audit.scored > 400
    assert counters.audit.z > 10
    counters.write()
    _, data = next(heartbeats(server.marker.deployment.state))
    assert data["engine"] == f"onnxruntime_genai {engine().split()[1]}"


def test_rows_end_by_themselves_and_the_others_go_on(lab, onnx):
    server = serve(onnx, lab.serving("redgreen", "ends"))
    outputs = server.generate(PROMPTS * 2, REQUESTS * 2, max_new_tokens=400, do_sample=True, random_seed=1)
    assert len({len(output) for output in outputs}) > 1
    assert all(0 not in output for output in outputs)


def test_sampling_is_the_requests_own(lab, long):
    """With top-k 1 or without sampling every scheme leaves the greedy text, or (redgreen) is greedy on the marked logits."""
    greedy = [{"do_sample": False}, {"top_k": 1}, {"temperature": 0.0}]
    for scheme in ("gumbel", "redgreen"):
        server = serve(long, lab.serving(scheme))
        found = [server.generate(PROMPTS[:3], REQUESTS[:3], max_new_tokens=40, **options) for options in greedy]
        assert found[0] == found[1] == found[2]
    server = serve(long, lab.serving("tournament"))
    # A tournament of 30 layers leaves little to chance: two seeds may well give one text the same 40 tokens.
    rows = [PROMPTS[0]] * 4, [REQUESTS[0]] * 4
    seeded = [server.generate(*rows, max_new_tokens=150, random_seed=seed, **SAMPLED) for seed in (5, 5, 6)]
    assert seeded[0] == seeded[1] != seeded[2]
    # Rows of a batch share a seed but no noise.
    assert len({tuple(output) for output in seeded[0]}) > 1


@pytest.mark.parametrize("scheme", ["gumbel", "tournament"])
def test_marked_tokens_are_among_those_that_the_request_allows(lab, long, scheme):
    """The engine ignores top-p where top-k is 0; both together are cut, by the mark and by the engine alike."""
    server = serve(long, lab.serving(scheme))
    batch = server.start([PROMPTS[0]] * 4, REQUESTS, max_new_tokens=60, temperature=0.7, top_k=0, top_p=0.5)
    for _ in range(60):
        logits = np.array(batch._generator.get_logits(), np.float64).reshape(4, -1) / 0.7
        likely = np.exp(logits - logits.max(1, keepdims=True))
        likely /= likely.sum(1, keepdims=True)
        for row, token in batch.step():
            better = likely[row][likely[row] > likely[row, token]].sum()
            assert better < 0.5 + 1e-4, (row, token, better)


def test_padding_is_not_context(lab, long):
    """Gumbel's text depends on key and context alone: behind padding, a short prompt has the text that it has alone."""
    server, short = serve(long, lab.serving("gumbel")), PROMPTS[0][:4]
    together = server.generate([PROMPTS[0], short], REQUESTS[:2], max_new_tokens=20)
    assert server.generate([short], [REQUESTS[1]], max_new_tokens=20) == together[1:]


def test_a_refused_request_harms_no_other(lab, long):
    server = serve(long, lab.serving("gumbel"))
    running = server.start(PROMPTS, REQUESTS, max_new_tokens=120)
    for _ in range(10):
        running.step()
    before = dict(server.marker.counters.requests)
    bad = [
        ({"wmcheck_tenant": "nobody"}, "row 1: wmcheck_tenant: unknown tenant"), ({}, "names no tenant"),
        (None, "names no tenant"), ({"wmcheck_tenant": 7}, "malformed field"), ({"wmcheck_tenat": "acct-17"}, "unknown field"),
        ({"wmcheck_tenant": "acct-17", "wmcheck_opt_out": "maybe"}, "malformed field"),
        ({"wmcheck_tenant": "acct-17", "wmcheck_epoch": "1999"}, "unknown epoch"),
    ]
    for request, message in bad:
        with pytest.raises(RequestError, match=message):
            server.start(PROMPTS[:2], [REQUESTS[0], request], max_new_tokens=10)
    for options in (
        {"repetition_penalty": 1.2}, {"min_length": 20}, {"no_repeat_ngram_size": 3}, {"guidance": ("regex", "[0-9]+")},
        {"num_beams": 2, "do_sample": False},
    ):
        with pytest.raises(RequestError, match=r"undo what an unbiased scheme chose|beams"):
            server.start(PROMPTS[:1], REQUESTS[:1], max_new_tokens=10, **options)
    for prompts in ([], [[]], [[5, 0]], [[5], [6]]):
        with pytest.raises(RequestError, match="malformed prompts"):
            server.start(prompts, REQUESTS[:1], max_new_tokens=10)
    assert dict(server.marker.counters.requests) == before
    while not running.done:
        running.step()
    texts = list(zip(OWNERS, PROMPTS, running.outputs, strict=True))
    lab.judge(engine(), lab.profile("gumbel"), texts, note="beside refused requests")


def test_guidance_and_penalties_go_with_redgreen(lab, long):
    server = serve(long, lab.serving("redgreen"))
    tokenizer = load_tokenizer("bundled:stories2m")
    late = {"guidance": ("regex", "[ a-z]*"), "repetition_penalty": 1.05}
    outputs = server.generate(PROMPTS[:1], REQUESTS[:1], max_new_tokens=200, **late)
    text = tokenizer.decode(outputs[0])
    assert text
    assert set(text) <= set(" abcdefghijklmnopqrstuvwxyz")
    lab.judge(engine(), lab.profile("redgreen"), [(TENANTS[0], PROMPTS[0], outputs[0])], note="guidance: [ a-z]*")


def test_models_that_are_not_the_profiles_are_refused(lab, onnx, tmp_path):
    path = lab.serving("gumbel", "refused")
    other = tmp_path / "other"
    shutil.copytree(onnx, other)
    file = other / "tokenizer.json"
    data = json.loads(file.read_text("utf-8"))
    vocabulary = data["model"]["vocab"]
    vocabulary["!"], vocabulary["#"] = vocabulary["#"], vocabulary["!"]
    file.write_text(json.dumps(data), "utf-8")
    with pytest.raises(TokenizerError, match="not the tokenizer of the profile"):
        serve(str(other), path)
    with pytest.raises(ConfigError, match="smaller vocabulary"):
        serve(_edited(onnx, tmp_path / "small", lambda config: config["model"].update(vocab_size=1000)), path)
    with pytest.raises(ConfigError, match=r"drafts tokens ahead .*speculative"):
        serve(_edited(onnx, tmp_path / "ngram", lambda config: config.update(speculative={"ngram_size": 2})), path)
    with pytest.raises(ConfigError, match=r"drafts tokens ahead .*draft"):
        serve(_edited(onnx, tmp_path / "draft", lambda config: config["model"].update(draft={"filename": "model.onnx"})), path)
    with pytest.raises(ConfigError, match=r"genai_config.json: not a model"):
        serve(str(tmp_path), path)


def test_an_unreadable_key_is_refused(lab, onnx, tmp_path):
    path = Path(lab.serving("gumbel", "keyless"))
    path.write_text(path.read_text("utf-8").replace("lab.wmk", "gone.wmk"), "utf-8")
    with pytest.raises(KeyFileError, match=r"gone\.wmk"):
        serve(onnx, str(path))


def test_an_engine_that_ignores_the_logits_does_not_start(lab, onnx, monkeypatch):
    from wmcheck.watermark.serving import onnxruntime_genai_batch as module

    real = module.og.Generator
    monkeypatch.setattr(module.og, "Generator", lambda model, params: _deafened(real(model, params)))
    with pytest.raises(ConfigError, match="does not sample from the logits"):
        serve(onnx, lab.serving("gumbel"))


def _deafened(generator):
    class Deaf:
        def set_logits(self, logits):
            pass

        def __getattr__(self, name):
            return getattr(generator, name)

    return Deaf()


def _edited(folder, copy, change):
    shutil.copytree(folder, copy)
    file = copy / "genai_config.json"
    config = json.loads(file.read_text("utf-8"))
    change(config)
    file.write_text(json.dumps(config), "utf-8")
    return str(copy)
