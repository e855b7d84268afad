"""``embed --payload`` and what ``check`` reads back; payloads that cannot be."""

import json

import pytest

from wmcheck.watermark.profile import Profile


@pytest.fixture
def payloads(wm, bundled):
    """Profiles with a payload beside those of the folder."""
    for name, parameters in (("payload-shift", {"messages": 65536}), ("payload-code", {"bits": 16, "length": 8})):
        Profile.create(name, {"width": 2, **parameters}, tokenizer=bundled, entropy_bits=2.0).save(wm.path / f"{name}.json")
    return wm


@pytest.mark.parametrize("name", ["payload-shift", "payload-code"])
def test_the_message_is_read_back(payloads, name):
    wm = payloads
    done = wm("embed", "--prompt", "One day,", "--prompt", "The cat", "-p", f"{name}.json", "--payload", "0x2f3a",
              "--tenant", "acct-17", "--max-new-tokens", "110", "-o", "made.jsonl")
    assert (done.code, done.out, done.err) == (0, "", "")
    made = [json.loads(line) for line in wm.read("made.jsonl").splitlines()]
    assert {record["payload"] for record in made} == {"0x2f3a"}
    assert {record["scheme"] for record in made} == {name}
    found = wm("made.jsonl", "-p", f"{name}.json", "--tenant", "acct-17", "--json").json
    for record in found["records"]:
        test = record["tests"][0]
        assert test["decoded"].split(" (")[0] == "payload 0x2f3a"
        assert test["log10_p"] < -5
        assert "best of 65536 messages (Sidak)" in test["null"]
    table = wm("made.jsonl", "-p", f"{name}.json", "--tenant", "acct-17").out
    assert "decoded" in table.splitlines()[0]
    assert table.count("payload 0x2f3a") == 3
    other = wm("made.jsonl", "-p", f"{name}.json", "--tenant", "acct-91", "--json").json
    assert all(record["log10_p"] > -3 for record in other["records"])


def test_resuming_asks_for_the_same_message(payloads):
    wm = payloads
    arguments = ["embed", "--prompt", "One day,", "-n", "2", "-p", "payload-shift.json", "--max-new-tokens", "5", "-o"]
    assert wm(*arguments, "whole.jsonl", "--payload", "7").code == 0
    first = wm.read("whole.jsonl").splitlines(keepends=True)[0]
    wm.write("made.jsonl.partial", first)
    done = wm(*arguments, "made.jsonl", "--payload", "8", "--resume")
    assert done.code == 2
    assert "belongs to another run" in done.err
    wm.write("made.jsonl.partial", first)
    assert wm(*arguments, "made.jsonl", "--payload", "0x7", "--resume").code == 0
    assert wm.read("made.jsonl").startswith(first)


@pytest.mark.parametrize(
    ("arguments", "line", "hint"),
    [
        (["-p", "payload-shift.json"], "--payload: the profile carries a payload, and none is given "
         "(expected a message, e.g. 0x2f3a)", "--payload 0 embeds the message 0"),
        (["-p", "payload-shift.json", "--payload", "0x10000"],
         "payload: the message does not fit the profile (got 0x10000, expected at most 0xffff)", ""),
        (["-p", "payload-code.json", "--payload", "65536"],
         "payload: the message does not fit the profile (got 0x10000, expected at most 0xffff)", ""),
        (["-p", "payload-shift.json", "--payload", "2f3a"],
         "--payload: not a message (got '2f3a', expected a whole number, 0 or more, such as 0x2f3a or 12090)", ""),
        (["-p", "gumbel.profile.json", "--payload", "1"],
         "payload: the profile carries no payload (got scheme gumbel, expected payload-shift or payload-code)",
         "make one with 'wmcheck profile new payload-shift', or leave out the payload"),
        (["--no-watermark", "--payload", "1"], "--payload: ordinary text carries no payload", "leave out --no-watermark"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_payloads_that_cannot_be_embedded(payloads, fail, arguments, line, hint):
    done = payloads("embed", "--prompt", "One day,", *arguments)
    assert done.out == ""
    fail(done, line, hint=hint)


def test_a_profile_with_more_messages_than_ids(wm, fail):
    done = wm("profile", "new", "payload-shift", "--set", "messages=5000", "--set", "vocabulary=4096", "-o", "x.json")
    fail(done, "profile, messages: more messages than the vocabulary has ids (got 5000 of 4096 ids, expected at most 4096)",
         hint="a larger vocabulary does no harm; payload-code carries up to 32 bits")
    assert not (wm.path / "x.json").exists()


def test_a_missing_library_is_named_before_the_model_loads(payloads, fail, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "reedsolo", None)
    arguments = ["-p", "payload-code.json"]
    line = "payload-code: reedsolo is not installed, and payloads with an error-correcting code need it"
    fail(payloads("embed", *arguments, "--payload", "1", "--model", "./gone"), line, hint="pip install 'wmcheck[payload]'")
    payloads.write("x.jsonl", [{"tokens": list(range(1, 60))}])
    fail(payloads("x.jsonl", *arguments), line, hint="pip install 'wmcheck[payload]'")
