"""SGLang over stand-ins for its CUDA packages: the HTTP server and the offline engine, and the ways to lose a watermark there."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest
from conftest import TENANTS, name_of

from wmcheck.watermark.tokenizer import load_tokenizer

pytestmark = pytest.mark.engines

HERE = Path(__file__).parent
# Three tenants and a request that opts out.
ASKED = [*({"wmcheck_tenant": tenant} for tenant in TENANTS), {"wmcheck_tenant": TENANTS[0], "wmcheck_opt_out": True}]
OWNERS = [*TENANTS, None]
OPTIONS = {
    "device": "cpu", "dtype": "float32", "attention_backend": "torch_native", "sampling_backend": "pytorch",
    "grammar_backend": "none", "disable_cuda_graph": True, "enable_custom_logit_processor": True,
    "max_total_tokens": 16384, "max_running_requests": 64,
}


def environment(serving, **more):
    shim = {"PYTHONPATH": str(HERE / "shims" / "sglang"), "SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **shim, "WMCHECK_SERVING": serving or "", **more}


def prompt_ids(lab, text="Once upon a time"):
    return load_tokenizer(lab.model).encode([text])[0].tolist()


def asked(prompt, count, params=ASKED, **settings):
    base = {"temperature": 1.0, "max_new_tokens": count, "ignore_eos": True, **settings}
    return [{"input_ids": prompt, "sampling_params": {**base, "custom_params": one}} for one in params]


def offline(lab, serving, requests, *, env=None, **options):
    """The texts of an offline engine, the error that stopped it, and its log."""
    job = {"engine": {"model_path": lab.model, "log_level": "info", **OPTIONS, **options}, "requests": requests}
    done = subprocess.run(
        [sys.executable, str(HERE / "sglang_job.py")], input=json.dumps(job), env=environment(serving, **(env or {})),
        capture_output=True, text=True, check=False, timeout=1800,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"error"')]
    answers = json.loads(lines[-1]) if lines else {"texts": [], "error": f"exit status {done.returncode}"}
    return answers["texts"], answers["error"], done.stderr + done.stdout


class Server:
    def __init__(self, process, port):
        self.process, self.port = process, port

    def post(self, path, **body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{path}", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def generate(self, request):
        status, answer = self.post("generate", **request)
        assert status == 200, answer
        return request["input_ids"], answer["output_ids"]

    def cut(self, request, chunks):
        """A streamed request whose connection is closed after some chunks."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("POST", "/generate", json.dumps({**request, "stream": True}), {"content-type": "application/json"})
        answer = connection.getresponse()
        for _ in range(chunks):
            answer.readline()
        connection.close()


@pytest.fixture(scope="module")
def server(lab):
    """Redgreen under the overlap scheduler, which is SGLang's default; the server's own warm-up names no tenant."""
    log, port = lab.folder / "sglang.log", 8133
    flags = [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in OPTIONS.items()]
    command = [
        sys.executable, "-m", "sglang.launch_server", "--model-path", lab.model, "--host", "127.0.0.1", "--port", str(port),
        "--skip-server-warmup", *flags,
    ]
    with open(log, "w", encoding="utf-8") as file:
        serving = lab.serving("redgreen", "sglang")
        process = subprocess.Popen(command, env=environment(serving), stdout=file, stderr=file, start_new_session=True)
    end, ready = time.monotonic() + 900, False
    while not ready and time.monotonic() < end and process.poll() is None:
        time.sleep(1)
        ready = "ready to roll" in log.read_text("utf-8", "replace")
    assert ready, log.read_text("utf-8", "replace")[-3000:]
    yield Server(process, port)
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def test_server_tenants_and_opt_out(lab, server):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(server.generate, asked(prompt_ids(lab), 150)))
    profile = lab.profile("redgreen")
    lab.judge(name_of("sglang"), profile, [(w, *ids) for w, ids in zip(OWNERS, found, strict=True)], note="server, overlap")
    greedy = server.generate(asked(prompt_ids(lab), 150, temperature=0)[0])
    assert lab.log10_p(profile, TENANTS[0], *greedy) < -6, "a bias marks greedy text too"


@pytest.mark.parametrize(
    ("params", "more", "reason"),
    [
        ({"wmcheck_tenant": "acct-00"}, {}, "unknown tenant"), (None, {}, "names no tenant"),
        ({"wmcheck_tenant": 17}, {}, "malformed field"), ({"wmcheck_tenent": TENANTS[0]}, {}, "unknown field"),
        ({"wmcheck_key": "wmk1_" + "a" * 60}, {}, "holds a secret key"),
        (ASKED[0], {"custom_logit_processor": '{"callable": "80"}'}, "not with a watermark"),
        (ASKED[0], {"rid": "HEALTH_CHECK_1", "sampling_params": {"max_new_tokens": 9}}, "names no tenant"),
    ],
)
def test_server_refuses_bad_requests_with_the_reason_and_goes_on(lab, server, params, more, reason):
    good, bad = asked(prompt_ids(lab), 60, (ASKED[2], params))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.generate, good)
        status, answer = server.post("generate", **{**bad, **more})
        assert status == 400
        assert reason in json.dumps(answer)
        assert "aaaaaaaa" not in json.dumps(answer)
        assert lab.log10_p(lab.profile("redgreen"), TENANTS[2], *running.result()) < -3


def test_server_marks_whether_or_not_the_request_brings_the_processor(lab, server):
    """The string that ``WatermarkLogitProcessor.to_str()`` gives is taken for ours, and by whatever version of dill."""
    spelled = json.dumps({"callable": b"\x80\x04cwmcheck.watermark.serving.sglang\nWatermarkLogitProcessor\n.".hex()})
    (request,) = asked(prompt_ids(lab), 100, ASKED[1:2])
    assert lab.log10_p(lab.profile("redgreen"), TENANTS[1], *server.generate({**request, "custom_logit_processor": spelled})) < -6


def test_server_64_requests_with_cancellations(lab, server):
    profile, jobs = lab.profile("redgreen"), []
    with ThreadPoolExecutor(64) as pool:
        for number in range(64):
            cancelled = number % 3 == 0
            (request,) = asked(prompt_ids(lab), 300 if cancelled else 80 + number % 30, [ASKED[number % 4]])
            call = pool.submit(server.cut, request, number % 7) if cancelled else pool.submit(server.generate, request)
            jobs.append((number, cancelled, call))
        done = [(number, job.result()) for number, cancelled, job in jobs if not cancelled]
        for _, _, job in jobs:
            job.result()
    assert len(done) == 42
    for number, ids in done:
        for tenant in TENANTS:
            value = lab.log10_p(profile, tenant, *ids)
            assert (value < -5) if tenant == OWNERS[number % 4] else (value > -5), (number, tenant, value)


def test_server_answers_its_own_health_checks(lab, server):
    """They name no tenant, and are let through for what they are."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/health_generate", timeout=60) as answer:
        assert answer.status == 200


def test_server_counts_and_keeps_the_key(lab, server):
    (state,) = [json.loads(path.read_text()) for path in (lab.folder / "sglang.state").glob("sglang-*.json")]
    assert state["tokens"]["marked"] > 1000
    assert state["tokens"]["opted_out"] > 100
    assert state["audit"]["z"] > 8
    assert lab.key.reveal()[5:25] not in (lab.folder / "sglang.log").read_text("utf-8", "replace")


LONG = "Once upon a time there was a little dog. He liked to run and play in the big park with a red ball. " * 2


def test_offline_gumbel_with_overlap_chunks_and_retractions(lab):
    """The overlap scheduler, prompts in chunks, requests taken back and resumed, and one bad request among them."""
    prompt, warm = prompt_ids(lab, LONG), {"temperature": 0.8, "top_p": 0.95}
    requests = [*asked(prompt, 150), *asked(prompt, 200, **warm), *asked(prompt, 20, [{"wmcheck_tenant": "acct-00"}])]
    env = {"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "20"}
    texts, error, log = offline(lab, lab.serving("gumbel"), requests, chunked_prefill_size=16, env=env)
    assert error is None, log[-3000:]
    assert "unknown tenant" in texts.pop()
    assert "#retracted_reqs" in log
    for part, note in ((texts[:4], "T 1"), (texts[4:], "T 0.8, top-p 0.95")):
        rows = [(who, prompt, output) for who, output in zip(OWNERS, part, strict=True)]
        lab.judge(name_of("sglang"), lab.profile("gumbel"), rows, note=f"offline, overlap, chunks, retracted, {note}")


@pytest.mark.parametrize("scheme", ["redgreen", "gumbel"])
def test_offline_without_overlap(lab, scheme):
    prompt = prompt_ids(lab)
    options = {"disable_overlap_schedule": True, "disable_radix_cache": True}
    texts, error, log = offline(lab, lab.serving(scheme), asked(prompt, 150), **options)
    assert error is None, log[-3000:]
    rows = [(who, prompt, output) for who, output in zip(OWNERS, texts, strict=True)]
    lab.judge(name_of("sglang"), lab.profile(scheme), rows, note="offline, no overlap")


def test_configurations_that_lose_the_watermark_are_refused(lab):
    """The other settings are in tests/unit/serving/test_sglang.py: what counts here is that no process starts."""
    texts, error, _ = offline(lab, lab.serving("redgreen"), asked(prompt_ids(lab), 5), speculative_algorithm="NGRAM")
    assert texts == []
    assert "speculative_algorithm: SGLang cannot watermark so" in error


def test_without_the_plugin_the_processor_raises_rather_than_marking_one_token_late(lab):
    """``SGLANG_PLUGINS`` leaves wmcheck out, and the request brings the processor itself."""
    spelled = json.dumps({"callable": b"\x80\x04cwmcheck.watermark.serving.sglang\nWatermarkLogitProcessor\n.".hex()})
    requests = [{**one, "custom_logit_processor": spelled} for one in asked(prompt_ids(lab), 5)]
    texts, error, log = offline(lab, lab.serving("redgreen"), requests, env={"SGLANG_PLUGINS": "none"})
    assert texts == []
    assert error is not None
    assert "expected what the plug-in hands over" in log


def test_a_profile_of_another_model_stops_the_scheduler(lab):
    broken = lab.serving("redgreen", "broken")
    path = lab.folder / "broken.profile.json"
    profile = json.loads(path.read_text())
    path.write_text(json.dumps({**profile, "tokenizer": {**profile["tokenizer"], "digest": "0" * 64}}))
    texts, error, log = offline(lab, broken, asked(prompt_ids(lab), 5))
    assert texts == []
    assert error is not None
    assert "not the tokenizer of the profile" in log
