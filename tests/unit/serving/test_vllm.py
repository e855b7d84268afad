"""The vLLM adapter over stand-ins: every way in which a watermark gets lost there, without vLLM."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wmcheck.watermark import Profile, SecretKey, detect_ids
from wmcheck.watermark.bundled import bundled_path
from wmcheck.watermark.core.errors import ConfigError, RequestError
from wmcheck.watermark.key_sources import write_key_file
from wmcheck.watermark.serving.sessions import ContextError
from wmcheck.watermark.tokenizer import load_tokenizer

sys.path.append(str(Path(__file__).parents[2] / "support"))
from engine_standins import BatchUpdate, MoveDirectionality, SamplingParams, install_vllm, vllm_config

MODEL = str(bundled_path("bundled:stories2m"))
VOCABULARY = 1024
DEVICE = torch.device("cpu")


@pytest.fixture
def adapter(monkeypatch, tmp_path):
    torch.set_num_threads(1)
    key = SecretKey.new()
    write_key_file(key, str(tmp_path / "lab.wmk"))
    monkeypatch.setenv("WMCHECK_SERVING", str(tmp_path / "serving.toml"))
    monkeypatch.setenv("WMCHECK_SERVING_RUN", "this server")
    module = install_vllm(monkeypatch)
    module.folder, module.key = tmp_path, key
    yield module
    module._server.cache_clear()
    module._MARKED.clear()


def deploy(adapter, scheme="redgreen", *, lines=(), **parameters):
    profile = Profile.create(scheme, parameters, tokenizer=load_tokenizer(MODEL), keys=(adapter.key,))
    profile.save(adapter.folder / "p.json")
    head = ['schema = "wmcheck.serving/1"', 'profile = "p.json"', 'key = "file:lab.wmk"', 'tenants = ["a", "b", "c"]']
    path = adapter.folder / "serving.toml"
    path.write_text("\n".join([*head, 'opt_out = ["a"]', 'state = "state"', *lines]), "utf-8")
    adapter._server.cache_clear()
    return profile


def started(adapter, **options):
    return adapter.WatermarkLogitsProcessor(vllm_config(MODEL, **options), DEVICE, False)


def params(tenant=None, **more):
    fields = {"wmcheck_tenant": tenant} if tenant else {}
    opt_out = more.pop("opt_out", None)
    return SamplingParams(extra_args=fields | ({"wmcheck_opt_out": opt_out} if opt_out is not None else {}), **more)


def logits(rows, seed=0):
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed))


class Batch:
    """An engine's batch: rows of requests whose tokens are the most likely ones of marked logits."""

    def __init__(self, processor):
        self.processor, self.rows, self.turn = processor, {}, 0

    def update(self, *, removed=(), added=(), moved=()):
        """``added``: (row, params, prompt, output)."""
        self.processor.update_state(BatchUpdate(8, list(removed), list(added), list(moved)))

    def step(self, outputs):
        """One token for each row of ``outputs``: row -> list of ids."""
        self.turn += 1
        out = self.processor.apply(logits(8, self.turn))
        for row, output in outputs.items():
            output.append(int(out[row].softmax(-1).multinomial(1, generator=torch.Generator().manual_seed(self.turn * 8 + row))))


def p_of(adapter, profile, tenant, prompt, output):
    return detect_ids([*prompt, *output], profile, adapter.key.tenant(tenant), prompt_length=len(prompt)).log10_p


@pytest.mark.parametrize("scheme", ["redgreen", "gumbel", "tournament", "reweight"])
def test_tenants_opt_out_moves_and_preemption_in_one_batch(adapter, scheme):
    profile = deploy(adapter, scheme)
    batch, prompt = Batch(started(adapter)), [20, 30, 40, 50, 60]
    a, b, out = [], [], []
    batch.update(added=[(0, params("a"), prompt, a), (1, params("b"), prompt, b), (2, params("a", opt_out=True), prompt, out)])
    for _ in range(30):
        batch.step({0: a, 1: b, 2: out})
    # Row 0 and 1 change places; then row 1 (now a) is thrown out and comes back elsewhere with its output as history, while a new
    # request takes its row in the same step: such a row is not listed as removed.
    batch.update(moved=[(0, 1, MoveDirectionality.SWAP)])
    for _ in range(20):
        batch.step({1: a, 0: b, 2: out})
    again, new = list(a), []
    batch.update(added=[(1, params("c"), prompt, new), (5, params("a"), prompt, again)])
    for _ in range(30):
        batch.step({5: again, 0: b, 2: out, 1: new})
    batch.update(removed=[2], moved=[(5, 2, MoveDirectionality.UNIDIRECTIONAL)])
    for _ in range(50):
        batch.step({2: again, 0: b, 1: new})
    for tenant, output in (("a", again), ("b", b), ("c", new), (None, out)):
        for one in "abc":
            value = p_of(adapter, profile, one, prompt, output)
            assert (value < -6) == (one == tenant), (tenant, one, value)


def test_a_row_that_opted_out_is_untouched_bit_for_bit(adapter):
    deploy(adapter, "gumbel")
    processor = started(adapter)
    processor.update_state(BatchUpdate(3, [], [(1, params("a", opt_out="1"), [1, 2, 3, 4, 5], [])], []))
    before = logits(3)
    assert torch.equal(processor.apply(before.clone()), before)


def test_loaded_by_flag_and_entry_point_marks_once(adapter):
    deploy(adapter, "redgreen", delta=2.0)
    config = vllm_config(MODEL, flags=[adapter.NAME])
    first, second = (adapter.WatermarkLogitsProcessor(config, DEVICE, False) for _ in range(2))
    for one in (first, second):
        one.update_state(BatchUpdate(1, [], [(0, params("a"), [5, 6, 7], [])], []))
    before = logits(1)
    once = first.apply(before.clone())
    gained = once - before
    assert gained.max() == pytest.approx(2.0, abs=1e-5)
    assert torch.equal(second.apply(once.clone()), once)
    assert second.is_argmax_invariant()


def test_placeholders_of_asynchronous_scheduling_stop_the_engine(adapter):
    """vLLM #52461: a plug-in that takes -1 for a token marks in a wrong context, and nothing is ever detected."""
    deploy(adapter, "redgreen")
    processor, output = started(adapter), [7, -1]
    processor.update_state(BatchUpdate(1, [], [(0, params("a"), [5, 6, 7], output)], []))
    with pytest.raises(ContextError, match="does not know the last token"):
        processor.apply(logits(1))
    with pytest.raises(ConfigError, match=r"asynchronous scheduling.*the entry point alone"):
        started(adapter, ahead=True)
    assert started(adapter, ahead=True, flags=[adapter.NAME]) is not None


def test_no_heartbeat_no_answer(adapter):
    """Model Runner V1 leaves plug-ins out under speculative decoding: no process writes, so that every request is refused."""
    deploy(adapter, "redgreen")
    check = adapter.WatermarkLogitsProcessor.validate_params
    with pytest.raises(RequestError, match="the engine does not run the watermark processor"):
        check(params("a"))
    processor = started(adapter)
    check(params("a"))
    (path,) = (adapter.folder / "state").glob("*.json")
    data = json.loads(path.read_text())
    for wrong in ({"run": "another server"}, {"pid": 2**22 + 1}):
        path.write_text(json.dumps(data | wrong))
        with pytest.raises(RequestError, match="does not run"):
            check(params("a"))
    deploy(adapter, "redgreen", lines=["require_heartbeat = false"])
    check(params("a"))
    assert processor is not None


def test_requests_that_are_refused(adapter):
    deploy(adapter, "redgreen")
    started(adapter)
    check = adapter.WatermarkLogitsProcessor.validate_params
    for bad, match in (
        (params("z"), "unknown tenant"), (params(), "names no tenant"), (params("b", opt_out=True), "opt out"),
        (SamplingParams(extra_args={"wmcheck_tenant": ["a"]}), "malformed"), (SamplingParams(extra_args=None), "names no tenant"),
    ):
        with pytest.raises(ValueError, match=match):
            check(bad)
    check(params("a", opt_out=True))


def test_without_a_serving_file(adapter, monkeypatch, caplog):
    monkeypatch.delenv("WMCHECK_SERVING")
    idle = started(adapter)
    assert "nothing is marked" in caplog.text
    before = logits(2)
    idle.update_state(BatchUpdate(1, [], [(0, SamplingParams(), [1], [])], []))
    assert torch.equal(idle.apply(before.clone()), before)
    assert not idle.add_request(0, SamplingParams())
    with pytest.raises(ConfigError, match="the watermark has no serving file"):
        started(adapter, flags=[adapter.NAME])
    with pytest.raises(RequestError, match="this server marks nothing"):
        adapter.WatermarkLogitsProcessor.validate_params(params("a"))
    adapter.WatermarkLogitsProcessor.validate_params(SamplingParams())


def test_configurations_that_are_refused_at_start(adapter):
    deploy(adapter, "redgreen")
    with pytest.raises(ConfigError, match="two watermarks in one text"):
        started(adapter, watermark_config={"algorithm": "gumbel"})
    with pytest.raises(ConfigError, match="smaller vocabulary"):
        started(adapter, vocabulary=512)
    (adapter.folder / "serving.toml").write_text("schema = 3")
    with pytest.raises(ConfigError, match="not a serving file"):
        started(adapter)


def test_greedy_requests(adapter):
    """A bias marks greedy text; noise that chooses does not, and its processor is not even called for it."""
    deploy(adapter, "redgreen")
    assert not started(adapter).is_argmax_invariant()
    deploy(adapter, "gumbel")
    processor = started(adapter)
    assert processor.is_argmax_invariant()
    processor.update_state(BatchUpdate(1, [], [(0, params("a", temperature=0.0), [1, 2, 3, 4, 5], [])], []))
    before = logits(1)
    assert torch.equal(processor.apply(before.clone()), before)
    assert processor._impl.marker.counters.tokens["greedy"] == 1


class _Slots:
    """Model Runner V2's buffers, as its processors see them, and one batch of rows."""

    def __init__(self, rows):
        self.device = DEVICE
        self.tokens = torch.zeros((16, 512), dtype=torch.int32)
        self.lengths = torch.zeros(16, dtype=torch.int32)
        self.rows = rows
        from types import SimpleNamespace

        self.all_token_ids, self.total_len = SimpleNamespace(gpu=self.tokens), SimpleNamespace(gpu=self.lengths)

    def context(self, drafts=None):
        """The context of a step; ``drafts``: slot -> drafted ids, each a further row of its request."""
        from types import SimpleNamespace

        import numpy as np

        slots, places, inputs, local = [], [], [], []
        for slot, ids in self.rows.items():
            self.tokens[slot, : len(ids)] = torch.tensor(ids, dtype=torch.int32)
            self.lengths[slot] = len(ids)
            for place, token in enumerate([ids[-1], *(drafts or {}).get(slot, [])]):
                slots.append(slot)
                places.append(len(ids) - 1 + place)
                inputs.append(token)
                local.append(place)
        return SimpleNamespace(
            expanded_idx_mapping=torch.tensor(slots), idx_mapping=torch.tensor(list(self.rows)),
            idx_mapping_np=np.array(list(self.rows)), expanded_local_pos=torch.tensor(local), input_ids=torch.tensor(inputs),
            pos=torch.tensor(places), seq_lens_upper_bound_np=np.array([len(ids) + 4 for ids in self.rows.values()]),
        )


@pytest.mark.parametrize("scheme", ["redgreen", "gumbel", "tournament"])
def test_model_runner_v2_marks_what_v1_marks(adapter, scheme):
    """Same ids, same logits: both runners give the same law, at every length, freshness included."""
    deploy(adapter, scheme, **({"width": 2} if scheme == "redgreen" else {}))
    rng = torch.Generator().manual_seed(5)
    v1 = started(adapter)
    rows = {3: [9, 8, 9, 8], 7: [4, 4, 0, 5, 6, 7, 8], 1: [11], 5: [1, 2, 3, 4, 5]}
    slots = _Slots(rows)
    adapter._MARKED.clear()
    v2 = adapter.WatermarkLogitsProcessor(vllm_config(MODEL), slots)
    asked = {3: params("a", temperature=0.7), 7: params("b"), 1: params("a", opt_out=True), 5: params("c", temperature=1.3)}
    added = []
    for row, slot in enumerate(rows):
        assert v2.add_request(slot, asked[slot]) == (slot != 1)
        added.append((row, asked[slot], [], rows[slot]))
    v1.update_state(BatchUpdate(4, [], added, []))
    heat = torch.tensor([[one.temperature] for one in asked.values()])
    for turn in range(25):
        plain = logits(4, turn)
        # V1 calls unbiased schemes after the temperature.
        before = plain / heat if v1.is_argmax_invariant() else plain
        one = v1.apply(before.clone())
        two = v2.apply(plain.clone(), slots.context())
        torch.testing.assert_close((one if v1.is_argmax_invariant() else one / heat).softmax(-1), (two / heat).softmax(-1))
        v1.update_state(None)
        for ids in rows.values():
            ids.append(int(torch.randint(1, 6 if turn % 2 else 900, (1,), generator=rng)))
    assert v2._impl.marker.counters.tokens["marked"] >= 0


def test_model_runner_v2_marks_drafts_in_their_own_contexts(adapter):
    deploy(adapter, "redgreen", width=2)
    rows = {2: [9, 8, 7, 6], 4: [4, 5, 6]}
    slots = _Slots(rows)
    v2 = adapter.WatermarkLogitsProcessor(vllm_config(MODEL), slots)
    for slot in rows:
        v2.add_request(slot, params("a"))
    # The drafts 9, 8 lead back to a window that occurred: 9, 8 is not marked again.
    drafts = {2: [9, 8, 3]}
    plain = logits(5)
    found = v2.apply(plain.clone(), slots.context(drafts)) - plain
    for row, ids in enumerate([[9, 8, 7, 6], [9, 8, 7, 6, 9], [9, 8, 7, 6, 9, 8], [9, 8, 7, 6, 9, 8, 3], [4, 5, 6]]):
        alone = _Slots({0: ids})
        v2._impl._states = alone
        v2.add_request(0, params("a"))
        expected = v2.apply(plain[row : row + 1].clone(), alone.context()) - plain[row : row + 1]
        assert torch.equal(found[row : row + 1], expected), row
    assert not found[2].any()
    assert found[3].any()


def test_no_secret_in_what_it_writes_and_shows(adapter, caplog):
    deploy(adapter, "redgreen")
    processor = started(adapter)
    processor.update_state(BatchUpdate(1, [], [(0, params("a"), [5, 6, 7], [])], []))
    processor.apply(logits(1))
    processor._impl.marker.counters.write()
    (path,) = (adapter.folder / "state").glob("*.json")
    shown = path.read_text() + caplog.text + repr(processor) + repr(processor._impl.marker.deployment)
    assert adapter.key.reveal()[5:25] not in shown
    assert oct(os.stat(path.parent).st_mode & 0o777) == "0o700"


def test_importing_the_adapter_needs_vllm():
    code = (
        "import sys; sys.modules['vllm'] = None\n"
        "try:\n import wmcheck.watermark.serving.vllm\nexcept Exception as e: print(e, e.hint)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "is not installed" in done.stdout
    assert "pip install vllm" in done.stdout
