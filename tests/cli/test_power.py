"""``wmcheck power``: plans from a model, from texts and from an entropy; what it refuses."""

import json

import pytest

SEE = "see 'wmcheck power --help'"


@pytest.fixture
def plain(wm):
    wm.write("wmcheck.toml", "")
    return wm


def test_a_quick_look_without_a_model(plain):
    done = plain("power", "--entropy", "2", "-n", "20", "--json", "--alpha", "1e-6", "--keys", "10", "--documents", "10")
    assert done.code == 0
    found = done.json
    assert found["schema"] == "wmcheck.power/1"
    assert found["log10_bar"] == pytest.approx(-8)
    assert found["traffic"]["entropy_bits"] == pytest.approx(2, abs=0.1)
    assert [one["scheme"] for one in found["plans"]] == ["gumbel", "tournament", "redgreen", "reweight"]
    needed = [one["n50"] for one in found["plans"]]
    # At p = 1e-8 and 2 bits: more than the physical limit and in the known order of the schemes.
    assert found["limit"]["n50"] < needed[0] < needed[1] < needed[2] < needed[3]
    assert all(one["n50"] < one["n90"] for one in found["plans"])
    assert found["configuration"]["entropy"] == 2


def test_a_plan_from_sampled_text(plain):
    done = plain("power", "-n", "20", "--tokens", "60", "--scheme", "gumbel", "--scheme", "redgreen", "--format", "md")
    assert done.code == 0
    assert done.out.startswith("| watermark | verdict | tokens for 50% |")
    assert "| gumbel | detectable |" in done.out
    assert "20 texts, bundled:stories2m" in done.out


def test_greedy_decoding_is_undetectable(plain):
    greedy = ["power", "-n", "4", "--tokens", "40", "--temperature", "0", "--scheme", "gumbel"]
    done = plain(*greedy, "--fail-on", "undetectable")
    assert done.code == 3
    assert done.err == "warning: only 4 texts; shares of texts are rough\n"
    assert "gumbel: undetectable: fewer than half of such texts reach the bar at any length up to 3,200 tokens." in done.out
    assert plain(*greedy).code == 0


def test_a_plan_from_recorded_texts(plain, records):
    plain.write("t.jsonl", [{**record, "prompt": "Once upon a time"} for record in records])
    done = plain("power", "--texts", "t.jsonl", "-p", "gumbel.profile.json", "--json", "-o", "plan.json")
    assert (done.code, done.out) == (0, "")
    found = json.loads(plain.read("plan.json"))
    assert found["traffic"] | {"entropy_bits": 0} == {
        "source": "bundled:stories2m", "texts": 6, "tokens": 605, "shortest": 5, "longest": 120, "entropy_bits": 0,
    }
    assert [one["watermark"] for one in found["plans"]] == ["gumbel.profile.json"]
    assert found["plans"][0]["parameters"] == {"width": 2}


def test_the_profile_of_the_settings_yields_to_a_scheme_on_the_command_line(wm):
    plain = wm("power", "--entropy", "4", "-n", "4", "--json").json
    assert [one["watermark"] for one in plain["plans"]] == ["gumbel.profile.json"]
    named = wm("power", "--entropy", "4", "-n", "4", "--json", "--scheme", "reweight").json
    assert [one["watermark"] for one in named["plans"]] == ["reweight"]


@pytest.mark.parametrize(
    ("arguments", "line", "hint"),
    [
        (["--model", "other"], "--prompts: no prompts (expected a file of prompts, or ordinary texts with --texts)", ""),
        (["--scheme", "kgw"], "--scheme: unknown scheme (got kgw, expected ", None),
        (["--prompts", "gone.txt"], "gone.txt: no such file", ""),
        (["--model", "./gone", "--prompts", "suspect.jsonl"], "./gone: cannot load the model (got ", None),
        (["--entropy", "2", "--model", "x"], "--model: --entropy is a quick look without a model", "leave one of the two out"),
        (["--entropy", "9"], "--entropy: entropy out of range (got 9, expected 0.01 to 8 bits a token)", ""),
        (["--prompts", "suspect.jsonl", "--texts", "suspect.jsonl"],
         "--texts: both prompts to sample from and texts to read", "leave one of the two out"),
        (["--alpha", "2"], "--alpha: alpha out of range (got 2, expected between 0 and 1)", SEE),
        (["--keys", "0"], "--keys: 0 is not in the range x>=1", SEE),
        (["-p", "gone.json"], "gone.json: no such profile", "make one with: wmcheck profile new --help"),
        (["--texts", "ids.jsonl"], "ids.jsonl:1: token ids beyond the model's vocabulary (got 99999, expected below ", None),
        (["--prompts", "ids.jsonl"], "ids.jsonl:1: no prompt, only token ids", "--field NAME"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_it_refuses(plain, fail, arguments, line, hint):
    plain.write("ids.jsonl", [{"tokens": [5, 6, 99999]}])
    done = plain("power", *arguments)
    assert done.out == ""
    fail(done, line, hint=hint)
