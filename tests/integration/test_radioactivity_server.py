"""``wmcheck radioactivity`` of ``transformers serve`` with a student of marked text: killed with SIGKILL and resumed."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from wmcheck.fingerprint.runlog import load_run
from wmcheck.watermark.key_sources import write_key_file
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.tokenizer import load_tokenizer

sys.path.append(str(Path(__file__).parents[1] / "support"))
from marked_student import marked_student

ROOT = Path(__file__).parents[2]
LAB, OTHER = (SecretKey(hashlib.sha256(f"a test key: {name}".encode()).digest()) for name in ("lab", "other"))


@contextmanager
def served(model):
    """``transformers serve`` on a free port of 127.0.0.1, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--device", "cpu"]
    # Straight to the address, whatever proxy the environment names.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with (model.parent / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        try:
            end = time.monotonic() + 240.0
            while True:
                assert process.poll() is None, (model.parent / "serve.log").read_text("utf-8")
                assert time.monotonic() < end
                try:
                    direct.open(f"http://127.0.0.1:{port}/health", timeout=2).close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)


class Verb:
    """``wmcheck radioactivity`` in processes of its own."""

    def __init__(self, folder, url, model):
        self.folder = folder
        self.arguments = [
            "--endpoint", url, "--model", str(model), "-p", "mark.json", "--channel", "completion", "--answer-tokens", "48",
            "--concurrency", "2", "--decoys", "20", "--json",
        ]  # fmt: skip

    def start(self, log, *args, key="lab", budget="4000tok"):
        skipped = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}
        plain = {
            name: value for name, value in os.environ.items()
            if not name.startswith(("WMCHECK_", "OPENAI_")) and name.upper() not in skipped
        }
        command = [sys.executable, "-m", "wmcheck.cli.main", "radioactivity", *self.arguments]
        return subprocess.Popen(
            [*command, "--log", log, "--budget", budget, "--key", f"file:{key}.wmk", *args], cwd=self.folder,
            env={**plain, "PYTHONPATH": str(ROOT / ".dev" / "types")},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )

    def finish(self, log, *args, **options):
        """(exit code, result or None, what it said)."""
        process = self.start(log, *args, **options)
        out, err = process.communicate(timeout=600)
        return process.returncode, json.loads(out) if out else None, err.decode()

    def kill_at(self, log, answers):
        """Kill a session once the log holds so many answers."""
        process = self.start(log)
        path, end = self.folder / log, time.monotonic() + 240.0
        while not path.exists() or path.read_bytes().count(b'"kind":"answer"') < answers:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        process.stdout.close()
        process.stderr.close()
        return load_run(path)


@pytest.mark.slow
def test_a_served_student_is_sampled_killed_and_resumed(tmp_path):
    pytest.importorskip("openai")
    from transformers.utils.import_utils import is_serve_available

    if not is_serve_available():
        pytest.skip("needs pip install 'transformers[serving]'")
    student = tmp_path / "student"
    profile, _, _ = marked_student(student, LAB, load_tokenizer("bundled:stories2m"))
    profile.save(tmp_path / "mark.json")
    for name, key in (("lab", LAB), ("other", OTHER)):
        write_key_file(key, str(tmp_path / f"{name}.wmk"))
    with served(student) as url:
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
