"""Predictions of a language model on disk, one file a document, so that a killed run goes on where it was.

A file's name is the SHA-256 of everything that the predictions depend on: model, settings, token ids. No key is among it,
so one cache serves every key. The files hold token ids of the documents.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.law import Law
from wmcheck.watermark.prf import I64

_FORMAT = "wmcheck.predictions/1"
_FIELDS = {"candidates": 2, "log_p": 2, "entropy": 1, "collision": 1, "known": 1}


def default_cache() -> Path:
    """The user's own folder for predictions: below ``XDG_CACHE_HOME``, else ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "wmcheck" / "predictions"


class PredictionCache:
    """A folder of predictions.

    Args:
        folder: made when the first predictions are saved, for its owner alone.

    Attributes:
        hits: documents that were found.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.hits = 0

    @staticmethod
    def name(setup: Mapping[str, Any], ids: I64, prompt_length: int) -> str:
        """The name of a document's file: SHA-256 in hex of the format, the setup as JSON, and the ids."""
        hasher = hashlib.sha256(json.dumps([_FORMAT, dict(setup), prompt_length, len(ids)], sort_keys=True).encode())
        hasher.update(np.ascontiguousarray(ids, "<i8").tobytes())
        return hasher.hexdigest()

    def load(self, name: str, tokens: I64) -> Law | None:
        """The predictions of the output ``tokens``; None if there are none, or a file that is damaged or of other tokens."""
        try:
            with np.load(self._path(name), allow_pickle=False) as file:
                law = _checked({field: file[field] for field in _FIELDS}, tokens)
        except Exception:  # a damaged archive raises almost anything, and costs no more than the time to predict again
            return None
        self.hits += law is not None
        return law

    def save(self, name: str, law: Law) -> None:
        """Keep predictions, whole or not at all.

        Raises:
            ConfigError: the folder cannot be written.
        """
        path = self._path(name)
        wide = int(law.candidates.max(initial=0)) >= 2**15
        temporary = ""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            with os.fdopen(handle, "wb") as file:
                np.savez(
                    file, candidates=law.candidates.astype(np.int32 if wide else np.int16), log_p=law.log_p.astype(np.float32),
                    entropy=law.entropy.astype(np.float32), collision=law.collision.astype(np.float32), known=law.known,
                )
            os.replace(temporary, path)
        except OSError as error:
            raise ConfigError(
                "cannot write predictions", where=str(path.parent), got=error.strerror or str(error),
                hint="give --cache DIR, or --no-cache",
            ) from None
        finally:
            if temporary:
                with suppress(OSError):
                    os.unlink(temporary)

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.npz"


def settled(law: Law) -> Law:
    """A law as it comes back from disk: in single precision, each row summing to 1 in double precision again.

    Predictions pass through this whether or not they come from a file, so that a cache changes no p-value.
    """
    log_p = law.log_p.astype(np.float32).astype(np.float64)
    log_p -= np.logaddexp.reduce(log_p, axis=1, keepdims=True)
    entropy, collision = (values.astype(np.float32).astype(np.float64) for values in (law.entropy, law.collision))
    return Law(law.candidates, log_p, entropy, collision, law.known)


def _checked(arrays: Mapping[str, np.ndarray[Any, Any]], tokens: I64) -> Law | None:
    """The law in a file's arrays, if they are one of these tokens."""
    n = len(tokens)
    if any(arrays[name].ndim != rank or len(arrays[name]) != n for name, rank in _FIELDS.items()):
        return None
    candidates, log_p, known = arrays["candidates"], arrays["log_p"], arrays["known"]
    numbers = [log_p, arrays["entropy"], arrays["collision"]]
    whole = candidates.dtype.kind == "i" and known.dtype == np.bool_ and all(one.dtype == np.float32 for one in numbers)
    if not whole or candidates.shape != log_p.shape or candidates.shape[1] < 1 or not np.array_equal(candidates[:, 0], tokens):
        return None
    filled = candidates < 0
    ordered = np.sort(candidates, axis=1)
    twice = bool(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any())
    finite = bool(np.isfinite(log_p[~filled]).all() and np.isneginf(log_p[filled]).all() and (log_p <= 1e-6).all())
    # Row sums, entropy and collision within rounding of what laws can have: a damaged file is computed anew.
    sums = np.exp(log_p.astype(np.float64)).sum(1)
    ranges = bool((arrays["entropy"] >= 0).all() and (arrays["collision"] >= 0).all() and (arrays["collision"] <= 1.001).all())
    if twice or not finite or not ranges or not np.allclose(sums, 1.0, atol=1e-4):
        return None
    return settled(Law(
        candidates.astype(np.int64), log_p.astype(np.float64), arrays["entropy"].astype(np.float64),
        arrays["collision"].astype(np.float64), known,
    ))
