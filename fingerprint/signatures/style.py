"""Shared rare word sequences in answers to the same prompt: strong for shared weights, weak for a teacher."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
from scipy.sparse import csr_array

from wmcheck.fingerprint.behaviour import Observation
from wmcheck.fingerprint.decisions.labels import answer_text
from wmcheck.fingerprint.signature import BLOCKS, Contribution, Floats, PairScores, Table, block_of, by_question, offers_tools
from wmcheck.fingerprint.transcript import Transcript

_WORDS = 80
_LONGEST = 4
_LEAST_MODELS = 4
_TOKEN = re.compile(r"\w+|[^\w\s]")


class Style:
    """Within-prompt idf of shared 1- to 4-grams of the first 80 words (specs, "style/overlap score").

    Secondary: measured on claimed teachers and students it says almost nothing (Cllr .83), and it finds shared weights and
    copied answers. N-grams are kept as 32-bit hashes, so tables hold no text.
    """

    name: ClassVar[str] = "style"
    summary: ClassVar[str] = "rare word sequences shared in answers to one prompt (idf n-grams); secondary"
    primary: ClassVar[bool] = False
    least: ClassVar[int] = 50

    def observe(self, transcripts: Iterable[Transcript]) -> dict[str, Observation]:
        """The hashed n-grams of the first sample of every item without tools; reasoning before the answer is left out."""
        chats = (transcript for transcript in transcripts if not offers_tools(transcript))
        seen = {}
        for question, samples in by_question(chats).items():
            grams = tuple(sorted(_grams(answer_text(samples[0].text))))
            if grams:
                seen[question] = Observation(samples[0].stratum, grams)
        return seen

    def score(self, tables: Sequence[Table]) -> PairScores:
        """Mean idf overlap per shared item, normalised by the square root of both lengths."""
        models = len(tables)
        total = np.zeros((BLOCKS, models, models))
        shared = np.zeros((BLOCKS, models, models), dtype=np.int64)
        for item in sorted({item for table in tables for item in table}):
            rows = [model for model, table in enumerate(tables) if item in table]
            if len(rows) < _LEAST_MODELS:
                continue
            block = block_of(item)
            shared[block][np.ix_(rows, rows)] += 1
            total[block][np.ix_(rows, rows)] += _overlap([tables[model][item].tokens for model in rows])
        common = shared.sum(0)
        enough = common >= self.least
        raw = np.where(enough, total.sum(0) / np.maximum(common, 1), np.nan)
        left = common - shared
        parts = np.where(enough & (left > 0), (total.sum(0) - total) / np.maximum(left, 1), np.nan)
        return PairScores(raw=raw, shared=common, excluded={}, parts=parts)

    def explain(self, tables: Sequence[Table], one: int, other: int) -> list[Contribution]:
        """Nothing: hashed word sequences cannot be shown."""
        return []


def _grams(text: str) -> set[str]:
    words = _TOKEN.findall(text.lower())[:_WORDS]
    return {
        f"{zlib.crc32(' '.join(words[start : start + size]).encode('utf-8', 'surrogatepass')):08x}"
        for size in range(1, _LONGEST + 1) for start in range(len(words) - size + 1)
    }


def _overlap(grams: Sequence[tuple[str, ...]]) -> Floats:
    """``sum of w(u) over shared u / sqrt(length of one * length of the other)``, for all pairs of answers."""
    spread = Counter(gram for answer in grams for gram in answer)
    columns = {gram: number for number, gram in enumerate(gram for gram, count in spread.items() if count > 1)}
    where = [[columns[gram] for gram in answer if gram in columns] for answer in grams]
    worth = -np.log((np.array([spread[gram] for gram in columns]) - 2 + 0.5) / max(len(grams) - 1, 1))
    pointers = np.cumsum([0, *map(len, where)])
    flat = [column for columns_of in where for column in columns_of]
    shares = csr_array((np.ones(len(flat)), flat, pointers), shape=(len(grams), max(len(columns), 1)))
    if not columns:
        return np.zeros((len(grams), len(grams)))
    length = np.sqrt(np.array([max(len(answer), 1) for answer in grams], dtype=np.float64))
    overlap: Floats = ((shares * np.maximum(worth, 0.0)) @ shares.T).toarray() / np.outer(length, length)
    return overlap
