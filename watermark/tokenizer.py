"""Text to token ids, and the digest that tells whether a tokenizer is the profile's.

The detector needs ``tokenizers`` only. A folder without ``tokenizer.json``, or a name on a model hub, goes through
``transformers`` (slower to import).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wmcheck.watermark.bundled import BUNDLED, bundled_path
from wmcheck.watermark.core.errors import TokenizerError
from wmcheck.watermark.prf import I64

# Covers case, digits, spaces, newlines, code, accents and a non-Latin script.
PROBE = "The 3 quick-brown foxes said: “naïve café”?\n\tdef f(x): return x**2  # 12345\nПривет, 世界 🙂"


class TextTokenizer:
    """A tokenizer with a stable identity.

    Attributes:
        source: what it was loaded from.
        vocabulary: number of ids, added tokens included.
        special_ids: ids of special tokens (begin, end, padding, chat markup).
        digest: SHA-256 over vocabulary and probe encoding; equal for equal tokenizers whatever library wrote the file.
    """

    def __init__(self, backend: Any, source: str) -> None:
        self._backend = backend
        self.source = source
        vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        self.vocabulary = max(vocabulary.values()) + 1
        added = backend.get_added_tokens_decoder()
        self.special_ids = tuple(sorted(number for number, token in added.items() if token.special))
        hasher = hashlib.sha256(b"wmcheck/tokenizer/1\0")
        for token, number in sorted(vocabulary.items(), key=lambda pair: (pair[1], pair[0])):
            hasher.update(json.dumps([number, token]).encode())
        hasher.update(json.dumps(backend.encode(PROBE, add_special_tokens=False).ids).encode())
        self.digest = hasher.hexdigest()

    def encode(self, texts: Sequence[str]) -> list[I64]:
        """Token ids of each text, without special tokens added."""
        found = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, np.int64) for encoding in found]

    def places(self, text: str) -> tuple[I64, list[tuple[int, int] | None]]:
        """Token ids of a text as :meth:`encode` gives them, and the characters each stands for; None where it has none."""
        found = self._backend.encode(text, add_special_tokens=False)
        return np.asarray(found.ids, np.int64), [found.token_to_chars(place) for place in range(len(found.ids))]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return str(self._backend.decode([int(number) for number in ids], skip_special_tokens=True))


def load_tokenizer(source: str) -> TextTokenizer:
    """Load from ``bundled:NAME``, a ``tokenizer.json``, a model folder, or a hub name.

    Raises:
        TokenizerError: nothing usable there.
    """
    from tokenizers import Tokenizer

    path = bundled_path(source) if source.startswith(BUNDLED) else Path(os.path.expanduser(source))
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        try:
            return TextTokenizer(_whole(Tokenizer.from_file(str(file))), source)
        except Exception as error:  # the Rust library raises bare Exception
            raise TokenizerError("not a tokenizer file", where=str(file), got=str(error)[:120]) from None
    if not path.exists() and (source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise TokenizerError("no such tokenizer", where=source, expected="a tokenizer.json, a model folder or a hub name")
    return wrap_tokenizer(_from_transformers(source), source)


def _from_transformers(source: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise TokenizerError(
            "cannot load the tokenizer", where=source, got=str(error).splitlines()[0][:120],
            hint="give a folder with tokenizer.json: --tokenizer PATH",
        ) from None


def wrap_tokenizer(tokenizer: Any, source: str = "tokenizer") -> TextTokenizer:
    """A :class:`TextTokenizer` around a ``transformers`` fast tokenizer or a ``tokenizers.Tokenizer``.

    Raises:
        TokenizerError: a tokenizer without a Rust backend.
    """
    if isinstance(tokenizer, TextTokenizer):
        return tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None) or getattr(tokenizer, "_tokenizer", None) or tokenizer
    if not hasattr(backend, "encode_batch_fast"):
        raise TokenizerError("unsupported tokenizer", where=source, got=type(tokenizer).__name__, expected="a fast tokenizer")
    return TextTokenizer(_whole(backend), source)


def _whole(backend: Any) -> Any:
    """A copy that neither cuts nor pads: files and earlier calls of ``transformers`` may have left either on."""
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy
