"""``radioactivity`` of open weights: a model that was trained on marked text and one that was not, layers, and bad input."""

import json
import math
import sys
from collections import Counter
from pathlib import Path

import pytest

from wmcheck.cli.radioactive import corrected
from wmcheck.fingerprint.runlog import load_run
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.radioactivity import Radioactivity

sys.path.append(str(Path(__file__).parents[1] / "support"))
from marked_student import BUNDLED, named

OPEN = ("--texts", "plain.jsonl", "--device", "cpu")


def test_a_model_that_never_saw_the_mark_is_not_accused(radioactivity):
    done = radioactivity("--model", BUNDLED, *OPEN, "--json", "--fail-on", "detected")
    assert (done.code, done.json["verdict"]) == (0, "NOT_DETECTED")
    found = named(done)
    assert found.keys() == {"weighted", "reading"}
    for one in found.values():
        assert -3.0 < one["log10_p"] <= one["log10_p_adjusted"] <= 0.0
        assert one["decoys"]["count"] == 20
        assert one["decoys"]["null_holds"]
        assert 1 <= one["decoys"]["at_least"] <= 19
        assert one["correction"] == "Holm over 2 tests"
        assert (one["key_committed"], one["dose"], one["base"]) == ("root", None, None)
    assert "That does not clear it" in done.json["says"]
    assert "distil" not in done.json["says"]
    assert done.json["schema"] == "wmcheck.radioactivity/1"
    assert "schema" not in done.json["tests"][0]
    assert "NaN" not in done.out
    assert done.json["suspect"] == {"model": BUNDLED, "texts": 16, "read": "texts of files"}
    assert done.json["run"]["argv"][0] == "radioactivity"
    assert {entry["name"] for entry in done.json["run"]["inputs"]} >= {"mark.json", "plain.jsonl"}


def test_a_student_of_marked_text_is_found_by_its_key_alone(radioactivity):
    done = radioactivity("--model", "student", *OPEN, "--base", BUNDLED, "--json", "--fail-on", "detected", "--alpha", "1e-4")
    assert (done.code, done.json["verdict"]) == (1, "DETECTED")
    for one in named(done).values():
        assert one["log10_p_adjusted"] < -8.0
        assert one["decoys"]["at_least"] == 0
        assert one["base"]["log10_p"] > -3.0
    assert "depends on this key" in done.json["says"]
    assert done.json["warnings"] == []
    other = radioactivity("--model", "student", *OPEN, "--json", "--alpha", "1e-4", key="file:other.wmk")
    assert (other.code, other.json["verdict"]) == (0, "NOT_DETECTED")
    assert "does not commit to the key" in other.err


def test_contrast_filter_and_dose(radioactivity, student):
    radioactivity.wm.write("marked.jsonl", "no JSON\n" + "".join(json.dumps(one) + "\n" for one in student.marked))
    args = ("--filter", "marked.jsonl", "--tests", "weighted,contrast", "--base", BUNDLED)
    done = radioactivity("--model", "student", *OPEN, *args, "--json")
    found = named(done)
    # The logs are read several times, for contexts and dose; a bad record counts once.
    assert done.json["skipped"] == done.err.count("skipped: ") == 1
    assert found["contrast"]["log10_p"] < -6.0
    assert found["contrast"]["decoys"] is None
    assert "windows of the provider's logs" in found["weighted"]["filter"]
    assert 0.0 < found["weighted"]["dose"]["low"] <= found["weighted"]["dose"]["high"] == 1.0


def test_a_reference_of_known_dose(radioactivity):
    known = radioactivity("--model", "student", *OPEN, "--tests", "weighted", "--json", "-o", "known.json")
    assert (known.code, known.out) == (0, "")
    # The same the next time, to the last digit.
    assert radioactivity("--model", "student", *OPEN, "--tests", "weighted", "--json").out == radioactivity.wm.read("known.json")
    args = ("--tests", "weighted", "--reference", "known.json", "--reference-share", "0.5")
    done = radioactivity("--model", "student", *OPEN, *args, "--json")
    dose = named(done)["weighted"]["dose"]
    assert dose["estimate"] == pytest.approx(0.5)
    assert dose["low"] < 0.5 < dose["high"]
    table = radioactivity("--model", "student", *OPEN, *args)
    assert "50.0% (" in table.out


def test_texts_of_its_own(radioactivity):
    """Without texts the model writes some; the log of that is resumed, and read again by the sampled test."""
    args = ("--model", "student", "--device", "cpu", "--budget", "4calls", "--answer-tokens", "80", "--log", "own.run", "--json")
    done = radioactivity(*args, "--tests", "sampled,weighted")
    assert done.json["suspect"]["answers"] == 4
    assert done.json["suspect"]["read"] == "texts of its own"
    held = radioactivity.wm.read("own.run")
    assert [entry["name"] for entry in load_run("own.run").suites] == ["openings"]
    again = radioactivity(*args, "--tests", "sampled,weighted")
    assert (again.out, radioactivity.wm.read("own.run")) == (done.out, held)


@pytest.mark.parametrize("layout", ["table", "csv"])
def test_other_formats(radioactivity, layout):
    done = radioactivity("--model", "student", *OPEN, "--tests", "weighted", "--format", layout, decoys=0)
    assert done.code == 0
    lines = done.out.splitlines()
    assert "log10 p" in lines[0]
    assert "redgreen" in done.out
    if layout == "csv":
        assert len(lines) == 2
    else:
        assert "p-values hold if" in done.out


def test_marked_texts_have_another_rule(radioactivity):
    found = named(radioactivity("--model", "student", "--texts", "marked.jsonl", "--field", "text", "--marked", "--device", "cpu",
                          "--tests", "weighted", "--json", decoys=0))["weighted"]  # fmt: skip
    assert "copies" in found["rule"]
    assert found["dose"]["method"] == "marked text"


def test_too_few_texts_are_insufficient(radioactivity):
    radioactivity.wm.write("short.txt", "Once upon a time there was a dog.\n")
    done = radioactivity("--model", BUNDLED, "--texts", "short.txt", "--json", "--fail-on", "insufficient", decoys=0)
    assert (done.code, done.json["verdict"]) == (3, "INSUFFICIENT")
    assert "Nothing can be said" in done.json["says"]


# Layers


def test_each_layer_of_a_layered_profile_is_tested_in_order(radioactivity, bundled):
    Profile.create("layered", {}, tokenizer=bundled, entropy_bits=2.0).save("layered.json")
    accounts = ("--tenant", "acct-17", "--tenant", "acct-91", "--epoch", "2026")
    args = ("-p", "layered.json", "--model", BUNDLED, *OPEN, "--tests", "weighted", "--json")
    done = radioactivity(*args, *accounts, decoys=0)
    assert done.code == 0, done.err
    # The layers that both accounts share are tested once.
    layers = Counter(one["layer"] for one in done.json["tests"])
    assert (layers["provider"], layers["epoch"], layers["account"]) == (1, 1, 2)
    provider = next(one for one in done.json["tests"] if one["layer"] == "provider")
    assert "Bonferroni over 2 tests and sequences" in provider["correction"]
    assert "trained on text of this provider" in provider["says_if_detected"]
    assert all(one["log10_p_adjusted"] >= provider["log10_p"] for one in done.json["tests"])
    one = radioactivity(*args, "--layer", "provider", decoys=0)
    assert [held["layer"] for held in one.json["tests"]] == ["provider"]


def made(log10_p):
    return Radioactivity(
        test="weighted", profile="p", scheme="s", n_contexts=1, n_items=1, tokens_read=1, total=0.0, z=0.0, excess=0.0,
        excess_se=1.0, log10_p=log10_p, log10_p_expected=-9.0, null="", assumptions=(), rule="", key_id="", key_commitment="",
    )


def test_layers_go_by_their_order_and_other_tests_by_holm():
    # Two chains of layers that share the first, and one plain candidate, each with two tests.
    results = [made(p) for p in (-8.0, -4.0, -5.0, -1.0, -9.0, -6.0, -7.0, -2.0)]
    found = corrected(results, 2, [[0, 1], [0, 2]], None)
    m = math.log10(6)
    adjusted = [one.log10_p_adjusted for one in found]
    assert adjusted[:6] == pytest.approx([-8.0 + m, -4.0 + m, -5.0 + m, -1.0 + m, -8.0 + m, -4.0 + m])
    assert adjusted[6:] == pytest.approx([-7.0 + m, -2.0 + math.log10(5)])
    assert {one.family for one in found} == {6}
    assert {one.family for one in corrected(results, 2, [[0, 1], [0, 2]], 50)} == {50}


# Bad input


@pytest.mark.parametrize(("args", "line"), [
    (("--model", "nowhere"), "--model: a model that writes its own texts is needed as a folder (got nowhere)"),
    (("--model", "./nowhere", "--texts", "plain.jsonl"), "./nowhere: cannot load the model"),
    (("--model", BUNDLED, "--texts", "nowhere.jsonl"), "nowhere.jsonl: "),
    (("--model", BUNDLED, "--tests", "loud"), "--tests: no such test (got 'loud', expected weighted, reading, sampled"),
    (("--model", BUNDLED, "--tests", ","), "--tests: tests by comma, each once (got ',')"),
    (("--model", BUNDLED, "--tests", "reading,reading"), "--tests: tests by comma, each once"),
    (("--model", BUNDLED, "--tests", "contrast"), "--tests: the test does not fit what is asked (got contrast"),
    (("--model", "m", "--endpoint", "http://127.0.0.1:9/v1"), "--log: no run log"),
    (("--model", "m", "--endpoint", "http://127.0.0.1:9/v1", "--log", "a.run", "--tests", "weighted"),
     "--tests: the test does not fit what is asked (got weighted, expected sampled)"),
    (("--model", "m", "--endpoint", "http://127.0.0.1:9/v1", "--log", "a.run", "--texts", "plain.jsonl"),
     "--texts: a model behind an endpoint reads no texts"),
    (("--model", "m", "--endpoint", "http://127.0.0.1:9/v1", "--log", "a.run", "--base", BUNDLED),
     "--base: open weights are no control of sampled answers"),
    (("--model", "m", "--endpoint", "http://127.0.0.1:9/v1", "--log", "a.run", "--budget", "much"), "--budget: not a budget"),
    (("--model", "m", "--endpoint", "http://127.0.0.1:9/v1", "--log", "a.run", "--extra", "[1]"), "--extra: not a JSON object"),
    (("--model", "m", "--endpoint", "nonsense", "--log", "a.run"), "--endpoint: not an endpoint"),
    (("--model", "m", "--endpoint", "replay:plain.jsonl"), "plain.jsonl:1: "),
    (("--model", "m", "--endpoint", "replay:nowhere.run"), "nowhere.run: "),
    (("--model", "m", "--endpoint", "replay:a.run", "--log", "b.run"), "--log: a run that is read again has a log"),
    (("--model", BUNDLED, "--marked"), "--marked: no texts that could be marked"),
    (("--model", BUNDLED, "--base-log", "a.run"), "--base-log: a run is no control of open weights"),
    (("--model", BUNDLED, "--filter-top", "5"), "--filter-top: no logs to count in"),
    (("--model", BUNDLED, "--reference-share", "0.5"), "--reference-share: no reference"),
    (("--model", BUNDLED, "--reference", "mark.json"), "mark.json: not a radioactivity result with this test"),
    (("--model", BUNDLED, "--logprobs"), "--logprobs: no server to ask"),
    (("--model", BUNDLED, *OPEN, "--log", "a.run"), "--log: nothing is sampled where texts are given"),
    (("--model", BUNDLED, "--layer", "account"), "--layer: no such layer (got account, expected a layered profile)"),
    (("--model", BUNDLED, *OPEN, "--filter", "empty.jsonl"), "empty.jsonl"),
    (("--model", BUNDLED, "--texts", "plain.jsonl", "--device", "toaster"), "--device: cannot use the device (got toaster"),
    (("-p", "nowhere.json", "--model", BUNDLED), "nowhere.json: no such profile"),
    (("--model", BUNDLED, *OPEN, "--tokenizer", "nowhere/x"), None),
])  # fmt: skip
def test_bad_input(radioactivity, fail, args, line):
    radioactivity.wm.write("empty.jsonl", "")
    done = radioactivity(*args, decoys=0)
    if line is None:
        # The model's own tokenizer is the profile's, so that no other is needed.
        assert done.code == 0
        return
    fail(done, line, hint=None)
