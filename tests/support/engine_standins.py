"""Stand-ins for modules of vLLM, so that its adapter is tested where vLLM is not installed. The real one: tests/engines."""

import sys
import types
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum, auto


class MoveDirectionality(Enum):
    UNIDIRECTIONAL = auto()
    SWAP = auto()


@dataclass(frozen=True)
class BatchUpdate:
    batch_size: int
    removed: list = field(default_factory=list)
    added: list = field(default_factory=list)
    moved: list = field(default_factory=list)


class V1Processor(ABC):
    @abstractmethod
    def apply(self, logits): ...

    @abstractmethod
    def is_argmax_invariant(self): ...

    @abstractmethod
    def update_state(self, batch_update): ...


class V2Processor(ABC):
    @abstractmethod
    def apply(self, logits, ctx): ...


@dataclass
class SamplingParams:
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    extra_args: dict | None = None


def install_vllm(monkeypatch):
    """Put the stand-ins where ``import vllm`` finds them, and import our adapter anew over them."""
    vllm = types.ModuleType("vllm")
    vllm.__version__, vllm.SamplingParams, vllm.__path__ = "0.0-standin", SamplingParams, []
    first = types.ModuleType("vllm.v1.sample.logits_processor.interface")
    first.LogitsProcessor, first.BatchUpdate, first.MoveDirectionality = V1Processor, BatchUpdate, MoveDirectionality
    second = types.ModuleType("vllm.v1.worker.gpu.sample.logits_processor.interface")
    second.LogitsProcessor = V2Processor
    made = {"vllm": vllm, first.__name__: first, second.__name__: second}
    for name in list(made):
        parts = name.split(".")
        for end in range(1, len(parts)):
            parent = ".".join(parts[:end])
            if parent not in made:
                made[parent] = types.ModuleType(parent)
                made[parent].__path__ = []
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("vllm", "vllm_v1", "vllm_v2"):
        monkeypatch.delitem(sys.modules, f"wmcheck.watermark.serving.{name}", raising=False)
    from importlib import import_module

    adapter = import_module("wmcheck.watermark.serving.vllm")
    for name in ("vllm", "vllm_v1", "vllm_v2"):
        # What is imported over stand-ins must not outlive the test.
        module = import_module(f"wmcheck.watermark.serving.{name}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return adapter


def vllm_config(model, *, flags=(), ahead=False, vocabulary=1024, **more):
    """What the adapter reads of vLLM's configuration."""

    class Config(types.SimpleNamespace):
        pass

    inner = types.SimpleNamespace(
        logits_processors=list(flags), tokenizer=model, skip_tokenizer_init=False, get_vocab_size=lambda: vocabulary
    )
    scheduler = types.SimpleNamespace(async_scheduling=ahead)
    return Config(model_config=inner, scheduler_config=scheduler, **{"watermark_config": None, **more})
