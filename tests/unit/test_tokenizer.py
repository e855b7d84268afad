"""Tokenizers: one identity whatever library holds them, and none taken for another."""

import hashlib
import json

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from wmcheck.watermark.bundled import DEFAULT_MODEL, bundled_path
from wmcheck.watermark.core.errors import TokenizerError
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.tokenizer import PROBE, TextTokenizer, load_tokenizer, wrap_tokenizer

SPECIAL = ["<|end|>", "<pad>"]
SIZE = 280
TEXTS = ["", " ", "The quick-brown foxes said: naïve café 世界 🙂\r\n\t\0", "x" * 5000, "<|end|>", "\u202e\u0301"]


@pytest.fixture(scope="module")
def backend():
    """A byte-level BPE of 280 tokens: 256 bytes, two special tokens and 22 merges."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(["The quick-brown foxes said that the other foxes said the same. "] * 20, trainer)
    return made


def changed(backend, change):
    """A copy with a change in its file."""
    data = json.loads(backend.to_str())
    change(data)
    return wrap_tokenizer(Tokenizer.from_str(json.dumps(data)), "changed")


def test_the_digest_is_the_documented_one(backend):
    whole = hashlib.sha256(b"wmcheck/tokenizer/1\0")
    vocabulary = backend.get_vocab()
    for number in range(len(vocabulary)):
        token = next(token for token, other in vocabulary.items() if other == number)
        whole.update(json.dumps([number, token]).encode())
    whole.update(json.dumps(backend.encode(PROBE, add_special_tokens=False).ids).encode())
    assert wrap_tokenizer(backend).digest == whole.hexdigest()


def test_what_a_wrapper_knows(backend):
    wrapped = wrap_tokenizer(backend, "mine")
    assert (wrapped.source, wrapped.vocabulary, wrapped.special_ids) == ("mine", SIZE, (0, 1))
    assert wrap_tokenizer(wrapped, "other") is wrapped


def test_text_comes_back(backend):
    wrapped = wrap_tokenizer(backend)
    found = wrapped.encode(TEXTS)
    assert [ids.dtype for ids in found] == [np.int64] * len(TEXTS)
    assert [wrapped.decode(ids) for ids in found] == ["" if text == "<|end|>" else text for text in TEXTS]
    assert found[0].tolist() == []
    assert found[4].tolist() == [0]
    for text, ids in zip(TEXTS, found, strict=True):
        assert wrapped.encode([text])[0].tolist() == ids.tolist()
        assert ids.tolist() == backend.encode(text, add_special_tokens=False).ids
    assert wrapped.encode([]) == []


def test_no_special_tokens_are_added(backend):
    from tokenizers.processors import TemplateProcessing

    other = Tokenizer.from_str(backend.to_str())
    other.post_processor = TemplateProcessing(single="<|end|> $A", pair=None, special_tokens=[("<|end|>", 0)])
    assert other.encode("fox").ids[0] == 0
    wrapped = wrap_tokenizer(other)
    assert 0 not in wrapped.encode(["fox"])[0]
    assert wrapped.digest == wrap_tokenizer(backend).digest


def test_the_digest_survives_files_and_libraries(backend, tmp_path):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    expected = wrap_tokenizer(backend)
    backend.save(str(tmp_path / "tokenizer.json"))
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<pad>")
    fast.save_pretrained(tmp_path / "model")
    found = {
        "file": load_tokenizer(str(tmp_path / "tokenizer.json")),
        "folder": load_tokenizer(str(tmp_path / "model")),
        "text": wrap_tokenizer(Tokenizer.from_str(backend.to_str(pretty=True))),
        "transformers": wrap_tokenizer(fast),
        "transformers from files": wrap_tokenizer(AutoTokenizer.from_pretrained(tmp_path / "model")),
        "deep copy": wrap_tokenizer(Tokenizer.from_buffer(backend.to_str().encode())),
    }
    profile = Profile.create("gumbel", tokenizer=fast)
    for name, one in found.items():
        assert (one.digest, one.vocabulary, one.special_ids) == (expected.digest, SIZE, (0, 1)), name
        assert [ids.tolist() for ids in one.encode(TEXTS)] == [ids.tolist() for ids in expected.encode(TEXTS)], name
        profile.check_tokenizer(one)


def swap(data):
    vocabulary = data["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def swap_unused(data):
    """Two byte symbols that the probe does not hold: its ids stay the same."""
    vocabulary = data["model"]["vocab"]
    vocabulary["Þ"], vocabulary["ß"] = vocabulary["ß"], vocabulary["Þ"]


def rename(data):
    data["model"]["vocab"]["ßß"] = data["model"]["vocab"].pop("ß")


def rename_special(data):
    data["added_tokens"][1]["content"] = "<pat>"
    data["model"]["vocab"]["<pat>"] = data["model"]["vocab"].pop("<pad>")


def add(data):
    data["model"]["vocab"]["zzz"] = SIZE


def renumber(data):
    last = max(data["model"]["vocab"], key=data["model"]["vocab"].get)
    data["model"]["vocab"][last] = SIZE + 1


def drop_merge(data):
    del data["model"]["merges"][0]


def lower_case(data):
    data["normalizer"] = {"type": "Lowercase"}


def prefix_space(data):
    data["pre_tokenizer"]["add_prefix_space"] = True


@pytest.mark.parametrize(
    "change",
    [swap, swap_unused, rename, rename_special, add, renumber, drop_merge, lower_case, prefix_space],
    ids=lambda change: change.__name__,
)
def test_another_tokenizer_is_refused(change, backend):
    profile = Profile.create("gumbel", tokenizer=wrap_tokenizer(backend, "mine"))
    other = changed(backend, change)
    with pytest.raises(TokenizerError, match=r"changed: not the tokenizer of the profile \(got digest \w{16},"):
        profile.check_tokenizer(other)


def test_a_copy_without_a_change_is_accepted(backend):
    Profile.create("gumbel", tokenizer=backend).check_tokenizer(changed(backend, lambda data: None))


def test_special_ids_come_from_the_tokenizer(backend):
    assert Profile.create("gumbel", tokenizer=backend).special_ids == (0, 1)
    assert Profile.create("gumbel", tokenizer=backend, special_ids=(5,)).special_ids == (5,)
    assert Profile.create("gumbel", tokenizer=backend, special_ids=()).special_ids == ()
    more = Tokenizer.from_str(backend.to_str())
    more.add_special_tokens(["<|user|>"])
    more.add_tokens([AddedToken("plain", special=False)])
    wrapped = wrap_tokenizer(more)
    assert (wrapped.special_ids, wrapped.vocabulary) == ((0, 1, SIZE), SIZE + 2)
    profile = Profile.create("gumbel", tokenizer=more)
    assert profile.special_ids == (0, 1, SIZE)
    assert profile.tokenizer == {"name": "tokenizer", "digest": wrapped.digest, "vocabulary": SIZE + 2}
    assert wrapped.digest != wrap_tokenizer(backend).digest


def test_special_ids_come_through_transformers_too(backend):
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", bos_token="<new>", pad_token="<pad>")
    profile = Profile.create("gumbel", tokenizer=fast)
    assert profile.special_ids == tuple(sorted(fast.all_special_ids)) == (0, 1, SIZE)
    assert profile.tokenizer["vocabulary"] == len(fast) == SIZE + 1


@pytest.mark.parametrize("library", ["tokenizers", "transformers"])
def test_truncation_and_padding_are_switched_off(library, backend):
    """A tokenizer.json often holds both, and a call of a transformers tokenizer leaves both behind."""
    from transformers import PreTrainedTokenizerFast

    other = Tokenizer.from_str(backend.to_str())
    if library == "tokenizers":
        other.enable_truncation(3)
        other.enable_padding(pad_id=1, pad_token="<pad>", length=8)
        wrapped = wrap_tokenizer(Tokenizer.from_str(other.to_str()))
    else:
        fast = PreTrainedTokenizerFast(tokenizer_object=other, eos_token="<|end|>", pad_token="<pad>")
        fast("The quick-brown foxes said", truncation=True, max_length=3, padding="max_length")
        wrapped = wrap_tokenizer(fast)
    expected = wrap_tokenizer(backend)
    for text in TEXTS:
        assert wrapped.encode([text, "a"])[0].tolist() == expected.encode([text])[0].tolist()
    assert wrapped.digest == expected.digest


def test_the_bundled_tokenizer():
    from transformers import AutoTokenizer

    bundled = load_tokenizer(DEFAULT_MODEL)
    folder = bundled_path(DEFAULT_MODEL)
    assert bundled.source == DEFAULT_MODEL
    assert bundled.digest == load_tokenizer(str(folder)).digest
    assert bundled.digest == wrap_tokenizer(AutoTokenizer.from_pretrained(folder)).digest
    assert bundled.special_ids
    text = "Once upon a time there was a little girl."
    assert bundled.decode(bundled.encode([text])[0]) == text


def test_files_that_are_no_tokenizers(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    for source in (tmp_path, tmp_path / "tokenizer.json"):
        with pytest.raises(TokenizerError, match="not a tokenizer file") as caught:
            load_tokenizer(str(source))
        assert caught.value.where == str(tmp_path / "tokenizer.json")
    (tmp_path / "empty.json").touch()
    with pytest.raises(TokenizerError, match="not a tokenizer file"):
        load_tokenizer(str(tmp_path / "empty.json"))


@pytest.mark.parametrize("source", ["/no/such/folder", "./none", "~/none/such", "a/b/c"])
def test_tokenizers_that_are_not_there(source):
    with pytest.raises(TokenizerError, match="no such tokenizer") as caught:
        load_tokenizer(source)
    assert caught.value.where == source
    assert caught.value.expected


def test_the_home_of_nobody():
    with pytest.raises(TokenizerError):
        load_tokenizer("~no-such-user-here/tokenizer.json")


@pytest.mark.parametrize("thing", [None, object(), "a name", 5, {"vocab": {}}])
def test_things_that_are_no_tokenizers(thing):
    with pytest.raises(TokenizerError, match=r"mine: unsupported tokenizer \(got \w+, expected a fast tokenizer\)"):
        wrap_tokenizer(thing, "mine")


def test_a_normaliser_is_part_of_the_identity(backend):
    other = Tokenizer.from_str(backend.to_str())
    other.normalizer = normalizers.NFD()
    assert TextTokenizer(other, "x").digest != TextTokenizer(backend, "x").digest
