"""Text of the teacher (the bundled model, temperature 1): one pool a key, one without a mark, one that only tests read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from grid import Mark, Pupil, seed_of
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from wmcheck.watermark.embed import LanguageModel, load_model
from wmcheck.watermark.generate import WatermarkProcessor, generate_ids, warpers
from wmcheck.watermark.tokenizer import TextTokenizer

TEACHER = "bundled:stories2m"
LENGTH, OPENING, TOP_K = 64, 8, 16
SAMPLES, PLAIN_SAMPLES, NEUTRAL_SAMPLES = 1024, 3072, 192
BATCH = 256
OWN_VOCABULARY = 512
END = 0

Ids = NDArray[np.uint16]


class Pools:
    """Pools in a folder, sampled when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.teacher: LanguageModel = load_model(TEACHER)
        (folder / "pools").mkdir(parents=True, exist_ok=True)

    @property
    def tokenizer(self) -> TextTokenizer:
        """The teacher's, which is that of the profiles."""
        return self.teacher.tokenizer

    def marked(self, mark: Mark) -> Ids:
        """u16[samples, length]: text under the mark's key."""
        return self._pool(mark.name, SAMPLES, mark)

    def plain(self) -> Ids:
        """Text without a mark: the rest of every student's data, and all that bases and controls learn."""
        return self._pool("plain", PLAIN_SAMPLES)

    def neutral(self) -> Ids:
        """Text without a mark that nobody is trained on: where open models are read."""
        return self._pool("neutral", NEUTRAL_SAMPLES)

    def training(self, pupil: Pupil) -> Ids:
        """The text that a student learns: its share of marked samples, the rest unmarked, in random order."""
        rng = np.random.default_rng(seed_of("data", pupil.name))
        count = round(SAMPLES * pupil.share / 100)
        plain = self.plain()[rng.permutation(PLAIN_SAMPLES)[: SAMPLES - count]]
        if not pupil.mark:
            return plain
        chosen = self.marked(pupil.mark)[rng.permutation(SAMPLES)[:count]]
        return np.concatenate([chosen, plain])[rng.permutation(SAMPLES)]

    def decoded(self, samples: Ids) -> list[str]:
        """The samples as text."""
        return [self.tokenizer.decode(row) for row in samples.tolist()]

    @cached_property
    def own_tokenizer(self) -> TextTokenizer:
        """A byte-level BPE of another size, learned from the unmarked text: that of the other students."""
        path, texts = self.folder / "own.json", self.decoded(self.plain())
        with only_one(path):
            if path.exists():
                return TextTokenizer(Tokenizer.from_file(str(path)), "own")
            made = Tokenizer(models.BPE())
            made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
            trainer = trainers.BpeTrainer(
                vocab_size=OWN_VOCABULARY, special_tokens=["<|end|>"], show_progress=False,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            )
            made.train_from_iterator(texts, trainer)
            with whole(path) as part:
                made.save(str(part))
            return TextTokenizer(made, "own")

    def _pool(self, name: str, samples: int, mark: Mark | None = None) -> Ids:
        path = self.folder / "pools" / f"{name}.npy"
        with only_one(path):
            return np.load(path) if path.exists() else self._fill(path, samples, mark)

    def _fill(self, path: Path, samples: int, mark: Mark | None) -> Ids:
        name, processors = path.stem, warpers(top_k=TOP_K)
        if mark:
            processors.append(WatermarkProcessor(mark.profile(self.tokenizer), mark.key()))
        rows: list[list[int]] = []
        for start in range(0, samples, BATCH):
            count = min(BATCH, samples - start)
            openings = self._sampled([[self.teacher.pad_id]] * count, warpers(), OPENING, seed_of("opening", name, start))
            prompts = [[self.teacher.pad_id, *opening] for opening in openings]
            rows += self._sampled(prompts, processors, LENGTH, seed_of("pool", name, start))
        found = np.array(rows, np.uint16)
        put(path, found)
        return found

    def _sampled(self, prompts: list[list[int]], processors: Any, tokens: int, seed: int) -> list[list[int]]:
        return generate_ids(
            self.teacher.model, prompts, processors, max_new_tokens=tokens, pad_id=self.teacher.pad_id, seed=seed,
            ignore_end=True,
        )


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """One process at a time makes a file; the lock goes with its holder, however that ends."""
    with path.with_suffix(".lock").open("w") as handle:
        flock(handle, LOCK_EX)
        yield


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file so that a killed run leaves all of it or none."""
    part = path.with_suffix(f".{os.getpid()}{path.suffix}")
    yield part
    part.replace(path)


def put(path: Path, array: NDArray[np.generic]) -> None:
    """Write an array."""
    with whole(path) as part:
        np.save(part, array)
