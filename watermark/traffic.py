"""Traffic of a model: next-token laws along its texts, sampled, read from records, or made up. No key of yours is involved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.bundled import BUNDLED
from wmcheck.watermark.core.errors import ConfigError, InputError
from wmcheck.watermark.core.planning import TOP, Floats, Masses, shorten, synthetic_laws
from wmcheck.watermark.keys import SecretKey, TenantKey
from wmcheck.watermark.prf import I64, PrfKey
from wmcheck.watermark.windows import Document, make_items

if TYPE_CHECKING:
    from torch import Tensor

    from wmcheck.watermark.core.records import Record
    from wmcheck.watermark.embed import LanguageModel, Sampling
    from wmcheck.watermark.profile import Profile

# Length of a text of the quick look, which has no texts.
SYNTHETIC_TOKENS = 400


@dataclass(frozen=True, slots=True)
class Traffic:
    """Next-token laws along texts of a model, without any key.

    Attributes:
        masses: f32[n, k] shortened laws of the output places, text by text; see :func:`.core.planning.shorten`.
        entropy: f64[n] in nats, over the whole vocabulary.
        log_p: f64[n] log probability of the token that came, in nats.
        text: i64[n] the text of each place, ascending.
        documents: the texts, prompt and output; empty where there are only laws.
        source: where they come from, for the report.
        varied: texts differ among each other; False for independent synthetic places.
        own_scores: f64[n] reduced scores of the tokens that came, where they were marked under throw-away keys; NaN where a
            token has no window.
    """

    masses: Masses
    entropy: Floats
    log_p: Floats
    text: I64
    documents: tuple[Document, ...]
    source: str
    varied: bool = True
    own_scores: Floats | None = None

    @property
    def texts(self) -> int:
        """Number of texts."""
        return int(self.text[-1]) + 1 if len(self.text) else 0

    @property
    def entropy_bits(self) -> float:
        """Mean entropy of a place in bits."""
        return float(self.entropy.mean()) / math.log(2.0)

    def lengths(self) -> I64:
        """i64[texts] places of each text."""
        return np.bincount(self.text, minlength=self.texts)


@dataclass(slots=True)
class _Recorder:
    """A logits processor that samples by itself and keeps the laws; it stands after the warpers.

    Attributes:
        mark: changes the scores that are sampled from, not those that are kept.
    """

    mark: Callable[[Tensor, Tensor], Tensor] | None = None
    likeliest: list[NDArray[np.float32]] = field(default_factory=list)
    rest: list[Floats] = field(default_factory=list)
    entropy: list[Floats] = field(default_factory=list)
    log_p: list[Floats] = field(default_factory=list)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        import torch

        sampled = scores if self.mark is None else self.mark(input_ids, scores)
        chosen = torch.multinomial(torch.softmax(sampled.float(), 1), 1)
        self.add(scores, chosen)
        return torch.full_like(scores, -math.inf).scatter_(1, chosen, 0.0)

    def add(self, scores: Tensor, chosen: Tensor) -> None:
        """Keep the laws ``softmax(scores)``, [B, V], and the probability of tokens ``chosen``, int64 [B, 1]."""
        import torch

        log_p = torch.log_softmax(scores.float(), 1)
        p = log_p.exp()
        top = p.topk(min(TOP, p.shape[1]), dim=1).values
        self.likeliest.append(top.cpu().numpy())
        self.rest.append((1.0 - top.double().sum(1)).cpu().numpy())
        self.entropy.append(torch.special.entr(p).sum(1).double().cpu().numpy())
        self.log_p.append(log_p.gather(1, chosen)[:, 0].double().cpu().numpy())


def sample_traffic(
    language: LanguageModel, prompts: Sequence[str], sampling: Sampling, *, profile: Profile | None = None,
    batch_size: int = 16, progress: Callable[[int], None] | None = None,
) -> Traffic:
    """Generate one text a prompt and keep the model's next-token laws along it.

    Args:
        language: the model that is to be watermarked.
        prompts: prompts as in its traffic.
        sampling: as in deployment; temperature 0 is greedy decoding.
        profile: mark the texts with it under throw-away keys, because a biased watermark leads to text of other laws;
            None for ordinary text, which is what unbiased ones lead to.
        batch_size: prompts sampled together.
        progress: called with the number of texts done since the last call.

    Raises:
        InputError: there are no prompts, or no text has a token.
    """
    from transformers import LogitsProcessorList

    from wmcheck.watermark.generate import WatermarkProcessor, generate_ids

    start, keys = _start(language), np.random.default_rng([sampling.seed, len(prompts)])
    documents, parts, own = [], [], []
    for place in range(0, len(prompts), batch_size):
        encoded = [start + ids.tolist() for ids in language.tokenizer.encode(list(prompts[place : place + batch_size]))]
        encoded = [ids or [language.pad_id] for ids in encoded]
        throw_away = [SecretKey(keys.bytes(32)).tenant() for _ in encoded]
        recorder = _Recorder(None if profile is None else WatermarkProcessor(profile, throw_away))
        outputs = generate_ids(
            language.model, encoded, LogitsProcessorList([*warpers(sampling), recorder]),
            max_new_tokens=sampling.max_new_tokens, pad_id=language.pad_id, seed=sampling.seed + place,
            ignore_end=sampling.ignore_end,
        )
        for row, (ids, output) in enumerate(zip(encoded, outputs, strict=True)):
            if output:
                steps = slice(0, len(output))
                columns = (recorder.likeliest, recorder.rest, recorder.entropy, recorder.log_p)
                parts.append([np.stack([step[row] for step in column[steps]]) for column in columns])
                documents.append(Document(np.array(ids + output, np.int64), len(ids)))
                if profile is not None:
                    own.append(_own_scores(documents[-1], profile, throw_away[row]))
        if progress is not None:
            progress(len(encoded))
    traffic = _traffic(parts, documents, language.source)
    return replace(traffic, own_scores=np.concatenate(own)) if own else traffic


def read_traffic(
    language: LanguageModel, records: Sequence[Record], sampling: Sampling, *, progress: Callable[[int], None] | None = None
) -> Traffic:
    """Next-token laws of the model along ordinary traffic, at the sampling settings it would be marked under.

    Args:
        language: the model.
        records: texts or token ids, with their prompts where they are known.
        sampling: temperature, top-k and top-p; each text is read up to ``max_new_tokens``.
        progress: called with 1 for each record.

    Raises:
        InputError: no record has a token.
    """
    import torch

    start, chain = _start(language), warpers(sampling)
    most = int(getattr(language.model.config, "max_position_embeddings", 0) or 1 << 30)
    documents, parts = [], []
    for record in records:
        prompt = record.prompt_tokens if record.prompt_tokens is not None else language.tokenizer.encode([record.prompt or ""])[0]
        output = record.tokens if record.tokens is not None else language.tokenizer.encode([record.text or ""])[0]
        context = (prompt.tolist() if record.prompt_tokens is not None else start + prompt.tolist()) or [language.pad_id]
        ids = np.array(context + output[: sampling.max_new_tokens].tolist(), np.int64)[:most]
        if progress is not None:
            progress(1)
        if len(ids) <= len(context):
            continue
        if ids.max() >= language.model.config.vocab_size:
            raise InputError("token ids beyond the model's vocabulary", where=record.where, got=str(ids.max()),
                             expected=f"below {language.model.config.vocab_size}", hint="the ids are of another tokenizer")
        recorder, row = _Recorder(), torch.from_numpy(ids)[None].to(language.model.device)
        with torch.no_grad():
            scores = language.model(input_ids=row).logits[0, len(context) - 1 : -1].float()
        for step in chain:
            scores = step(row[:, : len(context)], scores)
        recorder.add(scores, row[0, len(context) :, None])
        parts.append([column[0] for column in (recorder.likeliest, recorder.rest, recorder.entropy, recorder.log_p)])
        documents.append(Document(ids, len(context)))
    return _traffic(parts, documents, language.source)


def synthetic_traffic(bits: float, *, texts: int = 64, tokens: int = SYNTHETIC_TOKENS, seed: int = 0) -> Traffic:
    """Independent synthetic places of a mean entropy, for a quick look without a model.

    Args:
        bits: mean entropy of a token in bits, 0.01 to 8.
        texts, tokens: their number and length.
        seed: of the laws.

    Raises:
        ConfigError: an entropy that the family does not reach.
    """
    if not 0.01 <= bits <= 8.0:
        raise ConfigError("entropy out of range", where="--entropy", got=f"{bits:g}", expected="0.01 to 8 bits a token")
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(texts):
        law = np.sort(synthetic_laws(tokens, bits, rng), axis=1)[:, ::-1]
        chosen = law[np.arange(tokens), (law.cumsum(1) < rng.random((tokens, 1))).sum(1).clip(max=law.shape[1] - 1)]
        entropy = -(law * np.log(np.maximum(law, 1e-300))).sum(1)
        parts.append([law[:, :TOP].astype(np.float32), law[:, TOP:].sum(1), entropy, np.log(chosen)])
    return _traffic(parts, (), f"synthetic laws of {bits:g} bits", varied=False)


def warpers(sampling: Sampling) -> list[Any]:
    """The ``transformers`` processors of temperature, top-k and top-p; temperature 0 leaves the likeliest token alone."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    if sampling.temperature == 0.0:
        return [TopKLogitsWarper(1)]
    chain = [] if sampling.temperature == 1.0 else [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        chain.append(TopPLogitsWarper(sampling.top_p))
    return chain


def _own_scores(document: Document, profile: Profile, key: TenantKey) -> Floats:
    """f64[output places]: reduced scores under the key, NaN where the output has no window."""
    scheme, output = profile.scheme, document.ids[document.prompt_length :]
    items = make_items([Document(output)], scheme.width, np.asarray(profile.special_ids, np.int64), window_rule=False)
    scores = scheme.score(items.windows, items.tokens, PrfKey.derive(key, scheme.label()))
    found = np.full(len(output), np.nan)
    found[items.place] = scheme.null().reduce(scores)
    return found


def _start(language: LanguageModel) -> list[int]:
    # A sequence that starts a document: the model saw its end token there in training.
    return [language.pad_id] if language.source.startswith(BUNDLED) else []


def _traffic(parts: list[list[Any]], documents: Sequence[Document], source: str, *, varied: bool = True) -> Traffic:
    if not parts:
        raise InputError("no text with a token to plan from", where=source, expected="prompts that the model answers")
    sizes = [len(part[3]) for part in parts]
    masses = np.concatenate([shorten(part[0], part[1]) for part in parts])
    entropy, log_p = (np.concatenate([part[place] for part in parts]).astype(np.float64) for place in (2, 3))
    return Traffic(masses, entropy, log_p, np.repeat(np.arange(len(parts)), sizes), tuple(documents), source, varied)
