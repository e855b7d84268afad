"""``probe`` against a scripted server on 127.0.0.1, the bundled model and a run that is replayed."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from wmcheck.fingerprint.probe import SUITES, Probe, Suite, spread
from wmcheck.fingerprint.runlog import load_run

sys.path.append(str(Path(__file__).parents[1] / "support"))
import chat_model
import chat_server as chat

KEY = "sk-a-secret-of-the-tests-0123456789"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def asks(seed, *, limit=None):
    """A suite of twelve questions whose wording depends on the seed."""
    probes = tuple(
        Probe(id=f"q{n}", messages=({"role": "user", "content": f"asks {n} {seed}"},), max_tokens=12, stratum="ab"[n % 2])
        for n in range(12)
    )
    return Suite(name="asks", version="1", seed=seed, probes=spread(probes, limit))


def uses(seed, *, limit=None):
    """Four questions with a tool."""
    probes = tuple(
        Probe(id=f"t{n}", messages=({"role": "user", "content": f"uses {n}"},), tools=(TOOL,), max_tokens=8) for n in range(4)
    )
    return Suite(name="uses", version="2", seed=seed, probes=spread(probes, limit))


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setitem(SUITES._loaded, "asks", asks)
    monkeypatch.setitem(SUITES._loaded, "uses", uses)
    monkeypatch.setitem(SUITES._entries, "asks", "")
    monkeypatch.setitem(SUITES._entries, "uses", "")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def server():
    with chat.chat_server() as running:
        yield running


@pytest.fixture
def probe(wm, server):
    """``wmcheck probe`` of the server, with the log in ``a.run``."""

    def run(*args, suite="asks", output="a.run", **options):
        done = wm("probe", "--endpoint", server.url, "--model", "suspect", "--suite", suite, "-o", output, *args, **options)
        assert KEY not in done.out + done.err
        assert not (wm.path / "a.run").exists() or KEY not in wm.read("a.run")
        return done

    run.path = wm.path / "a.run"
    return run


def refuse(status, *words, message="no", **headers):
    """A script: what is asked with one of the words gets the status; no words is everything."""

    def script(body, times):
        if words and not any(chat.asked(body).startswith(word) for word in words):
            return None
        return {"status": status, "body": {"error": {"message": message}}, "headers": headers}

    return script


def test_a_run_and_its_summary(probe, server):
    half = {"tool_calls": [{"function": {"name": "weather", "arguments": "{"}}]}
    called = {"body": chat.completion(None, message=half, choice={"finish_reason": "tool_calls"})}
    server.script = lambda body, times: called if "tools" in body else None
    done = probe("--samples", "2", "--format", "json", suite="asks, uses")
    assert (done.code, done.err) == (0, "")
    assert len(server.requests) == 32
    said = done.json
    run = load_run(probe.path)
    assert (said["schema"], said["run"], said["model"], said["complete"]) == ("wmcheck.probe/1", "a.run", "suspect", True)
    assert (said["calls"], said["calls_now"], said["interrupted"], said["failures"]) == (32, 32, 0, {})
    assert (said["served"], said["served_as_another"], said["head"]) == ({"suspect": 32}, 0, run.head)
    assert said["suites"] == [
        {"suite": name, "calls": count, "answered": count, "rejected": 0, "missing": 0, "with_tool_calls": called, "cut": 0,
         "prompt_tokens": 7 * count, "completion_tokens": 3 * count}
        for name, count, called in (("asks", 24, 0), ("uses", 8, 8))
    ]
    assert run.header["endpoint"] == server.url
    assert run.header["software"].keys() == {"wmcheck", "python", "openai"}
    assert {call.raw for one in run.transcripts for call in one.tool_calls} == {"{"}
    assert {header["authorization"] for header in server.headers} == {f"Bearer {KEY}"}


def test_the_table(probe, server):
    server.script = lambda body, times: {"body": chat.completion("x", model="another")} if "3" in chat.asked(body) else None
    done = probe()
    run = load_run(probe.path)
    assert done.out == f"""\
suite  calls  answered  rejected  missing  with tool calls  cut  prompt tokens  completion tokens
-----  -----  --------  --------  -------  ---------------  ---  -------------  -----------------
asks      12        12         0        0                0    0             84                 36

Complete: 12 calls (12 now); failures: none.
Served by suspect (11), another (1); 1 answers by another model than suspect, which comparisons leave out.
Log a.run, head {run.head}
"""


def test_a_dry_run_asks_nothing_and_needs_nothing(wm, server, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    done = wm("probe", "--endpoint", server.url, "--model", "m", "--suite", "asks,uses", "--samples", "3", "--dry-run")
    assert (done.code, done.err, server.requests) == (0, "", [])
    rows = [line.split() for line in done.out.splitlines()]
    assert [row[:4] for row in rows[2:4]] == [["asks", "1", "12", "36"], ["uses", "2", "4", "12"]]
    assert [row[5] for row in rows[2:4]] == [str(36 * 12), str(12 * 8)]
    said = wm("probe", "--model", "m", "--suite", "asks,uses", "--limit", "5", "--dry-run", "--format", "json").json
    assert (said["dry_run"], said["calls"], said["answer_tokens"]) == (True, 9, 5 * 12 + 4 * 8)
    assert [suite["probes"] for suite in said["suites"]] == [5, 4]
    assert all(int(rows[place + 2][4]) > 0 for place in range(2))


def test_options_reach_the_server_and_the_header(probe, server, wm):
    wm.write("system.txt", "Be brief.\n")
    sampling = ["--temperature", "0.7", "--top-p", "0.9", "--extra", '{"seed": 4}']
    done = probe("--system", "system.txt", *sampling, "--limit", "2", "--seed", "9")
    assert done.code == 0
    assert [request["messages"][0] for request in server.requests] == [{"role": "system", "content": "Be brief."}] * 2
    assert {(one["temperature"], one["top_p"], one["seed"]) for one in server.requests} == {(0.7, 0.9, 4)}
    assert all(chat.asked(request).endswith(" 9") for request in server.requests)
    protocol = load_run(probe.path).protocol
    assert (protocol.system, protocol.temperature, protocol.extra) == ("Be brief.", 0.7, {"seed": 4})
    assert load_run(probe.path).header["suites"][0]["seed"] == 9


@pytest.mark.parametrize("kind", ["env", "file"])
def test_a_private_seed_is_in_no_file(probe, server, wm, monkeypatch, kind):
    secret = "a private seed, long enough"
    monkeypatch.setenv("LAB_SEED", secret)
    wm.write("seed.txt", secret + "\n")
    os.chmod(wm.path / "seed.txt", 0o600)
    source = {"env": "env:LAB_SEED", "file": "file:seed.txt"}[kind]
    server.script = lambda body, times: {"body": chat.completion("an answer that does not repeat the question")}
    assert probe("--seed-source", source).code == 0
    header = load_run(probe.path).header
    assert len(header["seed_commitment"]) == 64
    assert header["suites"][0]["seed"] is None
    wordings = {chat.asked(request).split()[-1] for request in server.requests}
    assert len(wordings) == 1
    assert not wordings & {"0", secret}
    assert secret not in wm.read("a.run")
    assert wordings.pop() not in wm.read("a.run")
    assert "nothing was asked" in probe("--seed-source", source).err
    done = probe()
    assert done.code == 2
    assert "the log there has another protocol" in done.err


def test_a_finished_run_is_not_asked_again(probe, server):
    probe()
    server.forget()
    done = probe("--format", "json")
    assert (done.code, done.err) == (0, "a.run: the run is complete; nothing was asked\n")
    assert done.json["calls_now"] == 0
    assert server.requests == []


def test_a_budget_ends_a_run_that_can_go_on(probe, server):
    done = probe("--max-calls", "5")
    assert done.code == 0
    assert done.err == (
        "a.run: INCOMPLETE, the budget of 5 calls is spent\n"
        "  hint: run the same command again with a larger --max-calls or --max-tokens to go on\n"
    )
    assert "\nINCOMPLETE: 5 calls (5 now)" in done.out
    assert len(server.requests) == 5
    again = probe("--max-calls", "5", "--strict")
    assert again.code == 3
    assert len(server.requests) == 5
    assert probe("--max-tokens", "80", "--strict").code == 3
    assert 5 < len(server.requests) < 12
    assert probe("--max-calls", "12", "--strict").code == 0
    assert set(server.seen.values()) == {1}


def test_rejected_probes_are_counted_and_not_repeated(probe, server):
    server.script = refuse(400, "asks 3", "asks 7", message="content policy")
    done = probe("--format", "json")
    assert (done.code, done.err) == (0, "")
    assert (done.json["complete"], done.json["failures"]) == (True, {"request": 2})
    assert {name: done.json["suites"][0][name] for name in ("answered", "rejected", "missing")} == {
        "answered": 10, "rejected": 2, "missing": 0
    }
    server.forget()
    assert probe("--strict").code == 3
    assert server.requests == []
    server.script = None
    done = probe("--retry-failures", "--strict", "--format", "json")
    assert sorted(map(chat.asked, server.requests)) == ["asks 3 0", "asks 7 0"]
    assert (done.code, done.json["suites"][0]["rejected"], done.json["suites"][0]["answered"]) == (0, 0, 12)


def test_calls_without_an_answer_are_an_error_that_can_be_mended(probe, server):
    server.script = refuse(500, "asks 3")
    done = probe("--retries", "0")
    assert done.code == 2
    assert done.err == "error: a.run: INCOMPLETE, some calls got no answer\n  hint: run the same command again to go on\n"
    assert "failures: 1 server" in done.out
    server.script = None
    server.forget()
    assert probe().code == 0
    assert list(map(chat.asked, server.requests)) == ["asks 3 0"]


@pytest.mark.parametrize(
    ("status", "line", "hint"),
    [
        (401, "the server does not accept the API key (got 401 no)", "name the key with --api-key-source env:NAME"),
        (404, "no such model or address (got 404 no)", "the address usually ends in /v1; GET /v1/models lists the models"),
    ],
)
def test_a_wrong_key_or_model_stops_the_run(probe, server, status, line, hint):
    server.script = refuse(status, "asks 2")
    done = probe("--concurrency", "1")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"error: {server.url}: {line}\n  hint: {hint}\n"
        "  note: a.run holds 2 of 12 calls; run the same command again to go on\n"
    )
    assert len(server.requests) == 3


def test_a_server_that_is_not_there(wm, server, fail):
    server.shutdown()
    server.server_close()
    done = wm("probe", "--endpoint", server.url, "--model", "m", "--suite", "asks", "-o", "a.run", "--retries", "0")
    assert done.code == 2
    assert f"error: {server.url}: the endpoint does not answer (got [Errno 111] Connection refused)" in done.err


def test_the_key_of_one_vendor_does_not_go_to_another(wm, monkeypatch):
    """By name, without a call: what would be sent where."""
    from wmcheck.cli.probe import api_key_of

    def key(endpoint, source=None):
        return api_key_of({"endpoint": endpoint, "api_key_source": source})

    monkeypatch.setenv("OTHER_KEY", "sk-other")
    assert key("https://api.openai.com/v1") == KEY
    assert key("https://eu.api.openai.com/v1") == KEY
    assert key("http://localhost:8000/v1") == KEY
    assert key("http://[::1]:8000/v1") == KEY
    assert key("https://api.example.com/v1") is None
    assert key("https://openai.com.example.com/v1") is None
    assert key("https://notopenai.com/v1") is None
    assert key("https://api.example.com/v1", "env:OPENAI_API_KEY") == KEY
    assert key("https://api.openai.com/v1", "env:OTHER_KEY") == "sk-other"
    assert key(None) is None
    assert key("http://[::1/v1") is None


@pytest.mark.parametrize(
    ("arguments", "line", "hint"),
    [
        (["--suite", "asks", "--model", "m"], "-o: no run log (expected a file)", "name it: -o suspect.run"),
        (["--suite", "asks", "--model", "m", "-o", "-"], "-o: no run log (expected a file)", "name it: -o suspect.run"),
        (["--suite", "asks", "--model", "gone", "-o", "x"], "--model: neither a model folder nor a bundled model (got gone)",
         "name the server with --endpoint URL, or give a folder with the model's files"),
        (["--suite", "none", "--model", "m", "-o", "x"], "no such suite (got 'none', expected ", None),
        (["--suite", ",", "--model", "m", "-o", "x"], "--suite: no suite (expected names by comma)", ""),
        (["--suite", "asks,asks", "--model", "m", "-o", "x"], "--suite: a suite is named twice (got asks, asks)", ""),
        (["--model", "m", "--suite", "asks", "-o", "x", "--endpoint", "http://me:pw@h/v1"],
         "--endpoint: the address holds a user name or password, which every user of the machine can read",
         "put the key into a variable, say LAB_API_KEY, and name it: --api-key-source env:LAB_API_KEY"),
        (["--model", "m", "--suite", "asks", "-o", "x", "--endpoint", "nonsense"],
         "--endpoint: not an endpoint (got 8 characters", None),
        (["--model", "m", "--suite", "asks", "-o", "x", "--endpoint", "http://h/v1", "--api-key-source", "sk-literal"],
         "--api-key-source: not a source (expected env:NAME or file:PATH)",
         "a secret given on the command line is readable by every user of the machine: treat it as leaked"),
        (["--model", "m", "--suite", "asks", "-o", "x", "--endpoint", "http://h/v1", "--api-key-source", "env:NOT_SET"],
         "--api-key-source env:NOT_SET: the environment variable is not set", ""),
        (["--model", "m", "--suite", "asks", "-o", "x", "--endpoint", "http://h/v1", "--api-key-source", "file:gone"],
         "--api-key-source file:gone: no such file", ""),
        (["--model", "m", "--suite", "asks", "-o", "x", "--seed", "1", "--seed-source", "env:HOME"], "--seed-source: two seeds",
         "leave out --seed: it is public"),
        (["--model", "m", "--suite", "asks", "--dry-run", "--system", "gone"],
         "gone: cannot read the system prompt (got No such file or directory)", ""),
        (["--model", "m", "--suite", "asks", "--dry-run", "--extra", "[1]"], "--extra: not a JSON object (got '[1]', ", None),
        (["--model", "m", "--suite", "asks", "--dry-run", "--extra", '{"a": NaN}'], "--extra: not a JSON object", None),
        (["--model", "m", "--suite", "asks", "-o", "x", "--endpoint", "http://h/v1", "--extra", '{"tools": []}'],
         "--extra: not a sampling parameter (got tools)", ""),
        (["--model", "m", "--suite", "asks", "--samples", "0"], "--samples: 0 is not in the range x>=1",
         "see 'wmcheck probe --help'"),
        (["--suite", "asks"], "wmcheck probe: missing option '--model'", "see 'wmcheck probe --help'"),
        (["--model", "other", "--endpoint", "replay:lab.wmk", "--suite", "asks", "-o", "x"], "lab.wmk:1: not a run log", None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_probed(wm, fail, arguments, line, hint):
    done = wm("probe", *arguments)
    assert done.out == ""
    fail(done, line, hint=hint)
    assert not (wm.path / "x").exists()
    assert "literal" not in done.err


def test_an_output_that_is_something_else_is_left_alone(wm, probe):
    wm.write("notes.txt", "my notes\n")
    done = probe(output="notes.txt")
    assert done.code == 2
    assert "error: notes.txt: not a run log" in done.err
    assert wm.read("notes.txt") == "my notes\n"


def test_without_the_sdk(wm, probe, fail, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    fail(probe(), "--endpoint: asking a server needs the openai package", hint="pip install 'wmcheck[openai]'")


def test_the_bundled_model_and_a_replay_of_its_run(wm, fail):
    arguments = ["--model", "bundled:stories2m", "--suite", "asks", "--limit", "4"]
    done = wm("probe", *arguments, "-o", "b.run", "--format", "json")
    assert done.code == 0
    assert done.err == "note: bundled:stories2m has no chat template; it is asked by --channel completion\n"
    run = load_run("b.run")
    assert (run.protocol.channel, run.model, run.complete) == ("completion", "bundled:stories2m", True)
    assert run.header["endpoint"].startswith("local:sha256:")
    assert all(one.text for one in run.transcripts)
    again = wm("probe", *arguments, "--endpoint", "replay:b.run", "-o", "c.run", "--format", "json")
    assert again.code == 0
    replayed = load_run("c.run").transcripts
    assert {one.key: one.response for one in replayed} == {one.key: one.response for one in run.transcripts}
    more = wm("probe", *arguments[:4], "--endpoint", "replay:b.run", "-o", "d.run", "--limit", "8", "--format", "json")
    assert (more.code, more.json["failures"]) == (0, {"absent": 4})
    fail(wm("probe", *arguments, "-o", "e.run", "--channel", "chat"), f"{arguments[1]}: the model has no chat template",
         hint="ask it with --channel completion")


def test_a_model_folder_with_a_chat_template(wm, tmp_path_factory):
    place = chat_model.chat_model(tmp_path_factory.mktemp("model"))
    done = wm("probe", "--model", str(place), "--suite", "asks,uses", "--limit", "3", "-o", "l.run", "--format", "json")
    assert (done.code, done.err) == (0, "")
    assert [suite["answered"] for suite in done.json["suites"]] == [3, 3]
    run = load_run("l.run")
    assert (run.model, run.protocol.channel) == ("chatty", "chat")
    assert str(place) not in wm.read("l.run")


# The suite as a module of its own, for processes that the tests start.
MODULE = """
from wmcheck.fingerprint.probe import SUITES, Probe, Suite

def asks(seed, *, limit=None):
    probes = tuple(Probe(id=f"q{n}", messages=({"role": "user", "content": f"asks {n}"},)) for n in range(20))
    return Suite(name="asks", version="1", seed=seed, probes=probes)

SUITES._loaded["asks"], SUITES._entries["asks"] = asks, ""
"""


@pytest.fixture
def start(wm, server):
    def run(*args):
        wm.write("sitecustomize.py", MODULE)
        types = str(Path(__file__).parents[2] / ".dev" / "types")
        return wm.start(
            "probe", "--endpoint", server.url, "--model", "suspect", "--suite", "asks", "-o", "a.run", *args,
            env={"PYTHONPATH": os.pathsep.join([str(wm.path), types])}, stdin=subprocess.DEVNULL,
        )

    return run


def test_ctrl_c_loses_no_answer(wm, start, server):
    server.delay = 0.05
    process = start("--concurrency", "2")
    server.wait_for(5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    run = load_run(wm.path / "a.run")
    assert err.decode() == (
        "WARNING: stopping when the calls in flight are answered; interrupt again to leave them\ninterrupted\n"
        f"  note: a.run holds {len(run.transcripts)} of 20 calls; run the same command again to go on\n"
    )
    assert 4 <= len(run.transcripts) == run.calls == len(server.requests) < 20
    assert run.interrupted == 0
    process = start("--format", "json")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert json.loads(out)["interrupted"] == 0
    assert Counter(server.seen.values()) == {1: 20}


def test_a_second_ctrl_c_leaves_at_once(wm, start, server):
    server.script = lambda body, times: {"delay": 30.0}
    process = start("--concurrency", "3")
    server.wait_for(3)
    process.send_signal(signal.SIGINT)
    while b"interrupt again" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, b"")
    assert b"a.run holds 0 of 20 calls" in err
    assert b"Traceback" not in err
    assert load_run(wm.path / "a.run").interrupted == 3


def test_a_server_is_probed_without_torch(wm, server):
    wm.write("sitecustomize.py", MODULE)
    arguments = ["probe", "--endpoint", server.url, "--model", "m", "--suite", "asks", "-o", "a.run", "--format", "json"]
    code = f"import sys\nfrom wmcheck.cli.main import run\nassert run({arguments!r}) == 0\n"
    code += "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(wm.path), str(Path(__file__).parents[2] / ".dev" / "types")])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
