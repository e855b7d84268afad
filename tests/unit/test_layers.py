"""Layered keys: what each layer's key depends on, which contexts it has, what is marked and what is found."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from wmcheck.watermark import Candidate, Detector, Document, Profile, SecretKey, WatermarkProcessor
from wmcheck.watermark.candidate import Batch
from wmcheck.watermark.core.errors import ConfigError, KeyFileError, ProfileError
from wmcheck.watermark.decoys import decoy_keys
from wmcheck.watermark.detect import detect_ids
from wmcheck.watermark.keys import parse_key
from wmcheck.watermark.layers import (
    ORDER,
    STATEMENTS,
    LayeredRoot,
    cohort_of,
    cohorts_of,
    fixed_sequence,
    layer_keys,
    layer_profile,
    layer_tenant,
    layers_of,
    root_of,
    tenant_of,
)
from wmcheck.watermark.rows import RowKeys
from wmcheck.watermark.scheme import make_scheme
from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.serving.marker import Marker
from wmcheck.watermark.serving.policy import Policy
from wmcheck.watermark.serving.selftest import OPTED_OUT, PROBE, self_test
from wmcheck.watermark.serving.sessions import Sampling, Session, Windows
from wmcheck.watermark.windows import fresh_rows

ROOT = SecretKey(bytes((67 * i * i + 13 * i + 9) % 256 for i in range(32)))
OTHER = SecretKey(bytes((71 * i * i + 5 * i + 3) % 256 for i in range(32)))
LAYERED = Profile.create("layered", special_ids=(0,), entropy_bits=4.0)
NARROW = Profile.create("layered", {"scheme": "redgreen", "parameters": {"green": 128, "delta": 30.0}}, special_ids=(0,))
VOCABULARY = 400


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def written(profile, root, tenant, epoch, length=300, rows=1, vocabulary=VOCABULARY, seed=1):
    """Rows that a model of random laws wrote through the logits processor."""
    processor = WatermarkProcessor(profile, tenant_of(profile, root, tenant, epoch))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, vocabulary, (rows, 5), generator=generator)
    for _ in range(length):
        logits = torch.randn(rows, vocabulary, generator=generator)
        logits[:, 0] = -math.inf
        ids = torch.cat([ids, torch.multinomial(processor(ids, logits).softmax(-1), 1, generator=generator)], 1)
    return ids.numpy()


@pytest.fixture(scope="module")
def text():
    return written(LAYERED, ROOT, "acct-17", "2026-11")[0]


def log10_p(profile, key, tenant, epoch, ids):
    detector = Detector([Candidate.of(profile, key, tenant, epoch)], corpus=False)
    return detector.detections(detector.test([Document(ids, 5)]), 0)[0].log10_p


@pytest.mark.parametrize(
    ("root", "tenant", "epoch", "found"),
    [
        (ROOT, "acct-17", "2026-11", set(ORDER)), (ROOT, "acct-18", "2026-11", {"provider", "epoch"}),
        (ROOT, "acct-17", "2026-12", {"provider", "cohort"}), (ROOT, "", "", {"provider"}),
        (OTHER, "acct-17", "2026-11", set()),
    ],
)
def test_each_layer_is_found_under_its_own_key_alone(text, root, tenant, epoch, found):
    assert cohort_of(ROOT, "acct-17", 1024) != cohort_of(ROOT, "acct-18", 1024)
    p = {layer: log10_p(layer_profile(LAYERED, layer), root, tenant, epoch, text) for layer in ORDER}
    assert {layer for layer, value in p.items() if value < -4} == found
    assert all(p[layer] > -3 for layer in set(ORDER) - found)
    assert (log10_p(LAYERED, root, tenant, epoch, text) < -6) == bool(found)


def test_every_item_belongs_to_one_layer(text):
    document = Document(text, 5)
    whole = Batch([document], LAYERED)
    candidate = Candidate.of(LAYERED, ROOT, "acct-17", "2026-11")
    places = {int(one) for one in whole.items.place[whole.select(candidate)]}
    total, members = 0.0, []
    for layer in ORDER:
        profile = layer_profile(LAYERED, layer)
        batch, own = Batch([document], profile), Candidate.of(profile, ROOT, "acct-17", "2026-11")
        kept = batch.select(own)
        members.append({int(one) for one in batch.items.place[kept]})
        inside = np.isin(batch.items.place[kept], sorted(places))
        total += float(batch.scores(own)[0][inside].sum())
        # The whole scores repeats of a narrow window that came with another token; the layer's own rule does not.
        assert len(members[-1]) <= 320 * {"provider": 0.6, "epoch": 0.3, "cohort": 0.2, "account": 0.3}[layer]
    assert sum(map(len, members)) == len(set.union(*members))
    assert set.union(*members) - places == set()
    assert total <= float(whole.scores(candidate)[0].sum()) + 1e-9
    assert sum(map(len, members)) > 250


def test_shares_are_those_of_the_profile_and_read_the_last_ids_alone():
    scheme, rng = LAYERED.scheme, np.random.default_rng(0)
    prf = Candidate.of(LAYERED, ROOT).prf
    windows = rng.integers(1, 10**6, (40_000, 4)).astype(np.uint32)
    which = scheme.assigned(windows, prf)
    shares = np.bincount(which, minlength=4) / len(which)
    assert shares == pytest.approx([0.5, 0.2, 0.1, 0.2], abs=0.015)
    windows[:, :2] = rng.integers(1, 10**6, (40_000, 2))
    assert (scheme.assigned(windows, prf) == which).all()
    windows[:, 3] += 1
    assert (scheme.assigned(windows, prf) != which).mean() > 0.5
    assert (scheme.assigned(windows, Candidate.of(LAYERED, OTHER).prf) != scheme.assigned(windows, prf)).mean() > 0.5
    # The rows of a batch, on the path of tensors.
    few = torch.from_numpy(windows[:64].astype(np.int64))
    for backend in ("auto", "torch"):
        assert scheme.places(few, RowKeys([prf] * 64, backend=backend)).tolist() == scheme.assigned(windows[:64], prf).tolist()


def test_keys_depend_on_what_they_should():
    keys = layer_keys(ROOT, 1024, "acct-17", "e1")
    assert list(keys) == list(ORDER)
    assert len({key.commitment for key in keys.values()}) == 4
    same_epoch = layer_keys(ROOT, 1024, "acct-18", "e1")
    assert [keys[layer] == same_epoch[layer] for layer in ORDER] == [True, True, False, False]
    same_account = layer_keys(ROOT, 1024, "acct-17", "e2")
    assert [keys[layer].subkey("x", "tok") == same_account[layer].subkey("x", "tok") for layer in ORDER] == [
        True, False, True, False
    ]
    # The account's is the tenant's own key, which can be shown by itself.
    assert keys["account"] == ROOT.tenant("acct-17", "e1")
    other = layer_keys(OTHER, 1024, "acct-17", "e1")
    assert not any(keys[layer] == other[layer] for layer in ORDER)


def test_accounts_share_their_context_key_and_nothing_else():
    profile = layer_profile(LAYERED, "account")
    one, two = (Candidate.of(profile, ROOT, tenant, "e").prf for tenant in ("a", "b"))
    assert one.layers[0].secrets()[0] == two.layers[0].secrets()[0]
    assert one.layers[0].secrets()[1] != two.layers[0].secrets()[1]
    assert one.secrets() == two.secrets()
    label = profile.scheme.layer_label(profile.scheme.active[0])
    assert one.layers[0].secrets()[1] == ROOT.tenant("a", "e").subkey(label, "tok")
    secrets = [secret for function in (one, *Candidate.of(LAYERED, ROOT, "a", "e").prf.layers) for secret in function.secrets()]
    # The assignment is none of the layers' keys.
    assert one.secrets()[0] not in secrets[2:]
    assert not set(one.secrets()) & set(secrets[2:])


def test_cohorts_are_even_and_the_same_one_by_one():
    accounts = [f"acct-{number}" for number in range(20_000)]
    found = cohorts_of(ROOT, accounts, 100)
    assert found.tolist()[:50] == [cohort_of(ROOT, account, 100) for account in accounts[:50]]
    counts = np.bincount(found, minlength=100)
    assert ((counts - 200.0) ** 2 / 200.0).sum() < 160
    assert (cohorts_of(OTHER, accounts, 100) == found).mean() < 0.02
    with pytest.raises(KeyFileError, match="unusable tenant"):
        cohorts_of(ROOT, ["a", "\ud800"], 100)


def test_no_secret_is_shown_or_pickled():
    root = LayeredRoot.of(ROOT)
    key, prf = root.tenant("a", "e"), Candidate.of(LAYERED, ROOT, "a", "e").prf
    assert root == ROOT
    assert copy.deepcopy(root) is root
    assert repr(prf) == "LayeredPrf(...)"
    for one in (root, key):
        assert ROOT.reveal()[5:25] not in repr(one)
        with pytest.raises(TypeError):
            pickle.dumps(one)
    with pytest.raises(TypeError):
        pickle.dumps(prf)
    # The text of a tenant's key is the tenant's alone.
    again = parse_key(key.reveal())
    assert again == key
    assert root_of(again) is None


def test_a_tenants_key_alone_is_refused(tmp_path):
    alone = parse_key(ROOT.tenant("a", "e").reveal())
    for call in (
        lambda: Candidate.of(LAYERED, alone), lambda: WatermarkProcessor(LAYERED, alone), lambda: Deployment(LAYERED, alone),
        lambda: detect_ids([1, 2, 3], layer_profile(LAYERED, "account"), alone),
    ):
        with pytest.raises(KeyFileError, match="a layered profile needs the root key"):
            call()
    assert tenant_of(Profile.create("gumbel"), alone) is alone
    with pytest.raises(KeyFileError, match="that tenant alone"):
        tenant_of(LAYERED, LayeredRoot.of(ROOT).tenant("a"), "b")


def test_a_named_key_that_lost_its_root_is_warned_of(caplog):
    from wmcheck.watermark import layers

    layers._warn_of_orphans.cache_clear()
    assert Candidate(LAYERED, LayeredRoot.of(ROOT).tenant("a")).prf
    assert not caplog.text
    for name in ("a", "b"):
        assert Candidate(LAYERED, ROOT.tenant(name)).prf
    assert caplog.text.count("a tenant's key without its root") == 1


def test_layer_profiles():
    assert layers_of(LAYERED) == ORDER
    assert set(STATEMENTS) == set(ORDER)
    account = layer_profile(LAYERED, "account")
    assert (account.scheme.width, layer_profile(LAYERED, "provider").scheme.width) == (4, 2)
    assert account.name.endswith(":account")
    assert layer_profile(account, "account") is account
    assert layers_of(account) == ()
    assert layers_of(Profile.create("gumbel")) == ()
    for profile, layer in ((LAYERED, "team"), (account, "provider"), (Profile.create("gumbel"), "provider")):
        with pytest.raises(ConfigError):
            layer_profile(profile, layer)
    # Names that a layer does not depend on are left out, so that it is tested once for all accounts.
    assert layer_tenant(ROOT, "provider", "a", "e") == layer_tenant(ROOT, "provider", "b", "f")
    assert layer_tenant(ROOT, "epoch", "a", "e") == layer_tenant(ROOT, "epoch", "b", "e")
    assert layer_tenant(ROOT, "cohort", "a", "e") == layer_tenant(ROOT, "cohort", "a", "f")
    assert layer_tenant(ROOT, "account", "a", "e") == ROOT.tenant("a", "e")


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"scheme": "layered"}, "scheme"), ({"scheme": "three-bricks"}, "scheme"), ({"scheme": 3}, "scheme"),
        ({"scheme": "redgreen", "parameters": {"rule": "min"}}, "cannot be layered"),
        ({"parameters": {"width": 2}}, "a width in each layer"), ({"parameters": {"colour": 1}}, "bad parameters"),
        ({"parameters": [1]}, "parameters"), ({"cohorts": 0}, "cohorts"), ({"cohorts": 2**21}, "cohorts"),
        ({"only": "team"}, "only"), ({"layers": []}, "layers"), ({"layers": "provider"}, "layers"),
        ({"layers": [{"name": "provider", "share": 0.5, "width": 2}]}, "sum to 0.5"),
        ({"layers": [{"name": "provider", "share": 1.0, "width": 0}]}, "width"),
        ({"layers": [{"name": "provider", "share": 0.5, "width": 2}] * 2}, "layers"),
        ({"layers": [{"name": "team", "share": 1.0, "width": 2}]}, "layers"),
        ({"layers": [{"name": "provider", "share": -1.0, "width": 2}, {"name": "epoch", "share": 2.0, "width": 2}]}, "share"),
    ],
)
def test_impossible_parameters(parameters, match):
    with pytest.raises(ProfileError, match=match):
        make_scheme("layered", parameters)


def test_parameters_round_trip(tmp_path):
    for profile in (LAYERED, NARROW, layer_profile(NARROW, "cohort")):
        profile.save(tmp_path / "p.json")
        assert Profile.load(tmp_path / "p.json") == profile


def test_a_context_is_marked_once_at_its_own_width():
    """With a bias that always wins, a layer's items are all green: repeats of its own window were sampled ordinarily."""
    ids = written(NARROW, ROOT, "a", "e", length=500, vocabulary=12)[0]
    for layer in ORDER:
        profile = layer_profile(NARROW, layer)
        detector = Detector([Candidate.of(profile, ROOT, "a", "e")], corpus=False)
        tested = detector.test([Document(ids, 5)])[0].evidence
        assert tested.n[0] > 10
        assert tested.totals[0] == tested.n[0]
    processor = WatermarkProcessor(NARROW, tenant_of(NARROW, ROOT, "a", "e"))
    logits = torch.randn(1, 12)
    scheme, prf = NARROW.scheme, Candidate.of(NARROW, ROOT, "a", "e").prf
    for pair in range(1, 11):
        # The pair stood before, the window of four ids is new: a narrow layer leaves it alone, a wide one marks it.
        history = torch.tensor([[pair, pair + 1, 5, 7, pair, pair + 1]])
        place = scheme.assigned(history[:, 2:].numpy().astype(np.uint32), prf)[0]
        narrow = scheme.layers[place].width == 2
        assert torch.equal(processor(history, logits), logits) == narrow


def test_sessions_say_what_the_processor_does():
    """Windows, repeats at the width of their own layer and short histories, whatever steps the engine takes."""
    deployment = Deployment(NARROW, ROOT, Policy())
    scheme, special, rng = NARROW.scheme, torch.tensor([0]), np.random.default_rng(3)
    windows, grown = Windows(deployment), rng.integers(1, 5, 90).tolist()
    asked = {"wmcheck_tenant": "a"}
    output: list[int] = []
    session, seen = Session.open(deployment, asked, [], output, Sampling()), set()
    for step, token in enumerate(grown):
        history = torch.tensor([grown[:step]], dtype=torch.int64).reshape(1, step)
        fresh = bool(fresh_rows(history, 4, special, window_rule=True)[0])
        if fresh:
            fresh = bool(scheme.fresh(history, RowKeys([session.prf]))[0])
        reason = windows.of([session])[1][0]
        rebuilt = windows.of([Session.open(deployment, asked, grown[:step], [], Sampling())])[1][0]
        assert (not reason) == fresh, (step, reason)
        assert reason == rebuilt
        seen.add(reason)
        output.append(token)
    assert seen == {"", "short", "repeated"}


@pytest.mark.parametrize("inner", ["gumbel", "redgreen", "tournament", "reweight"])
def test_serving_marks_and_each_layer_is_found(tmp_path, inner):
    """The marker behind every adapter: rows of several accounts in one step."""
    profile = Profile.create("layered", {"scheme": inner}, special_ids=(0,))
    policy = Policy(opt_out=True, epoch="e1", epochs=frozenset(["e2"]))
    marker = Marker(Deployment(profile, ROOT, policy, state=tmp_path), "test 0")
    rng, generator = np.random.default_rng(5), torch.Generator().manual_seed(5)
    asked = [
        {"wmcheck_tenant": "a"}, {"wmcheck_tenant": "b"}, {"wmcheck_tenant": "a", "wmcheck_epoch": "e2"},
        {"wmcheck_tenant": "a", "wmcheck_opt_out": True},
    ]
    outputs: list[list[int]] = [[] for _ in asked]
    prompts = [rng.integers(1, 300, 6).tolist() for _ in asked]
    sessions = [
        Session.open(marker.deployment, fields, prompt, output, Sampling())
        for fields, prompt, output in zip(asked, prompts, outputs, strict=True)
    ]
    # Accounts share the objects of the provider's layer, so their rows are encrypted together.
    assert sessions[0].prf.layers[0] is sessions[1].prf.layers[0]
    assert sessions[0].prf.layers[3] is not sessions[1].prf.layers[3]
    for _ in range(320):
        logits = torch.randn(4, 300, generator=generator) * 1.5
        before = logits.clone()
        marker.mark(logits, sessions)
        assert torch.equal(logits[3], before[3])
        for row, token in enumerate(torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0].tolist()):
            outputs[row].append(token)
    names = [("a", "e1"), ("b", "e1"), ("a", "e2")]
    for row, (tenant, epoch) in enumerate(names):
        ids = np.array(prompts[row] + outputs[row])
        assert log10_p(profile, ROOT, tenant, epoch, ids) < -8
        assert log10_p(layer_profile(profile, "provider"), ROOT, "", "", ids) < -4
        wrong = [log10_p(layer_profile(profile, "account"), ROOT, *name, ids) for name in names if name != (tenant, epoch)]
        assert min(wrong) > -3.5
    plain = np.array(prompts[3] + outputs[3])
    assert log10_p(profile, ROOT, "a", "e1", plain) > -4


@pytest.mark.parametrize("inner", ["gumbel", "redgreen"])
def test_the_self_test_passes(tmp_path, inner):
    profile = Profile.create("layered", {"scheme": inner}, special_ids=(0,))

    def open_rows(probe, prompt, outputs):
        marker = Marker(probe, "engine 1")
        asked = zip((PROBE, OPTED_OUT), outputs, strict=True)
        sessions = [Session.open(probe, fields, prompt, output, Sampling()) for fields, output in asked]

        def step(logits):
            marker.mark(logits, sessions)
            return logits

        return step

    deployment = Deployment(profile, ROOT, Policy(opt_out=True), state=tmp_path)
    self_test(deployment, open_rows, vocabulary=VOCABULARY, engine="engine 1")
    with pytest.raises(ConfigError, match="no watermark after"):
        self_test(deployment, lambda probe, prompt, outputs: lambda logits: logits, vocabulary=VOCABULARY, engine="engine 1")


def test_a_result_counts_items_of_other_layers_as_excluded(text):
    key = LayeredRoot.of(ROOT).tenant("acct-17", "2026-11")
    found = detect_ids(text, layer_profile(LAYERED, "account"), key, prompt_length=5)
    assert found.n_repeated < 10
    assert found.n_scored + found.n_repeated + found.n_excluded == len(text) - 5


def test_items_of_other_layers_are_excluded_and_are_no_repeats(text):
    profile = layer_profile(LAYERED, "account")
    batch, candidate = Batch([Document(text, 5)], profile), Candidate.of(profile, ROOT, "acct-17", "2026-11")
    n = np.array([len(batch.select(candidate))])
    repeated, excluded = batch.left_out(candidate, n)
    assert int(n[0] + repeated[0] + excluded[0]) == len(text) - 5
    assert repeated[0] < 10
    assert excluded[0] > 200
    plain = Profile.create("gumbel")
    other = Batch([Document(text, 5)], plain)
    assert other.left_out(Candidate.of(plain, ROOT), np.array([290]))[0][0] == other.items.eligible[0] - 290


def test_p_values_are_super_uniform():
    """One text, a root key for each test: all layers together and each alone."""
    rng = np.random.default_rng(11)
    document = Document(rng.integers(1, 9, 150), 0)
    profiles = [NARROW, *(layer_profile(LAYERED, layer) for layer in ORDER), LAYERED]
    log_p = np.array([
        [one.evidence.log_p[0] for one in Detector(
            [Candidate.of(profile, SecretKey(rng.bytes(32)), "a", "e") for profile in profiles], corpus=False
        ).test([document])] for _ in range(250)
    ])
    for level in (0.5, 0.1, 0.02):
        assert ((log_p <= math.log(level)).mean(0) <= level + 4.5 * math.sqrt(level / 250)).all()


def test_the_fixed_sequence():
    log_p = np.log([1e-8, 1e-3, 1e-9, 0.5])
    assert fixed_sequence(log_p) == pytest.approx(np.log([1e-8, 1e-3, 1e-3, 0.5]))
    assert fixed_sequence(log_p, family=100) == pytest.approx(np.log([1e-6, 0.1, 0.1, 1.0]))
    assert fixed_sequence(np.array([-5000.0, -2000.0])).tolist() == [-5000.0, -2000.0]
    assert fixed_sequence(np.zeros((0, 4))).shape == (0, 4)
    for bad in (lambda: fixed_sequence([0.5]), lambda: fixed_sequence([math.nan]), lambda: fixed_sequence([-1.0], family=0),
                lambda: fixed_sequence(-1.0)):
        with pytest.raises(ValueError, match="log p-values"):
            bad()


def test_the_fixed_sequence_keeps_the_family_wise_error():
    """Provider and epoch are there, cohort and account are not: a false one is named at most at alpha, not twice that."""
    rng, alpha = np.random.default_rng(2), 0.05
    log_p = np.log(rng.random((100_000, 4)))
    log_p[:, :2] -= 20.0
    wrong = (fixed_sequence(log_p)[:, 2:] <= math.log(alpha)).any(1).mean()
    assert 0.03 < wrong < alpha + 5 * math.sqrt(alpha / 100_000)
    # Nothing is there, and the p-values are as dependent as they can be.
    same = np.repeat(np.log(rng.random((100_000, 1))), 4, axis=1)
    assert (fixed_sequence(same) <= math.log(alpha)).any(1).mean() < alpha + 5 * math.sqrt(alpha / 100_000)


def test_a_key_that_knows_no_root_gives_a_watermark_of_the_same_law():
    """Decoys and audits draw such keys."""
    keys = decoy_keys(60, np.random.default_rng(1).bytes)
    scheme, rng = LAYERED.scheme, np.random.default_rng(0)
    windows, tokens = rng.integers(1, 10**6, (400, 4)).astype(np.uint32), rng.integers(1, 10**6, 400)
    scores = np.concatenate([scheme.score(windows, tokens, Candidate(LAYERED, key).prf) for key in keys])
    assert scores.mean() == pytest.approx(1.0, abs=5 / math.sqrt(len(scores)))
    assert scores.std() == pytest.approx(1.0, abs=0.05)
