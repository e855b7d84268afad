"""The monitor: the numbers of a stream do not depend on how it arrives, nothing counts twice, and states give nothing away."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom

from wmcheck.watermark import Profile, SecretKey
from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError, InputError
from wmcheck.watermark.core.sequential import EProcess, item_evidence, null_experts
from wmcheck.watermark.detect import Detector
from wmcheck.watermark.embed import STORY_PROMPTS, Sampling, embed_records, load_model
from wmcheck.watermark.law import Aided, Law
from wmcheck.watermark.live import LiveDocument
from wmcheck.watermark.monitor import Monitor, Standing
from wmcheck.watermark.monitor_state import load_state, restore, save_state, state
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.scheme import SCHEMES, left_codes
from wmcheck.watermark.schemes.gumbel import Gumbel
from wmcheck.watermark.windows import Document

KEY = SecretKey(bytes((57 * i * i + 3 * i + 1) % 256 for i in range(32)))
EXAMPLES = [(name, parameters) for name in SCHEMES for parameters in SCHEMES[name].examples()]


def candidates(name="gumbel", parameters=None, tenants=("a", "b"), special=(3, 7), key=KEY):
    profile = Profile.create(name, parameters or {}, special_ids=special)
    return [Candidate.of(profile, key, tenant) for tenant in tenants]


def documents(count=25, vocabulary=40, longest=120, seed=0):
    """Short texts over few tokens, with prompts: windows, items and quotations repeat within and across them."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        ids = rng.integers(0, vocabulary, rng.integers(0, longest))
        found.append(Document(ids, int(min(len(ids), rng.integers(0, 20)))))
    return found


def fields(step):
    """Everything but what was new, which depends on the pieces."""
    return repr(replace(step, new=None))


def live(monitor, document, rng, longest=9):
    record, place = LiveDocument(monitor, document.ids[: document.prompt_length]), document.prompt_length
    while place < len(document.ids):
        step = int(rng.integers(0, longest))
        record.push(document.ids[place : place + step])
        place += step
    return record.close()


@pytest.mark.parametrize(("name", "parameters"), EXAMPLES, ids=[f"{name}-{number}" for number, (name, _) in enumerate(EXAMPLES)])
def test_batches_single_records_and_pieces_give_the_same_numbers(name, parameters):
    rng, chosen, texts = np.random.default_rng(1), candidates(name, parameters), documents()
    batch, single, pieces = (Monitor(chosen, alpha=1e-3) for _ in range(3))
    steps = batch.feed(texts)
    assert [repr(step) for step in steps] == [repr(single.feed([text])[0]) for text in texts]
    assert [fields(step) for step in steps] == [fields(live(pieces, text, rng)) for text in texts]
    assert fields(pieces.now()) == fields(steps[-1])
    assert state(batch) == state(single) == state(pieces)
    # The same items as the corpus test of `check`.
    detector = Detector(chosen)
    detector.test(texts)
    corpus = detector.corpus()
    assert steps[-1].n.tolist() == [one.n_scored for one in corpus]
    by_track = [next(group for group in batch.groups if track in group.tracks) for track in batch.tracks]
    assert [(g.repeated, g.excluded) for g in by_track] == [(one.n_repeated, one.n_excluded) for one in corpus]


def test_the_e_process_is_that_of_the_scores_in_text_order():
    chosen, texts = candidates("redgreen", {"width": 1}, ("a",)), documents(6)
    monitor = Monitor(chosen, alpha=1e-3)
    step = monitor.feed(texts)[-1]
    scheme, seen = chosen[0].profile.scheme, set()
    process = EProcess([bet.name for bet in null_experts(scheme.null())])
    for text in texts:
        scores, windows, pairs = [], set(), set()
        for place in range(1, len(text.ids)):
            window, token = int(text.ids[place - 1]), int(text.ids[place])
            new = window not in windows
            windows.add(window)
            if not new or {window, token} & {3, 7}:
                continue
            fresh = (window, token) not in pairs
            pairs.add((window, token))
            if place >= text.prompt_length and fresh and (window, token) not in seen:
                seen.add((window, token))
                row = np.array([[window]], np.uint32), np.array([token])
                scores.append(scheme.score(*row, chosen[0].prf)[0])
        process.update(item_evidence(null_experts(scheme.null()), np.array(scores, float)), [len(scores)])
    assert step.n.tolist() == [process.n]
    assert step.log10_e[0] == process.log_e / math.log(10)
    assert step.log10_p[0] == process.log_p / math.log(10)


@pytest.mark.parametrize(("name", "parameters"), [("gumbel", {"width": 1}), ("redgreen", {"width": 3, "rule": "self"}),
                                                  ("redgreen", {"width": 0}), ("tournament", {"width": 2, "layers": 12})])
def test_p_is_super_uniform_over_keys_on_repetitive_text(name, parameters):
    """300 keys on one templated stream: no key of these wrote it, and any of them may be looked at after every item."""
    texts = [text for text in documents(8, vocabulary=30) for _ in range(3)]
    monitor = Monitor(candidates(name, parameters, [f"t{number}" for number in range(300)], special=()), alpha=1e-3)
    log10_p = monitor.feed(texts)[-1].log10_p
    for level in (0.5, 0.1, 0.02):
        assert binom.sf(int((log10_p <= math.log10(level)).sum()) - 1, 300, level) > 1e-5, level
    assert not any(track.stop for track in monitor.tracks)


def test_records_fed_again_change_nothing():
    monitor, texts = Monitor(candidates(), alpha=1e-3), documents()
    first = monitor.feed(texts)[-1]
    again = monitor.feed(texts)[-1]
    assert (again.new == 0).all()
    assert again.record == 2 * len(texts)
    assert (again.n == first.n).all()
    assert (again.log10_e == first.log10_e).all()
    assert (again.log10_p == first.log10_p).all()


@pytest.fixture(scope="module")
def language():
    torch.set_num_threads(1)
    return load_model("bundled:stories2m", device="cpu")


@pytest.fixture(scope="module")
def marked(language):
    """Profile and records of the bundled model: 4 ordinary ones, then 8 under the key of tenant a."""
    profile = Profile.create("gumbel", {"width": 2}, tokenizer=language.tokenizer)
    sampling, prompts = Sampling(max_new_tokens=50, ignore_end=True), list(STORY_PROMPTS)
    records = list(embed_records(language, prompts[:4], sampling))
    records += embed_records(language, prompts, sampling, profile=profile, keys=[KEY.tenant("a")] * 8, first=4)
    return profile, [
        Document(np.array(one["prompt_tokens"] + one["tokens"]), len(one["prompt_tokens"])) for one in records
    ]


def test_marked_text_crosses_under_its_key_alone_and_the_stop_is_the_first_crossing(marked):
    profile, texts = marked
    chosen = [Candidate.of(profile, KEY, tenant) for tenant in ("a", "b", "c")]
    monitor = Monitor(chosen, alpha=1e-5)
    steps = monitor.feed(texts)
    assert [track.standing for track in monitor.tracks] == [Standing.DETECTED, Standing.CONTINUE, Standing.CONTINUE]
    stop = monitor.tracks[0].stop
    assert stop.record in (5, 6)
    assert [bool(step.detected[0]) for step in steps] == [step.record >= stop.record for step in steps]
    # Token by token: e reaches 3 / alpha at that item and not before.
    slow, reached = Monitor(chosen, alpha=1e-5), None
    for text in texts[: stop.record]:
        record = LiveDocument(slow, text.ids[: text.prompt_length])
        for place in range(text.prompt_length, len(text.ids)):
            step = record.push(text.ids[place : place + 1])
            assert step.detected[0] == (slow.tracks[0].stop is not None)
            if step.detected[0] and reached is None:
                reached = step
                assert step.log10_e[0] >= math.log10(3e5)
            elif reached is None:
                assert step.log10_p_adjusted[0] > -5
        record.close()
    assert (reached.record, int(reached.n[0])) == (stop.record, stop.item)
    assert slow.tracks[0].stop == stop
    # The average over the keys is beyond doubt too, and pays for the other two.
    assert steps[-1].any_log10_e == pytest.approx(steps[-1].log10_e[0] - math.log10(3), abs=1e-6)


def test_saved_and_resumed_is_as_if_nothing_had_happened(marked, tmp_path):
    profile, texts = marked
    chosen = [Candidate.of(profile, KEY, tenant) for tenant in ("a", "b")]
    whole, path = Monitor(chosen, alpha=1e-5), tmp_path / "state.json"
    steps = whole.feed(texts)
    first = Monitor(chosen, alpha=1e-5)
    assert not load_state(first, str(path))
    first.feed(texts[:6])
    save_state(first, str(path))
    second = Monitor(chosen, alpha=1e-5)
    assert load_state(second, str(path))
    assert [repr(step) for step in second.feed(texts[6:])] == [repr(step) for step in steps[6:]]
    assert state(second) == state(whole)
    assert second.tracks[0].stop == whole.tracks[0].stop is not None


@pytest.mark.parametrize(("name", "parameters"), [("gumbel", {"width": 1}), ("redgreen", {"width": 4, "rule": "min"})])
def test_a_state_shows_neither_key_nor_text(name, parameters, tmp_path):
    chosen, texts = candidates(name, parameters, special=()), documents()
    monitor, path = Monitor(chosen, alpha=1e-3), tmp_path / "state.json"
    monitor.feed(texts)
    save_state(monitor, str(path))
    data = path.read_text()
    for candidate in chosen:
        assert candidate.key.reveal()[5:] not in data
        assert candidate.key.commitment in data
        for label in (candidate.profile.scheme.label(), "monitor/1/seen"):
            context, token = PrfKey.derive(candidate.key, label).secrets()
            assert not any(part in data for key in (context, token) for part in (key.hex(), base64.b64encode(key).decode()))
    stored = np.concatenate([np.frombuffer(base64.b64decode(group["seen"]), "<u8") for group in json.loads(data)["groups"]])
    assert len(stored) == sum(group.tracks[0].process.n for group in monitor.groups)
    # No plain code of any pair of tokens, which could be inverted, and none of the keyed digests of min hash.
    scheme = chosen[0].profile.scheme
    width = scheme.width
    windows = np.array([text.ids[place : place + width] for text in texts for place in range(len(text.ids) - width)])
    tokens = np.concatenate([text.ids[scheme.width :] for text in texts])
    plain = [left_codes(windows.astype(np.uint32), tokens)]
    plain += [scheme.codes(windows.astype(np.uint32), tokens, candidate.prf) for candidate in chosen]
    assert not np.isin(np.concatenate(plain), stored).any()


def test_states_of_another_stream_or_hand_are_refused(tmp_path):
    path = tmp_path / "state.json"
    monitor = Monitor(candidates(), alpha=1e-3)
    monitor.feed(documents())
    held = state(monitor)
    other_key = SecretKey(bytes((91 * i * i + 5 * i + 3) % 256 for i in range(32)))
    for other, what in (
        (Monitor(candidates(), alpha=1e-4), "alpha"), (Monitor(candidates(), alpha=1e-3, family=9), "family"),
        (Monitor(candidates(key=other_key), alpha=1e-3), "candidates"),
        (Monitor(candidates(tenants=("b", "a")), alpha=1e-3), "candidates"),
        (Monitor(candidates(tenants=("a",)), alpha=1e-3, family=2), "candidates"),
        (Monitor(candidates(special=(3,)), alpha=1e-3), "candidates"),
    ):
        with pytest.raises(ConfigError, match=f"another {what}"):
            restore(other, held)
        assert other.records == 0
    forged = json.loads(json.dumps(held))
    forged["tracks"][0]["log_e_max"] = 99.0
    for bad in (forged, held | {"mac": "0" * 64}, held | {"mac": None}, held | {"records": 1}):
        with pytest.raises(InputError, match="altered"):
            restore(Monitor(candidates(), alpha=1e-3), bad)
    for text in ("", "[]", '{"schema": "wmcheck.monitor/2"}', '"x"', "[" * 100_000):
        path.write_text(text)
        with pytest.raises(InputError, match="not a monitor's state"):
            load_state(Monitor(candidates(), alpha=1e-3), str(path))


def test_holm_names_a_second_key_at_a_lower_bar():
    """Two of three candidates near the bar: once one is named, the other needs 2 / alpha in place of 3 / alpha."""
    monitor = Monitor(candidates(tenants=("a", "b", "c")), alpha=0.01)
    first, second = math.log(1000.0), math.log(250.0)
    bets = [np.full((1, 3), value) for value in (first, second, 0.0)]
    for track in monitor.tracks:
        track.process = EProcess(track.process.names, shares=())
    monitor.begin()
    step = monitor.advance(bets, [np.array([0, 1])] * 3, closing=True)[0]
    assert step.detected.tolist() == [True, True, False]
    assert step.best() == 0
    assert 10 ** step.log10_p_adjusted == pytest.approx([3 / 1000, 2 / 250, 1.0])
    assert [track.stop and (track.stop.record, track.stop.item) for track in monitor.tracks] == [(1, 1), (1, 1), None]
    assert 10**step.any_log10_e == pytest.approx((1000 + 250 + 1) / 3)
    larger = Monitor(candidates(tenants=("a", "b", "c")), alpha=0.01, family=10)
    assert 10 ** larger.now().any_log10_e == pytest.approx(0.3)


def test_the_average_over_candidates_is_given_only_where_it_is_an_e_process():
    one = Candidate.of(Profile.create("redgreen", {"width": 2}), KEY, "a")
    overlapping = Candidate.of(Profile.create("redgreen", {"width": 2, "window_rule": False}), KEY, "a")
    other_gamma = Candidate.of(Profile.create("redgreen", {"width": 2, "green": 128}), KEY, "a")
    other_key = Candidate.of(overlapping.profile, KEY, "b")
    assert Monitor([one, overlapping], alpha=0.01).feed(documents(3))[-1].any_log10_e is None
    for other in (other_gamma, other_key):
        step = Monitor([one, other], alpha=0.01).feed(documents(3))[-1]
        assert 10**step.any_log10_e == pytest.approx((10**step.log10_e).mean())


def test_predictions_bet_beside_the_key_and_count_each_context_once(monkeypatch):
    calls = []

    def aided(self, windows, tokens, law, key):
        calls.append((windows, tokens, law.candidates[:, 0].copy()))
        return Aided(np.full((len(tokens), 2), 0.25), ("x", "y"))

    monkeypatch.setattr(Gumbel, "aided", aided, raising=False)
    chosen = candidates("gumbel", {"width": 1}, ("a",), special=())
    texts = [replace(text, law=Law.unknown(text.ids)) for text in documents(5, longest=60)]
    monitor = Monitor(chosen, alpha=0.01, aided=True)
    assert monitor.tracks[0].process.names[-2:] == ("x", "y")
    monitor.feed(texts)
    windows, tokens, first = calls[-1]
    assert (tokens == first).all()
    assert len(np.unique(windows)) == len(windows) == monitor.tracks[0].process.n
    assert monitor.tracks[0].process.products["x"] == pytest.approx(0.25 * len(windows))
    # Half of the prior is on the key alone; without predictions the other half bets nothing.
    plain = Monitor(chosen, alpha=0.01, aided=True)
    plain.feed([replace(text, law=None) for text in texts])
    assert plain.tracks[0].process.products["y"] == 0.0
    assert np.exp(plain.tracks[0].process.to_dict()["log_prior"]) == pytest.approx([1 / 6] * 3 + [1 / 4] * 2)


def test_a_record_is_one_thing_at_a_time():
    monitor = Monitor(candidates(), alpha=0.01)
    record = LiveDocument(monitor, np.arange(20))
    record.push(np.arange(20, 30))
    for call in (lambda: monitor.feed(documents(1)), lambda: LiveDocument(monitor), lambda: state(monitor)):
        with pytest.raises(RuntimeError, match="middle"):
            call()
    assert record.close().record == 1
    with pytest.raises(RuntimeError, match="closed"):
        record.push(np.arange(3))
    monitor.feed(documents(1))


def test_bad_input_is_refused_before_anything_moves():
    monitor = Monitor(candidates(), alpha=0.01)
    with pytest.raises(InputError):
        monitor.feed([*documents(2), Document(np.array([-1]))])
    assert monitor.records == monitor.tracks[0].process.n == len(monitor.groups[0].seen.masked()) == 0
    with pytest.raises(ConfigError, match="no candidates"):
        Monitor([], alpha=0.01)
    with pytest.raises(ConfigError, match="smaller"):
        Monitor(candidates(), alpha=0.01, family=1)
    with pytest.raises(ConfigError, match="alpha"):
        Monitor(candidates(), alpha=1.0)


def test_too_short_follows_the_plan_of_the_profile():
    monitor = Monitor(candidates("redgreen", {"width": 2}, ("a",)), alpha=1e-5)
    track = monitor.tracks[0]
    assert track.too_short(math.log(1e-5))
    track.process.n = 2000
    assert not track.too_short(math.log(1e-5))
