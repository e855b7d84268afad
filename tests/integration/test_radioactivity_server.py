"""``wmcheck radioactivity`` of ``transformers serve`` with a student of marked text: killed with SIGKILL and resumed."""

import hashlib
import json
import sys
from pathlib import Path

import pytest

from wmcheck.fingerprint.runlog import load_run
from wmcheck.watermark.key_sources import write_key_file
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.tokenizer import load_tokenizer

sys.path.append(str(Path(__file__).parents[1] / "support"))
from killed_verb import KilledVerb, need_transformers_serve, transformers_serve
from marked_student import marked_student

LAB, OTHER = (SecretKey(hashlib.sha256(f"a test key: {name}".encode()).digest()) for name in ("lab", "other"))


class Verb(KilledVerb):
    """``wmcheck radioactivity`` in processes of its own."""

    def __init__(self, folder, url, model):
        super().__init__(
            folder, "radioactivity", "--endpoint", url, "--model", str(model), "-p", "mark.json", "--channel", "completion",
            "--answer-tokens", "48", "--concurrency", "2", "--decoys", "20", "--json",
        )  # fmt: skip

    def start(self, log, *args, key="lab", budget="4000tok"):
        return self.process("--log", log, "--budget", budget, "--key", f"file:{key}.wmk", *args)

    def finish(self, log, *args, **options):
        """(exit code, result or None, what it said)."""
        process = self.start(log, *args, **options)
        out, err = process.communicate(timeout=600)
        return process.returncode, json.loads(out) if out else None, err.decode()


@pytest.mark.slow
def test_a_served_student_is_sampled_killed_and_resumed(tmp_path):
    need_transformers_serve()
    student = tmp_path / "student"
    profile, _, _ = marked_student(student, LAB, load_tokenizer("bundled:stories2m"))
    profile.save(tmp_path / "mark.json")
    for name, key in (("lab", LAB), ("other", OTHER)):
        write_key_file(key, str(tmp_path / f"{name}.wmk"))
    with transformers_serve(student) as url:
        verb = Verb(tmp_path, url, student)
        held = [verb.kill_at("a.run", answers) for answers in (5, 20)]
        assert not any(run.complete for run in held)
        code, result, err = verb.finish("a.run", "--fail-on", "detected")
        assert (code, err) == (1, "")
        again = verb.finish("a.run", "--fail-on", "detected")
        refused = verb.finish("b.run", "--logprobs")
    # What was answered before a kill is the beginning of the log, and nothing was answered twice.
    run = load_run(tmp_path / "a.run")
    keys = [one.key for one in run.transcripts]
    assert len(set(keys)) == len(keys)
    for before in held:
        assert keys[: len(before.transcripts)] == [one.key for one in before.transcripts]
    assert run.calls - len(keys) == run.interrupted <= 4
    assert sum(sum(one.usage.values()) for one in run.transcripts) == result["suspect"]["tokens"] <= 4000
    assert all(one.usage["completion_tokens"] <= 48 for one in run.transcripts)
    [found] = result["tests"]
    assert (found["test"], found["verdict"]) == ("sampled", "DETECTED")
    assert found["decoys"]["at_least"] == 0
    assert "distil" not in result["says"].replace("not that it was distilled", "")
    assert again == (1, result, "")
    # The server says nothing of log probabilities; what it answered before that was found out stays.
    code, _, err = refused
    assert code == 2
    assert "the endpoint gives no logprobs" in err
    assert "leave --logprobs out" in err
    assert load_run(tmp_path / "b.run").transcripts
    # Another key finds nothing, with no server at all.
    code, other, _ = verb.finish("a.run", key="other")
    assert (code, other["verdict"]) == (0, "NOT_DETECTED")
