"""Write ``peers/markllm.json``: MarkLLM's lists, flags and uniforms, by its own code, on a CPU.

    pip install --no-deps markllm==0.1.5
    python tests/vectors/make_markllm_vectors.py [FILE]
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

FILE = Path(__file__).with_name("peers") / "markllm.json"
KEYS = (15485863, 987654321987)
LISTS = [
    (vocabulary, gamma, f_scheme, window, length)
    for vocabulary, gamma, window, length in (
        (1000, 0.5, "left", 1), (1009, 0.25, "left", 3), (64, 0.5, "self", 2), (50257, 0.25, "left", 2)
    )
    for f_scheme in ("time", "additive", "skip", "min")
]
PRODUCTS = [("SWEET", 1000, 0.5, 1), ("SWEET", 1009, 0.25, 3), ("EWD", 1000, 0.5, 2)]
UNIFORMS = [(1000, 4), (50257, 1), (151936, 4)]


def model(vocabulary: int) -> Any:
    """What the algorithms read of ``TransformersConfig``."""
    return types.SimpleNamespace(model=None, tokenizer=None, vocab_size=vocabulary, device="cpu", gen_kwargs={})


def utils(name: str, vocabulary: int, **changes: Any) -> Any:
    """The keyed part of an algorithm, with the shipped configuration but for ``changes``."""
    module = importlib.import_module(f"markllm.watermark.{name.lower()}.{name.lower()}")
    shipped = Path(module.__file__).parents[2] / "config" / f"{name}.json"
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(json.loads(shipped.read_text()) | changes, file)
        file.flush()
        return getattr(module, f"{name}Utils")(getattr(module, f"{name}Config")(file.name, model(vocabulary)))


def contexts(vocabulary: int, length: int) -> list[list[int]]:
    rng = np.random.default_rng([vocabulary, length])
    drawn = rng.integers(0, vocabulary, (3, length)).tolist()
    return [*drawn, [0] * length, [vocabulary - 1] * length]


def digest(ids: list[int]) -> str:
    return hashlib.sha256(np.array(sorted(ids), "<i8").tobytes()).hexdigest()


def listed(name: str, vocabulary: int, gamma: float, length: int, **rest: Any) -> list[dict[str, Any]]:
    found = []
    for key in KEYS:
        made = utils(name, vocabulary, gamma=gamma, prefix_length=length, hash_key=key, **rest)
        for context in contexts(vocabulary, length):
            green = [int(token) for token in made.get_greenlist_ids(torch.tensor([7, *context]))]
            found.append({
                "algorithm": name, "key": key, "vocabulary": vocabulary, "gamma": gamma, "prefix_length": length, **rest,
                "context": context, "green": len(green), "first": sorted(green)[:8], "sha256": digest(green),
            })
    return found


def flags() -> list[dict[str, Any]]:
    found = []
    for length, f_scheme in ((1, "time"), (2, "min")):
        made = utils("KGW", 1000, prefix_length=length, f_scheme=f_scheme)
        ids = (np.random.default_rng(5).zipf(1.4, 80) % 1000).tolist()
        found.append({
            "key": KEYS[0], "vocabulary": 1000, "gamma": 0.5, "prefix_length": length, "f_scheme": f_scheme, "ids": ids,
            "flags": [int(flag) for flag in made.score_sequence(torch.tensor(ids))[1]],
        })
    return found


def uniforms() -> list[dict[str, Any]]:
    found = []
    for key in (15485863, 77777777):
        for vocabulary, length in UNIFORMS:
            made = utils("EXP", vocabulary, prefix_length=length, hash_key=key)
            for context in contexts(vocabulary, length):
                made.seed_rng(torch.tensor([3, *context]))
                drawn = torch.rand(vocabulary, generator=made.rng)
                tokens = [0, 1, 17, vocabulary // 2, vocabulary - 1]
                found.append({
                    "key": key, "vocabulary": vocabulary, "prefix_length": length, "context": context, "tokens": tokens,
                    "u": [float(drawn[token]) for token in tokens],
                })
    return found


def masks() -> list[dict[str, Any]]:
    found = []
    for key in (*KEYS, 0, -5):
        for vocabulary, gamma in ((50, 0.5), (1000, 0.25), (50257, 0.5)):
            mask = utils("Unigram", vocabulary, gamma=gamma, hash_key=key).mask
            found.append({
                "key": key, "vocabulary": vocabulary, "gamma": gamma, "green": int(mask.sum()),
                "sha256": digest(np.flatnonzero(mask).tolist()),
            })
    return found


def build() -> dict[str, Any]:
    """The content of the file."""
    lists = [
        entry for vocabulary, gamma, f_scheme, window, length in LISTS
        for entry in listed("KGW", vocabulary, gamma, length, f_scheme=f_scheme, window_scheme=window)
    ]
    products = [entry for name, *rest in PRODUCTS for entry in listed(name, *rest)]
    meta = {"markllm": "0.1.5", "torch": torch.__version__, "numpy": np.__version__, "device": "cpu"}
    return {
        "meta": meta, "lists": lists, "products": products, "flags": flags(), "uniforms": uniforms(), "unigram": masks()
    }


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    place.write_text(json.dumps(build()) + "\n")
