"""``profile import`` and ``profile contracts``: the profile is public, the key goes to a file of mode 0600 and nowhere else."""

import json
import os
import stat

import pytest

from wmcheck.watermark.peer import PEERS
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.scheme import SCHEMES

KEY = 98765432198
VLLM = {"algorithm": "gumbel", "key": KEY, "context_width": 3}


def clean(done):
    """Assert that nothing of the key was said."""
    assert str(KEY) not in done.out + done.err
    assert hex(KEY)[2:] not in done.out + done.err
    return done


def test_a_configuration_becomes_a_profile_and_a_key(wm):
    wm.write("vllm.json", json.dumps(VLLM))
    done = clean(wm("profile", "import", "vllm.json", "-o", "p.json", "--key-out", "vllm.key", "--entropy-bits", "2.5"))
    assert (done.code, done.out) == (0, "")
    key = PeerKey.load("file:vllm.key")
    assert key == PeerKey(KEY)
    assert done.err == (
        f'wrote p.json: vllm-gumbel (vLLM {PEERS["vllm-gumbel"].version}) '
        '{"context_width": 3, "deduplicate_contexts": "single_turn"}\n'
        f"wrote vllm.key: its key, id {key.id}, mode 0600; check with --key file:vllm.key\n"
    )
    assert stat.S_IMODE(os.stat("vllm.key").st_mode) == 0o600
    assert str(KEY) not in wm.read("p.json")
    made = Profile.load("p.json")
    assert (made.scheme_name, made.tokenizer, made.entropy_bits, made.commitments) == ("vllm-gumbel", None, 2.5, ())
    found = clean(wm("suspect.jsonl", "-p", "p.json", "--key", "file:vllm.key", "--json"))
    assert found.code == 0
    assert {test["contract"] for one in found.json["records"] for test in one["tests"]} == {made.contract}


def test_without_a_file_for_the_key_it_is_not_written(wm):
    wm.write("vllm.json", json.dumps(VLLM))
    done = clean(wm("profile", "import", "vllm.json", "-o", "p.json", "--tokenizer", "bundled:stories2m"))
    assert done.code == 0
    assert done.err.endswith("its key was not written: --key-out FILE does, into a file that only you can read\n")
    assert Profile.load("p.json").tokenizer["name"] == "bundled:stories2m"
    wm.write("open.json", json.dumps({"context_window": 4}))
    assert "the configuration has no key" in wm("profile", "import", "open.json", "-o", "q.json").err


def test_a_published_key_is_warned_about(wm):
    wm.write("vllm.json", json.dumps({**VLLM, "key": 42}))
    done = wm("profile", "import", "vllm.json", "-o", "p.json")
    assert done.code == 0
    assert done.err.startswith("warning: vllm.json: the key is a published default: anyone can make text under it\n")


def test_another_parameter(wm):
    wm.write("synthid.json", json.dumps({"ngram_len": 5, "keys": [KEY, 7]}))
    arguments = ["profile", "import", "synthid.json", "--contract", "synthid-text", "-o", "p.json"]
    assert clean(wm(*arguments, "--set", "score=mean")).code == 0
    assert Profile.load("p.json").parameters["score"] == "mean"
    os.unlink("p.json")
    assert "bad parameters for scheme 'synthid-text'" in wm(*arguments, "--set", "scroe=mean").err
    assert not os.path.exists("p.json")


@pytest.mark.parametrize(
    ("arguments", "line", "hint"),
    [
        (["vllm.json", "-o", "lab.wmk"], "lab.wmk: the file exists", "choose another name or move it away"),
        (["vllm.json", "-o", "p", "--key-out", "lab.wmk"], "lab.wmk: the file exists", "choose another name or move it away"),
        (
            ["vllm.json", "-o", "p.json", "--key-out", "./p.json"],
            "--key-out: the key and the profile in one file (got ./p.json, expected another file)", "",
        ),
        (["open.json", "-o", "p.json", "--key-out", "k"], "open.json: the configuration has no key", "leave out --key-out"),
        (["gone.json", "-o", "p.json"], "gone.json: no such file", ""),
        (
            ["vllm.json", "-o", "p.json", "--contract", "sglang-gumbel"],
            "vllm.json: a contract that does not fit the file (got --contract sglang-gumbel, expected vllm-gumbel)", "",
        ),
        (["vllm.json", "-o", "p.json", "--tokenizer", "./gone"], "./gone: no such tokenizer", None),
        (["vllm.json", "-o", "p.json", "--entropy-bits", "0"], "p.json: a field has an impossible value (", None),
        (["vllm.json", "-o", "p.json", "--vocabulary", "1"], "--vocabulary: 1 is not in the range", None),
        (["vllm.json", "-o", "p.json", "--set", "width"], "--set: not a setting (got width, expected NAME=VALUE)", ""),
        (["vllm.json", "-o", "gone/p.json"], "gone/p.json: cannot write the profile (got No such file or directory)", ""),
        (["vllm.json", "-o", "p.json", "--key-out", "gone/k"], "gone/k: cannot write the key file (got No such file", None),
        (["vllm.json"], "wmcheck profile import: missing option '-o' / '--output'", "see 'wmcheck profile import --help'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_import_that_cannot_be(wm, fail, arguments, line, hint):
    wm.write("vllm.json", json.dumps(VLLM))
    wm.write("open.json", json.dumps({"context_window": 4}))
    before = set(os.listdir())
    done = clean(wm("profile", "import", *arguments))
    fail(done, line, hint=hint)
    assert set(os.listdir()) == before


def test_all_contracts_are_listed(wm):
    rows = wm("profile", "contracts", "--json").json
    assert [row["name"] for row in rows] == [*SCHEMES, *PEERS]
    assert {row["key"] for row in rows[: len(SCHEMES)]} == {"wmk1_..."}
    for row in rows[len(SCHEMES) :]:
        kind = PEERS[row["name"]]
        assert (row["project"], row["version"], row["unbiased"], row["source"]) == (
            kind.project, kind.version, kind.unbiased, kind.source,
        )
        assert row["key"].split()[0] in ("a", "an") or row["key"].endswith(" bytes")
    table = wm("profile", "contracts").out
    assert len(table.splitlines()) == len(rows) + 2


def test_a_contract_that_does_not_load_hides_no_other(wm, monkeypatch):
    monkeypatch.setitem(PEERS._loaded, "unigram", None)
    rows = {row["name"]: row for row in wm("profile", "contracts", "--json").json}
    assert rows["unigram"]["source"] == "cannot be loaded: AttributeError"
    assert rows["vllm-gumbel"]["project"] == "vLLM"
