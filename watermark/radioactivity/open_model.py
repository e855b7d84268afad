"""Reading an open model: its next-token probabilities at the positions of texts. Runs the model; no key comes near it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.errors import ConfigError, InputError
from wmcheck.watermark.detect import check_ids
from wmcheck.watermark.prf import I64, MAX_TOKEN_ID, U32
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.radioactivity.contexts import Collected, Occurrences, Text, pool, window_codes, windows_at
from wmcheck.watermark.windows import Document, first_occurrences

if TYPE_CHECKING:
    import torch

# Tokens kept at a position: the likeliest `TOP` of those with at least `FLOOR` probability.
TOP, FLOOR = 64, 1e-4
CHUNK = 256
# Numbers of one block of logits, on a CPU and on an accelerator.
BLOCK = (2**25, 2**28)


@dataclass(frozen=True, slots=True)
class Row:
    """One piece of text that the suspect is shown.

    Attributes:
        ids: i64[L] ids of the suspect's tokenizer, without the start id.
        places: i64[n] positions whose next token is asked for, ascending.
        windows: u32[n, h] windows there, in ids of the profile's tokenizer.
    """

    ids: I64
    places: I64
    windows: U32


def collect(
    model: Any, documents: Sequence[Document], profile: Profile, *, text: Text = "neutral", top: int = TOP,
    floor: float = FLOOR, batch_size: int = 16, chunk: int = CHUNK, start: Sequence[int] | None = None,
    max_contexts: int | None = None, source: str = "", progress: Callable[[int], None] | None = None,
) -> Collected:
    """The suspect's next-token probabilities at every position of texts.

    Args:
        model: an :class:`~wmcheck.watermark.embed.LanguageModel`, or a ``transformers`` causal language model. Its tokenizer is
            the profile's (:func:`collect_aligned` is for others).
        documents: token ids; prompt and output are read alike.
        profile: whose width, special ids and tokenizer apply.
        text: ``marked`` if the texts are watermarked under the key that will be tested. Positions whose window their own text
            had before are then left out, and only the first occurrence of a window counts, because what the suspect copies from
            marked text would carry the key; each document must be a whole text. For all other texts, those of the teacher
            without its watermark and those of the suspect included, ``neutral`` loses nothing.
        top: most tokens kept at a position.
        floor: least probability kept.
        batch_size: pieces of text shown at once.
        chunk: ids of a piece; longer texts are cut.
        start: ids before each piece; None: the model's begin-of-text id if it has one.
        max_contexts: stop after so many distinct windows.
        source: where the suspect came from; None takes the model's.
        progress: called with the number of positions read after each pass.

    Raises:
        TokenizerError: the model's tokenizer is not the profile's.
        InputError: ids that the model does not know, or no text long enough.
    """
    for document in documents:
        check_ids(document)
    language = _language(model)
    if language is not None and profile.tokenizer is not None:
        profile.check_tokenizer(language.tokenizer)
    width = profile.scheme.width
    rows = (row for document in documents for row in cut(document.ids, width, chunk, whole=text == "marked"))
    known = int(profile.tokenizer["vocabulary"]) if profile.tokenizer else None
    reader = Reader(model, top=top, floor=floor, start=start, vocabulary=known)
    found = reader.read(rows, batch_size=batch_size, max_contexts=max_contexts, progress=progress)
    if not found:
        raise InputError(
            "no text is long enough", where="texts", got=f"{len(documents)} texts", expected=f"more than {width} tokens each"
        )
    return pool(
        Occurrences.join(found, width), text=text, special=profile.special_ids, vocabulary=known,
        source=source or str(getattr(language, "source", "")),
    )


def cut(ids: I64, width: int, chunk: int, *, whole: bool) -> Iterator[Row]:
    """The pieces of a text; with ``whole``, without positions whose window the text had before."""
    size = max(chunk, width + 1)
    if len(ids) < max(width, 1):
        return
    fresh = fresh_places(ids, width) if whole else np.ones(len(ids), bool)
    for begin in range(0, len(ids), size):
        piece = ids[begin : begin + size]
        places = np.arange(max(width - 1, 0), len(piece))
        places = places[fresh[begin + places]]
        if len(places):
            yield Row(piece, places, windows_at(ids, begin + places, width))


def fresh_places(ids: I64, width: int) -> NDArray[np.bool_]:
    """bool[L]: places of a text of ``width`` ids or more whose window the text did not have before; all without windows."""
    if not width:
        return np.ones(len(ids), bool)
    windows = np.lib.stride_tricks.sliding_window_view(ids.astype(np.uint32), width)
    fresh = np.zeros(len(ids), bool)
    fresh[first_occurrences(window_codes(windows)) + width - 1] = True
    return fresh


class Reader:
    """Next-token laws of one causal language model.

    Args:
        model: as for :func:`collect`.
        top, floor, start: as for :func:`collect`.
        vocabulary: logits at or above it (padding of the model's matrices) are no tokens.
        to_profile: i64[V] profile id of each id of the suspect, -1 for none; None where the tokenizers are equal.
        profile_vocabulary: number of ids of the profile, with ``to_profile``.
    """

    def __init__(
        self, model: Any, *, top: int = TOP, floor: float = FLOOR, start: Sequence[int] | None = None,
        vocabulary: int | None = None, to_profile: I64 | None = None, profile_vocabulary: int = 0,
    ) -> None:
        language = _language(model)
        self._model = language.model if language is not None else model
        if not callable(self._model) or not hasattr(self._model, "config"):
            raise ConfigError("not a language model", where="collect", got=type(model).__name__, expected="a transformers model")
        self._top, self._floor, self._vocabulary = top, floor, vocabulary
        # Ids without a counterpart go to one more place, at the end, which is dropped.
        self._target = None if to_profile is None else np.where(to_profile < 0, profile_vocabulary, to_profile)
        self._ids = MAX_TOKEN_ID + 1 if to_profile is None else profile_vocabulary
        config = self._model.config.get_text_config()
        begin = getattr(config, "bos_token_id", None)
        own = [int(begin)] if isinstance(begin, int) and begin >= 0 else []
        self._start = own if start is None else [int(one) for one in start]
        self._longest = int(getattr(config, "max_position_embeddings", None) or 1 << 30)
        self._embedded = int(self._model.get_input_embeddings().weight.shape[0])

    def read(
        self, rows: Iterator[Row], *, batch_size: int, max_contexts: int | None, progress: Callable[[int], None] | None
    ) -> list[Occurrences]:
        """Positions with probabilities, in the order of the rows."""
        found: list[Occurrences] = []
        seen: set[int] = set()
        for batch in self._batches(rows, batch_size):
            found.append(self._forward(batch))
            if progress is not None:
                progress(sum(len(row.places) for row in batch))
            if max_contexts is not None:
                for row in batch:
                    seen.update(window_codes(row.windows).tolist())
                if len(seen) >= max_contexts:
                    break
        return found

    def _batches(self, rows: Iterator[Row], wanted: int) -> Iterator[list[Row]]:
        """Rows that are shown at once: so many as are wanted, if their logits fit a block."""
        block = BLOCK[int(self._model.device.type != "cpu")]
        batch: list[Row] = []
        for row in rows:
            batch.append(row)
            width = max(len(one.ids) for one in batch) + len(self._start)
            if len(batch) >= max(1, min(wanted, block // (width * self._embedded))):
                yield batch
                batch = []
        if batch:
            yield batch

    def _forward(self, batch: list[Row]) -> Occurrences:
        """The laws of one pass."""
        import torch

        first = len(self._start)
        width = max(len(row.ids) for row in batch) + first
        if width > self._longest:
            raise ConfigError(
                "pieces of text are longer than the model's context", where="collect", got=str(width), expected=str(self._longest)
            )
        ids, mask = np.zeros((len(batch), width), np.int64), np.zeros((len(batch), width), np.int64)
        for place, row in enumerate(batch):
            ids[place, :first], ids[place, first : first + len(row.ids)] = self._start, row.ids
            mask[place, : first + len(row.ids)] = 1
        if int(ids.max(initial=0)) >= self._embedded:
            raise InputError(
                "token ids that the model does not know", where="collect", got=str(int(ids.max())),
                expected=f"ids below {self._embedded}",
            )
        with torch.inference_mode():
            shown, valid = (torch.from_numpy(array).to(self._model.device) for array in (ids, mask))
            logits = self._model(input_ids=shown, attention_mask=valid, use_cache=False).logits
            # The output at a place predicts the token after it.
            asked = [torch.from_numpy(row.places + first).to(logits.device) for row in batch]
            parts = [self._law(logits[place, which]) for place, which in enumerate(asked)]
        windows = np.concatenate([row.windows for row in batch])
        tokens, weights = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        kept = (weights >= self._floor) & (tokens < self._ids)
        best = np.where(tokens[:, 0] < self._ids, tokens[:, 0], -1)
        owner = np.repeat(np.arange(len(tokens)), kept.sum(1))
        return Occurrences(windows, owner, tokens[kept], weights[kept], best)

    def _law(self, logits: torch.Tensor) -> tuple[I64, NDArray[np.float64]]:
        """The likeliest tokens i64[n, k] in falling order, and their probabilities."""
        import torch

        if self._vocabulary is not None and self._vocabulary < logits.shape[1]:
            logits = logits[:, : self._vocabulary]
        law = logits.float().softmax(1)
        if self._target is not None:
            target = torch.from_numpy(self._target).to(law.device)
            mapped = torch.zeros((len(law), self._ids + 1), device=law.device)
            law = mapped.index_add_(1, target[: law.shape[1]], law[:, : len(target)])
        found = law.topk(min(self._top, law.shape[1]), dim=1)
        return found.indices.cpu().numpy().astype(np.int64), found.values.cpu().numpy().astype(np.float64)


def _language(model: Any) -> Any:
    """The model as one with a tokenizer; None for a ``transformers`` model alone."""
    return model if hasattr(model, "tokenizer") and hasattr(model, "model") else None
