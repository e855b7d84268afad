"""Next-token predictions of a ``transformers`` causal language model for documents that are to be tested.

The model sees token ids and nothing else: no key comes near it, so that every test that reads its predictions stays valid
whatever the model. A model that is not the text's own costs power.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.errors import ConfigError, InputError, TokenizerError
from wmcheck.watermark.law import Law
from wmcheck.watermark.prediction_cache import PredictionCache, settled
from wmcheck.watermark.prf import I64
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.tokenizer import TextTokenizer
from wmcheck.watermark.windows import Document

if TYPE_CHECKING:
    import torch

    from wmcheck.watermark.embed import LanguageModel

# A model is shown at most this many ids at once, however long its own context.
LONGEST_CONTEXT = 4096
# Ids of one forward pass and numbers of one block of logits, on a CPU and on an accelerator.
PASS_IDS = (8192, 65536)
BLOCK = (2**25, 2**27)
MAX_ROWS = 64


@dataclass(frozen=True, slots=True)
class Warp:
    """How the text was sampled, as far as that is known: temperature, top-k (0 off), top-p (1 off), in that order.

    Attributes:
        candidates: how many of the likeliest tokens are kept at each place beside the one that came.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    candidates: int = 50


@dataclass(frozen=True, slots=True)
class _Job:
    """One window of one document.

    Attributes:
        document: index of the document.
        inputs: i64[w] ids that the model sees, the start id included.
        first, last: the places ``[first, last)`` of the document that this window predicts.
        skip: index in ``inputs`` whose output predicts place ``first``.
    """

    document: int
    inputs: I64
    first: int
    last: int
    skip: int


@dataclass(slots=True)
class _Rows:
    """Raw predictions of the output tokens of one document while they come in; ``missing`` places are still to come."""

    own: NDArray[np.float64]
    others: I64
    log_p: NDArray[np.float64]
    entropy: NDArray[np.float64]
    collision: NDArray[np.float64]
    known: NDArray[np.bool_]
    missing: int

    @classmethod
    def empty(cls, n: int, k: int) -> _Rows:
        return cls(
            np.zeros(n), np.full((n, k), -1, np.int64), np.full((n, k), -np.inf), np.zeros(n), np.ones(n), np.zeros(n, bool), n,
        )


class ModelPredictor:
    """Predictions of one causal language model.

    Documents are batched by length and padded on the right, where a causal model does not look. One that is longer than the
    context is read in windows: each but the first shows the model at least half a context before the first place that it
    predicts. The document's start id (``bos``) comes first in each window if the model has one; without one, the first
    token of a text with an unknown prompt has no prediction.

    Args:
        model: a ``transformers`` causal language model in evaluation mode.
        tokenizer: its tokenizer; ids beyond its vocabulary (padding of the model's matrices) get probability 0.
        source: where the model came from.
        warp: how the text was sampled.
        cache: where predictions are kept; None keeps none.
        progress: called with the number of predicted tokens after each forward pass.

    Attributes:
        digest: SHA-256 in hex over the model's configuration and weights.
        vocabulary: number of ids that the model knows.
        context: most ids that it is shown at once.
        predicted: tokens predicted so far, those from the cache not counted.
    """

    def __init__(
        self, model: Any, tokenizer: TextTokenizer, source: str, *, warp: Warp | None = None,
        cache: PredictionCache | None = None, progress: Callable[[int], None] | None = None,
    ) -> None:
        self._model, self._tokenizer, self._cache, self._progress = model, tokenizer, cache, progress
        self.source = source
        self.warp = warp or Warp()
        rows = int(model.get_input_embeddings().weight.shape[0])
        if rows < tokenizer.vocabulary:
            raise ConfigError(
                "the model has fewer token ids than its tokenizer", where=source, got=str(rows),
                expected=str(tokenizer.vocabulary),
            )
        self.vocabulary = tokenizer.vocabulary
        config = model.config.get_text_config()
        longest = getattr(config, "max_position_embeddings", None) or LONGEST_CONTEXT
        self.context = max(4, min(int(longest), LONGEST_CONTEXT))
        start = config.bos_token_id
        self._start: list[int] = [int(start)] if isinstance(start, int) and 0 <= start < rows else []
        self.digest = model_digest(model)
        accelerated = int(model.device.type != "cpu")
        self._pass_ids, self._block = PASS_IDS[accelerated], BLOCK[accelerated]
        self.predicted = 0

    @property
    def setup(self) -> dict[str, Any]:
        """Everything but the text that predictions depend on, JSON-ready."""
        return {
            "digest": self.digest, **asdict(self.warp), "context": self.context, "start": self._start,
            "vocabulary": self.vocabulary,
        }

    def check(self, profile: Profile) -> None:
        """Refuse a profile of another tokenizer: the model's ids are not those of its texts.

        Raises:
            TokenizerError: the digests of the tokenizers differ.
        """
        described = profile.tokenizer
        if described and described["digest"] != self._tokenizer.digest:
            raise TokenizerError(
                "the model's tokenizer is not the profile's", where=f"--model {self.source}",
                got=f"digest {self._tokenizer.digest[:16]}",
                expected=f"digest {str(described['digest'])[:16]} ({described['name']})",
                hint="take the model that wrote the text, or one with the same tokenizer",
            )

    def predict(self, documents: Sequence[Document]) -> list[Law]:
        """Predictions for every id of each document; those of prompts are unknown.

        What is computed is in the cache as soon as its document is complete, whatever happens to the others. Ids must be
        below :attr:`vocabulary`. Batches change the numbers by rounding of the model's arithmetic alone.

        Returns:
            One law a document, as long as its ids.

        Raises:
            ConfigError: the cache cannot be written.
            InputError: an id that the model does not know.
        """
        for document in documents:
            if int(document.ids.max(initial=0)) >= self.vocabulary:
                raise InputError(
                    "token ids that the model does not know", where=f"--model {self.source}", got=str(int(document.ids.max())),
                    expected=f"ids below {self.vocabulary}",
                )
        names = [PredictionCache.name(self.setup, document.ids, document.prompt_length) for document in documents]
        found: dict[str, Law] = {}
        wanted: dict[str, Document] = {}
        for name, document in zip(names, documents, strict=True):
            if name in found or name in wanted:
                continue
            kept = self._cache.load(name, document.ids[document.prompt_length :]) if self._cache else None
            if kept is None:
                wanted[name] = document
            else:
                found[name] = kept
        for name, law in self._computed(wanted):
            if self._cache is not None:
                self._cache.save(name, law)
            found[name] = settled(law)
        return [
            Law.join([Law.unknown(document.ids[: document.prompt_length]), found[name]])
            for name, document in zip(names, documents, strict=True)
        ]

    def _computed(self, wanted: dict[str, Document]) -> Iterator[tuple[str, Law]]:
        """The law of each document's output, as soon as its last window is through."""
        names, documents = list(wanted), list(wanted.values())
        k = min(self.warp.candidates, self.vocabulary)
        rows = [_Rows.empty(len(document.ids) - document.prompt_length, k) for document in documents]
        jobs = []
        for index, document in enumerate(documents):
            own = list(windows(document, self.context, self._start, index))
            jobs += own
            rows[index].missing = len(own)
            if not own:
                yield names[index], _law(document, rows[index])
        jobs.sort(key=lambda job: len(job.inputs))
        place = 0
        while place < len(jobs):
            batch = self._batch(jobs, place)
            self._forward(batch, documents, rows)
            place += len(batch)
            tokens = sum(job.last - job.first for job in batch)
            self.predicted += tokens
            if self._progress is not None:
                self._progress(tokens)
            for job in batch:
                rows[job.document].missing -= 1
                if rows[job.document].missing == 0:
                    yield names[job.document], _law(documents[job.document], rows[job.document])

    def _batch(self, jobs: Sequence[_Job], place: int) -> Sequence[_Job]:
        """The windows from ``place`` on that go into one forward pass; jobs are sorted by length."""
        # Blocks of at least 64 positions, or a large vocabulary would make many tiny passes of many rows.
        limit = max(1, min(MAX_ROWS, self._block // (64 * self.vocabulary)))
        size = 1
        while size < limit and place + size < len(jobs) and (size + 1) * len(jobs[place + size].inputs) <= self._pass_ids:
            size += 1
        return jobs[place : place + size]

    def _forward(self, batch: Sequence[_Job], documents: Sequence[Document], rows: Sequence[_Rows]) -> None:
        """Fill in what the windows of one pass predict."""
        import torch

        width = max(len(job.inputs) for job in batch)
        ids, mask = np.zeros((len(batch), width), np.int64), np.zeros((len(batch), width), np.int64)
        for row, job in enumerate(batch):
            ids[row, : len(job.inputs)], mask[row, : len(job.inputs)] = job.inputs, 1
        shown, valid = (torch.from_numpy(array).to(self._model.device) for array in (ids, mask))
        chunk, memory = self._chunk(len(batch), width)
        with torch.inference_mode():
            for start in range(0, width, chunk):
                stop = min(width, start + chunk)
                out = self._model(
                    input_ids=shown[:, start:stop], attention_mask=valid[:, :stop], use_cache=bool(memory), **memory
                )
                for row, job in enumerate(batch):
                    self._take(out.logits[row], start, job, documents[job.document], rows[job.document])

    def _chunk(self, rows: int, width: int) -> tuple[int, dict[str, Any]]:
        """How many positions of a pass to take at a time, so that their logits fit in a block, and the model's memory of the
        positions before. A model with a recurrent state takes all of them at once."""
        chunk = max(1, self._block // (rows * self.vocabulary))
        if chunk >= width or getattr(self._model, "_is_stateful", False):
            return width, {}
        from transformers import DynamicCache

        # The argument's name has changed between versions.
        name = "cache" if "cache" in signature(self._model.forward).parameters else "past_key_values"
        return chunk, {name: DynamicCache(config=self._model.config)}

    def _take(self, logits: torch.Tensor, start: int, job: _Job, document: Document, rows: _Rows) -> None:
        """Take what one row of a block, whose first input is number ``start`` of its window, says of the job's places."""
        import torch

        low = max(job.skip, start)
        high = min(job.skip + job.last - job.first, start + len(logits))
        if low >= high:
            return
        law = self._warped(logits[low - start : high - start])
        places = slice(job.first + low - job.skip, job.first + high - job.skip)
        tokens = torch.from_numpy(document.ids[places]).to(law.device)
        top = law.topk(rows.others.shape[1], dim=1)
        share = law.exp()
        target = slice(places.start - document.prompt_length, places.stop - document.prompt_length)
        rows.own[target] = _numpy(law.gather(1, tokens[:, None])[:, 0])
        rows.log_p[target] = _numpy(top.values)
        rows.others[target] = top.indices.cpu().numpy()
        rows.entropy[target] = _numpy(torch.special.entr(share).sum(1))
        rows.collision[target] = _numpy(share.square().sum(1))
        rows.known[target] = True

    def _warped(self, logits: torch.Tensor) -> torch.Tensor:
        """f32[m, V] log probabilities under the sampling settings."""
        from wmcheck.watermark.generate import warpers

        ids: Any = None
        scores = logits[:, : self.vocabulary].float()
        for warper in warpers(temperature=self.warp.temperature, top_k=self.warp.top_k, top_p=self.warp.top_p):
            scores = warper(ids, scores)
        return scores.log_softmax(1)


def windows(document: Document, context: int, start: Sequence[int], index: int = 0) -> Iterator[_Job]:
    """The windows of a document, so that each place of its output is predicted by exactly one.

    Args:
        document: ids and prompt length.
        context: most ids of a window, the start id included.
        start: the start id, or nothing.
        index: number of the document.
    """
    ids, length = document.ids, len(document.ids)
    # A prompt that brings its own start id needs no second one.
    begun = len(start) > 0 and document.prompt_length > 0 and int(ids[0]) == start[0]
    room = context - len(start)
    place = max(document.prompt_length, 0 if len(start) else 1)
    while place < length:
        # All of the text before, or half a context where that is too much.
        low = 0 if length - 1 <= room else max(0, place - room // 2)
        head = np.asarray([] if begun and low == 0 else start, np.int64)
        last = min(length, low + room + 1)
        inputs = np.concatenate([head, ids[low : last - 1]])
        yield _Job(index, inputs, place, last, len(head) + place - 1 - low)
        place = last


def model_digest(model: Any) -> str:
    """SHA-256 in hex over a model's configuration and the names, types, shapes and bytes of its weights."""
    import torch

    config = {
        name: value for name, value in model.config.to_diff_dict().items()
        if name not in ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
    }
    hasher = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, weight in sorted(model.state_dict().items()):
        hasher.update(json.dumps([name, str(weight.dtype), list(weight.shape)]).encode())
        hasher.update(memoryview(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return hasher.hexdigest()


def load_predictor(
    source: str, *, device: str | None = None, warp: Warp | None = None, cache: PredictionCache | None = None,
    progress: Callable[[int], None] | None = None,
) -> ModelPredictor:
    """The predictor of ``bundled:NAME``, a model folder or a hub name.

    Raises:
        ConfigError: the model cannot be loaded.
    """
    from wmcheck.watermark.embed import load_model

    language: LanguageModel = load_model(source, device=device)
    return ModelPredictor(language.model, language.tokenizer, source, warp=warp, cache=cache, progress=progress)


def with_predictions(documents: Sequence[Document], predictor: ModelPredictor) -> list[Document]:
    """The documents with the model's predictions, as the tests that read them expect."""
    laws = predictor.predict(documents)
    return [replace(document, law=law) for document, law in zip(documents, laws, strict=True)]


def _law(document: Document, rows: _Rows) -> Law:
    tokens = document.ids[document.prompt_length :]
    others = np.where(np.isneginf(rows.log_p), -1, rows.others)
    return Law.of(tokens, others, rows.own, rows.log_p, entropy=rows.entropy, collision=rows.collision, known=rows.known)


def _numpy(values: torch.Tensor) -> NDArray[np.float64]:
    return np.asarray(values.cpu().numpy(), np.float64)
