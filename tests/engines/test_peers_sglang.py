"""SGLang's own watermark: its engine marks, scheduler and all, by the torch code that it keeps beside its CUDA kernels."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import name_of
from peers_lab import Contract, bare, model_path, prompt_ids

from wmcheck.watermark.peer_keys import PeerKey

# Absent here: its package; in an environment without it these tests are skipped.
pytest.importorskip("msgspec")
detector = bare("sglang.srt.sampling.watermarking.detector")

pytestmark = pytest.mark.engines

HERE = Path(__file__).parent
KEY, SECOND = 0x9E6C63D0876A9A47, 0x1B56C4E9A5D0F37B
OPTIONS = {
    "device": "cpu", "dtype": "float32", "attention_backend": "torch_native", "sampling_backend": "pytorch", "random_seed": 7,
    "grammar_backend": "none", "disable_cuda_graph": True, "max_total_tokens": 16384, "max_running_requests": 64,
    "enable_watermark": True, "log_level": "error",
}


def texts(config, new=150):
    """Twenty marked texts and twenty of requests that ask for no mark, of one engine."""
    prompts = prompt_ids()
    requests = [
        {"input_ids": prompt, "sampling_params": {"temperature": 1.0, "max_new_tokens": new, "ignore_eos": True, **more}}
        for more in ({"watermark": {"enabled": True}}, {}) for prompt in prompts
    ]
    job = {"engine": {"model_path": model_path(), "watermark_config": json.dumps(config), **OPTIONS}, "requests": requests}
    shim = {"PYTHONPATH": str(HERE / "shims" / "sglang"), "SGLANG_USE_CPU_ENGINE": "1", "WMCHECK_SERVING": ""}
    done = subprocess.run(
        [sys.executable, str(HERE / "peers_sglang_job.py")], input=json.dumps(job), env={**os.environ, **shim},
        capture_output=True, text=True, check=False, timeout=1800,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"error"')]
    answers = json.loads(lines[-1]) if lines else {"texts": [], "error": f"exit status {done.returncode}"}
    assert answers["error"] is None, done.stderr[-3000:]
    found = list(zip(prompts * 2, answers["texts"], strict=True))
    return found[: len(prompts)], found[len(prompts) :]


@pytest.mark.parametrize("dual", [False, True])
def test_round_trip(trips, dual):
    # It takes a mixing probability with two keys alone.
    second = {"key_b": hex(SECOND), "mixing_probability": 0.4} if dual else {}
    marked, ordinary = texts({"key": hex(KEY), "context_window": 4, **second})
    contract = (
        Contract("sglang-dual", {"context_window": 4, "mixing_probability": 0.4}, PeerKey((KEY, SECOND)))
        if dual
        else Contract("sglang-gumbel", {"context_window": 4}, PeerKey(KEY))
    )
    theirs = detector.WatermarkDetector(hex(KEY), **second)
    for prompt, output in marked + ordinary:
        for known in ([], prompt):
            counts = theirs.detect_tokens(output, prompt_token_ids=known).combined
            found = contract.detect(output, known, plain=True)
            if known:
                # A context of the prompt that the output repeats is marked by SGLang, and not counted by us.
                assert found.n_scored <= counts.num_contexts
                continue
            assert found.n_scored == counts.num_contexts
            # Ours takes the lower end of a cell of the grid of 2^-32 where theirs takes the middle.
            assert counts.score - 1e-3 < found.total <= counts.score
            assert found.log10_p == pytest.approx(counts.log_p_value / math.log(10), abs=1e-3)
    trips.judge(
        name_of("sglang"), contract, marked, ordinary, note="two keys, mixing_probability 0.4" if dual else "one key",
        agrees="score, contexts and log p of WatermarkDetector to 1e-3", prompts=dual,
    )
