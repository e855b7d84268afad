"""Write ``prf_v1.json``: test vectors of the keyed function, from the package itself.

    python tests/vectors/make_prf_vectors.py [FILE]

The file changes only if the function does, which is a new version of it. ``verify_prf.py`` and ``verify_prf.mjs`` check
it with code of their own, written from ``docs/prf.md``.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from wmcheck.watermark.keys import SecretKey, TenantKey
from wmcheck.watermark.prf import PRF_VERSION, PrfKey, anchor_order
from wmcheck.watermark.scheme import make_scheme

FILE = Path(__file__).with_name("prf_v1.json")
SCHEMA = "wmcheck.prf-vectors/1"
LARGEST = 2**31 - 1

SECRETS = [hashlib.sha256(b"wmcheck test vector %d" % number).digest() for number in (1, 2)]
TENANTS = [("", ""), ("acct-91", "2026-11"), ("München/東京", "époque 🙂"), ("ab", "c"), ("a", "bc"), ("", "abc")]
FUNCTIONS = [
    ("redgreen/left/0", 0), ("redgreen/left/1", 1), ("redgreen/min/3", 1), ("redgreen/left/2", 2), ("gumbel/left/4", 4),
    ("tournament/left/5", 5), ("reweight/left/8", 8),
]
TOKENS = [0, 1, 3, 4, 15, 16, 17, 1000, 128_255, LARGEST]
STREAM = 18  # one whole block of 8-bit lanes and a part of the next
CASES = 16
SCHEMES = [
    ("redgreen", {"width": 0}), ("redgreen", {"width": 2, "green": 128}), ("redgreen", {"width": 3, "rule": "min"}),
    ("redgreen", {"width": 3, "rule": "self"}), ("gumbel", {"width": 4}), ("tournament", {"width": 5, "layers": 30}),
    ("reweight", {"width": 8}),
]


def build() -> dict[str, Any]:
    """The content of the file."""
    return {
        "schema": SCHEMA, "function": PRF_VERSION, "keys": [_key(secret) for secret in SECRETS],
        "scores": [_scores(name, parameters) for name, parameters in SCHEMES],
    }


def _key(secret: bytes) -> dict[str, Any]:
    root = SecretKey(secret)
    tenants = [_tenant(root.tenant(*labels)) for labels in TENANTS]
    return {
        "secret": secret.hex(), "text": root.reveal(), "id": root.id, "commitment": root.commitment, "tenants": tenants
    }


def _tenant(key: TenantKey) -> dict[str, Any]:
    # Full tables for the first three tenants; the rest differ in their labels' borders and show that the keys do too.
    functions = [_function(key, *one) for one in FUNCTIONS] if (key.tenant_name, key.epoch) in TENANTS[:3] else []
    return {
        "tenant": key.tenant_name, "epoch": key.epoch, "secret": key._secret.hex(), "text": key.reveal(), "id": key.id,
        "commitment": key.commitment, "functions": functions,
    }


def _function(key: TenantKey, label: str, width: int) -> dict[str, Any]:
    prf = PrfKey.derive(key, label)
    windows = [[0] * width, [LARGEST] * width, _ids(f"window {label}", width, 128_256)] if width else [[]]
    return {
        "label": label, "ctx": prf.secrets()[0].hex(), "tok": prf.secrets()[1].hex(), "width": width,
        "contexts": [_context(prf, window) for window in windows],
    }


def _context(prf: PrfKey, window: list[int]) -> dict[str, Any]:
    digest = prf.digests(np.array([window], np.uint32).reshape(1, len(window)))
    many, tokens = np.repeat(digest, len(TOKENS), axis=0), np.array(TOKENS, np.int64)
    return {
        "window": window, "digest": digest.tobytes().hex(), "order": str(anchor_order(digest)[0]), "tokens": TOKENS,
        "lanes8": prf.lanes8(many, tokens).tolist(), "lanes32": prf.lanes32(many, tokens).tolist(),
        "stream8": prf.stream(digest[0], STREAM, 8).tolist(), "stream32": prf.stream(digest[0], STREAM, 32).tolist(),
    }


def _scores(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    scheme = make_scheme(name, parameters)
    key = SecretKey(SECRETS[0]).tenant(*TENANTS[1])
    # Few distinct ids, so that min and self hash meet ties and candidates that stand in their own window.
    windows = np.array([_ids(f"{name} {case}", scheme.width, 7) for case in range(CASES)], np.uint32)
    windows = windows.reshape(CASES, scheme.width)
    tokens = np.array([_ids(f"{name} token {case}", 1, 7)[0] for case in range(CASES)], np.int64)
    scores = scheme.score(windows, tokens, PrfKey.derive(key, scheme.label()))
    return {
        "scheme": name, "parameters": scheme.parameters(), "label": scheme.label(), "key": 0, "tenant": 1,
        "cases": [
            {"window": window.tolist(), "token": int(token), "score": score.tolist()}
            for window, token, score in zip(windows, tokens, scores, strict=True)
        ],
    }


def _ids(name: str, count: int, below: int) -> list[int]:
    """Fixed ids that look random, from SHA-256 and not from a generator that may change."""
    digests = (hashlib.sha256(f"{name} {place}".encode()).digest() for place in range(count))
    return [int.from_bytes(digest[:8], "big") % below for digest in digests]


def render(content: dict[str, Any]) -> str:
    """JSON with one line a list of plain values."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    flat = re.sub(r"\[([^\[\]{}]*)\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    return flat + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    target.write_text(render(build()), "utf-8")
    print(f"wrote {target}")
