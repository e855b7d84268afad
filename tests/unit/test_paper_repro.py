"""The formulas and steps behind the scripts of published claims, at small sizes; the scripts print their full tables."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, stats

from wmcheck.watermark.core.nulls import BernoulliNull, ExponentialNull

sys.path.append(str(Path(__file__).parents[1] / "support"))
from script_modules import script_modules

FOLDER = Path(__file__).parents[2] / "paper_repro"
MODULES = (
    "claim", "exact_tails", "kgw_spike_entropy", "kuditipudi_edits", "li_efficiency", "synthid_expected_g", "three_bricks_fpr",
)


@pytest.fixture(scope="module")
def repro():
    """The scripts as modules."""
    with script_modules(FOLDER, MODULES) as loaded:
        yield loaded


def test_a_claim_out_of_tolerance_fails_and_is_written(repro, tmp_path, capsys):
    args = repro.claim.options("Claim: two is two.\n").parse_args(["--out", str(tmp_path / "t.md")])
    assert repro.claim.finish(args, "Claim: two is two.\n", [repro.claim.within("two", 2, 2.1, 0.2)]) == 0
    assert repro.claim.finish(args, "Claim: two is two.\n", [repro.claim.within("two", 2, 2.3, 0.2)]) == 1
    assert "| two | 2 +- 0.2 | 2.3 | NO |" in (tmp_path / "t.md").read_text()
    assert capsys.readouterr().out.startswith("two is two.")
    assert repro.claim.at_least("x", 1, 0.9).holds is False
    assert repro.claim.at_most("x", 1, 0.9).holds is True


def test_the_paper_s_example_of_the_green_count(repro):
    """Kirchenbauer et al. 2023: S* = .807 at gamma .5, delta 2 gives 142.2 of 200, and a deviation of at most 6.41."""
    q = repro.kgw_spike_entropy.bound(0.807)
    assert 200 * q == pytest.approx(142.2, abs=0.05)
    assert math.sqrt(200 * q * (1 - q)) == pytest.approx(6.41, abs=0.01)


def test_spike_entropy_of_known_laws(repro):
    modulus = 0.5 * (math.e**2 - 1) / (1 + (math.e**2 - 1) * 0.5)
    masses = np.array([[1.0, 0.0], [0.5, 0.5]])
    assert repro.kgw_spike_entropy.spike_entropy(masses) == pytest.approx([1 / (1 + modulus), 1 / (1 + modulus / 2)])


def test_importance_sampling_finds_the_tails_of_scipy(repro):
    rng = np.random.default_rng(0)
    tail = stats.binom.logsf(95 - 1, 200, 0.25) / math.log(10)
    assert repro.exact_tails.green_tail(0.25, 200, 95, 40_000, rng) == pytest.approx(tail, abs=0.02)
    tail = stats.gamma.logsf(150.0, 50) / math.log(10)
    assert repro.exact_tails.gumbel_tail(50, 150.0, 40_000, rng) == pytest.approx(tail, abs=0.02)
    assert repro.exact_tails.z_threshold(BernoulliNull(1, 4), 200, 1e-6) == math.ceil(50 + 4.753424 * math.sqrt(37.5))
    assert repro.exact_tails.z_threshold(ExponentialNull(bound=False), 100, 0.5) == pytest.approx(100)


@pytest.mark.parametrize("delta", [0.05, 0.1, 0.3])
def test_the_best_exponent_is_the_divergence_from_the_least_favourable_law(repro, delta):
    """R(h_opt) = -integral of log f over (0, 1), f the density at P*: the rate at which a likelihood ratio falls."""
    li = repro.li_efficiency
    law = li.least_favourable(delta)
    assert sum(law) == pytest.approx(1)
    value, _ = integrate.quad(lambda r: -math.log(sum(r ** (1 / p - 1) for p in law)), 0, 1, limit=400)
    rates = {name: li.exponent(h, delta) for name, h in li.scores(delta).items()}
    assert rates["opt"] == pytest.approx(value, rel=1e-4)
    assert rates["opt"] > max(rates["ars"], rates["log"])


def test_the_exponents_of_ars_and_log_in_closed_form(repro):
    """Delta = .1: R by direct minimisation with scipy's quadrature of E1 e^(-t h)."""
    li, law = repro.li_efficiency, [0.9, 0.1]
    from scipy.optimize import minimize_scalar
    from scipy.special import beta

    # E1 (1-r)^t = sum B(1/p, 1 + t), E0 h_ars = 1; E1 r^-t = sum 1 / (1/p - t), E0 h_log = -1.
    ars = -minimize_scalar(lambda t: t + math.log(sum(beta(1 / p, 1 + t) for p in law)), bounds=(0, 2), method="bounded").fun
    log = -minimize_scalar(lambda t: -t + math.log(sum(1 / (1 / p - t) for p in law)), bounds=(0, 1), method="bounded").fun
    assert li.exponent(li.scores(0.1)["ars"], 0.1) == pytest.approx(ars, rel=1e-3)
    assert li.exponent(li.scores(0.1)["log"], 0.1) == pytest.approx(log, rel=1e-3)


def slow_cost(uniforms, edits):
    """Least cost over offsets of one key, token by token."""
    places, m = uniforms.shape
    best = math.inf
    for offset in range(places):
        base = [[math.log(1 - uniforms[(offset + j) % places, i]) for j in range(m)] for i in range(m)]
        if not edits:
            best = min(best, sum(base[i][i] for i in range(m)))
            continue
        table = np.zeros((m + 1, m + 1))
        for i in range(m):
            for j in range(m):
                table[i + 1, j + 1] = min(table[i, j] + base[i][j], table[i, j + 1], table[i + 1, j])
        best = min(best, table[m, m])
    return best


@pytest.mark.parametrize("edits", [False, True])
def test_the_alignment_cost_is_that_of_the_plain_recursion(repro, edits):
    uniforms = np.random.default_rng(1).random((3, 20, 6), dtype=np.float32)
    found = repro.kuditipudi_edits.least_costs(uniforms, edits=edits)
    assert found == pytest.approx([slow_cost(key, edits) for key in uniforms], rel=1e-4)


def test_edits_leave_the_length_and_change_the_share_asked_for(repro):
    text, rng = np.arange(100, 170), np.random.default_rng(0)
    edited = repro.kuditipudi_edits.edited
    # Ids below 100 are foreign: 14 of 35 is the share .4.
    for kind in ("substitution", "insertion"):
        out = edited(text, kind, 0.4, 35, 100, rng)
        assert (len(out), int((out < 100).sum())) == (35, 14)
    out = edited(text, "deletion", 0.5, 35, 100, rng)
    assert len(out) == 35
    assert np.all(np.diff(out) > 0)
    assert edited(text, "none", 0.0, 35, 100, rng).tolist() == text[:35].tolist()


def test_rank_p_values_of_foreign_text_are_not_small(repro):
    rng = np.random.default_rng(2)
    text = rng.integers(0, 50, 10)
    p = [repro.kuditipudi_edits.p_values(text, rng.random((256, 50), dtype=np.float32), 19, rng) for _ in range(20)]
    for name in ("EXP", "EXP-edit"):
        # Uniform on 1/20 ... 20/20: the mean of 20 has standard deviation .065.
        assert np.mean([one[name] for one in p]) == pytest.approx(0.525, abs=0.26)


def test_counting_pairs_once_restores_the_false_positive_rate(repro):
    rng = np.random.default_rng(3)
    texts = repro.three_bricks_fpr.documents(None, 100, 200, rng)
    assert len(texts) == 100
    assert {len(text.ids) for text in texts} == {200}
    found = repro.three_bricks_fpr.log_p_values(texts, 1, 40, rng)
    rates = {name: float((log_p <= math.log(0.01)).mean()) for name, log_p in found.items()}
    # 4,000 tests: 40 expected at most, 80 would be 6 standard deviations off.
    assert rates["exact, once"] <= 0.02
    assert rates["exact, all"] >= 0.04
    assert rates["z, once"] >= rates["exact, once"]


def test_the_bits_of_the_shipped_tournament_meet_the_formula(repro):
    masses = np.repeat(np.array([[0.5, 0.5], [0.8, 0.2]], np.float32), 1500, axis=0)
    bits = repro.synthid_expected_g.bits_of(masses, 3, np.random.default_rng(0))
    assert bits.shape == (3000, 3)
    # 1/2 + (1 - sum P^2) / 4: .625 and .58; 1,500 coins have a standard error of .0129.
    assert [bits[:1500, 0].mean(), bits[1500:, 0].mean()] == pytest.approx([0.625, 0.58], abs=4 * 0.0129)
    fair = np.random.default_rng(1).integers(0, 2, (4000, 30)).astype(float)
    assert repro.synthid_expected_g.detected(fair, 50, 0.01, np.random.default_rng(2)) <= 0.03


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exact_tails", "li_efficiency"])
def test_whole_scripts_hold(repro, name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name])
    assert getattr(repro, name).main() == 0
    assert "| NO |" not in capsys.readouterr().out
