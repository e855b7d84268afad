"""MarkLLM of PyPI generates by its own classes; EXPEdit and ITSEdit for the contracts of key sequences."""

import json
import math
import sys
import types

import numpy as np
import pytest
from conftest import name_of
from peers_lab import Contract, Ids, prompt_ids

from wmcheck.watermark.peer_keys import PeerKey

torch = pytest.importorskip("torch")
pytest.importorskip("markllm")

from markllm.utils.transformers_config import TransformersConfig  # noqa: E402
from markllm.watermark.auto_watermark import AutoWatermark  # noqa: E402

pytestmark = pytest.mark.engines

# Compiled for Python 3.9 in the wheel, and needed by their detection alone.
for name in ("exp_edit", "its_edit"):
    module = types.ModuleType("levenshtein")
    module.levenshtein = None
    sys.modules[f"markllm.watermark.{name}.cython_files.levenshtein"] = module

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
        ours = contract.colours(output)
        z, flags = algorithm.utils.score_sequence(torch.tensor(output))
        assert np.array_equal(ours, np.array(flags[contract.scheme.width :], bool))
        share = settings["gamma"]
        assert z == pytest.approx((ours.sum() - share * len(ours)) / math.sqrt(len(ours) * share * (1 - share)))
    note = ", ".join(f"{name} {value}" for name, value in settings.items())
    trips.judge(name_of("markllm"), contract, marked, ordinary, note=f"KGW, {note}", agrees="the colour of every token; z")


@pytest.mark.parametrize("name", ["SWEET", "EWD"])
def test_by_entropy(trips, ordinary, load, name):
    """Its detectors ask a model for entropies; ours counts all tokens."""
    algorithm = load(name, delta=3.0)
    contract = Contract("markllm-kgw", {"vocabulary": 1024, "algorithm": name, "gamma": 0.5, "delta": 3.0}, PeerKey(KEY))
    marked = generated(algorithm)
    for _, output in marked[:5] + ordinary[:5]:
        ids = torch.tensor(output)
        listed = [int(ids[place]) in algorithm.utils.get_greenlist_ids(ids[:place]) for place in range(1, len(ids))]
        assert np.array_equal(contract.colours(output), listed)
    trips.judge(
        name_of("markllm"), contract, marked, ordinary, note=f"{name}, gamma 0.5, delta 3", agrees="the colour of every token",
        share=0.9,
    )


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
    for _, output in marked[:5] + ordinary[:5]:
        shown = np.array(algorithm.get_data_for_visualization(output).highlight_values[prefix:], float)
        # Where the product of a context is 0 modulo the vocabulary, no key is left in the seed: nothing to score.
        keyed = np.array([math.prod(output[end - prefix : end]) % 1024 for end in range(prefix, len(output))]) > 0
        assert contract.scores(output) == pytest.approx(np.where(keyed, shown / (1 - shown), 0.0), rel=1e-4, abs=1e-6)
    trips.judge(
        name_of("markllm"), contract, marked, ordinary, note=f"EXP, prefix_length {prefix}",
        agrees="the score of every token", share=0.9,
    )


def test_exp_edit(trips, ordinary, load):
    algorithm = load("EXPEdit", key=KEY % 2**32, pseudo_length=256, sequence_length=120)
    contract = Contract("kuditipudi-exp", {"vocabulary": 1024, "length": 256}, PeerKey(KEY % 2**32))
    marked = generated(algorithm)
    scheme = contract.scheme
    noise = scheme.keyed(contract.key).noise(np.arange(1024))
    assert np.allclose(noise.T, algorithm.utils.xi.numpy(), rtol=0, atol=1e-7)
    trips.judge(
        name_of("markllm"), contract, marked, ordinary, note="EXPEdit, 256 places, no edits", agrees="uniforms of the sequence"
    )


def test_its_edit(trips, ordinary, load):
    algorithm = load("ITSEdit", key=KEY % 2**32, pseudo_length=256, sequence_length=250)
    torch.manual_seed(KEY % 2**32)
    # The seed that its detector looks for: its generator draws another for every text but the first of a process.
    seed = int(torch.randint(2**32, (250,))[0])
    contract = Contract("kuditipudi-its", {"vocabulary": 1024, "length": 256}, PeerKey(seed))
    marked = []
    for prompt in prompt_ids():
        torch.manual_seed(KEY % 2**32)
        # It ends a text at token 2, the end of Llama's.
        marked.append((prompt, algorithm.generate_watermarked_text(prompt)))
    uniforms, order = algorithm.utils.transform_key_func(torch.Generator().manual_seed(seed), 256, 1024)
    ours, places = contract.scheme.keyed(contract.key).transform(np.arange(1024))
    assert ours == pytest.approx(uniforms[:, 0].numpy(), abs=1e-7)
    assert np.array_equal(np.argsort(places), order.numpy())
    # The weakest mark of all here: distances on a circle of places, against a bound over all shifts.
    trips.judge(
        name_of("markllm"), contract, marked, ordinary, note="ITSEdit, 256 places, no edits", agrees="uniforms and permutation",
        share=0.8,
    )
