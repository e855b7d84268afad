"""``wmcheck trace``: accounts named, formats, exit codes, fragments, and every bad input."""

import csv
import io
import json
import signal
import time

import numpy as np
import pytest

from wmcheck.watermark import Profile
from wmcheck.watermark.candidate import Candidate

NAMES = [f"acct-{number}" for number in range(300)]
LIST = ("trace", "leak.jsonl", "--tenants", "accounts.txt")
BASE = (*LIST, "-p", "gumbel.profile.json", "--key", "file:lab.wmk")


def written(profile, root, account, length, rng, epoch=""):
    prf, scheme = Candidate.of(profile, root, account, epoch).prf, profile.scheme
    ids = rng.integers(1, 1024, scheme.width).tolist()
    while len(ids) < length:
        options = rng.choice(np.arange(1, 1024), 16, replace=False)
        windows = np.tile(np.array(ids[len(ids) - scheme.width :], np.uint32), (16, 1))
        ids.append(int(options[np.argmax(scheme.null().reduce(scheme.score(windows, options, prf)))]))
    return ids


@pytest.fixture
def leak(wm, profiles, lab, bundled):
    rng = np.random.default_rng(21)
    profile = profiles["gumbel"]
    text = written(profile, lab, "acct-250", 160, rng)
    records = [
        {"id": "own", "tokens": written(profile, lab, "acct-17", 120, rng)},
        {"id": "text", "text": bundled.decode(text), "tokens": text},
        {"id": "plain", "tokens": rng.integers(1, 1024, 150).tolist()},
        {"id": "short", "tokens": [5, 6]},
        {"id": "both", "tokens": written(profile, lab, "acct-3", 120, rng) + written(profile, lab, "acct-17", 120, rng)},
    ]
    wm.write("leak.jsonl", records)
    wm.write("accounts.txt", "".join(f"{name}\n" for name in NAMES))
    return records


def test_json(wm, leak):
    done = wm(*BASE, "--json")
    assert (done.code, done.err) == (0, "")
    found = done.json
    assert (found["schema"], found["complete"], found["alpha"]) == ("wmcheck.trace/1", True, 1e-6)
    assert found["summary"] == {
        "records": 5, "skipped": 0, "NAMED": 4, "CANNOT_SAY": 2, "correction": "Sidak over 300 keys, Bonferroni over 6 tests",
        "family": 1800,
    }
    records = {one["document"]: one for one in found["records"]}
    assert [one["account"] for one in found["records"]] == ["acct-17", "acct-250", None, None, records["both"]["account"]]
    assert {one["account"] for one in records["both"]["named"]} == {"acct-3", "acct-17"}
    own = records["own"]
    assert own["log10_p_adjusted"] < -6 < records["plain"]["log10_p_adjusted"]
    assert own["margin"] > 10
    assert own["runner_up"]["account"] != "acct-17"
    assert (own["n_scored"], own["n_excluded"], own["family"]) == (118, 2, 1800)
    assert own["named"][0]["key_id"] == own["key_id"] == own["key_commitment"][:16]
    assert own["named"][0]["key_committed"] == "root"
    assert records["plain"]["reason"].startswith("no account reaches alpha")
    assert records["short"]["reason"].startswith("too few tokens")
    assert records["short"]["n_scored"] == 0
    assert records["short"]["tokens_needed"] < 150
    assert found["together"]["verdict"] == "NAMED"
    assert found["run"]["argv"][:2] == ["trace", "leak.jsonl"]
    assert {one["name"] for one in found["run"]["inputs"]} == {"leak.jsonl", "gumbel.profile.json", "accounts.txt"}
    # The same to the last digit, with other work sharing.
    again = wm(*BASE, "--json", "--workers", "2").json
    assert {**again, "run": None} == {**found, "run": None}


def test_formats_agree(wm, leak):
    expected = wm(*BASE, "--json").json
    answers = [(one["document"], one["verdict"], one["account"] or "-") for one in [*expected["records"], expected["together"]]]
    rows = list(csv.DictReader(io.StringIO(wm(*BASE, "--format", "csv").out)))
    assert [(row["record"], row["verdict"], row["account"] or "-") for row in rows] == answers
    lines = wm(*BASE, "--format", "jsonl").lines
    assert [line["type"] for line in lines] == ["record"] * 5 + ["verdict"] * 5 + ["together", "summary"]
    assert "account" not in lines[0]
    assert {key: value for key, value in lines[5].items() if key not in ("type", "schema")} == expected["records"][0]
    for layout in ("table", "md"):
        out = wm(*BASE, "--format", layout).out
        assert all(name in out for _, _, name in answers)
        assert "alpha 1e-06 for naming any innocent account, Sidak over 300 keys, Bonferroni over 6 tests." in out
        assert "It does not say that no listed account wrote the text." in out
    done = wm(*BASE, "-o", "out.txt")
    assert (done.code, done.out, wm.read("out.txt")) == (0, "", wm(*BASE).out)


def test_epochs_multiply_the_family(wm, leak, profiles, lab):
    rng = np.random.default_rng(3)
    wm.write("leak.jsonl", [{"id": "a", "tokens": written(profiles["gumbel"], lab, "acct-9", 120, rng, "2026-11")}])
    assert wm(*BASE, "--json").json["records"][0]["verdict"] == "CANNOT_SAY"
    found = wm(*BASE, "--json", "--epoch", "2026-10", "--epoch", "2026-11", "--epoch", "2026-10").json
    one = found["records"][0]
    assert (one["account"], one["epoch"], one["correction"]) == ("acct-9", "2026-11", "Sidak over 600 keys")
    assert found["together"] is None
    assert "2026-11" in wm(*BASE, "--epoch", "2026-11").out
    assert wm(*BASE, "--json", "--epoch", "2026-11", "--family", "50").json["summary"]["family"] == 15_000


def test_fragments(wm, leak, profiles, lab):
    rng = np.random.default_rng(4)
    records = [{"id": str(place), "tokens": rng.integers(1, 1024, 40).tolist()} for place in range(100)]
    records += [{"id": f"own {place}", "tokens": written(profiles["gumbel"], lab, "acct-77", 40, rng)} for place in range(5)]
    wm.write("leak.jsonl", records)
    done = wm(*BASE, "--fragments", "--json")
    found = done.json
    assert (found["records"], found["together"], found["summary"]["records"]) == ([], None, 105)
    one = found["fragments"]
    assert (one["verdict"], one["account"], len(one["named"])) == ("NAMED", "acct-77", 1)
    assert one["log10_p"] == -one["log10_e"] < -12
    assert (one["fragments"], one["share"] in (0.03, 0.1)) == (105, True)
    assert "acct-77" in wm(*BASE, "--fragments").out
    assert [line["type"] for line in wm(*BASE, "--fragments", "--format", "jsonl").lines] == ["fragments", "summary"]
    cut = wm(*BASE, "--fragments", "--fragment-tokens", "10", "--json").json["fragments"]
    assert cut["fragments"] == 4 * 105


def test_exit_codes(wm, leak):
    assert wm(*BASE, "--fail-on", "named").code == 1
    assert wm(*BASE, "--fail-on", "cannot-say").code == 3
    assert wm(*BASE, "--strict").code == 3
    wm.write("leak.jsonl", leak[2:3])
    assert wm(*BASE, "--fail-on", "named").code == 0


def test_bad_records_are_counted(wm, leak):
    wm.write("leak.jsonl", json.dumps(leak[0]) + "\n{broken\n" + json.dumps({"id": "far", "tokens": [10**6]}) + "\n")
    done = wm(*BASE, "--json")
    assert (done.code, done.json["summary"]["skipped"], done.json["summary"]["records"]) == (0, 2, 1)
    assert "leak.jsonl:2" in done.err
    assert wm(*BASE, "--strict").code == 2


def test_layered_profiles(wm, leak, lab, bundled):
    profile = Profile.create("layered", {"cohorts": 8}, tokenizer=bundled, entropy_bits=2.0, keys=(lab,))
    profile.save("layered.json")
    rng = np.random.default_rng(5)
    wm.write("leak.jsonl", [{"id": "a", "tokens": written(profile, lab, "acct-5", 700, rng)}])
    found = wm(*BASE, "-p", "layered.json", "--json").json
    one = found["records"][0]
    assert (one["account"], one["correction"]) == ("acct-5", "Bonferroni weighted by cohorts over 300 keys")
    assert one["n_scored"] < 300
    assert wm(*BASE, "-p", "layered.json", "--fragments", "--json").json["fragments"]["account"] == "acct-5"


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "accounts.txt: no accounts (expected one account a line)"),
        (b"a\n\xe9t\xe9\n", "accounts.txt:2: the list of accounts is not UTF-8 (got byte 0xe9, expected UTF-8 text"),
        (b"b\na\nb\n", "accounts.txt:3: accounts that stand in the list twice (got line 3 repeats line 1, expected each"),
        (b"a\n" + b"n" * 600, "accounts.txt:2: no key can have this name"),
        (b"".join(b"%d\n" % number for number in range((1 << 20) + 1)),
         "accounts.txt: too many accounts for one search (got 1048577 names, expected at most 1048576)"),
    ],
    ids=["empty", "latin-1", "duplicates", "too long", "too many"],
)
def test_bad_lists(wm, leak, fail, data, line):
    wm.write("accounts.txt", data)
    fail(wm(*BASE), line, hint=None)


def test_no_list(wm, leak, fail):
    fail(wm(*BASE, "--tenants", "gone.txt"), "gone.txt: cannot read the list of accounts", hint=None)
    done = wm("trace", "leak.jsonl")
    assert done.code == 2
    assert "--tenants" in done.err


def test_keys_and_profiles_without_accounts(wm, leak, fail, lab):
    from wmcheck.watermark.key_sources import write_key_file

    write_key_file(lab.tenant("acct-17"), "tenant.wmk")
    fail(
        wm(*BASE, "--key", "file:tenant.wmk"),
        "--key: accounts' keys derive from the root key (got the key of tenant 'acct-17', expected a root key)",
        hint="wmcheck check tests a text under one tenant's key",
    )
    Profile.create("vllm-gumbel").save("peer.json")
    fail(wm(*BASE, "-p", "peer.json"), "peer.json: 'vllm-gumbel' is of vLLM", hint=None)
    wm.write("wmcheck.toml", "")
    fail(wm(*LIST), "--profile: no profile (expected a profile file)", hint=None)
    fail(wm(*LIST, "-p", "gumbel.profile.json"), "--key: no key", hint=None)


def test_nothing_to_score(wm, leak, fail, lab):
    wm.write("leak.jsonl", [{"id": "a", "tokens": [1, 2]}, {"id": "b", "tokens": []}])
    for more in ([], ["--fragments"]):
        fail(wm(*BASE, *more), "leak.jsonl: no record has a token that can be scored", hint=None)
    wm.write("leak.jsonl", "")
    fail(wm(*BASE), "leak.jsonl: ", hint=None)
    Profile.create("gumbel", {"width": 2}, keys=(lab,)).save("bare.json")
    wm.write("leak.jsonl", [{"id": "a", "text": "no ids, and no tokenizer to make some"}])
    fail(wm(*BASE, "-p", "bare.json"), "bare.json: the profile names no tokenizer, so text cannot be encoded", hint=None)


def test_an_interrupt_keeps_what_is_finished(wm, leak, profiles, lab):
    rng = np.random.default_rng(6)
    own = {"id": "own", "tokens": written(profiles["gumbel"], lab, "acct-17", 120, rng)}
    wm.write("accounts.txt", "".join(f"acct-{number}\n" for number in range(3000)))
    rest = [{"id": str(place), "tokens": rng.integers(1, 1024, 800).tolist()} for place in range(64 * 10)]
    wm.write("leak.jsonl", [own, *rest])
    process = wm.start(*BASE, "--format", "jsonl", "-q")
    first = process.stdout.readline()
    assert json.loads(first)["document"] == "own"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.stdout.read(), process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert (process.wait(), err) == (130, b"interrupted\n")
    lines = [json.loads(line) for line in out.splitlines()]
    verdicts = [line for line in lines if line["type"] == "verdict"]
    assert (verdicts[0]["document"], verdicts[0]["account"]) == ("own", "acct-17")
    assert (lines[-1]["type"], lines[-1]["complete"]) == ("summary", False)
    assert lines[-1]["summary"]["records"] == len(verdicts) < 64 * 10
    assert not [line for line in lines if line["type"] == "together"]
