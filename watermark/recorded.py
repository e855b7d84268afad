"""Recorded log probabilities of a record as predictions on the token ids that are tested."""

from __future__ import annotations

import json
import math
from functools import cached_property
from typing import Any

import numpy as np

from wmcheck.watermark.core.errors import RecordError
from wmcheck.watermark.core.logprobs import Logprobs, Name
from wmcheck.watermark.law import Law
from wmcheck.watermark.prf import I64
from wmcheck.watermark.tokenizer import TextTokenizer


class Spellings:
    """The bytes of every token of a tokenizer, as a part of a longer text."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def of(self) -> dict[int, bytes]:
        """The bytes of each id."""
        backend: Any = self._tokenizer._backend
        added = {number: token.content for number, token in backend.get_added_tokens_decoder().items()}
        spell = _byte_level if '"ByteLevel"' in json.dumps(json.loads(backend.to_str()).get("decoder")) else _sentence_piece
        vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        return {
            number: added[number].encode() if number in added else spell(token) for token, number in vocabulary.items()
        }

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """The id of each spelling that one token alone has."""
        found: dict[bytes, int] = {}
        for number, spelled in self.of.items():
            found[spelled] = -1 if spelled in found else number
        return {spelled: number for spelled, number in found.items() if number >= 0}


def recorded_law(found: Logprobs, ids: I64, prompt_length: int, where: str, spellings: Spellings | None = None) -> Law:
    """The recorded predictions of a document.

    A place has a prediction where the record gives the probability of the token that came, and does not name another one
    there. Other tokens whose text is that of no token, or of several, are left out of the candidates.

    Args:
        found: what the record says, one entry an output token.
        ids: i64[L] prompt and output.
        prompt_length: how many are the prompt; those have no prediction.
        where: file and line, for errors.
        spellings: of the tokenizer, if some token is named by its text.

    Raises:
        RecordError: another number of entries than of output tokens, or no entry that fits its token.
    """
    tokens = ids[prompt_length:]
    # A server that names its tokens may list the end token too, which is no part of the text.
    ended = len(found) == len(tokens) + 1 and found.names[-1] is not None
    if len(found) != len(tokens) and not ended:
        raise RecordError(
            "log probabilities do not match the tokens", where=where, got=f"{len(found)} entries",
            expected=f"{len(tokens)}, one an output token", hint="record the output's token ids beside them",
        )
    rows = [_row(found, place, int(token), spellings) for place, token in enumerate(tokens.tolist())]
    known = np.array([not math.isnan(own) for own, _ in rows], bool)
    if len(rows) and not known.any():
        raise RecordError(
            "no recorded log probability fits its token", where=where, got=f"{len(rows)} tokens",
            hint="ids and log probabilities of different tokenizers?",
        )
    width = max((len(others) for _, others in rows), default=0)
    others, log_p = np.full((len(rows), width), -1, np.int64), np.full((len(rows), width), -np.inf)
    for place, (_, row) in enumerate(rows):
        others[place, : len(row)] = list(row)
        log_p[place, : len(row)] = list(row.values())
    own = np.array([own for own, _ in rows], np.float64)
    law = Law.of(tokens, others, np.where(known, own, 0.0), log_p, known=known)
    return Law.join([Law.unknown(ids[:prompt_length]), law])


def _row(found: Logprobs, place: int, token: int, spellings: Spellings | None) -> tuple[float, dict[int, float]]:
    """Log probability of the token that came (NaN if unknown), and of each other candidate, each id once: a candidate
    listed twice would count as two independent ones."""
    others: dict[int, float] = {}
    for name, log_p in found.others[place]:
        number = _number(name, spellings)
        if number is not None and log_p > -math.inf:
            others.setdefault(number, log_p)
    own = float(found.log_p[place])
    same = _fits(found.names[place], token, spellings)
    beside = others.pop(token, math.nan)
    if not same:
        return math.nan, {}
    return (beside if math.isnan(own) else own), others


def _number(name: Name, spellings: Spellings | None) -> int | None:
    if isinstance(name, int):
        return name if name < 2**31 else None
    return None if spellings is None else spellings.ids.get(name)


def _fits(name: Name | None, token: int, spellings: Spellings | None) -> bool:
    if name is None or isinstance(name, int):
        return name is None or name == token
    return spellings is not None and spellings.of.get(token) == name


def _byte_level(token: str) -> bytes:
    """The bytes behind a token of a byte-level vocabulary (Radford et al. 2019: printable stand-ins of all bytes)."""
    try:
        return bytes(_STAND_INS[character] for character in token)
    except KeyError:
        return token.encode()


def _stand_ins() -> dict[str, int]:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(moved)}


_STAND_INS = _stand_ins()


def _sentence_piece(token: str) -> bytes:
    """The bytes behind a token in which U+2581 is a space and ``<0xNN>`` a byte."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            return token.encode()
    return token.replace("\u2581", " ").encode()
