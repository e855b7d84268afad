"""synthid-text of PyPI generates: release 0.2.1 has the keyed function of transformers, and not that of its repository."""

import numpy as np
import pytest
from conftest import name_of
from peers_lab import Contract, generate

from wmcheck.watermark.peer_keys import PeerKey

torch = pytest.importorskip("torch")
logits_processing = pytest.importorskip("synthid_text.logits_processing")

pytestmark = pytest.mark.engines

KEYS = tuple(int(number) for number in np.random.default_rng(20261126).integers(0, 2**62, 30))
ROUND_TRIPS = [(5, 40, 2), (5, 1024, 2), (3, 100, 2), (5, 40, 3)]


def processor(ngram_len, top_k, leaves):
    return logits_processing.SynthIDLogitsProcessor(
        ngram_len=ngram_len, keys=KEYS, sampling_table_size=2**16, sampling_table_seed=0, context_history_size=1024,
        temperature=1.0, top_k=top_k, device=torch.device("cpu"), num_leaves=leaves,
    )


def dense(made):
    """Its scores of the k best tokens as a processor of transformers; its own generation loop is for transformers 4.43."""

    def step(ids, scores):
        kept, places, _ = made.watermarked_call(ids, scores)
        return torch.full_like(scores, -torch.inf).scatter(1, places, kept)

    return step


@pytest.mark.parametrize(("ngram_len", "top_k", "leaves"), ROUND_TRIPS)
def test_round_trip(trips, model, ordinary, ngram_len, top_k, leaves):
    made = processor(ngram_len, top_k, leaves)
    marked = generate(model, seed=1, logits_processor=[dense(made)])
    contract = Contract("transformers-synthid", {"ngram_len": ngram_len}, PeerKey(KEYS))
    agree(made, contract, marked + ordinary)
    trips.judge(
        name_of("synthid-text"), contract, marked, ordinary, note=f"ngram_len {ngram_len}, top_k {top_k}, {leaves} leaves",
        agrees="g values; mean and weighted mean of detector_mean",
    )


def agree(made, contract, texts):
    """Our bits are its g values, and both of its means follow from our selection and bits."""
    detector = pytest.importorskip("synthid_text.detector_mean")
    plain = Contract(contract.name, {**contract.parameters, "score": "mean"}, contract.key)
    for place, (_, output) in enumerate(texts):
        ids = torch.tensor([output])
        values, kept = made.compute_g_values(ids).numpy(), made.compute_context_repetition_mask(ids).numpy()
        assert np.array_equal(contract.scores(output), values[0])
        if place % 4:
            continue
        # Two places of 2^16 with one state of the table have one row of bits, and count once with us.
        fresh = np.zeros(len(kept[0]), bool)
        fresh[np.flatnonzero(kept[0])[np.unique(values[0][kept[0]], axis=0, return_index=True)[1]]] = True
        assert kept.sum() - fresh.sum() < 4
        kept = fresh[None]
        found, weighted = plain.detect(output), contract.detect(output)
        assert found.n_scored == weighted.n_scored == kept.sum()
        assert found.total / (30 * found.n_scored) == pytest.approx(float(detector.mean_score(values, kept)[0]), abs=1e-6)
        # Our weights are whole numbers.
        both = [float(detector.weighted_mean_score(values.astype(np.float32), kept, weights)[0]) for weights in (None, whole())]
        assert weighted.total / (whole().sum() * weighted.n_scored) == pytest.approx(both[1], abs=1e-5)
        assert both[0] == pytest.approx(both[1], abs=0.01)


def whole():
    return np.rint(np.linspace(10, 1, 30)).astype(np.float32)


def test_the_function_of_the_repository_is_another(model):
    marked = generate(model, seed=1, new=100, prompts=[[399, 341]] * 2, logits_processor=[dense(processor(5, 40, 2))])
    for _, output in marked:
        assert Contract("transformers-synthid", {}, PeerKey(KEYS)).detect(output).log10_p < -6
        assert Contract("synthid-text", {}, PeerKey(KEYS)).detect(output).log10_p > -4
