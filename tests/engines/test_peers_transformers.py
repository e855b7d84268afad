"""transformers' own watermarks: ``generate(watermarking_config=...)`` marks, its detectors and ours read."""

import numpy as np
import pytest
from conftest import name_of
from peers_lab import Contract, generate

from wmcheck.watermark.peer_keys import PeerKey

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers import SynthIDTextWatermarkingConfig, WatermarkDetector, WatermarkingConfig  # noqa: E402

pytestmark = pytest.mark.engines

KEY = 2_305_843_009_213_693_951 // 7
KEYS = [int(number) for number in np.random.default_rng(20261127).integers(0, 2**62, 30)]


def both(ratio, scheme, width):
    settings = {"greenlist_ratio": ratio, "bias": 2.5, "seeding_scheme": scheme, "context_width": width}
    return WatermarkingConfig(hashing_key=KEY, **settings), Contract(
        "transformers-kgw", {"vocabulary": 1024, **settings}, PeerKey(KEY)
    )


@pytest.mark.parametrize(
    ("ratio", "scheme", "width", "share"),
    # A token of selfhash stands on itself alone about once in four times, so there is less to count in these short stories.
    [(0.1, "lefthash", 1, 1.0), (0.25, "lefthash", 1, 1.0), (0.5, "lefthash", 1, 1.0), (0.25, "selfhash", 4, 0.9)],
)
def test_green_lists(trips, model, ordinary, ratio, scheme, width, share):
    config, contract = both(ratio, scheme, width)
    marked = generate(model, seed=21, watermarking_config=config)
    # As long as the cache that transformers 5.23 keeps is keyed by tensors, every n-gram is drawn again.
    every = WatermarkDetector(model.config, "cpu", config, max_cache_size=1)
    once = WatermarkDetector(model.config, "cpu", config, ignore_repeated_ngrams=True, max_cache_size=1)
    for _, output in marked + ordinary:
        ids, green = torch.tensor([output]), contract.colours(output)
        counts = every(ids, return_dict=True)
        assert (counts.num_tokens_scored[0], counts.num_green_tokens[0]) == (len(green), green.sum())
        found, counts = contract.detect(output, plain=True), once(ids, return_dict=True)
        if scheme == "lefthash":
            # Distinct bigrams are distinct pairs of seed and token.
            assert (counts.num_tokens_scored[0], counts.num_green_tokens[0]) == (found.n_scored, found.total)
        else:
            assert found.n_scored <= counts.num_tokens_scored[0]
    trips.judge(
        name_of("transformers"), contract, marked, ordinary, note=f"{scheme} {width}, ratio {ratio}, bias 2.5",
        share=share, agrees=f"counts of WatermarkDetector, repeats {'or not' if scheme == 'lefthash' else 'included'}",
    )


def test_the_prompt_is_the_context_of_the_first_token(trips, model, ordinary):
    config, contract = both(0.25, "lefthash", 1)
    marked = generate(model, seed=22, new=100, watermarking_config=config)
    for prompt, output in marked[:4]:
        listed = config.construct_processor(1024, "cpu")._get_greenlist_ids(torch.tensor(prompt))
        assert contract.colours(prompt[-1:] + output[:1])[0] == (output[0] in listed)
    trips.judge(
        name_of("transformers"), contract, marked, ordinary, note="lefthash 1, ratio 0.25, bias 2.5, prompts known",
        prompts=True, share=0.9, agrees="colour of the first token",
    )


@pytest.mark.parametrize(("ngram_len", "depth"), [(5, 30), (3, 12)])
def test_synthid(trips, model, ordinary, ngram_len, depth):
    config = SynthIDTextWatermarkingConfig(keys=KEYS[:depth], ngram_len=ngram_len)
    contract = Contract("transformers-synthid", {"ngram_len": ngram_len, "depth": depth}, PeerKey(tuple(KEYS[:depth])))
    marked = generate(model, seed=23, watermarking_config=config)
    processor = config.construct_processor(1024, "cpu")
    for _, output in marked + ordinary:
        ids = torch.tensor([output])
        assert np.array_equal(contract.scores(output), processor.compute_g_values(ids)[0].numpy())
    for _, output in marked:
        kept = int(processor.compute_context_repetition_mask(torch.tensor([output])).sum())
        # Two places with one state of the table count once with us.
        assert contract.detect(output).n_scored in range(kept - 3, kept + 1)
    trips.judge(
        name_of("transformers"), contract, marked, ordinary, note=f"SynthID, ngram_len {ngram_len}, {depth} keys",
        agrees="g values; how many contexts are no repeats",
    )
