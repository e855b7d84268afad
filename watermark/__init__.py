"""Keyed watermarks: embed with a key, detect with an exact test.

Torch is imported only when :class:`WatermarkProcessor` or :func:`sampling_processors` is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wmcheck.watermark.candidate import Candidate
    from wmcheck.watermark.core.results import Detection, Verdict
    from wmcheck.watermark.detect import Detector, correct, detect_ids
    from wmcheck.watermark.generate import WatermarkProcessor, sampling_processors
    from wmcheck.watermark.keys import SecretKey, TenantKey
    from wmcheck.watermark.peer_keys import PeerKey
    from wmcheck.watermark.profile import Profile
    from wmcheck.watermark.tokenizer import load_tokenizer
    from wmcheck.watermark.windows import Document

_HOMES = {
    "Candidate": "candidate",
    "Detection": "core.results",
    "Detector": "detect",
    "Document": "windows",
    "PeerKey": "peer_keys",
    "Profile": "profile",
    "SecretKey": "keys",
    "TenantKey": "keys",
    "Verdict": "core.results",
    "WatermarkProcessor": "generate",
    "correct": "detect",
    "detect_ids": "detect",
    "load_tokenizer": "tokenizer",
    "sampling_processors": "generate",
}

__all__ = [
    "Candidate", "Detection", "Detector", "Document", "PeerKey", "Profile", "SecretKey", "TenantKey", "Verdict",
    "WatermarkProcessor", "correct", "detect_ids", "load_tokenizer", "sampling_processors",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
