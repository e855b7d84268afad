"""llama-cpp-python: the processor that marks one request, and the tokenizer of a GGUF file. See :mod:`.llama_cpp`."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wmcheck.watermark.core.errors import RequestError
from wmcheck.watermark.serving.marker import Marker
from wmcheck.watermark.serving.sessions import ContextError, Sampling, Session
from wmcheck.watermark.serving.warping import cut

Scores = NDArray[np.float32]


class Processor:
    """Marks one request; the engine calls it with the ids and logits of a step.

    Args:
        marker: the watermark.
        session: the request; its output grows here.
        others: the caller's own processors, which run first.
        cuts: top-k, top-p and min-p to apply before the mark; None leaves them to the engine.
    """

    def __init__(self, marker: Marker, session: Session, others: Iterable[Any], *, cuts: Sampling | None = None) -> None:
        self._marker, self._session, self._others, self._cuts = marker, session, list(others), cuts
        self._output: list[int] = session.output  # type: ignore[assignment]
        self._failed: Exception | None = None
        self._called = 0

    def __call__(self, input_ids: NDArray[np.int32], scores: Scores) -> Scores:
        """The marked scores; an error is kept for :meth:`follow`."""
        self._called += 1
        try:
            for other in self._others:
                scores = other(input_ids, scores)
            return self.mark(input_ids, np.array(scores, np.float32))
        except Exception as error:
            self._failed = error
            return scores

    def mark(self, input_ids: NDArray[np.int32], scores: Scores) -> Scores:
        """Mark scores in place, and give them. Raises ``ContextError`` where ``input_ids`` are not those of the request."""
        session, width = self._session, self._marker.deployment.width
        known = len(session.prompt) + len(session.output)
        if len(input_ids) != known or input_ids[max(0, known - width) :].tolist() != session.tail(width):
            raise ContextError(
                "the engine shows another history than that of the request", where=engine_name(), got=f"{len(input_ids)} ids",
                expected=f"{known}, those of the prompt and of the tokens so far", hint="one Llama generates one text at a time",
            )
        logits = torch.from_numpy(scores)[None]
        if self._cuts is not None:
            logits = cut(logits, [self._cuts])
        self._marker.mark(logits, [session])
        marked: Scores = logits[0].numpy()
        return marked

    def follow(self, tokens: Generator[int, Any, None]) -> Generator[int, Any, None]:
        """The engine's tokens, each only after its mark succeeded."""
        try:
            for count, token in enumerate(tokens, 1):
                if self._failed is not None:
                    raise self._failed
                if self._called != count:
                    raise ContextError(
                        "the engine left the watermark out", where=engine_name(), got=f"{self._called} calls for {count} tokens",
                        expected="one call for each", hint="one Llama generates one text at a time",
                    )
                self._output.append(token)
                if (yield token) is not None:
                    raise RequestError("the engine takes tokens that are sent for drafts", where="send", expected="no tokens")
        finally:
            tokens.close()
            self._marker.close(self._session)


class Vocabulary:
    """The tokenizer of a GGUF file as :class:`TextTokenizer` reads one."""

    def __init__(self, llama: Any) -> None:
        self._llama = llama
        import llama_cpp as library

        self._library, self._vocab = library, llama._model.vocab
        # Entries that only fill the matrix up are unknown to the tokenizer that the file was made from.
        filled, attributes = library.LLAMA_TOKEN_ATTR_UNUSED, library.llama_vocab_get_attr
        self._ids = [one for one in range(llama.n_vocab()) if not attributes(self._vocab, one) & filled]

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """Token and id."""
        read = self._library.llama_vocab_get_text
        return {read(self._vocab, one).decode("utf-8", "replace"): one for one in self._ids}

    def get_added_tokens_decoder(self) -> dict[int, Any]:
        """The control tokens."""
        control = self._library.llama_vocab_is_control
        return {one: SimpleNamespace(special=True) for one in self._ids if control(self._vocab, one)}

    def encode_batch_fast(self, texts: list[str], add_special_tokens: bool = False) -> list[Any]:
        """An object with ``ids`` for each text."""
        return [self.encode(text) for text in texts]

    def encode(self, text: str, add_special_tokens: bool = False) -> Any:
        """An object with ``ids``."""
        return SimpleNamespace(ids=self._llama.tokenize(text.encode(), add_bos=add_special_tokens, special=False))


def bias(values: Mapping[int, float]) -> Any:
    """A processor that adds the ``logit_bias`` of a request."""
    def add(input_ids: NDArray[np.int32], scores: Scores) -> Scores:
        scores = np.array(scores, np.float32)
        for number, value in values.items():
            scores[number] += value
        return scores

    return add


def engine_name() -> str:
    """``"llama_cpp VERSION"``."""
    import llama_cpp as library

    return f"llama_cpp {library.__version__}"
