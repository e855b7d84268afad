"""Predictions of a model: the right numbers whatever the batch, the context or the cache, and no key anywhere."""

from __future__ import annotations

import copy
import os

import numpy as np
import pytest
import torch
from scipy.special import entr, log_softmax

from wmcheck.watermark.core.errors import ConfigError, InputError, TokenizerError
from wmcheck.watermark.embed import load_model
from wmcheck.watermark.law import FLOOR
from wmcheck.watermark.predict import ModelPredictor, Warp, model_digest, windows, with_predictions
from wmcheck.watermark.prediction_cache import PredictionCache, default_cache
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.windows import Document

RNG = np.random.default_rng(5)
# Lengths and prompts: unknown and known prompts, nothing to predict, one token, and longer than a short context.
DOCUMENTS = [
    Document(RNG.integers(1, 1024, length), prompt) for length, prompt in ((40, 0), (70, 12), (1, 0), (9, 9), (0, 0), (33, 5))
]
# One model on rows of other lengths: float32 arithmetic in another order.
ROUNDING = 1e-4


@pytest.fixture(scope="module")
def language():
    return load_model("bundled:stories2m", device="cpu")


def predictor_of(language, **options):
    return ModelPredictor(language.model, language.tokenizer, "bundled:stories2m", **options)


def direct(language, ids):
    """f64[L, V] log probabilities of every id and of what follows, from one pass over start id and ids."""
    with torch.no_grad():
        logits = language.model(torch.tensor([[0, *ids.tolist()]])).logits[0]
    return log_softmax(logits.double().numpy(), axis=1)


def same(one, other, tolerance=ROUNDING):
    assert one.known.tolist() == other.known.tolist()
    assert one.candidates[:, 0].tolist() == other.candidates[:, 0].tolist()
    assert one.log_p[:, 0] == pytest.approx(other.log_p[:, 0], abs=tolerance)
    assert one.entropy == pytest.approx(other.entropy, abs=tolerance)
    assert one.collision == pytest.approx(other.collision, abs=tolerance)


def test_numbers_are_those_of_one_plain_pass(language):
    document = DOCUMENTS[1]
    law = predictor_of(language).predict([document])[0]
    expected = direct(language, document.ids)
    assert law.known.tolist() == [False] * 12 + [True] * 58
    for place in range(12, 70):
        row, share = expected[place], np.exp(expected[place])
        assert law.entropy[place] == pytest.approx(entr(share).sum(), abs=ROUNDING)
        assert law.collision[place] == pytest.approx((share**2).sum(), abs=ROUNDING)
        found = law.candidates[place][law.candidates[place] >= 0]
        assert found[0] == document.ids[place]
        assert len(set(found.tolist())) == len(found)
        assert set(found.tolist()) == {int(found[0]), *np.argsort(-row)[:50].tolist()}
        row[document.ids[place]] = max(row[document.ids[place]], np.log(FLOOR))
        inside = row[found] - np.logaddexp.reduce(row[found])
        assert law.log_p[place, law.candidates[place] >= 0] == pytest.approx(inside, abs=ROUNDING)


def test_rows_sum_to_one_in_double_precision(language):
    for law in predictor_of(language).predict(DOCUMENTS):
        assert np.exp(law.log_p).sum(1) == pytest.approx(np.ones(len(law)), abs=1e-13)


@pytest.mark.parametrize(("pass_ids", "block"), [(1, 2**25), (100, 2**25), (8192, 1024 * 8)])
def test_neither_batches_nor_padding_nor_blocks_change_the_result(language, pass_ids, block):
    predictor = predictor_of(language)
    whole = predictor.predict(DOCUMENTS)
    predictor._pass_ids, predictor._block = pass_ids, block
    for one, other in zip(whole, predictor.predict(DOCUMENTS), strict=True):
        same(one, other)
    for document, law in zip(DOCUMENTS, whole, strict=True):
        same(law, predictor.predict([document])[0])


@pytest.mark.parametrize("start", [[], [0]])
@pytest.mark.parametrize(("length", "prompt"), [(100, 0), (100, 90), (100, 17), (17, 3), (16, 0), (1, 0), (2, 2)])
def test_windows_predict_each_place_once_and_show_half_a_context(length, prompt, start):
    document = Document(RNG.integers(1, 1024, length), prompt)
    seen = []
    for job in windows(document, 16, start):
        assert len(job.inputs) <= 16
        assert job.last - job.first == len(job.inputs) - job.skip
        for place in range(job.first, job.last):
            shown = job.inputs[len(start) : job.skip + place - job.first + 1]
            assert shown.tolist() == document.ids[place - len(shown) : place].tolist()
            assert len(shown) >= min(place, (16 - len(start)) // 2)
            seen.append(place)
    assert seen == list(range(prompt if start else max(prompt, 1), length))


def test_a_start_id_in_the_prompt_is_not_repeated():
    begun = Document(np.array([0, 5, 6, 7, 8]), 3)
    assert [job.inputs.tolist() for job in windows(begun, 16, [0])] == [[0, 5, 6, 7]]
    # The output of an unknown prompt may begin with that id too; there it is text.
    assert [job.inputs.tolist() for job in windows(Document(begun.ids, 0), 16, [0])] == [[0, 0, 5, 6, 7]]


def test_text_longer_than_the_context_is_read_in_windows(language):
    document = Document(RNG.integers(1, 1024, 60), 4)
    predictor = predictor_of(language)
    predictor.context = 24
    law = predictor.predict([document])[0]
    assert law.known.tolist() == [False] * 4 + [True] * 56
    for job in windows(document, 24, [0]):
        expected = direct(language, job.inputs[1:])[job.skip :]
        assert law.entropy[job.first : job.last] == pytest.approx(entr(np.exp(expected)).sum(1), abs=ROUNDING)


def test_without_a_start_id_the_first_token_of_an_unknown_prompt_is_unknown(language):
    other = copy.deepcopy(language.model)
    other.config.bos_token_id = None
    laws = ModelPredictor(other, language.tokenizer, "other").predict([Document(np.array([5, 6, 7])), Document(np.array([5]))])
    assert [law.known.tolist() for law in laws] == [[False, True, True], [False]]


def test_sampling_settings_are_applied_in_the_order_of_generation(language):
    document = DOCUMENTS[1]
    law = predictor_of(language, warp=Warp(0.7, 20, 0.9)).predict([document])[0]
    for place in (20, 45, 69):
        row = log_softmax(direct(language, document.ids)[place] / 0.7)
        order = np.argsort(-row)[:20]
        share = np.exp(log_softmax(row[order]))
        # Nucleus: the likeliest tokens until they hold 0.9, the one that reaches it included.
        kept = order[: int((share.cumsum() < 0.9).sum()) + 1]
        found = law.candidates[place][law.candidates[place] >= 0]
        assert set(found.tolist()) == {int(document.ids[place]), *kept.tolist()}
        inside = np.exp(log_softmax(row[kept]))
        assert law.entropy[place] == pytest.approx(entr(inside).sum(), abs=ROUNDING)


def test_the_cache_changes_no_number_and_answers_alone(language, tmp_path):
    cache = PredictionCache(tmp_path / "cache")
    fresh = predictor_of(language).predict(DOCUMENTS)
    written = predictor_of(language, cache=cache).predict(DOCUMENTS)
    assert cache.hits == 0
    again = predictor_of(language, cache=cache)
    read = again.predict(DOCUMENTS)
    assert (cache.hits, again.predicted) == (len(DOCUMENTS), 0)
    for one, two, three in zip(fresh, written, read, strict=True):
        for name in ("log_p", "entropy", "collision", "known"):
            assert getattr(one, name).tolist() == getattr(two, name).tolist() == getattr(three, name).tolist()
        assert one.candidates.tolist() == three.candidates.tolist()
    assert (tmp_path / "cache").stat().st_mode & 0o77 == 0


def test_damaged_files_are_computed_again(language, tmp_path):
    cache = PredictionCache(tmp_path)
    expected = predictor_of(language, cache=cache).predict(DOCUMENTS[:2])
    files = sorted(tmp_path.rglob("*.npz"))
    assert len(files) == 2
    arrays = dict(np.load(files[1]))
    swapped = {**arrays, "candidates": arrays["candidates"] + np.int16(1)}
    twice = {**arrays, "candidates": arrays["candidates"].copy()}
    twice["candidates"][:, 3] = twice["candidates"][:, 2]
    damages = [b"", b"PK\x03\x04 nothing", files[0].read_bytes()[:-300], files[0].read_bytes()]
    for damage in [*damages, swapped, twice, {**arrays, "log_p": arrays["log_p"] * np.nan}]:
        if isinstance(damage, bytes):
            files[1].write_bytes(damage)
        else:
            np.savez(files[1], **damage)
        predictor = predictor_of(language, cache=cache)
        found = predictor.predict(DOCUMENTS[:2])
        assert predictor.predicted in (len(DOCUMENTS[0].ids), len(DOCUMENTS[1].ids) - 12)
        for one, other in zip(expected, found, strict=True):
            same(one, other)


def test_an_interrupt_keeps_what_was_computed(language, tmp_path):
    def interrupt(tokens):
        raise KeyboardInterrupt

    documents = [Document(RNG.integers(1, 1024, 20 + place)) for place in range(6)]
    cache = PredictionCache(tmp_path)
    # The pass in which the interrupt comes is lost, the four documents before it are not.
    predictor = predictor_of(language, cache=cache)
    predictor._pass_ids = 50
    passes = iter(range(3))
    predictor._progress = lambda tokens: next(passes) == 2 and interrupt(tokens)
    with pytest.raises(KeyboardInterrupt):
        predictor.predict(documents)
    assert len(list(tmp_path.rglob("*.npz"))) == 4
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".npz"] == []
    again = predictor_of(language, cache=cache)
    again.predict(documents)
    assert again.predicted == 24 + 25


def test_every_setting_has_its_own_cache_entry(language):
    ids = np.array([3, 4, 5])
    setups = [predictor_of(language, warp=warp).setup for warp in (Warp(), Warp(0.9), Warp(1.0, 5), Warp(1.0, 0, 0.9))]
    names = {PredictionCache.name(setup, ids, 0) for setup in setups}
    names |= {PredictionCache.name(setups[0], ids, 1), PredictionCache.name(setups[0], ids[:2], 0)}
    assert len(names) == 6


def test_the_digest_follows_weights_and_configuration(language):
    digest = model_digest(language.model)
    assert digest == model_digest(load_model("bundled:stories2m", device="cpu").model)
    changed = copy.deepcopy(language.model)
    with torch.no_grad():
        changed.lm_head.weight[7, 7] += 2**-12
    assert model_digest(changed) != digest
    other = copy.deepcopy(language.model)
    other.config.rms_norm_eps = 1e-5
    assert model_digest(other) not in (digest, model_digest(changed))


def test_equal_documents_are_predicted_once(language):
    predictor = predictor_of(language)
    laws = predictor.predict([DOCUMENTS[0]] * 5)
    assert predictor.predicted == 40
    assert all(law.log_p.tolist() == laws[0].log_p.tolist() for law in laws)


def test_documents_carry_their_predictions(language):
    found = with_predictions(DOCUMENTS, predictor_of(language))
    assert [len(one.law) for one in found] == [len(document.ids) for document in DOCUMENTS]


def test_another_tokenizer_or_unknown_ids_are_refused(language):
    predictor = predictor_of(language)
    predictor.check(Profile.create("gumbel"))
    predictor.check(Profile.create("gumbel", tokenizer=language.tokenizer))
    other = Profile.create("gumbel", tokenizer=language.tokenizer)
    object.__setattr__(other, "tokenizer", {"name": "other", "digest": "0" * 64, "vocabulary": 1024})
    with pytest.raises(TokenizerError, match="the model's tokenizer is not the profile's"):
        predictor.check(other)
    with pytest.raises(InputError, match=r"token ids that the model does not know \(got 1024, expected ids below 1024\)"):
        predictor.predict([Document(np.array([1024]))])


def test_a_model_smaller_than_its_tokenizer_is_refused(language):
    small = copy.deepcopy(language.model)
    small.resize_token_embeddings(1000)
    with pytest.raises(ConfigError, match=r"fewer token ids than its tokenizer \(got 1000, expected 1024\)"):
        ModelPredictor(small, language.tokenizer, "small")


def test_padding_of_the_vocabulary_gets_no_probability(language):
    wide = copy.deepcopy(language.model)
    wide.resize_token_embeddings(1100, mean_resizing=False)
    with torch.no_grad():
        # Under untied matrices these rows would be likely tokens that no tokenizer has.
        wide.lm_head.weight[1024:] = wide.lm_head.weight[:76] * 3
    law = ModelPredictor(wide, language.tokenizer, "wide").predict([DOCUMENTS[0]])[0]
    assert law.candidates.max() < 1024
    same(law, predictor_of(language).predict([DOCUMENTS[0]])[0])


def test_a_folder_that_cannot_be_written_is_named(language, tmp_path):
    (tmp_path / "file").write_text("")
    predictor = predictor_of(language, cache=PredictionCache(tmp_path / "file" / "cache"))
    with pytest.raises(ConfigError, match="cannot write predictions"):
        predictor.predict([DOCUMENTS[0]])


def test_the_default_folder_follows_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "wmcheck" / "predictions"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "wmcheck" / "predictions"
