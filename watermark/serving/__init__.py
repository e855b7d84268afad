"""Watermarks in serving engines: one core, and a thin adapter for each engine.

The core is independent of any engine: a deployment file (:mod:`.deployment`) says whose key marks a request, a session
(:mod:`.sessions`) follows the token ids of a request, and a :class:`~wmcheck.watermark.serving.marker.Marker` marks the rows of
a step. An adapter translates one engine's interface into those three. ``docs/serving.md`` is the operator's page.
"""

from __future__ import annotations

from typing import Any

from wmcheck.watermark.core.registry import Registry

SERVING: Registry[Any] = Registry(
    "serving adapter",
    {
        "llama_cpp": "wmcheck.watermark.serving.llama_cpp:WatermarkedLlama",
        "onnxruntime_genai": "wmcheck.watermark.serving.onnxruntime_genai:WatermarkedGenerator",
        "sglang": "wmcheck.watermark.serving.sglang:WatermarkLogitProcessor",
        "transformers": "wmcheck.watermark.serving.transformers:WatermarkConfig",
        "vllm": "wmcheck.watermark.serving.vllm:WatermarkLogitsProcessor",
    },
    entry_points="wmcheck.serving",
)
