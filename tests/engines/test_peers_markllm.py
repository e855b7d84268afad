"""MarkLLM of PyPI: KGW, Unigram and EXP generate by their own classes."""

import json
import math

import numpy as np
import pytest
from conftest import name_of
from peers_lab import Contract, Ids, prompt_ids
from scipy.stats import gamma

from wmcheck.watermark.peer_keys import PeerKey

torch = pytest.importorskip("torch")
pytest.importorskip("markllm")

from markllm.utils.transformers_config import TransformersConfig  # noqa: E402
from markllm.watermark.auto_watermark import AutoWatermark  # noqa: E402

pytestmark = pytest.mark.engines

# EXP multiplies it by an id and stops where the product has more than 64 bits.
KEY = 981_273_645_546_373


@pytest.fixture
def load(model, tmp_path):
    """An algorithm of MarkLLM with its own configuration, but for some settings."""

    def made(name, new=150, **settings):
        from markllm.watermark import auto_watermark

        folder = auto_watermark.__file__.rsplit("/", 2)[0]
        with open(f"{folder}/config/{name}.json", encoding="utf-8") as file:
            config = json.load(file)
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({**config, "hash_key": KEY, **settings}), "utf-8")
        sampling = {"do_sample": True, "top_k": 0, "max_new_tokens": new, "min_new_tokens": new, "pad_token_id": 0}
        return AutoWatermark.load(name, str(path), TransformersConfig(model, Ids(), vocab_size=1024, device="cpu", **sampling))

    return made


def generated(algorithm):
    torch.manual_seed(31)
    return [(prompt, algorithm.generate_watermarked_text(prompt)[len(prompt) :]) for prompt in prompt_ids()]


@pytest.mark.parametrize(
    "settings",
    [{"gamma": 0.5, "delta": 3.0}, {"gamma": 0.25, "delta": 3.0, "prefix_length": 3, "f_scheme": "min"}],
)
def test_kgw(trips, ordinary, load, settings):
    algorithm = load("KGW", **settings)
    contract = Contract("markllm-kgw", {"vocabulary": 1024, **settings}, PeerKey(KEY))
    marked = generated(algorithm)
    for _, output in marked + ordinary:
        ours = contract.scores(output)
        z, flags = algorithm.utils.score_sequence(torch.tensor(output))
        assert np.array_equal(ours, np.array(flags[contract.profile().scheme.width :], bool))
        share = settings["gamma"]
        assert z == pytest.approx((ours.sum() - share * len(ours)) / math.sqrt(len(ours) * share * (1 - share)))
    note = ", ".join(f"{name} {value}" for name, value in settings.items())
    trips.judge(name_of("markllm"), contract, marked, ordinary, note=f"KGW, {note}", agrees="the colour of every token; z")


def test_unigram(trips, ordinary, load):
    algorithm = load("Unigram", delta=4.0)
    contract = Contract("markllm-unigram", {"vocabulary": 1024, "gamma": 0.5, "delta": 4.0}, PeerKey(KEY))
    marked = generated(algorithm)
    for _, output in marked + ordinary:
        _, flags = algorithm.utils.score_sequence(torch.tensor(output))
        assert np.array_equal(contract.scores(output), np.array(flags, bool))
    trips.judge(
        name_of("markllm"), contract, marked, ordinary, note="Unigram, gamma 0.5, delta 4", agrees="the colour of every token"
    )


# EXP marks repeated contexts too: its texts run in circles.
@pytest.mark.parametrize("prefix", [2, 4])
def test_exp(trips, ordinary, load, prefix):
    algorithm = load("EXP", prefix_length=prefix, sequence_length=150)
    contract = Contract("markllm-exp", {"vocabulary": 1024, "prefix_length": prefix}, PeerKey(KEY))
    marked = generated(algorithm)
    for _, output in marked + ordinary:
        scores = contract.scores(output)
        p = algorithm.detect_watermark(output)["score"]
        assert math.log(max(p, 1e-300)) == pytest.approx(max(gamma.logsf(scores.sum(), len(scores)), math.log(1e-300)), rel=1e-4)
    trips.judge(
        name_of("markllm"), contract, marked, ordinary, note=f"EXP, prefix_length {prefix}", agrees="its p-value, repeats counted",
        share=0.9,
    )
