"""The audit of keyed functions: ours come out clean, and weaknesses that are known are found."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from wmcheck.watermark import audit_checks, audit_keys
from wmcheck.watermark.audit import audit, contracts, laws
from wmcheck.watermark.audit_subject import Sizes, Subject, flipped, raised, related
from wmcheck.watermark.audit_text import text
from wmcheck.watermark.audit_words import COLUMNS, CORPUS, DOCUMENT, Finding, Law, State, error_words, factor, row
from wmcheck.watermark.core.errors import ConfigError, ProfileError
from wmcheck.watermark.peer import PEERS
from wmcheck.watermark.scheme import SCHEMES

# Numbers of draws that do not depend on the machine.
SIZES = Sizes(60_000, 0.0)


def rng():
    return np.random.default_rng(0)


def subject(name, **parameters):
    if name not in SCHEMES and name not in PEERS:
        pytest.skip(f"no contract {name}")
    return Subject(name, parameters)


def test_a_layered_watermark_is_clean_but_for_raw_ngrams():
    """The seed of a narrow layer is a part of the widest window: detection counts by the seed."""
    found = audit("layered", windows=60_000, seconds=0.0)
    states = {one.check: one.state for one in found.findings if one.state in (State.WEAK, State.CORRECTED)}
    assert states == {"text": State.CORRECTED}
    assert found.finding("key bits").value == 256


@pytest.mark.parametrize("name", [name for name in SCHEMES if name != "layered"])
def test_ours_are_clean(name):
    found = audit(name, windows=60_000, seconds=0.0)
    assert [(one.check, one.words) for one in found.findings if one.state in (State.WEAK, State.CORRECTED)] == []
    assert found.clean
    assert found.consequence == "none found"
    assert found.naive == found.ours == Law()
    assert found.finding("key bits").value == 256
    assert found.finding("width").shown == f"{found.parameters['width']} of {found.parameters['width']}"
    assert set(row(found)) == {"function", "windows", *COLUMNS}
    assert set(COLUMNS.values()) == {one.check for one in found.findings}


def test_a_context_of_id_0_and_related_keys_of_green_lists():
    peer, few = subject("transformers-kgw"), Sizes(2000, 0.0)
    found = audit_keys.small_ids(peer, few, rng())
    assert found.details["correlations"]["context 0"] == pytest.approx(1.0)
    # Detection counts all such tokens as one.
    assert found.state is State.CORRECTED
    keys = audit_keys.related_keys(peer, few, rng())
    assert keys.state is State.WEAK
    correlations = keys.details["correlations"]
    assert correlations["2K on a context and K on twice its ids"] == pytest.approx(1.0)
    assert correlations["K and K + 2^32"] == pytest.approx(1.0)
    assert abs(correlations["two random keys"]) < 0.1
    assert "keys mark alike: K and K + 2^32" in keys.words
    assert audit_keys.devices(peer).state is State.WEAK
    assert audit_keys.devices(peer).source == "derived"


def test_textseal_has_8191_values_that_neighbours_share():
    peer = subject("textseal-gumbel")
    found = audit_checks.values(peer, audit_checks.draw_sample(peer, Sizes(200_000, 0.0), rng()))
    assert found.state is State.WEAK
    assert found.details["distinct"] == 8191
    assert found.value == pytest.approx(math.log2(8191), abs=0.01)
    correlation, rows = audit_checks.lag_correlations(peer, 64, 8192, 1000, rng())
    assert rows == 64
    assert correlation[0] == pytest.approx(1.0)
    assert correlation[160] == pytest.approx(-0.086, abs=0.01)
    windows, tokens = np.repeat(peer.random(1, rng())[0], 40_160, axis=0), np.arange(40_160)
    green = peer.scores(windows, tokens, peer.keyed(1)) < -math.log1p(-0.25)
    assert abs(np.corrcoef(green[:-160], green[160:])[0, 1]) == pytest.approx(0.126, abs=0.01)
    lags = audit_checks.token_lags(peer, SIZES, rng())
    assert lags.value > 0.2
    # Its law is measured on the text, with what tokens have in common.
    assert lags.state is State.CORRECTED
    assert audit_keys.key_lags(peer, SIZES, rng()).state is State.WEAK


def test_transformers_synthid_has_65536_vectors():
    peer = subject("transformers-synthid")
    found = audit_checks.seeds(peer, Sizes(1_000_000, 0.0), rng())
    assert found.value == pytest.approx(16.0, abs=0.1)
    assert found.state is State.CORRECTED
    assert audit_checks.token_lags(peer, SIZES, rng()).details["aliases"] == [65536]
    sample = audit_checks.draw_sample(peer, SIZES, rng())
    assert audit_checks.mean(peer, sample).details["known_shift"] == pytest.approx(-0.0037, abs=2e-4)
    assert audit_keys.related_keys(peer, SIZES, rng()).details["correlations"]["all K and K + 2^16"] == pytest.approx(1.0)
    bits = audit_keys.key_bits(peer, SIZES, rng())
    assert (bits.value, bits.details["integers"]) == (16, 30)


def test_layers_of_synthid_text_are_correlated():
    found = audit_checks.layers(subject("synthid-text"), Sizes(400_000, 0.0), rng())
    assert found.state is State.CORRECTED
    assert 0.05 < found.value < 0.3
    assert max(abs(ratio - 1.0) for ratio in found.details["variances_of_sum"]) > 0.02
    fair = audit_checks.layers(subject("tournament"), Sizes(400_000, 0.0), rng())
    assert fair.state is State.CLEAN


def test_sglang_keys_have_32_bits():
    peer = subject("sglang-gumbel")
    found = audit_keys.key_bits(peer, SIZES, rng())
    assert (found.state, found.value, found.source) == (State.WEAK, 32.0, "derived")
    keys = audit_keys.related_keys(peer, SIZES, rng())
    assert keys.details["correlations"]["a key made to have the same state"] == pytest.approx(1.0)


def test_a_context_id_that_is_not_read_and_seeds_that_contexts_share():
    peer = subject("vllm-sbw")
    assert audit_keys.width(peer, SIZES, rng()).shown == "3 of 4"
    found = text(peer, SIZES, rng())
    assert found.state is State.CORRECTED
    assert found.details["variance_naive"] > 2.0
    assert found.details["variance_ours"] < 1.2
    naive, ours = laws({
        "mean": Finding("mean", State.CLEAN), "variance": Finding("variance", State.CLEAN), "text": found,
        "layers": Finding("layers", State.CLEAN, details={"variance_of_sum": 1.0}),
    })
    assert naive.factors()[DOCUMENT] > 50
    assert ours == Law()


def test_every_known_contract_has_its_name():
    assert contracts() == [*SCHEMES, *PEERS]
    with pytest.raises(ConfigError, match="no such contract"):
        audit("nonsense")
    with pytest.raises(ProfileError):
        audit("gumbel", {"width": 99})


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_every_contract_of_a_peer_can_be_audited(name):
    found = audit(name, windows=4000, seconds=2.0)
    assert row(found)["function"] == name
    assert found.to_dict()["clean"] is found.clean


@pytest.mark.parametrize(
    ("shift", "inflation", "tokens"), [(0.0, 1.0, 300), (0.01, 1.0, 300), (0.0, 1.1, 10), (-0.01, 0.9, 10_000)]
)
def test_the_factor_of_p(shift, inflation, tokens):
    bar = norm.isf(1e-6)
    expected = norm.sf(bar, loc=shift * math.sqrt(tokens), scale=math.sqrt(inflation)) / 1e-6
    assert factor(shift, inflation, tokens) == pytest.approx(expected, rel=1e-9)


def test_what_a_deviation_does_is_said():
    assert error_words(Law()) == ""
    assert factor(0.0, 1.0, CORPUS) == pytest.approx(1.0)
    assert "too small over 300 tokens" in error_words(Law(0.0, 2.0, 2.0))
    assert error_words(Law(-0.004, 1.0, 1.0)).startswith("p is 1.4x too large over 300 tokens, ")
    assert factor(0.0, 0.0, 300) == 0.0
    assert factor(1.0, 0.0, 300) == 1e6


@pytest.mark.parametrize("size", [100, 5000, 65536])
def test_a_population_is_estimated_from_repeats(size):
    draws = np.random.default_rng(1).integers(0, size, 20_000)
    bits, seen = audit_checks.population(len(draws), len(np.unique(draws)))
    assert seen
    assert bits == pytest.approx(math.log2(size), abs=0.05)


def test_a_population_without_repeats_has_a_lower_bound():
    bits, seen = audit_checks.population(1000, 1000)
    assert not seen
    # Of so few values a repeat is certain by 95%.
    assert math.exp(-(1000**2) / 2 / 2**bits) == pytest.approx(0.05, abs=0.01)


def test_keys_that_are_related():
    assert flipped(5, 1) == 7
    assert flipped((5, 6), 0) == (4, 6)
    assert flipped(b"\0\0", 9) == b"\0\2"
    assert raised(5, 2) == 7
    assert raised((5, 6), 2) == (7, 8)
    assert raised(b"\0\xff", 1) == b"\1\0"
    secret = rng().bytes(32)
    names = [relation for relation, _, _ in related(Subject("gumbel"), secret)]
    assert names == ["one bit flipped", "the last bit flipped", "two tenants", "two epochs"]


def test_correlation_where_nothing_varies():
    ones = np.ones(5)
    assert audit_checks.correlate(ones, ones) == 1.0
    assert audit_checks.correlate(ones, np.zeros(5)) == 0.0
