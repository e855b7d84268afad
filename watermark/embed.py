"""Records of generated text: prompts in, watermarked (or ordinary) text with its token ids out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from wmcheck.watermark.bundled import BUNDLED, bundled_path
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.generate import WatermarkProcessor, generate_ids, warpers
from wmcheck.watermark.keys import SecretKey, TenantKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.tokenizer import TextTokenizer, wrap_tokenizer

STORY_PROMPTS = (
    "Once upon a time, there was a little girl named Lily.", "One day, a boy named Tim went to the park.",
    "Tom and his dog liked to play by the river.", "The big red ball rolled down the hill.",
    "Mia had a secret box under her bed.", "It was a cold day and the snow was deep.",
    "The old cat sat by the window and looked outside.", "Ben wanted to build a very tall tower.",
)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample: temperature, top-k (0 off), top-p (1 off), length and seed of the ordinary randomness."""

    max_new_tokens: int = 200
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    ignore_end: bool = False


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A causal language model with its tokenizer."""

    model: Any
    tokenizer: TextTokenizer
    source: str
    pad_id: int


def load_model(source: str, *, device: str | None = None) -> LanguageModel:
    """Load ``bundled:NAME``, a local folder or a hub name with ``transformers``.

    Raises:
        ConfigError: the model cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = str(bundled_path(source)) if source.startswith(BUNDLED) else source
    try:
        model = AutoModelForCausalLM.from_pretrained(place)
        loaded = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise ConfigError(
            "cannot load the model", where=source, got=str(error).splitlines()[0][:160],
            expected="bundled:stories2m, a model folder or a hub name",
        ) from None
    tokenizer = wrap_tokenizer(loaded, source)
    pad = loaded.pad_token_id if loaded.pad_token_id is not None else loaded.eos_token_id
    if pad is None:
        raise ConfigError("the tokenizer has neither a padding nor an end token", where=source)
    return LanguageModel(model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval(), tokenizer, source, pad)


def embed_records(
    language: LanguageModel, prompts: Sequence[str], sampling: Sampling, *, profile: Profile | None = None,
    keys: Sequence[SecretKey | TenantKey | None] = (), batch_size: int = 16, first: int = 0,
) -> Iterator[dict[str, Any]]:
    """Generate one record a prompt.

    Args:
        language: the model.
        prompts: the prompts, one a record.
        sampling: how to sample; the seed is offset by the batch.
        profile: the watermark, or None for ordinary text.
        keys: one key a prompt; None opts a prompt out.
        batch_size: prompts sampled together.
        first: number of the first record, for ids.

    Yields:
        ``{"id", "text", "tokens", "prompt", "prompt_tokens", "model", "scheme", "key_id", "tenant"}``.

    Raises:
        TokenizerError: the profile belongs to another tokenizer.
    """
    if profile is not None and len(keys) != len(prompts):
        raise ConfigError("keys do not match prompts", where="embed_records", got=f"{len(keys)} keys for {len(prompts)} prompts")
    if profile is not None and profile.tokenizer is not None:
        profile.check_tokenizer(language.tokenizer)
    # A sequence that starts a document: the model saw its end token there in training.
    start = [language.pad_id] if language.source.startswith(BUNDLED) else []
    for place in range(0, len(prompts), batch_size):
        chosen = list(prompts[place : place + batch_size])
        row_keys = list(keys[place : place + batch_size]) if profile is not None else [None] * len(chosen)
        encoded = [start + ids.tolist() for ids in language.tokenizer.encode(chosen)]
        processors = warpers(temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p)
        if profile is not None and any(row_keys):
            processors.append(WatermarkProcessor(profile, row_keys))
        outputs = generate_ids(
            language.model, encoded, processors, max_new_tokens=sampling.max_new_tokens, pad_id=language.pad_id,
            seed=sampling.seed + first + place, ignore_end=sampling.ignore_end,
        )
        for offset, (prompt, ids, output, key) in enumerate(zip(chosen, encoded, outputs, row_keys, strict=True)):
            tenant = key.tenant() if isinstance(key, SecretKey) else key
            yield {
                "id": f"{first + place + offset}", "text": language.tokenizer.decode(output), "tokens": output,
                "prompt": prompt, "prompt_tokens": ids, "model": language.source,
                "scheme": profile.scheme_name if profile is not None and tenant is not None else None,
                "key_id": tenant.id if tenant else None, "tenant": tenant.tenant_name if tenant else None,
            }
