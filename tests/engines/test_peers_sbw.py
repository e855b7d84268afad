"""sbw of PyPI biases logits, by its own lists and by those of lm-watermarking, which it brings along; its detector reads them."""

import importlib.util
import os

import numpy as np
import pytest
from conftest import name_of
from peers_lab import Contract, Ids, generate

from wmcheck.watermark.peer_keys import PeerKey

torch = pytest.importorskip("torch")
if importlib.util.find_spec("sbw") is None:
    pytest.skip("sbw is not installed", allow_module_level=True)
# Its kernels as plain torch: nothing to compile for a few thousand steps.
os.environ["TORCHDYNAMO_DISABLE"] = "1"

from sbw import WatermarkDetector, batch  # noqa: E402

pytestmark = pytest.mark.engines

KEY, GAMMA, DELTA = 0x1F83D9ABFB41BD6B, 0.25, 3.0
# Its products wrap at 64 bits, where those of lm-watermarking do not all.
SMALL = 0x1F83D9ABFB4


class Processor:
    """Contexts as vllm-sbw cuts them: the last ids of prompt and output."""

    def __init__(self, scheme, key=KEY):
        self.made = batch.WatermarkBatch(
            vocab=[0] * 1024, gamma=GAMMA, delta=DELTA, seeding_scheme=scheme, hash_key=key, device=torch.device("cpu")
        )

    def __call__(self, ids, scores):
        context = ids[:, -self.made.context_width :]
        if self.made.is_fused:
            apply = self.made.apply_watermark_selfsalt_fused if self.made.self_salt else self.made.apply_watermark_simple_fused
            return apply(context, scores.clone(), GAMMA, DELTA)
        if self.made.seeding_scheme.startswith("gpu-"):
            return self.made.apply_watermark_fused(context, scores, GAMMA, DELTA)
        return scores + self.made.get_greenlist_masks(context, logits=scores) * DELTA


def detector(scheme, key=KEY, **options):
    return WatermarkDetector(
        device=torch.device("cpu"), tokenizer=Ids(), vocab=[0] * 1024, gamma=GAMMA, seeding_scheme=scheme, hash_key=key,
        normalizers=[], **options,
    )


@pytest.mark.parametrize(
    ("scheme", "seeding", "width"),
    [("gpu-fused-selfhash-fullvocab", "selfhash", 4), ("gpu-simple_1", "lefthash", 1), ("gpu-fused-simple_4", "lefthash", 4)],
)
def test_round_trip(trips, model, ordinary, scheme, seeding, width):
    parameters = {"seeding": seeding, "context_width": width, "gamma": GAMMA, "delta": DELTA, "deduplicate_contexts": "none"}
    contract = Contract("vllm-sbw", parameters, PeerKey(KEY))
    marked = generate(model, seed=11, logits_processor=[Processor(scheme)])
    theirs = detector(scheme, ignore_repeated_ngrams=False)
    for _, output in marked + ordinary:
        green = theirs._compute_green_mask_gpu_batched(torch.tensor(output))[0].numpy()
        ours = contract.scores(output)
        # The context of selfhash counts the token itself with them, so they score one token more.
        assert np.array_equal(ours, green[len(green) - len(ours) :])
    trips.judge(
        name_of("sbw"), contract, marked, ordinary, note=f"{scheme}, gamma {GAMMA}, delta {DELTA}",
        agrees="the colour of every token",
    )


@pytest.mark.parametrize("scheme", ["lefthash", "minhash", "skipgram", "selfhash"])
def test_lists_of_lm_watermarking(trips, model, ordinary, scheme):
    """lm-watermarking is not on PyPI; sbw holds its seed functions, on the same permutations of torch."""
    settings = {"gamma": GAMMA, "delta": DELTA, "seeding_scheme": scheme}
    contract = Contract("lm-watermarking", {"vocabulary": 1024, **settings}, PeerKey(SMALL))
    marked = generate(model, seed=12, new=100, logits_processor=[Processor(scheme, SMALL)])
    theirs = detector(scheme, SMALL, ignore_repeated_ngrams=False)
    for _, output in marked + ordinary[:5]:
        assert np.array_equal(contract.colours(output), theirs._compute_green_mask(torch.tensor(output))[0].numpy())
    trips.judge(
        f"{name_of('sbw')}, seeds of lm-watermarking", contract, marked, ordinary, note=f"{scheme}, gamma {GAMMA}, delta {DELTA}",
        agrees="the colour of every token", share=0.9,
    )


def test_lefthash_as_the_detector_of_vllm_reads_it(model):
    """It sums the hashes of the ids, where its generator sums the ids: to it, marked text is ordinary."""
    marked = generate(model, seed=11, logits_processor=[Processor("gpu-simple_1")])
    shares = []
    for hashed in (False, True):
        green = []
        for _, output in marked:
            ids = torch.tensor(output)
            context = batch.hashint_gpu(ids[:-1]) if hashed else ids[:-1]
            green.append((batch.philox_at_positions(KEY * context, ids[1:]) < GAMMA).float().mean().item())
        shares.append(np.mean(green))
    assert shares[0] > 0.5
    assert abs(shares[1] - GAMMA) < 0.05
