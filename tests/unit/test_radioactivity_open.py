"""Reading an open model: the right probabilities at the right windows, in any batch, and in another tokenizer."""

import os

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from wmcheck.watermark import Profile, load_tokenizer
from wmcheck.watermark.core.errors import ConfigError, InputError, TokenizerError
from wmcheck.watermark.embed import LanguageModel
from wmcheck.watermark.radioactivity import collect, collect_aligned, vocabulary_map
from wmcheck.watermark.radioactivity.alignment import aligned_rows
from wmcheck.watermark.tokenizer import TextTokenizer
from wmcheck.watermark.windows import Document

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
V = 50
TEXTS = ["Once upon a time, there was a café.\nThe end 12345!", "A big dog ran. Then it sat down by the river, and slept."]
TOKENIZER = load_tokenizer("bundled:stories2m")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def llama(vocabulary, seed=0):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=128, bos_token_id=1, eos_token_id=1,
    ))
    with torch.no_grad():
        model.lm_head.weight.mul_(20.0)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return llama(V)


def other_tokenizer(size=300):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<end>"], show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ))
    return TextTokenizer(made, "other")


def law(model, ids, start=(1,)):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([[*start, *ids]])).logits[0, -1].softmax(0).numpy()


def test_probabilities_stand_at_their_windows(model):
    rng = np.random.default_rng(0)
    documents = [Document(rng.integers(2, V, size)) for size in (30, 7, 2, 1, 0)]
    profile = Profile.create("gumbel", {"width": 2})
    held = collect(model, documents, profile, top=V, floor=1e-6, batch_size=2)
    assert held.tokens_read == 29 + 6 + 1
    assert held.text == "neutral"
    windows = held.windows.tolist()
    for document in documents[:2]:
        for place in range(2, len(document.ids) + 1, 5):
            index = windows.index(document.ids[place - 2 : place].tolist())
            mine = held.owner == index
            expected = law(model, document.ids[:place].tolist())
            # A window that came once; others hold means.
            assert held.weights[mine].sum() == pytest.approx(1.0, abs=1e-3)
            if sum(document.ids[i - 2 : i].tolist() == windows[index] for i in range(2, len(document.ids) + 1)) == 1:
                assert held.weights[mine] == pytest.approx(expected[held.tokens[mine]], abs=1e-4)
                assert int(expected.argmax()) in held.read_tokens[held.read_owner == index]
    few = collect(model, documents, profile, top=3)
    assert np.bincount(few.owner).max() == 3
    again = collect(model, documents, profile, top=V, floor=1e-6, batch_size=16)
    assert np.array_equal(again.tokens, held.tokens)
    assert again.weights == pytest.approx(held.weights, abs=1e-5)


def test_texts_longer_than_a_piece_are_cut(model):
    ids = np.random.default_rng(1).integers(2, V, 100)
    profile = Profile.create("gumbel", {"width": 2})
    seen = []
    held = collect(model, [Document(ids)], profile, chunk=32, progress=seen.append)
    assert held.tokens_read == sum(seen) == 100 - 4
    index = held.windows.tolist().index(ids[38:40].tolist())
    mine = held.owner == index
    assert held.weights[mine] == pytest.approx(law(model, ids[32:40].tolist())[held.tokens[mine]], abs=1e-4)
    with pytest.raises(ConfigError, match="longer than the model's context"):
        collect(model, [Document(np.tile(ids, 3))], profile, chunk=256)
    assert len(collect(model, [Document(ids)] * 3, profile, chunk=16, batch_size=1, max_contexts=20).windows) < 40


def test_marked_texts_are_read_where_they_cannot_be_copied(model):
    ids = np.array([5, 6, 7, 5, 6, 8, 9])
    profile = Profile.create("gumbel", {"width": 2})
    held = collect(model, [Document(ids), Document(np.array([5, 6, 3]))], profile, text="marked")
    mine = held.owner == held.windows.tolist().index([5, 6])
    # The first occurrence alone: neither the second one of its text, nor that of another text.
    assert held.weights[mine] == pytest.approx(law(model, [5, 6])[held.tokens[mine]], abs=1e-4)
    assert held.tokens_read == 5 + 2
    assert "first occurrence" in held.rule
    # Also where the piece that holds the first occurrence is another one.
    far = collect(model, [Document(np.concatenate([ids[:3], np.arange(10, 40), [5, 6, 4]]))], profile, text="marked", chunk=16)
    mine = far.owner == far.windows.tolist().index([5, 6])
    assert far.weights[mine] == pytest.approx(law(model, [5, 6])[far.tokens[mine]], abs=1e-4)


def test_width_zero_and_special_ids(model):
    profile = Profile.create("redgreen", {"width": 0}, special_ids=(1, 7))
    held = collect(model, [Document(np.array([4, 7, 9]))], profile, top=V, floor=1e-6)
    assert held.windows.shape == (1, 0)
    assert not {1, 7} & set(held.tokens.tolist())
    expected = np.mean([law(model, [4]), law(model, [4, 7]), law(model, [4, 7, 9])], axis=0)
    assert held.weights == pytest.approx(expected[held.tokens], abs=1e-4)


def test_bad_input(model):
    profile = Profile.create("gumbel", {"width": 4})
    with pytest.raises(InputError, match="long enough"):
        collect(model, [Document(np.array([1, 2]))], profile)
    with pytest.raises(InputError, match="does not know"):
        collect(model, [Document(np.arange(40, 60))], profile)
    with pytest.raises(ConfigError, match="not a language model"):
        collect(object(), [Document(np.arange(9))], profile)
    named = Profile.create("gumbel", {"width": 1}, tokenizer=TOKENIZER)
    with pytest.raises(TokenizerError, match="not the tokenizer of the profile"):
        collect(LanguageModel(model, other_tokenizer(), "suspect", 1), [Document(np.arange(2, 9))], named)


def test_an_equal_tokenizer_aligns_everywhere():
    tokenizer, profile = TOKENIZER, Profile.create("gumbel", {"width": 2}, tokenizer=TOKENIZER)
    language = LanguageModel(llama(tokenizer.vocabulary), tokenizer, "suspect", 0)
    plain = collect(language, [Document(ids) for ids in tokenizer.encode(TEXTS)], profile)
    aligned = collect_aligned(language, TEXTS, profile, tokenizer)
    shared = {tuple(window) for window in aligned.windows.tolist()}
    # A character of several tokens has one boundary.
    assert aligned.aligned > 0.9
    assert shared <= {tuple(window) for window in plain.windows.tolist()}
    assert plain.source == aligned.source == "suspect"
    known = vocabulary_map(tokenizer, tokenizer)
    same = known == np.arange(tokenizer.vocabulary)
    assert same.mean() > 0.7
    assert known[list(tokenizer.special_ids)].tolist() == [-1] * len(tokenizer.special_ids)


def test_tokens_of_another_tokenizer_stand_for_the_first_of_the_profile():
    own, profile = other_tokenizer(), Profile.create("gumbel", {"width": 2}, tokenizer=TOKENIZER)
    known = vocabulary_map(own, TOKENIZER)
    the = own.encode(["a the"])[0][1]
    assert own.decode([1, the])[-1]
    assert known[the] >= 0
    text = own.decode([*own.encode(["a"])[0].tolist(), int(the)])[1:]
    assert TOKENIZER.decode([int(known[the])]).strip() == text.strip()[: len(TOKENIZER.decode([int(known[the])]).strip())]
    model = llama(own.vocabulary)
    held = collect_aligned(model, TEXTS, profile, TOKENIZER, suspect_tokenizer=own, top=TOKENIZER.vocabulary, floor=1e-7)
    assert 0 < held.aligned <= 1
    assert len(held.windows) > 10
    # At an aligned position the mapped law is the sum over the suspect's tokens.
    counts = [0, 0]
    row = next(aligned_rows(TEXTS[1], own, TOKENIZER, 2, 256, whole=False, counts=counts))
    assert counts[0] >= len(row.places)
    place = len(row.places) // 2
    direct = law(model, row.ids[: row.places[place] + 1].tolist())
    summed = np.bincount(known[known >= 0], weights=direct[: len(known)][known >= 0], minlength=TOKENIZER.vocabulary)
    mine = held.owner == held.windows.tolist().index(row.windows[place].tolist())
    assert held.weights[mine] == pytest.approx(summed[held.tokens[mine]], abs=1e-4)
    ids, at = TOKENIZER.encode([TEXTS[1]])[0].tolist(), row.windows[place].tolist()
    assert any(ids[i : i + 2] == at for i in range(len(ids)))


def test_what_cannot_be_aligned_is_refused():
    own, profile = other_tokenizer(), Profile.create("gumbel", {"width": 2}, tokenizer=TOKENIZER)
    with pytest.raises(TokenizerError, match="cannot be aligned"):
        collect_aligned(llama(own.vocabulary), ["", "a"], profile, TOKENIZER, suspect_tokenizer=own)
    with pytest.raises(TokenizerError, match="cannot be aligned"):
        collect_aligned(llama(own.vocabulary), ["a"], profile, TOKENIZER, suspect_tokenizer=own, text="marked")
    with pytest.raises(TokenizerError, match="not the tokenizer of the profile"):
        collect_aligned(llama(own.vocabulary), TEXTS, profile, own, suspect_tokenizer=own)
