"""textseal of PyPI generates with one key; it has no second, so a mixture is its sampler under two keys by a coin of ours."""

import numpy as np
import pytest
from conftest import name_of
from peers_lab import Contract, Ids, bare, prompt_ids
from scipy.special import gammaincc

from wmcheck.watermark.peer_keys import PeerKey

torch = pytest.importorskip("torch")
core = bare("textseal.common.watermark.core")
generator, detector = bare("textseal.posthoc.generator"), bare("textseal.posthoc.detector")

pytestmark = pytest.mark.engines

# Key and what the project's default adds for the second one.
KEY, SECOND = 0x2545F4914F6CDD1D, 12345


def config(ngram, key=KEY):
    return core.WatermarkConfig(secret_key=key, ngram=ngram, watermark_type="gumbelmax", method="uniform")


class Dual(generator.GumbelmaxGenerator):
    """Every token by the sampler of the release under one of two keys."""

    def __init__(self, model, tokenizer, first):
        super().__init__(model, tokenizer, first)
        self.other = generator.GumbelmaxGenerator(model, tokenizer, config(first.ngram, KEY + SECOND))
        self.coin = torch.Generator().manual_seed(3)

    def sample_next(self, *args):
        both = torch.stack([super().sample_next(*args), self.other.sample_next(*args)])
        return both.gather(0, torch.randint(2, both[:1].shape, generator=self.coin))[0]


def generated(made):
    """Outputs up to their end; at an n-gram of 1 many run in circles, which the key decides."""
    return list(zip(prompt_ids(), made.generate(prompt_ids(), 150, temperature=1.0, top_p=1.0), strict=True))


# A circle of a dozen pairs has a dozen scores.
@pytest.mark.parametrize(("ngram", "share"), [(1, 0.8), (2, 1.0), (4, 1.0)])
def test_one_key(trips, model, ordinary, ngram, share):
    contract = Contract("textseal-gumbel", {"ngram": ngram, "vocabulary": 1024}, PeerKey(KEY))
    marked = generated(generator.GumbelmaxGenerator(model, Ids(), config(ngram)))
    theirs = detector.GumbelmaxDetector(Ids(), config(ngram), model)
    for _, output in marked + ordinary:
        scores = theirs.get_scores_by_t([output], "v2", seen_windows=set())[0]
        # Its detector leaves out one token more than the context.
        found = contract.detect(output[1:], plain=True)
        assert found.n_scored == len(scores)
        assert found.total == pytest.approx(sum(scores), rel=1e-5)
        # Ours widens that tail by the dependence of a linear hash.
        assert found.log10_p > np.log10(max(gammaincc(len(scores), sum(scores)), 1e-300)) - 0.05
    trips.judge(
        name_of("textseal"), contract, marked, ordinary, note=f"ngram {ngram}", share=share,
        agrees="scores of GumbelmaxDetector (v2), and how many",
    )


@pytest.mark.parametrize("ngram", [2])
def test_two_keys(trips, model, ordinary, ngram):
    contract = Contract("textseal-dual", {"ngram": ngram, "vocabulary": 1024}, PeerKey((KEY, KEY + SECOND)))
    marked = generated(Dual(model, Ids(), config(ngram)))
    for _, output in marked + ordinary:
        both = [
            detector.GumbelmaxDetector(Ids(), config(ngram, key), model).get_scores_by_t([output], "v2", seen_windows=set())[0]
            for key in (KEY, KEY + SECOND)
        ]
        found = contract.detect(output[1:], plain=True)
        assert found.n_scored == len(both[0])
        assert found.total == pytest.approx(sum(map(sum, both)) / 2, rel=1e-5)
    trips.judge(
        name_of("textseal"), contract, marked, ordinary, note=f"ngram {ngram}, coin of ours",
        agrees="mean of both keys' scores of GumbelmaxDetector (v2)",
    )
