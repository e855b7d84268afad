"""Generation with transformers and the bundled model, and detection of what it wrote."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from wmcheck.watermark import Profile, SecretKey, Verdict, WatermarkProcessor, detect_ids, sampling_processors
from wmcheck.watermark.core.errors import ConfigError, TokenizerError
from wmcheck.watermark.embed import Sampling, embed_records, load_model
from wmcheck.watermark.scheme import SCHEMES

KEY = SecretKey(bytes((57 * i * i + 3 * i + 1) % 256 for i in range(32)))


@pytest.fixture(scope="module")
def language():
    torch.set_num_threads(1)
    return load_model("bundled:stories2m", device="cpu")


def profile_of(language, name, **parameters):
    return Profile.create(name, parameters, tokenizer=language.tokenizer, entropy_bits=2.0)


def log10_p(profile, key, prompt, output):
    return detect_ids(list(prompt) + list(output), profile, key, prompt_length=len(prompt)).log10_p


def generate(language, processors, prompts, new=120, **options):
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    settings = {"do_sample": True, "max_new_tokens": new, "min_new_tokens": new, "top_k": 0, "pad_token_id": 0} | options
    out = language.model.generate(input_ids=ids, attention_mask=mask, logits_processor=processors, **settings)
    return out[:, longest:].tolist()


@pytest.mark.parametrize("name", list(SCHEMES))
def test_rows_with_their_own_keys_opt_out_and_left_padding(language, name):
    torch.manual_seed(1)
    profile = profile_of(language, name)
    # A root each, as tenants of one root share layers of a layered profile.
    keys = {who: SecretKey(hashlib.sha256(who.encode()).digest()) for who in ("a", "b")}
    tenants = [keys["a"], None, keys["b"]]
    prompts = [ids.tolist() for ids in language.tokenizer.encode(["Once", "One day, a boy named Tim went", "The dog ran."])]
    assert min(map(len, prompts)) < profile.scheme.width
    rows = generate(language, [WatermarkProcessor(profile, tenants)], prompts, new=300)
    for row, (prompt, output) in enumerate(zip(prompts, rows, strict=True)):
        for tenant in ("a", "b"):
            own = tenants[row] is keys[tenant]
            found = log10_p(profile, keys[tenant], prompt, output)
            assert (found < -4) == own, (row, tenant, found)


def test_embedded_windows_are_exactly_the_scored_ones(language):
    """With a bias that always wins, every scored token is green and every unscored one was sampled ordinarily."""
    torch.manual_seed(2)
    profile = profile_of(language, "redgreen", width=2, green=128, delta=50.0)
    prompt = language.tokenizer.encode(["Once upon a time"])[0].tolist()
    output = generate(language, [WatermarkProcessor(profile, KEY.tenant("a"))], [prompt], new=400)[0]
    result = detect_ids(prompt + output, profile, KEY.tenant("a"), prompt_length=len(prompt))
    assert result.total == result.n_scored
    assert result.n_repeated > 10


def test_beams_and_several_sequences(language):
    torch.manual_seed(3)
    profile = profile_of(language, "redgreen", width=1, delta=3.0)
    prompts = [ids.tolist() for ids in language.tokenizer.encode(["Once upon a time", "One day, a boy"])]
    keys = [KEY.tenant("a"), KEY.tenant("b")]
    for options in ({"num_beams": 3, "do_sample": False}, {"num_beams": 2}, {"num_return_sequences": 2}):
        each = options.get("num_return_sequences", options.get("num_beams"))
        processor = WatermarkProcessor(profile, keys, rows_per_key=each)
        rows = generate(language, [processor], prompts, new=80, **options)
        each = len(rows) // 2
        for row, output in enumerate(rows):
            assert log10_p(profile, keys[row // each], prompts[row // each], output) < -4
            assert log10_p(profile, keys[1 - row // each], prompts[row // each], output) > -4
    gumbel = profile_of(language, "gumbel")
    rows = generate(language, [WatermarkProcessor(gumbel, KEY)], prompts, new=80, num_beams=2)
    assert all(log10_p(gumbel, KEY, prompt, row) < -10 for prompt, row in zip(prompts, rows, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", list(SCHEMES))
def test_half_precision_and_padded_vocabulary(language, name, dtype):
    """Logits as an engine would hand them over: half precision, 100 more columns than the tokenizer has ids."""
    torch.manual_seed(4)
    profile = profile_of(language, name)
    processor = WatermarkProcessor(profile, KEY)
    ids, vocabulary = torch.tensor([[5, 6, 7, 8]]), language.tokenizer.vocabulary
    spread = torch.randn(1, vocabulary)
    for step in range(120):
        logits = (spread.roll(step * 7) * 2).to(dtype)
        padded = torch.cat([logits, torch.full((1, 100), -torch.inf, dtype=dtype)], 1)
        chosen = torch.multinomial(processor(ids, padded).float().softmax(-1), 1)
        assert chosen.item() < vocabulary
        ids = torch.cat([ids, chosen], 1)
    assert detect_ids(ids[0].numpy(), profile, KEY).log10_p < -8


def test_warpers_come_first(language):
    """Under top-k 1 nothing is left to choose: the text is the greedy one, watermark or not."""
    profile = profile_of(language, "gumbel")
    prompt = language.tokenizer.encode(["Once upon a time"])[0].tolist()
    greedy = generate(language, [], [prompt], new=40, do_sample=False)
    assert generate(language, sampling_processors(profile, KEY, top_k=1), [prompt], new=40) == greedy
    torch.manual_seed(5)
    warm = generate(language, sampling_processors(profile, KEY, temperature=0.8, top_p=0.9), [prompt], new=120)[0]
    assert log10_p(profile, KEY, prompt, warm) < -5


def test_all_rows_opted_out_leave_scores_untouched(language):
    processor = WatermarkProcessor(profile_of(language, "gumbel"), [None, None])
    scores = torch.randn(2, 1024)
    assert processor(torch.ones(2, 9, dtype=torch.int64) * 3, scores) is scores


def test_rows_must_match_keys(language):
    with pytest.raises(ConfigError, match="rows do not match keys"):
        WatermarkProcessor(profile_of(language, "gumbel"), [KEY, KEY])(torch.ones(3, 9).long(), torch.zeros(3, 1024))
    with pytest.raises(ConfigError, match="no keys"):
        WatermarkProcessor(profile_of(language, "gumbel"), [])


def test_processor_shows_and_saves_no_secret(language, tmp_path):
    processor = WatermarkProcessor(profile_of(language, "gumbel"), KEY)
    assert KEY.reveal()[5:20] not in repr(processor) + str(vars(processor))
    language.model.generation_config.save_pretrained(tmp_path)
    language.model.save_pretrained(tmp_path)
    secret = bytes((57 * i * i + 3 * i + 1) % 256 for i in range(32))
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert secret not in data
        assert secret.hex().encode() not in data
        assert KEY.reveal().encode() not in data


def test_embed_records_recorded_and_reencoded_ids(language):
    profile = profile_of(language, "gumbel")
    records = list(
        embed_records(
            language, ["Once upon a time", "One day"], Sampling(max_new_tokens=150, ignore_end=True), profile=profile,
            keys=[KEY.tenant("a"), None], batch_size=1,
        )
    )
    assert [record["tenant"] for record in records] == ["a", None]
    assert [record["scheme"] for record in records] == ["gumbel", None]
    first = records[0]
    assert log10_p(profile, KEY.tenant("a"), first["prompt_tokens"], first["tokens"]) < -20
    again = language.tokenizer.encode([first["text"]])[0]
    assert detect_ids(again, profile, KEY.tenant("a")).log10_p < -5
    assert detect_ids(records[1]["tokens"], profile, KEY.tenant("a")).verdict(1e-4) is not Verdict.DETECTED


def test_foreign_tokenizer_is_refused(language):
    profile = Profile.from_dict(
        profile_of(language, "gumbel").to_dict() | {"tokenizer": {"name": "x", "digest": "0" * 64, "vocabulary": 1024}}
    )
    with pytest.raises(TokenizerError, match="not the tokenizer of the profile"):
        next(embed_records(language, ["a"], Sampling(), profile=profile, keys=[KEY]))


def test_the_model_writes_stories(language):
    record = next(embed_records(language, ["Once upon a time, there was a little girl named Lily."], Sampling(seed=3)))
    words = record["text"].lower().split()
    common = {"the", "she", "to", "and", "was", "her", "a", "said", "it", "they"}
    assert len(common & set(words)) >= 6
    assert np.mean([word.strip('.,!?"').isalpha() for word in words]) > 0.8


def test_ordinary_text_is_sampled_at_the_settings_too(language):
    """Top-1 sampling leaves no choice, so that seeds agree, marked or not and in rows that opt out."""
    profile = profile_of(language, "gumbel")
    for options in ({}, {"profile": profile, "keys": [None]}):
        settings = [Sampling(max_new_tokens=20, top_k=1, seed=seed) for seed in (1, 2, 3)]
        texts = {next(embed_records(language, ["Once upon a time"], one, **options))["text"] for one in settings}
        assert len(texts) == 1
