"""Predictions on candidate sets."""

from __future__ import annotations

import numpy as np
import pytest

from wmcheck.watermark.law import FLOOR, Law

NAN, NEVER = float("nan"), -np.inf


def law(tokens, others, log_p, log_p_others, **options):
    return Law.of(
        np.array(tokens), np.array(others), np.array(log_p, float), np.array(log_p_others, float), **options
    )


def test_the_token_comes_first_and_is_counted_once():
    found = law([7], [[3, 7, -1]], np.log([0.5]), [[np.log(0.25), np.log(0.5), NAN]])
    assert found.candidates.tolist() == [[7, 3, -1, -1]]
    assert np.exp(found.log_p)[0] == pytest.approx([2 / 3, 1 / 3, 0.0, 0.0])


def test_entropy_and_collision_are_those_of_the_set_unless_given():
    half = law([1], [[2]], np.log([0.5]), np.log([[0.5]]))
    assert (half.entropy[0], half.collision[0]) == pytest.approx((np.log(2), 0.5))
    told = law([1], [[2]], np.log([0.5]), np.log([[0.5]]), entropy=np.array([3.0]), collision=np.array([0.1]))
    assert (told.entropy[0], told.collision[0]) == (3.0, 0.1)


def test_an_impossible_token_gets_the_floor():
    found = law([1, 1], [[2], [2]], [NEVER, NAN], [[0.0], [0.0]])
    assert np.exp(found.log_p[:, 0]) == pytest.approx([FLOOR, FLOOR], rel=1e-6)


def test_without_a_prediction_only_the_token_is_left():
    for found in (
        law([4, 5], [[2], [2]], np.log([0.5, 0.5]), np.log([[0.5], [0.5]]), known=np.array([True, False])).take(np.array([1])),
        Law.unknown(np.array([5])),
    ):
        assert not found.known[0]
        assert found.candidates[0, 0] == 5
        assert (found.candidates[0, 1:] == -1).all()
        assert (found.log_p[0, 0], found.entropy[0], found.collision[0]) == (0.0, 0.0, 1.0)


def test_joined_laws_keep_their_rows_and_fill_to_one_width():
    one, two = law([1], [[2, 3]], np.log([0.5]), np.log([[0.3, 0.2]])), Law.unknown(np.array([9, 8]))
    both = Law.join([one, two])
    assert len(both) == 3
    assert both.candidates.tolist() == [[1, 2, 3], [9, -1, -1], [8, -1, -1]]
    assert np.exp(both.log_p).sum(1) == pytest.approx([1, 1, 1])
    assert both.known.tolist() == [True, False, False]
    assert both.take(np.array([2, 0])).candidates[:, 0].tolist() == [8, 1]
