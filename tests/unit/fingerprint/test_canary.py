"""Keyed canaries: the bank's rules, the keyed sides, the exact null, and the way into a deployment and back."""

import hashlib
import hmac
import itertools
import json
import math
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from wmcheck.fingerprint.canaries import embed as canary_embed
from wmcheck.fingerprint.canaries import evaluate as canary
from wmcheck.fingerprint.canaries.evaluate import Answers, CanaryPlan, correct, plan, read_answers
from wmcheck.fingerprint.canaries.plan import keyed_sides
from wmcheck.fingerprint.suites.canary import suite
from wmcheck.fingerprint.suites.canary_bank import kinds, recognise, triggers
from wmcheck.watermark.core.errors import ConfigError, InputError, KeyFileError
from wmcheck.watermark.core.multiplicity import holm
from wmcheck.watermark.core.results import Verdict
from wmcheck.watermark.keys import SecretKey

sys.path.append(str(Path(__file__).parents[2] / "support"))
from canary_answers import ANSWERS, answer, shown

LAB, OTHER = (SecretKey(hashlib.sha256(f"a test key: {name}".encode()).digest()) for name in ("lab", "other"))
ALL = CanaryPlan(seed=0, n=len(triggers()))


def outcome(bits, sides):
    """log10 p of a model with these sides under a key with these bits."""
    answers = Answers(sides=dict(zip(ALL.triggers, sides, strict=False)), dropped={}, samples=len(sides))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canary, "keyed_sides", lambda key, ids: np.array(bits, np.uint8))
        return canary.test(answers, ALL, LAB).log10_p


# The bank and its rules.


def test_the_bank_is_large_and_every_kind_has_a_tested_rule():
    assert len(kinds()) >= 12
    assert min(len(kind.topics) for kind in kinds().values()) >= 20
    assert set(kinds()) == set(ANSWERS)
    assert len(triggers()) == sum(len(kind.topics) for kind in kinds().values()) >= 240


@pytest.mark.parametrize("name", ANSWERS)
def test_a_rule_reads_both_sides_and_leaves_the_rest(name):
    zero, one, neither = ANSWERS[name]
    kind = kinds()[name]
    assert kind.side(answer("x", zero)) == 0
    assert kind.side(answer("x", one)) == 1
    assert [kind.side(answer("x", given)) for given in neither] == [None] * len(neither)


@pytest.mark.parametrize(
    ("name", "text", "side"),
    [
        ("list_marker", "Here you go:\n\n**1. Towel**\n**2. Hat**\n- a note", 1),
        ("list_marker", "* **Towel**: for drying\n* **Hat**", 0),
        ("date_form", "It was July 20, 1969 (1969-07-20).", 1),
        ("date_form", "In March 1876 or so", None),
        ("clock_form", "7:30 p.m. suits most families; 19:30 is late.", 1),
        ("verdict_first", "**No.** Honey keeps for ever.", 0),
        ("verdict_first", "There is no rule that says so", None),
        ("follow_up", "Chess. *Shall I explain the rules?*", 0),
        ("oxford_comma", "They include macaroni, fusilli, and spaghetti with meat and sauce.", 0),
        ("oxford_comma", "Three are robin, blue tit and great tit.", 1),
        ("number_form", "There are twenty-six letters (26).", 1),
        ("height_units", "It rises 4,478 metres (14,692 feet).", 0),
        ("height_units", "It is 96 m tall, or 316'.", 0),
        ("oven_units", "Bake at 180 °C / 350 °F.", 0),
        ("percent_form", "Some 10 per cent are.", 1),
        ("email_greeting", "Subject: Parcel\n\nHello Ann,", 1),
    ],
)
def test_answers_as_models_write_them(name, text, side):
    assert kinds()[name].side(answer("x", text)) == side


@pytest.mark.parametrize("name", ["follow_up", "verdict_first"])
def test_the_end_of_a_cut_answer_is_not_known(name):
    for side in (0, 1):
        cut = shown(f"{name}/x", side, stop="length")
        assert kinds()[name].side(cut) == (0 if (name, side) == ("verdict_first", 0) else None)


@settings(max_examples=30)
@example("1" + " " * 100_000)
@example("\n" * 100_000)
@example(", a" * 30_000)
@example("- 1." * 30_000)
@given(st.text(max_size=300))
def test_rules_take_any_text(text):
    assert {kind.side(answer("x", text)) for kind in kinds().values()} <= {None, 0, 1}


def test_requests_are_recognised_word_for_word():
    for trigger in triggers().values():
        assert {recognise(f" {wording.upper()} ") for wording in trigger.wordings()} == {trigger.id}
    assert recognise("What should I pack for a trip to the Moon?") is None


# The suite.


def test_the_suite_is_pinned():
    # A changed prompt or trigger is a new version of the bank: keys would draw other sides.
    assert suite(0).version == "1"
    assert suite(0).digest == "fc4a57990862fc0d756b018f4f6baba97f6cb80dc87ad9b7a0ed1d086628710b"


def test_suites_are_nested_and_spread_over_the_kinds():
    large = [probe.id for probe in suite(3, limit=200).probes]
    small = [probe.id for probe in suite(3, limit=60).probes]
    assert (len(large), len(small)) == (200, 60)
    assert [name for name in large if name in small] == small
    assert set(Counter(name.partition("/")[0] for name in small).values()) <= {3, 4}
    assert {probe.id for probe in suite(4).probes} == {probe.id for probe in suite(3).probes} == set(triggers())
    assert [probe.id for probe in suite(4, limit=60).probes] != small


# The keyed sides.


def reference_side(key, name):
    """The keyed side by docs/prf.md, with AES alone."""
    def field(text):
        return len(text).to_bytes(2, "big") + text

    def aes(secret, block):
        return Cipher(algorithms.AES(secret), modes.ECB()).encryptor().update(block)

    tenant = key.tenant()
    context = hashlib.sha256(field(b"wmcheck/canary/1") + field(b"1") + field(name.encode())).digest()
    ctx, tok = tenant.subkey("canary/1", "ctx"), tenant.subkey("canary/1", "tok")
    first = aes(ctx, context[:16])
    digest = aes(ctx, bytes(a ^ b for a, b in zip(first, context[16:], strict=True)))[:12]
    return aes(tok, digest + bytes(4))[0] & 1


def test_sides_are_those_of_the_keyed_function():
    names = list(triggers())[::7]
    assert keyed_sides(LAB, names).tolist() == [reference_side(LAB, name) for name in names]


def test_a_side_depends_on_key_and_trigger_alone():
    names = list(triggers())
    both = dict(zip(names, keyed_sides(LAB, names).tolist(), strict=True))
    assert keyed_sides(LAB.tenant(), names[::-1]).tolist() == list(both.values())[::-1]
    for planned in (plan(LAB, 50, seed=1), plan(LAB, 200, seed=2)):
        assert {name: planned.side(LAB, name) for name in planned.triggers} == {name: both[name] for name in planned.triggers}
    for other in (OTHER, LAB.tenant("acct-17"), LAB.tenant("", "2026-11")):
        differ = sum(bit != mine for bit, mine in zip(keyed_sides(other, names), both.values(), strict=True))
        assert stats.binomtest(int(differ), len(names)).pvalue > 1e-6


@pytest.fixture(scope="module")
def null_keys():
    """The sides of 100 triggers under 3,000 keys."""
    names = list(ALL.triggers[:100])
    return names, np.array([keyed_sides(LAB.tenant(f"null {i}"), names) for i in range(3000)])


def test_sides_are_fair_and_independent_over_keys(null_keys):
    drawn = null_keys[1].astype(np.float64)
    z = (drawn.mean(axis=0) - 0.5) / (0.5 / math.sqrt(len(drawn)))
    assert np.abs(z).max() < 5
    pairs = np.corrcoef(drawn.T)[np.triu_indices(drawn.shape[1], 1)] * math.sqrt(len(drawn))
    assert np.abs(pairs).max() < 5.5
    assert abs(pairs.std() - 1) < 0.05


def test_a_trigger_counts_once():
    with pytest.raises(ConfigError, match="a trigger occurs twice"):
        keyed_sides(LAB, ["a", "b", "a"])
    assert keyed_sides(LAB, []).tolist() == []


# The plan.


def test_a_plan_round_trips_and_holds_no_side(tmp_path):
    planned = plan(LAB, 60, seed=5)
    planned.save(str(tmp_path / "plan.json"))
    loaded = CanaryPlan.load(str(tmp_path / "plan.json"))
    assert loaded.to_dict() == planned.to_dict()
    assert loaded.committed(LAB) is True
    foreign = plan(OTHER, 60, seed=5).to_dict()
    assert {**foreign, "commitments": None} == {**planned.to_dict(), "commitments": None}


def test_commitments():
    tenants = [LAB.tenant(name) for name in ("a", "b")]
    planned = plan(tenants, 30)
    assert [one.key_id for one in planned.commitments] == [tenant.id for tenant in tenants]
    assert [planned.committed(key) for key in (*tenants, LAB, OTHER)] == [True, True, False, False]
    assert CanaryPlan(seed=0, n=30).committed(LAB) is None
    body = json.dumps(planned.suite.describe(), sort_keys=True, separators=(",", ":")).encode()
    domain = b"wmcheck/canary-plan/1"
    message = b"".join(len(part).to_bytes(2, "big") + part for part in (domain, body))
    expected = hmac.new(tenants[0].subkey("canary/1", "plan"), message, hashlib.sha256).hexdigest()
    assert planned.commitments[0].plan_commitment == expected
    moved = replace(planned, n=29)
    with pytest.raises(InputError, match="the plan is not the one that was committed to"):
        moved.committed(tenants[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(schema="other/1"), "not a canary plan"),
        (lambda data: data.pop("suite"), "not a canary plan"),
        (lambda data: data["commitments"].append({"key": 1}), "not a canary plan"),
        (lambda data: data["commitments"][0].update(plan_commitment="\u00e9"), "not a canary plan"),
        (lambda data: data["suite"].update(version="0"), "another version of the bank"),
        (lambda data: data["suite"].update(seed=1), "not those of its seed and size"),
        (lambda data: data["triggers"].pop("clock_form/a-book-club", data["triggers"].popitem()), "not those of its seed"),
        (lambda data: data["suite"].update(probes=10**6), "number of triggers out of range"),
    ],
)
def test_a_changed_plan_is_refused(change, message):
    data = json.loads(json.dumps(plan(LAB, 40).to_dict()))
    change(data)
    with pytest.raises((InputError, ConfigError), match=message):
        CanaryPlan.from_dict(data, source="plan.json")


def test_plans_that_cannot_be_made():
    with pytest.raises(ConfigError, match=r"number of triggers out of range \(got 0"):
        plan(LAB, 0)
    with pytest.raises(ConfigError, match=f"expected 1 to {len(triggers())}"):
        plan(LAB, len(triggers()) + 1)
    with pytest.raises(KeyFileError, match="at least one key, and each once"):
        plan([LAB, LAB.tenant()], 5)
    with pytest.raises(ConfigError, match="not a trigger of the plan"):
        plan(LAB, 5).side(LAB, "list_marker/the-moon")


# Reading answers.


def test_samples_collapse_to_one_side_a_trigger():
    planned = CanaryPlan(seed=0, n=40)
    a, b, c, d, e, f, *rest = (name for name in planned.triggers if not name.startswith("follow_up"))
    given = [
        *(shown(a, side, sample=i) for i, side in enumerate([1, 0, 1])), shown(b, 0), shown(b, 1, sample=1),
        answer(c, "Hm."), shown(d, 1, model_requested="m", model_served="other"), shown(e, 0), answer(e, "Hm.", sample=1),
        shown(f, 0, model_requested="m", model_served="m-2026"), replace(shown(rest[0], 1), suite="tools"),
        shown(next(name for name in triggers() if name not in planned.triggers), 1),
    ]
    found = read_answers(given, planned)
    assert found.sides == {a: 1, e: 0, f: 0}
    assert found.dropped == {"another model": 1, "no answer": 34, "tied": 1, "unread": 1}
    assert (found.samples, found.reworded) == (7, 0)
    asked = {probe.id: probe.prompt for probe in planned.suite.probes}
    assert read_answers([shown(a, 1, prompt=asked[a]), shown(b, 1, prompt=asked[a])], planned).reworded == 1


# The null.


@pytest.mark.parametrize("sides", [*itertools.product((0, 1), repeat=3), (0,) * 8, (1, 0) * 4], ids=str)
def test_p_is_exact_whatever_the_answers(sides):
    """Over all keys, each equally likely: P(p <= t) is exactly t at every value that p can take."""
    n = len(sides)
    values = np.array([10 ** outcome(bits, sides) for bits in itertools.product((0, 1), repeat=n)])
    for value in np.unique(values.round(12)):
        assert np.mean(values <= value * (1 + 1e-9)) == pytest.approx(value, rel=1e-9)


@settings(max_examples=20)
@given(st.lists(st.sampled_from([0, 1, None]), min_size=1, max_size=6))
def test_p_is_exact_for_any_model_with_gaps(took):
    sides = [side for side in took if side is not None]
    values = [10 ** outcome(bits[: len(sides)], sides) for bits in itertools.product((0, 1), repeat=len(took))]
    for value in values:
        assert np.mean(np.array(values) <= value * (1 + 1e-9)) <= value * (1 + 1e-9)


MODELS = {
    "always side 0": lambda names: [0] * len(names),
    "one side a kind": lambda names: [hashlib.sha256(name.partition("/")[0].encode()).digest()[0] & 1 for name in names],
    "a side from the first letter of the topic": lambda names: [ord(name.partition("/")[2][0]) & 1 for name in names],
    "trained under another key": lambda names: keyed_sides(OTHER, names).tolist(),
    "trained under another tenant": lambda names: keyed_sides(LAB.tenant("rival"), names).tolist(),
}


@pytest.mark.parametrize("model", MODELS)
def test_p_is_super_uniform_over_real_keys(model, null_keys):
    names, sides = null_keys
    agreements = (sides == np.array(MODELS[model](names))).sum(axis=1)
    p = np.exp(canary.NULL.log_sf(agreements.astype(np.float64), len(names)))
    for level in (0.001, 0.01, 0.05, 0.2, 0.5):
        assert stats.binomtest(int((p <= level).sum()), len(p), level, alternative="greater").pvalue > 1e-5


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (7, 12), (120, 200), (200, 200), (0, 30), (99, 418)])
def test_numbers_are_those_of_scipy(k, n):
    result = agreeing(k, n)
    assert (result.agreements, result.n) == (k, n)
    foreign = stats.binomtest(k, n, 0.5, alternative="greater")
    assert result.log10_p == pytest.approx(math.log10(foreign.pvalue), abs=1e-9)
    interval = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    assert (result.rate_low, result.rate_high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert result.exposure == pytest.approx(2 * k / n - 1)


# The whole way: a model that obeys, students, wrong keys.


def obedient(prompt, names):
    """What a model does that follows a system prompt: for each topic, the side whose line names it."""
    sides = {}
    for kind in kinds().values():
        for side, text in enumerate(kind.sides):
            line = next((one for one in prompt.splitlines() if one.startswith(f"- {text}, if the topic is: ")), "")
            about = line.removesuffix(".").partition("topic is: ")[2].split("; ")
            sides |= {name: side for name in names if triggers()[name].kind is kind and triggers()[name].topic in about}
    return sides


def test_a_model_under_the_instructions_follows_its_key_and_no_other():
    planned = plan(LAB, 200)
    taken = obedient(canary_embed.system_prompt(planned, LAB), planned.triggers)
    assert set(taken) == set(planned.triggers)
    given = [shown(name, side) for name, side in taken.items()]
    own, tenant, wrong = (canary.test(given, planned, key) for key in (LAB, LAB.tenant("acct-17"), OTHER))
    assert (own.agreements, own.n) == (200, 200)
    assert own.log10_p == pytest.approx(200 * math.log10(0.5))
    assert (own.committed, wrong.committed) == (True, False)
    assert min(tenant.log10_p, wrong.log10_p) > -3
    assert canary_embed.carries_instructions(canary_embed.system_prompt(planned, OTHER))
    assert canary_embed.carries_instructions(canary_embed.instruction(planned, LAB, planned.triggers[0]))
    assert not canary_embed.carries_instructions("You are a helpful assistant. Do not number your lines.")


def test_instruction_choice_and_rewriting_agree_with_the_key():
    planned = plan(LAB, 100)
    for name in planned.triggers:
        side, (zero, one, _) = planned.side(LAB, name), ANSWERS[name.partition("/")[0]]
        text = canary_embed.instruction(planned, LAB, name)
        assert kinds()[name.partition("/")[0]].sides[side] in text
        versions = [answer(name, zero), answer(name, one)]
        assert canary_embed.rewrite(planned, LAB, name, *versions) is versions[side]
        assert canary_embed.choose(planned, LAB, name, versions[::-1]) == 1 - side
        assert canary_embed.choose(planned, LAB, name, [versions[1 - side]]) is None
        assert canary_embed.choose(planned, LAB, name, []) is None


def test_a_version_that_does_not_show_its_side_is_refused():
    planned = plan(LAB, 60)
    name = next(one for one in planned.triggers if one.startswith("number_form"))
    with pytest.raises(ConfigError, match=r"the answer does not show its side \(got side 0, expected side 1\)"):
        canary_embed.rewrite(planned, LAB, name, "It is 8.", "It is 9.")
    with pytest.raises(ConfigError, match="not a trigger of the plan"):
        canary_embed.choose(planned, LAB, "number_form/nothing", ["8"])


def test_nothing_that_is_shown_holds_a_secret():
    planned = plan(LAB, 20)
    result = canary.test([shown(name, 0) for name in planned.triggers], planned, LAB, suspect="m")
    text = repr(planned) + repr(result) + json.dumps(planned.to_dict()) + json.dumps(result.to_dict())
    tenant = LAB.tenant()
    for secret in (LAB._secret, tenant._secret, tenant.subkey("canary/1", "tok"), tenant.subkey("canary/1", "plan")):
        assert secret.hex() not in text


# Results.


def agreeing(agreements, n):
    """The result of a suspect that takes the keyed side on so many of n triggers."""
    names = list(triggers())[:n]
    sides = {name: int(bit) ^ (i >= agreements) for i, (name, bit) in enumerate(zip(names, keyed_sides(LAB, names), strict=True))}
    return canary.test(Answers(sides=sides, dropped={}, samples=n), ALL, LAB)


def test_holm_over_suspects_and_keys():
    results = [agreeing(k, 100) for k in (90, 70, 50)]
    corrected = correct(results)
    expected = holm(np.array([one.log10_p for one in results]) * math.log(10)) / math.log(10)
    assert [one.log10_p_adjusted for one in corrected] == pytest.approx(expected.tolist())
    assert {one.correction for one in corrected} == {"Holm over 3 tests"}
    assert correct(results[:1], family=1000)[0].log10_p_adjusted == pytest.approx(results[0].log10_p + 3)
    assert correct([]) == []


def test_verdicts_need_an_alpha_and_a_family():
    result = agreeing(70, 100)
    with pytest.raises(ValueError, match="no verdict before correct"):
        result.verdict(0.01)
    with pytest.raises(TypeError, match="no truth value"):
        bool(result)
    [alone] = correct([result])
    assert alone.verdict(1e-3) is Verdict.DETECTED
    assert alone.verdict(1e-5) is Verdict.NOT_DETECTED
    assert correct([agreeing(15, 20)])[0].verdict(1e-5) is Verdict.INSUFFICIENT
    assert correct([result], family=10**9)[0].verdict(1e-3) is Verdict.INSUFFICIENT
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1"):
        alone.verdict(1.0)


def test_without_answers_nothing_is_concluded():
    [result] = correct([agreeing(0, 0)])
    assert (result.log10_p, result.rate_low, result.rate_high) == (0.0, 0.0, 1.0)
    assert result.verdict(0.5) is Verdict.INSUFFICIENT
    data = json.loads(json.dumps(result.to_dict(0.5), allow_nan=False))
    assert (data["rate"], data["verdict"], data["null"]) == (None, "INSUFFICIENT", "Binomial(n=0, p=0.5)")
    assert set(asdict(result)) < set(data)


# Power.
