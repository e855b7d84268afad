"""Normalisation: which models a pair is measured against, and errors over questions."""

from __future__ import annotations

import numpy as np
import pytest

from wmcheck.fingerprint.behaviour import Observation
from wmcheck.fingerprint.member import Member
from wmcheck.fingerprint.scores import LEAST_REFERENCES, half, item_error, jackknife_error, score, unrelated
from wmcheck.fingerprint.signature import BLOCKS, block_of
from wmcheck.fingerprint.signatures.tool_choice import ToolChoice


def tables(models=14, items=120, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {f"q{item}#tool": Observation("s", (str(rng.integers(0, 3)),)) for item in range(items)} for _ in range(models)
    ]


def members(models=14, **channels):
    return [Member(name=f"m{n}", vendor=f"v{n}", channel=channels.get(f"m{n}", "")) for n in range(models)]


def test_z_is_the_mean_of_both_sides_by_hand():
    group = members()
    group[1] = Member(name="m1", vendor="v0")
    rows = tables()
    found = score("tool_choice", rows, group, unrelated(group))
    raw = ToolChoice().score(rows).raw
    np.testing.assert_array_equal(found.raw, raw)
    others = [m for m in range(14) if m not in (0, 1)]
    side0 = (raw[0, 1] - raw[0, others].mean()) / raw[0, others].std(ddof=1)
    side1 = (raw[0, 1] - raw[1, others].mean()) / raw[1, others].std(ddof=1)
    assert found.z[0, 1] == pytest.approx(0.5 * (side0 + side1))
    assert found.one_sided[0, 1] == pytest.approx(side1)
    np.testing.assert_allclose(found.z, found.z.T)
    assert np.isnan(np.diag(found.z)).all()


def test_references_are_those_on_the_channel_of_the_other_model():
    near = {f"m{n}": "native" for n in range(9)}
    group = members(**near)
    rows = tables()
    found = score("tool_choice", rows, group, unrelated(group))
    raw = found.raw
    native = [m for m in range(9) if m != 3]
    assert found.one_sided[0, 3] == pytest.approx((raw[0, 3] - raw[3, native].mean()) / raw[3, native].std(ddof=1))
    everyone = [m for m in range(14) if m != 3]
    assert found.one_sided[12, 3] == pytest.approx((raw[12, 3] - raw[3, everyone].mean()) / raw[3, everyone].std(ddof=1))


def test_too_few_references_give_no_score():
    group = members(LEAST_REFERENCES)
    found = score("tool_choice", tables(LEAST_REFERENCES), group, unrelated(group))
    assert np.isnan(found.z).all()


def test_identical_models_do_not_divide_by_zero():
    rows = [tables(1)[0] for _ in range(12)]
    group = members(12)
    assert np.isnan(score("tool_choice", rows, group, unrelated(group)).z).all()


def test_excluded_models_normalise_nobody():
    rows = [*tables(13), {f"q{item}#tool": Observation("s", ("0",)) for item in range(10)}]
    group = members()
    found = score("tool_choice", rows, group, unrelated(group))
    alone = score("tool_choice", rows[:13], group[:13], unrelated(group[:13]))
    assert 13 in found.excluded
    assert np.isnan(found.z[13]).all()
    assert np.isfinite(alone.z[0, 1])
    assert np.isfinite(found.z[0, 1])


def test_the_error_over_questions_is_the_jackknife_of_the_blocks_left_out():
    """Blocks left out one at a time, the whole score computed anew for each."""
    rows, group = tables(), members()
    found = score("tool_choice", rows, group, unrelated(group))
    estimates = []
    for block in range(BLOCKS):
        left = [{item: seen for item, seen in row.items() if block_of(item) != block} for row in rows]
        estimates.append(score("tool_choice", left, group, unrelated(group)).z[2, 5])
    mean = np.mean(estimates)
    by_hand = np.sqrt((BLOCKS - 1) / BLOCKS * sum((value - mean) ** 2 for value in estimates))
    assert item_error(found, 2, 5) == pytest.approx(by_hand)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).standard_normal(20)
    left_out = (values.sum() - values) / 19
    assert jackknife_error(left_out) == pytest.approx(values.std(ddof=1) / np.sqrt(20))
    assert np.isnan(jackknife_error(np.array([1.0, np.nan])))


def test_unrelated_is_symmetric_and_leaves_out_the_model_itself():
    group = [*members(4), Member(name="m4", vendor="v0")]
    mask = unrelated(group)
    assert (mask == mask.T).all()
    assert not mask.diagonal().any()
    assert not mask[0, 4]
    assert mask[0, 1]
    assert unrelated([]).shape == (0, 0)


def test_halves_are_disjoint_whole_questions():
    rows = [{"q1#a": Observation("s", ("x",)), "q1#b": Observation("s", ("y",)), **tables(1)[0]}]
    first, second = half(rows, 0)[0], half(rows, 1)[0]
    assert not first.keys() & second.keys()
    assert first.keys() | second.keys() == rows[0].keys()
    assert ("q1#a" in first) == ("q1#b" in first)
