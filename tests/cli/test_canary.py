"""``canary``: the plan, the instructions, the test of run logs, and what stops it."""

import json
import os
import stat
from contextlib import ExitStack
from dataclasses import asdict

import pytest

from wmcheck.fingerprint.canaries.embed import system_prompt
from wmcheck.fingerprint.canaries.plan import CanaryPlan, keyed_sides
from wmcheck.fingerprint.probe import ProbeProtocol
from wmcheck.fingerprint.runlog import RunLog
from wmcheck.fingerprint.suites.canary import suite
from wmcheck.fingerprint.transcript import Transcript

KIND, SIDES = "number_form", ("8", "eight")
PLAN = ("canary", "plan", "--key", "file:lab.wmk", "-n", "200", "-o", "plan.json")
TEST = ("canary", "test", "suspect.run", "--key", "file:lab.wmk")


@pytest.fixture
def answered(wm, lab):
    """Writes a run log whose answers to the triggers of one readable kind follow, or do not follow, the lab's key."""

    def write(name, follows=22, *, key=lab, version="1", system="", suite_name="canary", limit=None):
        asked = [probe for probe in suite(0).probes if probe.stratum == KIND]
        keyed = keyed_sides(key, [probe.id for probe in asked]).tolist()
        protocol = ProbeProtocol(system=system, suites={"canary": suite(0).digest})
        described = {**suite(0, limit=limit).describe(), "version": version}
        header = {"model": "m", "endpoint": "test", "protocol": asdict(protocol), "suites": [described]}
        with ExitStack() as stack:
            log = stack.enter_context(RunLog.open(wm.path / name, header))
            for index, (probe, side) in enumerate(zip(asked, keyed, strict=True)):
                text = SIDES[side if index < follows else 1 - side]
                answer = Transcript(suite=suite_name, item=probe.id, prompt=probe.prompt, model_requested="m", text=text)
                log.write("answer", {"transcript": answer.to_dict()})
        return name

    return write


def test_a_plan_is_public_and_its_instructions_are_not(wm, lab):
    done = wm(*PLAN, "--system-prompt", "secret.txt")
    assert (done.code, done.out) == (0, "")
    planned = CanaryPlan.load("plan.json")
    assert (planned.n, planned.committed(lab)) == (200, True)
    assert planned.commitments[0].plan_commitment in done.err
    assert "secret.txt holds the keyed sides" in done.err
    assert wm.read("secret.txt") == system_prompt(planned, lab)
    assert stat.S_IMODE(os.stat("secret.txt").st_mode) == 0o600
    assert wm(*PLAN[:-2]).json == json.loads(wm.read("plan.json"))


def test_a_plan_for_tenants(wm, lab):
    done = wm(*PLAN, "--tenant", "a", "--tenant", "b", "--epoch", "1")
    assert done.code == 0
    assert [one.key_id for one in CanaryPlan.load("plan.json").commitments] == [lab.tenant(name, "1").id for name in "ab"]
    assert '"a"' not in wm.read("plan.json")


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["-n", "1000"], "canary plan: number of triggers out of range (got 1000, expected 1 to 418)", ""),
        (["--tenant", "a", "--tenant", "b", "--system-prompt", "s.txt"],
         "--system-prompt: instructions are those of one key (got 2 keys, expected 1)", ""),
        (["--system-prompt", "lab.wmk"], "lab.wmk: the file exists", "choose another name or move it away"),
        (["--system-prompt", "gone/s.txt"], "gone/s.txt: cannot write (got No such file or directory)", ""),
        (["-o", "lab.wmk"], "lab.wmk: the output would replace an input", "choose another name for -o"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_plans_that_cannot_be_made(wm, fail, arguments, message, hint):
    before = wm.read("lab.wmk")
    fail(wm(*PLAN, *arguments), message, hint=hint)
    assert wm.read("lab.wmk") == before
    assert not os.path.exists("plan.json")
    assert not os.path.exists("s.txt")


def test_a_key_is_needed(wm, fail):
    os.unlink("wmcheck.toml")
    fail(wm("canary", "plan"), "--key: no key (expected file:PATH, env:NAME or keyring:SERVICE/NAME)", hint=None)


def test_a_follower_is_detected_and_others_are_not(wm, answered, lab):
    assert wm(*PLAN).code == 0
    answered("suspect.run")
    done = wm(*TEST, "--plan", "plan.json", "--alpha", "0.001", "--format", "json")
    assert (done.code, done.err) == (0, "")
    [own] = done.json["results"]
    assert (own["agreements"], own["n"], own["verdict"], own["committed"]) == (11, 11, "DETECTED", True)
    assert own["log10_p"] == pytest.approx(-3.3113, abs=1e-4)
    assert own["dropped"] == {"no answer": 189}
    assert (own["suspect"], own["key_id"]) == ("m", lab.tenant().id)
    assert done.json["configuration"]["plan_file"] == "plan.json"
    many = wm(*TEST, "--key", "file:other.wmk", "--tenant", "", "--tenant", "a", "--format", "json").json["results"]
    assert [one["verdict"] for one in many[1:]] == ["INSUFFICIENT"] * 3
    assert {one["family"] for one in many} == {4}
    assert {one["n"] for one in many} == {22}
    assert many[0]["log10_p_adjusted"] == pytest.approx(22 * -0.30103 + 0.60206, abs=1e-4)


def test_without_a_plan_the_triggers_are_those_that_the_run_asked(wm, answered):
    answered("suspect.run", limit=60)
    [result] = wm(*TEST, "--format", "json").json["results"]
    assert (result["n_planned"], result["n"], result["dropped"], result["committed"]) == (60, 3, {"no answer": 57}, None)
    answered("all.run")
    [result] = wm("canary", "test", "all.run", "--key", "file:lab.wmk", "--format", "json").json["results"]
    assert (result["n_planned"], result["n"]) == (418, 22)


def test_tables_name_the_null_its_assumptions_and_what_is_left_open(wm, answered):
    answered("suspect.run")
    table, markdown = (wm(*TEST, "--format", layout) for layout in ("table", "md"))
    for done in (table, markdown):
        assert (done.code, done.err) == (0, "")
        assert "Null: Binomial(n, 1/2)." in done.out
        assert "p-values hold if under the null the suspect's answers do not depend on the key" in done.out
        assert "It does not exclude that the suspect is the provider's model" in done.out
        assert "distilled" not in done.out
    row = table.out.splitlines()[2].split()
    assert row[:6] == ["m", "DETECTED", "-6.62", "-6.62", "22", "22"]
    assert markdown.out.startswith("| suspect | verdict |")


@pytest.mark.parametrize(
    ("follows", "arguments", "code"),
    [
        (22, [], 0), (22, ["--fail-on", "detected"], 1), (22, ["--fail-on", "insufficient"], 0),
        (11, ["--fail-on", "detected"], 0), (11, ["--fail-on", "insufficient"], 3),
        (22, ["--fail-on", "detected", "--family", "1000"], 0), (11, ["--alpha", "2"], 2),
    ],
)
def test_codes(wm, answered, follows, arguments, code):
    answered("suspect.run", follows)
    assert wm(*TEST, *arguments).code == code


def test_two_suspects_are_one_family(wm, answered, lab):
    answered("suspect.run")
    answered("second.run", key=lab.tenant("rival"))
    done = wm(*TEST, "second.run", "suspect.run", "-o", "out.json", "--format", "json")
    assert (done.code, done.out) == (0, "")
    assert [one["correction"] for one in json.loads(wm.read("out.json"))["results"]] == ["Holm over 2 tests"] * 2


def test_a_plan_that_does_not_know_the_key(wm, answered):
    assert wm(*PLAN).code == 0
    answered("suspect.run")
    done = wm("canary", "test", "suspect.run", "--key", "file:other.wmk", "--plan", "plan.json")
    assert done.code == 0
    assert "warning: plan.json: does not commit to key" in done.err


def test_questions_in_other_words_are_pointed_out(wm, answered):
    assert wm(*PLAN, "--seed", "1").code == 0
    answered("suspect.run")
    done = wm(*TEST, "--plan", "plan.json")
    assert done.code == 0
    assert "answers are to other words than the plan's; p holds if no key had a part in them" in done.err


def test_a_plan_that_was_changed(wm, fail, answered):
    assert wm(*PLAN).code == 0
    answered("suspect.run")
    wm.write("plan.json", wm.read("plan.json").replace('"plan_commitment": "', '"plan_commitment": "0'))
    done = wm(*TEST, "--plan", "plan.json")
    assert (done.code, done.out) == (2, "")
    assert "the plan is not the one that was committed to" in done.err


def test_runs_from_which_nothing_follows(wm, fail, answered, lab):
    answered("suspect.run", suite_name="tools")
    fail(
        wm(*TEST), "suspect.run: the run has no answers to canaries",
        hint="ask them with 'wmcheck probe --suite canary'",
    )
    answered("old.run", version="0")
    fail(
        wm("canary", "test", "old.run", "--key", "file:lab.wmk"),
        "old.run: the run asked another version of the suite (got '0', expected '1')",
        hint="use the release of wmcheck that made the run",
    )
    fail(wm("canary", "test", "gone.run", "--key", "file:lab.wmk"), "gone.run: ", hint=None)


def test_answers_given_under_the_instructions_accuse_nobody(wm, fail, answered, lab):
    answered("suspect.run", system="Be brief.\n" + system_prompt(CanaryPlan(seed=0, n=200), lab))
    fail(
        wm(*TEST),
        "suspect.run: the suspect was asked under canary instructions (got a system prompt that holds them, expected none)",
        hint="probe again without them; if this is your own deployment, say --own",
    )
    done = wm(*TEST, "--own")
    assert done.code == 0
    assert "shows how well the deployment follows them, nothing of its training" in done.out


def test_power(wm):
    done = wm("canary", "power", "-n", "200", "--rate", "0.75")
    assert done.out.splitlines()[0].split("  ")[-1] == "n for power 0.9"
    assert done.out.splitlines()[2].split() == ["200", "0.75", "1e-05", "0.999", "114"]
    assert wm("canary", "power", "--rate", "0.5", "--format", "json").json["needed"] is None
    assert wm("canary", "power", "--rate", "1.5").code == 2
    assert wm("canary", "power", "--power", "1").code == 2
