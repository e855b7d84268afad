"""Log probabilities that an endpoint reported with its answers, as contexts of a profile: truncated, but no less valid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmcheck.fingerprint.sampling import Answer
from wmcheck.watermark.core.errors import InputError, TokenizerError
from wmcheck.watermark.prf import I64
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.radioactivity import Collected, Occurrences, pool
from wmcheck.watermark.radioactivity.alignment import boundaries, ending_at, first_token
from wmcheck.watermark.radioactivity.contexts import windows_at
from wmcheck.watermark.radioactivity.open_model import FLOOR
from wmcheck.watermark.tokenizer import TextTokenizer


def reported(
    answers: Sequence[Answer], profile: Profile, tokenizer: TextTokenizer, *, where: str = "", source: str = ""
) -> Collected:
    """The reported probabilities at every token of the answers where both tokenizers have a boundary.

    What an endpoint reports is the suspect's own law, cut off after the likeliest tokens: weights that no key enters. A token
    of the suspect stands for the first token of the profile into which its text is cut.

    Args:
        answers: with ``predictions``; those without are passed over.
        profile: whose width and special ids apply.
        tokenizer: the profile's tokenizer.
        where: the run, for messages.
        source: where the suspect came from.

    Raises:
        InputError: no answer has predictions.
        TokenizerError: no token of any answer begins where one of the profile does.
    """
    told = [answer.predictions for answer in answers if answer.predictions]
    if not told:
        raise InputError(
            "the answers came without log probabilities", where=where, got=f"{len(answers)} answers",
            hint="sample with --logprobs, or name the test that needs none: --tests sampled",
        )
    first: dict[str, int] = {}
    width, parts, places = profile.scheme.width, [], 0
    for predictions in told:
        parts.append(_positions(predictions, tokenizer, width, first))
        places += len(predictions)
    found = Occurrences.join(parts, width)
    if not len(found.owner):
        raise TokenizerError(
            "the endpoint's tokens cannot be aligned with the profile's", where=where, got="no common boundary in any answer",
            expected=f"boundaries of {tokenizer.source}", hint="test the answers alone: --tests sampled",
        )
    return pool(
        found, special=profile.special_ids, vocabulary=tokenizer.vocabulary, tokens_read=places,
        aligned=len(found.best) / places, source=source,
    )


def _positions(
    predictions: Sequence[Sequence[Any]], tokenizer: TextTokenizer, width: int, first: dict[str, int]
) -> Occurrences:
    """The positions of one answer whose context is known and cut alike by both tokenizers."""
    text, starts = characters([_bytes(token) for token, _ in predictions])
    ids, ends = boundaries(text, tokenizer)
    at = np.where(starts >= 0, ending_at(ends, len(text))[np.maximum(starts, 0)], -1)
    if not width:
        at = np.where(starts >= 0, np.maximum(at, 0), -1)
    kept = np.flatnonzero(at >= max(width - 1, 0))
    laws = [_law(predictions[place][1], tokenizer, first) for place in kept.tolist()]
    best = np.array([max(law, key=lambda token: law[token]) if law else -1 for law in laws], np.int64)
    return Occurrences(
        windows_at(ids, at[kept], width), np.repeat(np.arange(len(laws)), [len(law) for law in laws]),
        np.array([token for law in laws for token in sorted(law)], np.int64),
        np.array([law[token] for law in laws for token in sorted(law)], np.float64), best,
    )


def _law(likely: Sequence[Sequence[Any]], tokenizer: TextTokenizer, first: dict[str, int]) -> Mapping[int, float]:
    """Probabilities by id of the profile, those of tokens that begin with one id added up."""
    found: dict[int, float] = {}
    for token, log_p in likely:
        if not isinstance(token, str) or not token or log_p < math.log(FLOOR):
            continue
        if token not in first:
            first[token] = first_token(token, tokenizer)
        if first[token] >= 0:
            found[first[token]] = min(found.get(first[token], 0.0) + math.exp(min(log_p, 0.0)), 1.0)
    return found


def characters(pieces: Sequence[bytes]) -> tuple[str, I64]:
    """The text of tokens, and the character at which each begins; -1 inside of one, or where the text is no longer one."""
    whole = b"".join(pieces)
    try:
        text = whole.decode("utf-8")
    except UnicodeDecodeError as error:
        text = whole[: error.start].decode("utf-8")
    size = len(text.encode("utf-8"))
    begins: NDArray[np.bool_] = (np.frombuffer(whole[:size], np.uint8) & 0xC0) != 0x80
    # Characters before each byte, and all of them after the last.
    place = np.append(np.cumsum(begins) - begins, len(text))
    whole_character = np.append(begins, True)
    starts = np.cumsum([0, *map(len, pieces)])[:-1]
    inside = np.minimum(starts, size)
    return text, np.where((starts <= size) & whole_character[inside], place[inside], -1).astype(np.int64)


def _bytes(token: str | Sequence[int]) -> bytes:
    return token.encode("utf-8", "surrogatepass") if isinstance(token, str) else bytes(token)
