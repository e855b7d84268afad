"""``wmcheck doctor``: a serving file, the processes under it, and a running server."""

import json
import os
import sys
from pathlib import Path

import pytest

from wmcheck.watermark import Profile, SecretKey
from wmcheck.watermark.embed import Sampling, embed_records, load_model
from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.serving.marker import Marker
from wmcheck.watermark.tokenizer import load_tokenizer

sys.path.append(str(Path(__file__).parents[1] / "support"))
import chat_server as chat


@pytest.fixture
def served(wm):
    """A serving file with its profile for the bundled model, in the folder of the command line."""
    key = SecretKey.load(f"file:{wm.path / 'lab.wmk'}")
    profile = Profile.create("gumbel", tokenizer=load_tokenizer("bundled:stories2m"), entropy_bits=2.0, keys=(key,))
    profile.save(wm.path / "served.profile.json")
    path = wm.path / "serving.toml"
    path.write_text(
        'schema = "wmcheck.serving/1"\nprofile = "served.profile.json"\nkey = "file:lab.wmk"\ntenants = ["acct-17"]\n'
        'opt_out = ["acct-17"]\nstate = "state"\n'
    )
    return path


def findings(done):
    return {one["check"]: one for one in json.loads(done.out)["findings"]}


def test_without_a_serving_file_only_the_environment(wm, monkeypatch):
    monkeypatch.delenv("WMCHECK_SERVING", raising=False)
    done = wm("doctor", "--json")
    assert done.code == 0
    assert "engine transformers" in findings(done)


def test_no_process(wm, served):
    done = wm("doctor", "--serving", "serving.toml", "--tokenizer", "bundled:stories2m", "--json")
    found = findings(done)
    assert done.code == 2
    assert found["engine"]["status"] == "failed"
    assert {found[one]["status"] for one in ("profile", "key", "tenants", "tokenizer", "state folder")} == {"ok"}
    table = wm("doctor", "--serving", "serving.toml")
    assert "no running process" in table.out
    assert "hint: not started" in table.err


def test_a_running_process_and_one_under_another_key(wm, served):
    counters = Marker(Deployment.load(served), "engine 1").counters
    counters.tokens.update({"marked": 90, "repeated": 10})
    counters.write()
    done = wm("doctor", "--serving", "serving.toml", "--json")
    name = f"process {os.getpid()} (engine 1)"
    assert done.code == 0
    assert "90 of 100 tokens marked (10 repeated)" in findings(done)[name]["detail"]
    counters.audit.scored, counters.audit.total = 1000, 3.0
    counters.write()
    done = wm("doctor", "--serving", "serving.toml", "--json")
    assert done.code == 2
    assert "show no watermark" in findings(done)[name]["detail"]
    served.write_text(served.read_text().replace("served.profile", "gumbel.profile"))
    done = wm("doctor", "--serving", "serving.toml", "--json")
    assert done.code == 2
    assert "another profile or key" in findings(done)[name]["detail"]


@pytest.mark.parametrize(
    ("change", "match"), [(("lab.wmk", "none.wmk"), "no such key file"), (("wmcheck.serving/1", "x"), "not a serving file")]
)
def test_a_deployment_that_cannot_start(wm, served, change, match):
    served.write_text(served.read_text().replace(*change))
    done = wm("doctor", "--serving", "serving.toml", "--json")
    assert done.code == 2
    assert match in findings(done)["serving file"]["detail"]


def test_broad_policies_are_warned_of(wm, served):
    served.write_text(served.read_text().replace('tenants = ["acct-17"]\n', "").replace('["acct-17"]', "true"))
    found = json.loads(wm("doctor", "--serving", "serving.toml", "--json").out)["findings"]
    warned = " ".join(one["detail"] for one in found if one["status"] == "warning")
    assert "any name that a request sends is a tenant" in warned
    assert "every client may switch the watermark off" in warned


def test_asking_a_server_needs_a_serving_file(wm, monkeypatch):
    monkeypatch.delenv("WMCHECK_SERVING", raising=False)
    done = wm("doctor", "--url", "http://127.0.0.1:1/v1", "--model", "m")
    assert done.code == 2
    assert "--serving FILE and --model NAME" in done.err


@pytest.fixture(scope="module")
def texts():
    """Marked texts for any key are not to be had before the key is known; ordinary ones are."""
    language = load_model("bundled:stories2m", device="cpu")
    return language, [one["text"] for one in embed_records(language, ["Once upon a time"], Sampling(max_new_tokens=150, seed=4))]


@pytest.mark.parametrize("fault", ["", "unmarked", "lets everyone in", "ignores the opt-out"])
def test_a_running_server(wm, served, texts, fault):
    language, ordinary = texts
    Marker(Deployment.load(served), "engine 1").counters.write()
    deployment = Deployment.load(served)
    key = SecretKey.load(f"file:{wm.path / 'lab.wmk'}").tenant("acct-17")
    sampling = Sampling(max_new_tokens=150, ignore_end=True)
    (record,) = embed_records(language, ["Once upon a time"], sampling, profile=deployment.profile, keys=[key])

    def script(body, times):
        asked = body.get("vllm_xargs", {})
        if asked.get("wmcheck_tenant") != "acct-17" and fault != "lets everyone in":
            return {"status": 400, "body": {"error": {"message": "unknown tenant", "type": "BadRequestError", "code": 400}}}
        plain = fault == "unmarked" or (asked.get("wmcheck_opt_out") and fault != "ignores the opt-out")
        text = ordinary[0] if plain else record["text"]
        if "prompt" in body:
            choice = {"index": 0, "text": text, "finish_reason": "stop"}
            return {"body": {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}}
        return {"body": chat.completion(text)}

    with chat.chat_server(script) as server:
        done = wm(
            "doctor", "--serving", "serving.toml", "--url", server.url, "--model", "m", "--tenant", "acct-17", "--answers", "1",
            "--channel", "chat" if fault else "completion", "--json",
        )
    found = {name: one["status"] for name, one in findings(done).items() if name.startswith("live")}
    expected = {"live: tenant acct-17": "ok", "live: unknown tenant": "ok", "live: opt-out": "ok"}
    bad = {"unmarked": "live: tenant acct-17", "lets everyone in": "live: unknown tenant", "ignores the opt-out": "live: opt-out"}
    assert found == expected | ({bad[fault]: "failed"} if fault else {}), done.out
    assert done.code == (2 if fault else 0)
