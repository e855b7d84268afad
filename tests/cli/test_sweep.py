"""``check`` with other projects' contracts, and ``check --sweep``: which contract and key marked each record."""

import csv
import io
import json
import os

import numpy as np
import pytest

from wmcheck.watermark.peer import PEERS
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.scheme import keyed

SECRET, OTHER = 98765432198, 12345678998
SEE = "see 'wmcheck check --help'"
TOP = 'schema = "wmcheck.sweep/1"\ntokenizer = "bundled:stories2m"\n'
BOTH = 'keys = ["file:a.key", "file:b.key"]\n'
VLLM = f'[[candidate]]\nname = "vllm"\ncontract = "vllm-gumbel"\ngrid = {{context_width = [3, 4]}}\n{BOTH}'
SGLANG = f'[[candidate]]\ncontract = "sglang-gumbel"\n{BOTH}'
KGW = f'[[candidate]]\nname = "kgw"\ncontract = "transformers-kgw"\nparameters = {{vocabulary = 1024}}\n{BOTH}'
OURS = '[[candidate]]\nname = "ours"\nprofile = "gumbel.profile.json"\nkey = "file:lab.wmk"\ntenants = ["", "acct-17"]\n'


def marked(contract, key, length=120, **parameters):
    """Ids that carry a strong watermark: the best of 16 random ids at every place."""
    rng, scheme = np.random.default_rng(5), PEERS[contract](**parameters)
    function = keyed(scheme, PeerKey(key))
    ids = rng.integers(1, 1000, scheme.width).tolist()
    while len(ids) < length:
        options = rng.choice(np.arange(1, 1000), 16, replace=False)
        windows = np.tile(np.array(ids[len(ids) - scheme.width :], np.uint32), (16, 1))
        ids.append(int(options[np.argmax(scheme.null().reduce(scheme.score(windows, options, function)))]))
    return ids


@pytest.fixture(scope="module")
def texts():
    return {
        "vllm": marked("vllm-gumbel", SECRET, context_width=3), "sglang": marked("sglang-gumbel", OTHER),
        "kgw": marked("transformers-kgw", SECRET, vocabulary=1024),
        "ordinary": np.random.default_rng(9).integers(1, 1000, 120).tolist(),
    }


@pytest.fixture
def peers(wm, texts, records):
    """The folder with keys of peers, profiles of two contracts, ``peers.toml`` and ``texts.jsonl``."""
    for name, text in (("a.key", f"{SECRET}\n"), ("b.key", f"{OTHER}\n"), ("list.key", "[1234567, 7654321]\n")):
        wm.write(name, text)
        os.chmod(name, 0o600)
    Profile.create("vllm-gumbel", {"context_width": 3}).save("vllm.json")
    Profile.create("transformers-kgw", {"vocabulary": 1024}).save("kgw.json")
    wm.write("peers.toml", TOP + VLLM + SGLANG + KGW + OURS)
    wm.write("texts.jsonl", [{"id": name, "tokens": ids} for name, ids in texts.items()] + [records[0]])
    return wm


def quiet(done):
    """Assert that no secret of a peer was said."""
    for number in (SECRET, OTHER, 1234567, 7654321):
        assert str(number) not in done.out + done.err
        assert hex(number)[2:] not in (done.out + done.err).lower()
    return done


def test_a_check_under_a_peers_contract(peers):
    done = quiet(peers("texts.jsonl", "-p", "vllm.json", "--key", "file:a.key", "--json"))
    found = {one["record"]: one for one in done.json["records"]}
    assert [name for name, one in found.items() if one["verdict"] == "DETECTED"] == ["vllm"]
    test = found["vllm"]["tests"][0]
    assert (test["contract"], test["decoded"]) == (f"vLLM {PEERS['vllm-gumbel'].version}", None)
    assert test["key_id"] == PeerKey(SECRET).id


def test_the_table_says_whose_watermark_it_is_and_why_p_values_differ(peers):
    profiles, keys = ["-p", "kgw.json", "-p", "gumbel.profile.json"], ["--key", "file:a.key", "--key", "file:lab.wmk"]
    done = quiet(peers("texts.jsonl", *profiles, *keys))
    header = done.out.splitlines()[0].split()
    assert "contract" in header
    assert "decoded" not in header
    kgw = PEERS["transformers-kgw"]
    assert f"transformers-kgw ({kgw.project} {kgw.version}) differs: {kgw.differs}\n" in done.out
    assert f"Those of transformers-kgw also take that {kgw.ideal}.\n" in done.out
    assert "Those of gumbel also take that AES-128" in done.out
    assert done.out.count("p-values hold if ") == 1
    assert "contract" not in peers("texts.jsonl").out.splitlines()[0]


def test_keys_and_contracts_that_do_not_fit(peers, fail):
    fail(
        quiet(peers("texts.jsonl", "-p", "vllm.json", "--key", "file:list.key")),
        "file:list.key: a key that vllm-gumbel cannot take (got a list of 2 integers, expected one integer from 0 to 2^64 - 1)",
    )
    fail(
        peers("texts.jsonl", "-p", "vllm.json", "--key", "file:lab.wmk"),
        "file:lab.wmk: a wmcheck key under a peer's contract (expected an integer, a JSON list of integers, or hex:BYTES)",
        hint="give the key of the serving stack, in a file of its own",
    )
    fail(
        peers("texts.jsonl", "-p", "vllm.json", "-p", "gumbel.profile.json", "--key", "file:lab.wmk"),
        "vllm.json: no key for a profile (expected the peer's own key)", hint="give it with --key",
    )
    fail(peers("texts.jsonl", "-p", "vllm.json", "--key", "file:gone.key"), "file:gone.key: no such key file")
    Profile.create("sglang-dual").save("dual.json")
    # A list is a key of one of the two contracts: it is tested there alone.
    both = ["-p", "vllm.json", "-p", "dual.json", "--key", "file:a.key"]
    fail(peers("texts.jsonl", *both), "dual.json: no key for a profile (expected the peer's own key)", hint="give it with --key")
    done = quiet(peers("texts.jsonl", *both, "--key", "file:list.key", "--json"))
    assert [(test["scheme"], test["key_id"]) for test in done.json["corpus"]] == [
        ("vllm-gumbel", PeerKey(SECRET).id), ("sglang-dual", PeerKey((1234567, 7654321)).id),
    ]


def test_ids_that_the_contracts_model_does_not_have(peers):
    peers.write("wide.jsonl", [{"id": "wide", "tokens": [1, 2, 1024, 5]}, {"id": "fine", "tokens": [1, 2, 3]}])
    done = peers("wide.jsonl", "-p", "kgw.json", "--key", "file:a.key")
    assert done.err.startswith("skipped: wide.jsonl:1: token ids out of range (got 1024, expected ids below 1024)")


def test_a_sweep_names_contract_and_key(peers, texts):
    done = quiet(peers("texts.jsonl", "--sweep", "peers.toml", "--json"))
    assert (done.code, done.err) == (0, "")
    data = done.json
    assert data["schema"] == "wmcheck.check/1"
    found = {one["record"]: one for one in data["records"]}
    assert {name: (one["verdict"], one["candidate"], one["key_id"]) for name, one in found.items() if name != "ordinary"} == {
        "vllm": ("DETECTED", "vllm context_width=3", PeerKey(SECRET).id),
        "sglang": ("DETECTED", "sglang-gumbel-2", PeerKey(OTHER).id), "kgw": ("DETECTED", "kgw", PeerKey(SECRET).id),
        "gumbel": ("DETECTED", "ours", found["gumbel"]["key_id"]),
    }
    assert found["ordinary"]["verdict"] != "DETECTED"
    assert all(one["runner_up"]["log10_p_adjusted"] > -3 for one in found.values())
    shown = [test["profile"] for test in found["vllm"]["tests"]]
    assert shown == ["vllm context_width=3", found["vllm"]["runner_up"]["candidate"]]
    del found["ordinary"]
    assert all(one["log10_p_adjusted"] < -6 and one["candidates_detected"] == 1 for one in found.values())
    assert [row["candidate"] for row in data["candidates"]] == [
        *["vllm context_width=3"] * 2, *["vllm context_width=4"] * 2, *["sglang-gumbel-2"] * 2, *["kgw"] * 2, *["ours"] * 2,
    ]
    assert data["candidates"][0]["parameters"]["context_width"] == 3
    assert [row["records_detected"] for row in data["candidates"]] == [1, 0, 0, 0, 0, 1, 1, 0, 1, 0]
    assert sum(row["share"] for row in data["candidates"]) == pytest.approx(1.0, abs=1e-4)
    assert (data["summary"]["candidates"], data["summary"]["broken"], data["broken"]) == (10, 0, [])
    assert data["summary"]["correction"] == "Holm over 60 tests"
    assert data["configuration"]["sweep"] == "peers.toml"
    assert "key" not in data["configuration"]


def test_a_sweep_is_the_same_run_from_another_folder(peers, monkeypatch):
    here = peers("texts.jsonl", "--sweep", "peers.toml", "--json").json
    monkeypatch.chdir(peers.path.parent)
    there = peers(str(peers.path / "texts.jsonl"), "--sweep", str(peers.path / "peers.toml"), "--json").json
    assert [one["log10_p"] for one in here["records"]] == [one["log10_p"] for one in there["records"]]


def test_the_tables_of_a_sweep(peers):
    done = quiet(peers("texts.jsonl", "--sweep", "peers.toml", "-v"))
    first, second = done.out.split("\n\n")[:2]
    names = "record verdict candidate contract key id log10 p corrected n runner-up its corrected"
    assert first.splitlines()[0].split() == names.split()
    assert second.splitlines()[0].split()[-2:] == ["seconds", "share"]
    assert len(first.splitlines()) == 2 + 5
    assert len(second.splitlines()) == 2 + 10
    assert "10 candidates, 0 broken; 5 records: 4 DETECTED, " in done.out
    assert "seconds" not in peers("texts.jsonl", "--sweep", "peers.toml").out
    markdown = peers("texts.jsonl", "--sweep", "peers.toml", "--format", "md").out
    assert markdown.count("\n| --- |") == 2
    rows = list(csv.DictReader(io.StringIO(peers("texts.jsonl", "--sweep", "peers.toml", "--format", "csv").out)))
    assert [row["record"] for row in rows] == ["vllm", "sglang", "kgw", "ordinary", "gumbel", *["(corpus)"] * 10]
    assert {row["complete"] for row in rows} == {"yes"}


def test_a_sweep_in_lines(peers):
    lines = quiet(peers("texts.jsonl", "--sweep", "peers.toml", "--format", "jsonl")).lines
    assert [line["type"] for line in lines] == (
        ["record"] * 5 + ["verdict"] * 5 + ["corpus", "candidate"] * 10 + ["summary"]
    )
    assert [line["candidate"] for line in lines[:3]] == [line["candidate"] for line in lines[5:8]]
    assert lines[-1]["complete"] is True
    assert lines[-1]["broken_candidates"] == []


def test_candidates_that_a_text_cannot_tell_apart(peers):
    # Under lefthash, twice the key gives the list of twice the id: of one repeated id no text tells key and id apart.
    peers.write("c.key", "0x16febc6206")
    os.chmod("c.key", 0o600)
    twin = KGW.replace('"kgw"', '"twin"').replace("transformers-kgw", "lm-watermarking").replace(
        "vocabulary = 1024", 'vocabulary = 1024, seeding_scheme = "lefthash"')
    peers.write("peers.toml", TOP + KGW + twin)
    one = {row["record"]: row for row in peers("texts.jsonl", "--sweep", "peers.toml", "--json").json["records"]}["kgw"]
    assert [test["candidate"] for test in one["also"]] == ["twin"]
    assert one["also"][0]["key_id"] == one["key_id"]
    assert one["candidates_detected"] == 2
    out = peers("texts.jsonl", "--sweep", "peers.toml").out
    assert "which the text cannot tell apart" in out


BROKEN = [
    ('contract = "vllm-gumble"\nkey = "file:a.key"', "unknown contract (got 'vllm-gumble', expected "),
    ('contract = "vllm-gumbel"\nkey = "file:a.key"\nname = "x"\nwidth = 4', "unknown fields (got width, "),
    ('contract = "vllm-gumbel"\nparameters = {context_width = 99}\nkey = "file:a.key"', "impossible parameter (got 99, "),
    ('contract = "vllm-gumbel"\nparameters = {context_width = 3}\nkey = "file:a.key"', "a duplicate of 'vllm context_width=3'"),
    ('contract = "vllm-gumbel"\nkey = "file:gone.key"', "no such key file"),
    ('contract = "vllm-gumbel"\nkey = "file:list.key"', "a key that vllm-gumbel cannot take (got a list of 2 integers"),
    ('contract = "vllm-gumbel"\nkey = "98765432198"', "not a key source (got 11 characters"),
    ('contract = "vllm-gumbel"\nkey = 98765432198', "bad value of 'key'"),
    ('contract = "transformers-kgw"\nkey = "file:a.key"', "bad parameters for scheme 'transformers-kgw'"),
    ('contract = "transformers-kgw"\nparameters = {vocabulary = 600}\nkey = "file:a.key"', "a vocabulary size that cannot"),
    ('profile = "gone.json"\nkey = "file:a.key"', "no such profile"),
]


@pytest.mark.parametrize(("table", "words"), BROKEN)
def test_one_broken_candidate_is_reported_and_the_rest_completes(peers, table, words):
    whole = peers("texts.jsonl", "--sweep", "peers.toml", "--json").json
    peers.write("peers.toml", TOP + VLLM + SGLANG + KGW + OURS + f"[[candidate]]\n{table}\n")
    done = quiet(peers("texts.jsonl", "--sweep", "peers.toml", "--json"))
    assert done.code == 0
    assert done.err.startswith("broken: peers.toml: candidate '")
    assert words in done.err
    assert done.err.count("broken: ") == 1
    assert done.json["records"] == whole["records"]
    assert [words in one["reason"] for one in done.json["broken"]] == [True]
    assert done.json["summary"]["broken"] == 1
    strict = quiet(peers("texts.jsonl", "--sweep", "peers.toml", "--strict"))
    assert (strict.code, strict.out) == (2, "")
    assert strict.err.startswith("error: peers.toml: candidate '")


def test_a_candidate_whose_vocabulary_is_smaller_than_the_ids_seen(peers):
    peers.write("peers.toml", (TOP + VLLM + KGW.replace("1024", "900")).replace('tokenizer = "bundled:stories2m"\n', ""))
    done = quiet(peers("texts.jsonl", "--sweep", "peers.toml", "--json"))
    assert done.code == 0
    assert done.err.startswith("broken: peers.toml: candidate 'kgw': the records hold ids that its model does not have (got ")
    assert done.err.count("broken: ") == 1
    assert done.json["summary"]["candidates"] == 4
    assert [(one["candidate"], one["count"]) for one in done.json["broken"]] == [("kgw", 2)]
    assert done.json["records"][0]["candidate"] == "vllm context_width=3"
    assert quiet(peers("texts.jsonl", "--sweep", "peers.toml", "--strict")).code == 2
    peers.write("peers.toml", (TOP + KGW.replace("1024", "900")).replace('tokenizer = "bundled:stories2m"\n', ""))
    done = peers("texts.jsonl", "--sweep", "peers.toml")
    assert (done.code, done.out) == (2, "")
    assert "error: peers.toml: no candidate is left (got 2 that cannot be tested)\n" in done.err


def test_when_all_candidates_are_broken(peers):
    tables = [f"[[candidate]]\n{table}\n" for table, _ in BROKEN if "context_width = 3" not in table]
    peers.write("peers.toml", TOP + "".join(tables))
    done = quiet(peers("texts.jsonl", "--sweep", "peers.toml"))
    assert (done.code, done.out) == (2, "")
    assert done.err.endswith(f"error: peers.toml: no candidate can be tested (got {len(BROKEN) - 1} broken ones)\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-p", "vllm.json"], "--profile contradicts --sweep: the file names contracts and keys"),
        (["--key", "file:a.key"], "--key contradicts --sweep: the file names contracts and keys"),
        (["--tenant", "a"], "--tenant contradicts --sweep: the file names contracts and keys"),
        (["--epoch", "a"], "--epoch contradicts --sweep: the file names contracts and keys"),
        (["--sequential"], "--sequential contradicts --sweep: a stream has one list of candidates"),
        (["--decoys", "99"], "--decoys contradicts --sweep: rank one candidate at a time"),
        (["--stop"], "--stop belongs to --sequential"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_contradict_a_sweep(peers, fail, arguments, line):
    fail(peers("texts.jsonl", "--sweep", "peers.toml", *arguments), f"wmcheck check: {line}", hint=SEE)


def test_a_file_that_is_no_sweep(peers, fail, lab):
    fail(peers("texts.jsonl", "--sweep", "gone.toml"), "gone.toml: no such sweep file", hint="docs/formats.md has one")
    for text, line, hint in (
        ("= 1", "cannot read the sweep (got Invalid statement (at line 1, column 1))", ""),
        ('schema = "wmcheck.sweep/9"', "not a sweep file (got schema 'wmcheck.sweep/9', expected wmcheck.sweep/1)", ""),
        (TOP, "no candidates (expected a table [[candidate]] for each)", ""),
        (
            f'{TOP}[[candidate]]\ncontract = "gumbel"\nkey = "{lab.reveal()}"',
            'a key stands in the sweep file (expected key = "file:PATH" or "env:NAME")',
            "treat that key as leaked: make a new one with 'wmcheck key new -o lab.wmk'",
        ),
    ):
        peers.write("bad.toml", text)
        fail(peers("texts.jsonl", "--sweep", "bad.toml"), f"bad.toml: {line}", hint=hint)


def test_the_output_replaces_no_input(peers, fail):
    hint = "choose another name for -o"
    for name in ("peers.toml", "texts.jsonl", "a.key"):
        fail(peers("texts.jsonl", "--sweep", "peers.toml", "-o", name), f"{name}: the output would replace an input", hint=hint)


def test_the_exit_codes_of_a_sweep(peers):
    assert peers("texts.jsonl", "--sweep", "peers.toml", "--fail-on", "detected").code == 1
    peers.write("texts.jsonl", [{"id": "short", "tokens": [1, 2, 3]}])
    assert peers("texts.jsonl", "--sweep", "peers.toml", "--fail-on", "insufficient").code == 3
    assert peers("texts.jsonl", "--sweep", "peers.toml", "--strict").code == 3
    peers.write("texts.jsonl", [{"id": "bad"}])
    assert peers("texts.jsonl", "--sweep", "peers.toml").code == 2


def test_more_tests_elsewhere_count(peers):
    plain = peers("texts.jsonl", "--sweep", "peers.toml", "--json").json["records"][0]
    more = peers("texts.jsonl", "--sweep", "peers.toml", "--family", "6000", "--json").json["records"][0]
    assert more["correction"] == "Holm over 6000 tests"
    assert more["log10_p_adjusted"] == pytest.approx(plain["log10_p_adjusted"] + 2.0, abs=0.02)


def test_many_broken_candidates_are_not_all_listed(peers):
    tables = "".join(f'[[candidate]]\nname = "{i}"\nprofile = "vllm.json"\nkey = "file:gone{i}.key"\n' for i in range(30))
    peers.write("peers.toml", TOP + VLLM + tables)
    done = peers("texts.jsonl", "--sweep", "peers.toml")
    assert done.err.count("broken: ") == 21
    assert done.err.endswith("broken: more candidates like these follow (-v reports each)\n")
    assert peers("texts.jsonl", "--sweep", "peers.toml", "-v").err.count("broken: ") == 30
    assert json.loads(peers("texts.jsonl", "--sweep", "peers.toml", "--json").out)["summary"]["broken"] == 30
