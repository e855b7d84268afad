"""Round trips: another project's own code generates, our contract for it detects. Prompts, generation and the table."""

import importlib.util
import os
import sys
import types
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import pytest

from wmcheck.watermark import Profile
from wmcheck.watermark.bundled import bundled_path
from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.detect import Detector
from wmcheck.watermark.tokenizer import load_tokenizer
from wmcheck.watermark.windows import Document

MODEL = "bundled:stories2m"
NAMES, PLACES = ("Tim", "Lily", "Max", "Sue", "Ben"), ("park", "store", "lake", "farm")
PROMPTS = [f"One day, {name} went to the {place}." for name, place in product(NAMES, PLACES)]
# About 700 tests of ordinary texts in all: the chance that any is below 1e-6 is under one in a thousand, whatever they share.
FOUND, QUIET = -6.0, -6.0


def model_path():
    """The folder of the bundled model."""
    return str(bundled_path(MODEL))


def prompt_ids():
    """Token ids of the twenty prompts."""
    return [ids.tolist() for ids in load_tokenizer(MODEL).encode(PROMPTS)]


def bare(name):
    """Import a module of a package whose ``__init__`` files load far more than it needs; skips the tests without it."""
    parts = name.split(".")[:-1]
    for depth in range(1, len(parts) + 1):
        package = ".".join(parts[:depth])
        if package not in sys.modules:
            found = importlib.util.find_spec(package)
            if found is None:
                pytest.skip(f"{parts[0]} is not installed", allow_module_level=True)
            sys.modules[package] = types.ModuleType(package)
            sys.modules[package].__path__ = list(found.submodule_search_locations)
    return importlib.import_module(name)


def generate(model, *, seed, new=150, prompts=None, **options):
    """One continuation of ``new`` tokens of each prompt by ``transformers``: ``(prompt, output)`` ids."""
    import torch

    torch.manual_seed(seed)
    prompts = prompts or prompt_ids()
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(one)) + one for one in prompts])
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts])
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "max_new_tokens": new, "min_new_tokens": new} | options
    rows = model.generate(input_ids=ids, attention_mask=mask, pad_token_id=0, **options)
    return [(prompt, row[longest:]) for prompt, row in zip(prompts, rows.tolist(), strict=True)]


class Ids:
    """A tokenizer for code that takes and gives text: its texts are lists of ids, so that no encoding comes in between."""

    bos_token_id = eos_token_id = pad_token_id = 0
    vocab_size = 1024
    add_special_tokens = True

    def __len__(self):
        return self.vocab_size

    def __call__(self, ids, return_tensors=None, **_):
        import torch
        from transformers import BatchEncoding

        found = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}
        return BatchEncoding(found)

    def encode(self, ids, return_tensors=None, **_):
        return self(ids)["input_ids"] if return_tensors else list(ids)

    def decode(self, ids, **_):
        return [int(number) for number in ids]

    def batch_decode(self, rows, **_):
        return [self.decode(row) for row in rows]


class Contract:
    """Our contract with its parameters and a key.

    Args:
        name: registry name.
        parameters: its parameters.
        key: a :class:`PeerKey`.
    """

    def __init__(self, name, parameters, key):
        self.name, self.parameters, self.key = name, parameters, key
        tokenizer = load_tokenizer(MODEL)
        # The peers' own detectors know no special tokens.
        self._candidates = [
            Candidate.of(Profile.create(name, parameters, tokenizer=tokenizer, special_ids=special, entropy_bits=2.0), key)
            for special in (None, ())
        ]

    @property
    def scheme(self):
        """The contract itself."""
        return self._candidates[0].profile.scheme

    def detect(self, output, prompt=(), *, plain=False):
        """The detection of one text, with the ids of its prompt if they are known; ``plain``: end tokens count as any other."""
        document = Document(np.array([*prompt, *output], np.int64), len(prompt))
        detector = Detector(self._candidates[plain : plain + 1], corpus=False)
        return detector.detections(detector.test([document]), 0)[0]

    def scores(self, ids):
        """The score of every token of a text that has a whole context, repeats included."""
        return self.scheme.score(*self._items(ids), self._candidates[0].prf)

    def colours(self, ids):
        """The same for green lists, as the embedder has them: lists that no key changes are included."""
        return self._candidates[0].prf.green(*self._items(ids))

    def _items(self, ids):
        width, ids = self.scheme.width, np.asarray(ids, np.int64)
        windows = np.lib.stride_tricks.sliding_window_view(ids[:-1], width) if width else np.zeros((len(ids), 0))
        return windows.astype(np.uint32), ids[width:]


@dataclass
class RoundTrips:
    """The table of what was detected in marked and in ordinary texts, and every value of it."""

    rows: list = field(default_factory=list)
    values: list = field(default_factory=list)

    def judge(self, project, contract, marked, ordinary, *, note, agrees, prompts=False, found=FOUND, share=1.0):
        """Marked texts are found and ordinary ones are not, under one key; both go to the table.

        Args:
            project: name and version of the project whose code generated.
            contract: a :class:`Contract`.
            marked, ordinary: ``(prompt, output)`` ids.
            note: settings.
            agrees: what was equal to what the project's own detector says.
            prompts: the prompts are known to the detection.
            found: marked texts have log10 p below this,
            share: at least this share of them.
        """
        groups = [
            [contract.detect(output, prompt if prompts else ()).log10_p for prompt, output in texts]
            for texts in (marked, ordinary)
        ]
        cells = [" / ".join(f"{value:.1f}" for value in np.quantile(values, [0, 0.5, 1])) for values in groups]
        tokens = sorted({len(output) for _, output in marked})
        below = sum(value < found for value in groups[0])
        self.rows.append(
            f"| {project} | {contract.name} | {note} | {len(marked)} + {len(ordinary)} | {tokens[0]}"
            f"{f' to {tokens[-1]}' if len(tokens) > 1 else ''} | {cells[0]} | {below} of {len(marked)} | {cells[1]} | {agrees} |"
        )
        for kind, values in zip(("marked", "ordinary"), groups, strict=True):
            self.values.append(f"- {project}, {contract.name}, {note}, {kind}: {', '.join(f'{value:.2f}' for value in values)}")
        assert below >= share * len(marked), groups[0]
        assert min(groups[1]) > QUIET, groups[1]

    def write(self):
        """Append the rows to the files that ``tests/engines/run`` makes a log of."""
        log = os.environ.get("WMCHECK_PEERS_LOG")
        for name, lines in (("rows", self.rows), ("values", self.values)):
            if log:
                with open(f"{log}.{name}", "a", encoding="utf-8") as file:
                    file.writelines(line + "\n" for line in lines)
