"""The Rasch fit against a general optimiser, residuals and Q3 against sums written out, and what conditioning is for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from wmcheck.fingerprint.behaviour import Observation
from wmcheck.fingerprint.decision_panel import explain, panel, residual_scores, undecided
from wmcheck.fingerprint.rasch import RIDGE, VARIANCE_FLOOR, fit_rasch, q3


def answers(models=7, items=40, strata=3, seed=0, missing=0.15):
    """Shares of three samples, some of them unobserved."""
    rng = np.random.default_rng(seed)
    logit = rng.standard_normal((models, 1)) + rng.standard_normal(items)
    share = rng.binomial(3, 1 / (1 + np.exp(-logit))) / 3.0
    share[rng.random(share.shape) < missing] = np.nan
    return share, np.arange(items) % strata


def penalised_loss(parameters, share, strata, ridge):
    models, groups = len(share), strata.max() + 1
    propensity = parameters[: models * groups].reshape(models, groups)
    difficulty = parameters[models * groups :]
    logit = propensity[:, strata] + difficulty
    each = np.where(np.isnan(share), 0.0, np.logaddexp(0.0, logit) - np.nan_to_num(share) * logit)
    return each.sum() + 0.5 * ridge * (np.square(propensity).sum() + np.square(difficulty).sum())


@pytest.mark.parametrize("ridge", [RIDGE, 2.0])
def test_the_fit_minimises_the_penalised_likelihood(ridge):
    share, strata = answers()
    fit = fit_rasch(share, strata, ridge=ridge)
    found = minimize(penalised_loss, np.zeros(7 * 3 + 40), args=(share, strata, ridge), method="BFGS", options={"gtol": 1e-7})
    np.testing.assert_allclose(fit.propensity.ravel(), found.x[: 7 * 3], atol=2e-4)
    np.testing.assert_allclose(fit.difficulty, found.x[7 * 3 :], atol=2e-4)
    logit = found.x[: 7 * 3].reshape(7, 3)[:, strata] + found.x[7 * 3 :]
    np.testing.assert_allclose(fit.expected, 1 / (1 + np.exp(-logit)), atol=1e-4)


def test_residuals_are_standardised_centred_and_empty_where_nothing_was_seen():
    share, strata = answers()
    fit = fit_rasch(share, strata)
    unseen = np.isnan(share)
    assert (fit.observed == ~unseen).all()
    assert (fit.residual[unseen] == 0.0).all()
    for model, row in enumerate(share):
        seen = ~unseen[model]
        expected = fit.expected[model, seen]
        each = (row[seen] - expected) / np.sqrt(np.maximum(expected * (1 - expected), VARIANCE_FLOOR))
        np.testing.assert_allclose(fit.residual[model, seen], each - each.mean(), rtol=1e-12)


def test_models_that_always_or_never_decide_stay_finite():
    share = np.vstack([np.ones(30), np.zeros(30), answers(5, 30, 1, missing=0.0)[0]])
    fit = fit_rasch(share, np.zeros(30, np.int64))
    assert np.isfinite(fit.residual).all()
    assert fit.propensity[0, 0] > fit.propensity[2:, 0].max()
    assert fit.propensity[1, 0] < fit.propensity[2:, 0].min()


def test_nothing_to_fit_gives_empty_arrays():
    fit = fit_rasch(np.empty((3, 0)), np.empty(0, np.int64))
    assert fit.residual.shape == (3, 0)


def test_q3_is_the_correlation_of_centred_residuals():
    residual = np.random.default_rng(1).standard_normal((5, 60))
    residual -= residual.mean(1, keepdims=True)
    whole, without = q3(residual, np.ones((5, 60), bool), np.arange(60) % 4, 4)
    np.testing.assert_allclose(whole, np.corrcoef(residual), atol=1e-12)
    kept = np.arange(60) % 4 != 2
    by_hand = residual[:, kept] @ residual[:, kept].T
    norms = np.sqrt(np.diag(by_hand))
    np.testing.assert_allclose(without[2], by_hand / np.outer(norms, norms), atol=1e-12)


def test_q3_of_pairs_uses_only_what_both_answered():
    rng = np.random.default_rng(2)
    observed = rng.random((4, 50)) < 0.7
    residual = np.where(observed, rng.standard_normal((4, 50)), 0.0)
    whole, _ = q3(residual, observed, np.zeros(50, np.int64), 1)
    both = observed[0] & observed[3]
    one, other = residual[0, both], residual[3, both]
    assert whole[0, 3] == pytest.approx(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_q3_without_common_items_or_without_residual_is_nan():
    residual = np.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    observed = np.array([[True, True, False, False], [False, False, True, True], [True, True, True, True]])
    whole, without = q3(residual, observed, np.array([0, 0, 1, 1]), 2)
    assert np.isnan(whole[0, 1])
    assert np.isnan(whole[2]).all()
    assert np.isnan(without[0, 0, 0])


def test_readiness_alone_makes_no_two_models_alike():
    """Two models that decline nearly everything agree on 85% of the items and have a Q3 near zero."""
    rng = np.random.default_rng(3)
    propensity = np.concatenate([[2.5, 2.5], rng.normal(-1.0, 0.5, 28)])
    logit = propensity[:, None] + rng.standard_normal(1500)
    share = (rng.random(logit.shape) < 1 / (1 + np.exp(-logit))).astype(float)
    assert (share[0] == share[1]).mean() > 0.8
    fit = fit_rasch(share, np.zeros(1500, np.int64))
    whole, _ = q3(fit.residual, fit.observed, np.zeros(1500, np.int64), 1)
    assert abs(whole[0, 1]) < 4 / np.sqrt(1500)


def tables(share):
    return [
        {f"q{item}": Observation(f"s{item % 2}", ("yes" if value else "no",)) for item, value in enumerate(row)} for row in share
    ]


def test_a_panel_keeps_items_that_four_models_decided_on():
    rows = tables(np.zeros((5, 3)))
    del rows[0]["q1"], rows[1]["q1"]
    rows[2]["q2"] = Observation("s0", ("unrelated",))
    found = panel(rows, {"yes": True, "no": False}.get)
    assert found.items == ["q0", "q2"]
    assert np.isnan(found.shares[2, 1])
    assert found.names == ["s0"]


def test_shares_are_votes_over_samples():
    rows = tables(np.zeros((4, 1)))
    rows[0]["q0"] = Observation("s0", ("yes", "no", "yes", "unrelated"))
    assert panel(rows, {"yes": True, "no": False}.get).shares[0, 0] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("yes", "reason"), [(0, "no item"), (9, "at least 10 are needed"), (52, "at least 10 others"), (30, "")])
def test_models_that_hardly_decide_are_left_out_with_the_reason(yes, reason):
    row = np.full((4, 60), np.nan) if not yes else np.array([np.arange(60) < yes] + [np.arange(60) % 2 == 0] * 3)
    rows = tables(row) if yes else [{}, *tables(np.array([np.arange(60) % 2 == 0] * 3))]
    found = undecided(panel(rows, {"yes": True, "no": False}.get), what="said yes")
    assert reason in found.get(0, "") if reason else 0 not in found


def test_explained_shares_add_up_to_the_score():
    rng = np.random.default_rng(4)
    panels = [panel(tables(rng.random((8, 80)) < 0.4), {"yes": True, "no": False}.get) for _ in range(2)]
    scores = residual_scores(panels, excluded={3: "no"}, least=10)
    parts = explain(panels, {3: "no"}, 5, 1)
    assert sum(part.value for part in parts) == pytest.approx(scores.raw[5, 1])
    assert explain(panels, {3: "no"}, 3, 1) == []
    assert np.isnan(scores.raw[3]).all()
