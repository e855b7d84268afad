"""The statistical core of radioactivity: what is scored, under which law, and what comes out."""

import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest

from wmcheck.watermark import Profile, SecretKey, Verdict
from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.errors import ConfigError, InputError
from wmcheck.watermark.radioactivity import (
    Collected,
    ContextFilter,
    Excess,
    Occurrences,
    contrast_test,
    correct,
    marked_excess,
    pool,
    reading_test,
    reference_excess,
    sampled_items,
    sampled_test,
    weighted_test,
    with_base,
    with_decoys,
    with_dose,
)
from wmcheck.watermark.radioactivity.contexts import window_codes
from wmcheck.watermark.radioactivity.weighted import Plan
from wmcheck.watermark.windows import Document

KEY = SecretKey(bytes((31 * i * i + 7 * i + 3) % 256 for i in range(32)))
V, M = 200, 400
SCHEMES = [
    ("redgreen", {"width": 2, "green": 128}), ("redgreen", {"width": 2, "rule": "min"}), ("gumbel", {"width": 2}),
    ("tournament", {"width": 2, "layers": 6}), ("reweight", {"width": 2}), ("vllm-gumbel", {"context_width": 2}),
]


def positions(seed=0, width=2, count=M, listed=20):
    """Positions with laws over a few tokens: a suspect that knows no key."""
    rng = np.random.default_rng(seed)
    windows = rng.integers(1, V, (count, width)).astype(np.uint32)
    tokens = np.concatenate([rng.permutation(V - 1)[:listed] + 1 for _ in range(count)])
    weights = rng.dirichlet(np.full(listed, 0.3), count).ravel().clip(1e-4)
    weights /= np.repeat(weights.reshape(count, listed).sum(1), listed)
    owner = np.repeat(np.arange(count), listed)
    best = tokens[np.arange(count) * listed + weights.reshape(count, listed).argmax(1)]
    return Occurrences(windows, owner, tokens, weights, best)


def tilted(found, profile, key, dose, delta=2.0):
    """The suspect after it has learnt a red/green mark at a dose: a mixture of its law and the marked one."""
    green = profile.scheme.score(found.windows[found.owner], found.tokens, Candidate.of(profile, key).prf)
    gained = found.weights * np.exp(delta * green)
    gained /= np.bincount(found.owner, weights=gained)[found.owner]
    weights = (1 - dose) * found.weights + dose * gained
    place = np.lexsort((weights, found.owner))
    best = found.tokens[place[np.searchsorted(found.owner[place], np.arange(len(found.best)), side="right") - 1]]
    return Occurrences(found.windows, found.owner, found.tokens, weights, best)


def key_of(profile):
    return profile.scheme.draw(np.random.default_rng(5)) if profile.contract else KEY


REDGREEN = Profile.create("redgreen", {"width": 2, "green": 128})


def test_pool_averages_the_occurrences_of_a_window():
    found = Occurrences(
        np.array([[1, 2], [3, 4], [1, 2]], np.uint32), np.array([0, 0, 1, 2]), np.array([7, 8, 9, 7]),
        np.array([0.6, 0.2, 0.5, 0.2]), np.array([7, 9, 8]),
    )
    held = pool(found)
    assert held.windows.tolist() == [[1, 2], [3, 4]]
    assert held.owner.tolist() == [0, 0, 1]
    assert held.tokens.tolist() == [7, 8, 9]
    assert held.weights == pytest.approx([0.4, 0.1, 0.5])
    assert list(zip(held.read_owner.tolist(), held.read_tokens.tolist(), strict=True)) == [(0, 7), (0, 8), (1, 9)]
    first = pool(found, text="marked")
    assert first.weights == pytest.approx([0.6, 0.2, 0.5])
    assert first.read_tokens.tolist() == [7, 9]
    assert (held.tokens_read, held.n_contexts, held.text, first.text) == (3, 2, "neutral", "marked")


def test_pool_drops_special_ids_and_ids_beyond_the_vocabulary():
    found = Occurrences(
        np.array([[0, 2], [3, 4]], np.uint32), np.array([0, 1, 1, 1]), np.array([7, 0, 5, 300]),
        np.array([0.6, 0.2, 0.5, 0.2]), np.array([7, 0]),
    )
    held = pool(found, special=(0,), vocabulary=256)
    assert held.windows.tolist() == [[3, 4]]
    assert held.tokens.tolist() == [5]
    assert not len(held.read_tokens)


def test_pool_refuses_what_is_no_probability():
    for weights in ([0.0], [1.5], [math.nan]):
        with pytest.raises(InputError, match="not probabilities"):
            pool(Occurrences(np.ones((1, 2), np.uint32), np.array([0]), np.array([1]), np.array(weights), np.array([1])))
    empty = pool(Occurrences.join([], 2))
    assert weighted_test(empty, REDGREEN, KEY).log10_p == 0.0
    assert sampled_test([], REDGREEN, KEY).log10_p == 0.0


def test_collected_contexts_survive_a_file(tmp_path):
    held = pool(positions())
    held.save(tmp_path / "held.npz")
    again = Collected.load(tmp_path / "held.npz")
    assert weighted_test(again, REDGREEN, KEY) == weighted_test(held, REDGREEN, KEY)
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    for name in ("bad.npz", "none.npz"):
        with pytest.raises(InputError, match="not a file of collected contexts"):
            Collected.load(tmp_path / name)


@pytest.mark.parametrize(("name", "parameters"), SCHEMES)
def test_a_suspect_that_knows_no_key_is_not_found(name, parameters):
    profile = Profile.create(name, parameters)
    held = pool(positions())
    for test in (weighted_test, reading_test):
        result = with_decoys(test(held, profile, key_of(profile)), held, profile, count=60)
        assert -3 < result.log10_p <= 0
        assert abs(result.z) < 4
        assert result.decoys["null_holds"]
        assert abs(result.decoys["z_mean"]) < 0.6
        assert 0.4 < result.decoys["z_variance"] < 1.8
        assert not result.warnings
        assert result.decoys["log10_p_rank"] >= -math.log10(61) - 1e-12


def test_the_weighted_sum_is_what_it_says():
    held = pool(positions())
    result = weighted_test(held, REDGREEN, KEY)
    green = REDGREEN.scheme.score(held.windows[held.owner], held.tokens, Candidate.of(REDGREEN, KEY).prf)
    plain = float(held.weights @ (green - 0.5))
    sd = math.sqrt(0.25 * held.weights @ held.weights)
    # Weights are rounded to levels.
    assert result.total == pytest.approx(plain, abs=0.1 * sd)
    assert result.z == pytest.approx(plain / sd, abs=0.1)
    assert result.n_contexts == M
    assert result.n_items > 0.7 * len(held.weights)
    assert result.excess == pytest.approx(plain / held.weights.sum(), abs=0.002)


def test_a_radioactive_suspect_is_found_with_the_expected_sum():
    base, dose = positions(seed=4, count=1500), 0.3
    held = pool(tilted(base, REDGREEN, KEY, dose))
    result = weighted_test(held, REDGREEN, KEY)
    # Over keys, the mixture gains dose x (mean share of green mass in the marked law - 1/2) a context.
    rng, gain = np.random.default_rng(9), []
    for _ in range(20):
        green = rng.integers(0, 2, len(base.weights))
        mass = base.weights * np.exp(2.0 * green)
        gain.append((np.bincount(base.owner, weights=mass * green) / np.bincount(base.owner, weights=mass)).mean() - 0.5)
    expected = dose * float(np.mean(gain))
    assert result.excess == pytest.approx(expected, abs=4 * result.excess_se + 0.003)
    assert result.log10_p < -12
    assert reading_test(held, REDGREEN, KEY).log10_p < -3
    assert abs(weighted_test(held, REDGREEN, KEY, tenant="other").z) < 4
    found = with_decoys(result, held, REDGREEN, count=50)
    assert found.decoys["at_least"] == 0
    assert found.decoys["null_holds"]
    assert correct([found])[0].verdict(1e-6) is Verdict.DETECTED


def test_probabilities_say_more_than_as_many_samples():
    base = positions(seed=4, count=2000)
    learnt = tilted(base, REDGREEN, KEY, 0.2)
    rng = np.random.default_rng(1)
    drawn = [rng.choice(20, p=row / row.sum()) for row in learnt.weights.reshape(-1, 20)]
    tokens = learnt.tokens.reshape(-1, 20)[np.arange(2000), drawn]
    answers = [Document(np.array([*window, token], np.int64)) for window, token in zip(base.windows, tokens, strict=True)]
    weighted, sampled = weighted_test(pool(learnt), REDGREEN, KEY), sampled_test(answers, REDGREEN, KEY)
    assert weighted.n_contexts <= sampled.n_items <= 2000
    assert weighted.log10_p < 2 * sampled.log10_p < 0


def test_equal_seeds_of_a_reduced_window_count_once():
    profile = Profile.create("redgreen", {"width": 2, "rule": "min", "green": 128})
    found = positions(count=300, listed=10)
    windows = found.windows % 12 + 1
    held = pool(Occurrences(windows, found.owner, found.tokens, found.weights, found.best))
    plan, candidate = Plan(held, profile), Candidate.of(profile, KEY)
    scored = plan.under(candidate)
    codes = profile.scheme.codes(held.windows[held.owner], held.tokens, candidate.prf)
    assert len(scored.scores) <= len(np.unique(codes)) < len(codes)
    checked = with_decoys(weighted_test(held, profile, KEY), held, profile, count=150)
    assert checked.decoys["null_holds"]
    assert checked.decoys["z_variance"] < 1.4


def test_sampled_items_leave_out_prompts_and_repeats():
    profile = Profile.create("gumbel", {"width": 2}, special_ids=(0,))
    answers = [
        Document(np.array([5, 6, 7, 1, 2, 9, 1, 2, 9, 0, 1, 2]), 3),
        Document(np.array([8, 8, 5, 6, 3, 1, 2, 9]), 2),
    ]
    held = sampled_items(answers, profile)
    pairs = {(*map(int, held.windows[o]), int(t)) for o, t in zip(held.owner, held.tokens, strict=True)}
    # (5, 6) -> 3 goes, as a prompt holds that window; (1, 2) -> 9 counts once over both answers.
    assert pairs == {(6, 7, 1), (7, 1, 2), (1, 2, 9), (2, 9, 1), (9, 1, 2), (8, 8, 5), (8, 5, 6), (6, 3, 1), (3, 1, 2)}
    assert held.tokens_read == 9 + 6
    assert held.unit
    beside = sampled_items(answers, profile, prompts=[Document(np.array([1, 2, 4]))])
    assert not any((window == [1, 2]).all() for window in beside.windows[beside.owner])


def test_marked_answers_of_a_suspect_that_copies_its_prompt_are_not_evidence():
    profile = Profile.create("gumbel", {"width": 1})
    rng = np.random.default_rng(0)
    words = rng.integers(1, V, (4000, 2))
    scores = profile.scheme.score(words[:, :1].astype(np.uint32), words[:, 1], Candidate.of(profile, KEY).prf)
    high = words[scores > 2.0].ravel()
    answers = [Document(np.concatenate([part, part]), len(part)) for part in np.split(high, [200, 400])]
    quoted = [Document(answer.ids) for answer in answers]
    assert sampled_test(quoted, profile, KEY).log10_p < -20
    assert sampled_test(answers, profile, KEY).log10_p > -3


def test_a_filter_keeps_known_contexts(tmp_path):
    held = pool(positions())
    known = [Document(np.array([*map(int, window), 5])) for window in held.windows[:100]]
    chosen = ContextFilter.from_documents(known, REDGREEN, marked=False)
    kept = chosen.apply(held)
    assert kept.n_contexts == len(kept.windows) == 100
    assert kept.text == "neutral"
    assert set(window_codes(kept.windows)) == set(window_codes(held.windows[:100]))
    result = weighted_test(kept, REDGREEN, KEY)
    assert result.filter == f"{len(chosen)} windows of the provider's logs"
    assert result.n_contexts == 100
    chosen.save(tmp_path / "logs.npz")
    again = ContextFilter.load(tmp_path / "logs.npz")
    assert weighted_test(again.apply(held), REDGREEN, KEY) == result
    with pytest.raises(InputError, match="not a context filter"):
        ContextFilter.load(tmp_path / "none.npz")
    with pytest.raises(ConfigError, match="another width"):
        ContextFilter.from_documents(known, Profile.create("gumbel", {"width": 1})).apply(held)


def test_a_filter_of_marked_logs_is_judged_by_an_e_value():
    held = pool(positions())
    known = [Document(np.array([*map(int, window), 5])) for window in held.windows]
    kept = ContextFilter.from_documents(known, REDGREEN).apply(held)
    exact, bound = weighted_test(held, REDGREEN, KEY), weighted_test(kept, REDGREEN, KEY)
    assert kept.text == "marked"
    assert bound.log10_p >= exact.log10_p
    assert "e-value" in bound.null
    with pytest.raises(ConfigError, match="depends on its scores"):
        ContextFilter.from_documents(known, REDGREEN, top=10)
    with pytest.raises(ConfigError, match="reduces windows"):
        weighted_test(kept, Profile.create("redgreen", {"width": 2, "rule": "min"}), KEY)


def test_the_most_frequent_contexts_of_unmarked_logs():
    logs = [Document(np.array([1, 2, 3, 1, 2, 4, 5, 6]))]
    profile = Profile.create("gumbel", {"width": 2})
    chosen = ContextFilter.from_documents(logs, profile, marked=False, top=1)
    assert chosen.codes.tolist() == window_codes(np.array([[1, 2]], np.uint32)).tolist()
    assert chosen.counts.tolist() == [2]


@pytest.mark.parametrize("name", ["redgreen", "gumbel", "tournament"])
def test_the_contrast_takes_the_base_away(name):
    profile = Profile.create(name, {"width": 2})
    base = positions(seed=3, count=1000)
    moved = base.weights * np.random.default_rng(1).lognormal(0, 0.05, len(base.weights))
    moved /= np.bincount(base.owner, weights=moved)[base.owner]
    other = Occurrences(base.windows, base.owner, base.tokens, moved, base.best)
    null = contrast_test(pool(other), pool(base), profile, KEY)
    assert null.log10_p > -3
    assert abs(null.z) < 4
    assert null.test == "contrast"
    score = profile.scheme.null().reduce(
        profile.scheme.score(base.windows[base.owner], base.tokens, Candidate.of(profile, KEY).prf)
    )
    gained = other.weights * np.exp(0.05 * (score - profile.scheme.null().mean()) / math.sqrt(profile.scheme.null().variance()))
    gained /= np.bincount(base.owner, weights=gained)[base.owner]
    learnt = pool(Occurrences(base.windows, base.owner, base.tokens, gained, base.best))
    # A tilt of 5%: hopeless without the base, plain with it.
    assert contrast_test(learnt, pool(base), profile, KEY).log10_p < -20 < weighted_test(learnt, profile, KEY).log10_p
    assert contrast_test(learnt, pool(base), profile, KEY, tenant="other").log10_p > -3


def test_a_contrast_needs_common_neutral_contexts():
    held = pool(positions())
    with pytest.raises(ConfigError, match="same contexts"):
        contrast_test(held, replace(held, windows=held.windows + np.uint32(1000)), REDGREEN, KEY)
    with pytest.raises(ConfigError, match="neutral"):
        contrast_test(held, pool(positions(), text="marked"), REDGREEN, KEY)
    peer = Profile.create("vllm-gumbel", {"context_width": 2})
    with pytest.raises(ConfigError, match="both signs"):
        contrast_test(held, pool(positions()), peer, key_of(peer))


def test_doses():
    base = positions(seed=4, count=3000)
    student = {dose: weighted_test(pool(tilted(base, REDGREEN, KEY, dose)), REDGREEN, KEY) for dose in (0.1, 0.4, 1.0)}
    truth = Excess(student[1.0].excess, student[1.0].excess_se, "marked text")
    with pytest.raises(ConfigError, match="no dose"):
        with_dose(contrast_test(pool(base), pool(base), REDGREEN, KEY), truth)
    bound = with_dose(student[0.4], truth).dose
    assert 0.2 < bound["low"] < 0.4
    assert bound["high"] == 1.0
    assert bound["estimate"] is None
    data = json.loads(json.dumps(student[0.1].to_dict()))
    estimate = with_dose(student[0.4], reference_excess(data, "weighted", dose=0.1)).dose
    assert estimate["low"] < 0.4 < estimate["high"]
    assert estimate["estimate"] == pytest.approx(0.4, rel=0.4)
    with pytest.raises(InputError, match="not known"):
        reference_excess(data, "weighted")
    with pytest.raises(InputError, match="not a radioactivity result"):
        reference_excess(data, "sampled", dose=0.1)
    with pytest.raises(ConfigError, match="another test"):
        with_dose(reading_test(pool(base), REDGREEN, KEY), reference_excess(data, "weighted", dose=0.1))


def test_the_excess_of_marked_text():
    rng = np.random.default_rng(0)
    ids = rng.integers(1, V, (40, 60))
    profile = Profile.create("gumbel", {"width": 1})
    found = marked_excess([Document(row) for row in ids], profile, KEY)
    assert abs(found.mean) < 5 * found.se
    assert 0.01 < found.se < 0.05
    with pytest.raises(InputError, match="no marked text"):
        marked_excess([Document(ids[0, :1])], profile, KEY)


def test_results_have_no_truth_value_and_go_to_json():
    held = pool(positions())
    result = weighted_test(held, REDGREEN, KEY, tenant="acct", epoch="7")
    with pytest.raises(TypeError, match="verdict"):
        bool(result)
    with pytest.raises(ValueError, match="correct"):
        result.verdict(0.01)
    done = with_base(correct([result, reading_test(held, REDGREEN, KEY)])[0], result)
    data = json.loads(json.dumps(done.to_dict(alpha=1e-3)))
    assert data["schema"] == "wmcheck.radioactivity/1"
    assert data["verdict"] == "NOT_DETECTED"
    assert data["family"] == 2
    assert data["tenant"] == "acct"
    assert data["base"]["log10_p"] == result.log10_p
    assert data["layer"] == ""
    assert pickle.loads(pickle.dumps(done)) == done
    assert "wmk1_" not in repr(done)
    few = held.keep(np.arange(len(held.windows)) < 2)
    assert correct([weighted_test(few, REDGREEN, KEY)])[0].verdict(1e-6) is Verdict.INSUFFICIENT


def test_decoys_report_a_null_that_fails():
    # A contract whose scores are not the fair coins that it says.
    profile = Profile.create("redgreen", {"width": 2, "green": 128})
    held = pool(positions())
    broken = Profile.create("redgreen", {"width": 2, "green": 128})
    fair = broken.scheme.score
    broken.scheme.score = lambda windows, tokens, key: np.maximum(fair(windows, tokens, key), tokens % 3 == 0).astype(float)
    checked = with_decoys(weighted_test(held, broken, KEY), held, broken, count=40)
    assert not checked.decoys["null_holds"]
    assert "random keys" in checked.warnings[0]
    assert with_decoys(weighted_test(held, profile, KEY), held, profile, count=40).decoys["null_holds"]


def test_contexts_of_another_profile_are_refused():
    with pytest.raises(ConfigError, match="another width"):
        weighted_test(pool(positions()), Profile.create("gumbel", {"width": 4}), KEY)
    peer = Profile.create("kuditipudi-exp", {"vocabulary": 512, "length": 64})
    with pytest.raises(ConfigError, match="text as a whole"):
        weighted_test(pool(positions()), peer, peer.scheme.draw(np.random.default_rng(0)))


def test_layers_are_tested_one_by_one():
    from wmcheck.watermark.layers import layer_profile

    layered = Profile.create("layered")
    one = layer_profile(layered, "provider")
    held = pool(positions(count=2000))
    result = weighted_test(held, one, KEY)
    assert result.layer == "provider"
    assert 0.4 * 2000 < result.n_contexts < 0.6 * 2000
    assert abs(result.z) < 4
    checked = with_decoys(result, held, one, count=40)
    assert checked.decoys["null_holds"]
