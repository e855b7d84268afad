"""Tokens a second of vLLM with and without the watermark, in one engine, in turn.

    python benchmarks/throughput.py --out benchmarks/results/throughput.md      # where vLLM is, see tests/engines/run

A model with random weights in the shape that is named; the tokens are token ids, no tokenizer takes part. Each round
generates the same number of tokens three times: no request marked, all under keys of their own, all under one. The engine
has the processor in all three, so ``--plain`` runs it in a further engine without wmcheck. Ratios are taken within a round;
the share of the time that passes inside the processor is steadier than they are.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

# Parameters of the embedding are counted: 0.3 B and 1.1 B at V = 128,256.
SHAPES = {
    "tiny": (128, 352, 2, 2, 4096), "0.3B": (1024, 2816, 12, 16, 128_256), "1B": (2048, 5632, 16, 32, 128_256),
}
FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def make_model(folder: Path, shape: str) -> None:
    """Random weights, tied embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = dict(zip(FIELDS, SHAPES[shape], strict=True))
    config = LlamaConfig(**sizes, tie_word_embeddings=True, max_position_embeddings=1024, eos_token_id=0, bos_token_id=1)
    LlamaForCausalLM(config).save_pretrained(folder)


def deploy(folder: Path, scheme: str) -> None:
    """A serving file for any model, named by the environment."""
    from wmcheck.watermark import Profile, SecretKey
    from wmcheck.watermark.key_sources import write_key_file

    key_file = folder / "lab.wmk"
    if not key_file.exists():
        write_key_file(SecretKey.new(), str(key_file))
    Profile.create(scheme).save(folder / "p.json")
    text = 'schema = "wmcheck.serving/1"\nprofile = "p.json"\nkey = "file:lab.wmk"\nopt_out = true\nstate = "state"\n'
    (folder / "serving.toml").write_text(text, "utf-8")
    os.environ["WMCHECK_SERVING"] = str(folder / "serving.toml")


def watched(spent: list[float]) -> None:
    """Add the time inside the processor to ``spent``."""
    from wmcheck.watermark.serving.vllm import WatermarkLogitsProcessor as Processor

    for name in ("apply", "update_state"):
        inner = getattr(Processor, name)

        def timed(self: object, *args: object, inner: Any = inner) -> object:
            started = time.perf_counter()
            found = inner(self, *args)
            spent[0] += time.perf_counter() - started
            return found

        setattr(Processor, name, timed)


def measure(model: Path, batch: int, tokens: int, rounds: int, *, marked: bool) -> dict[str, list[tuple[float, float]]]:
    """Tokens a second of each way in each round, and the share of the time inside the processor."""
    spent = [0.0]
    if marked:
        watched(spent)
    from vllm import LLM, SamplingParams

    engine = LLM(
        str(model), skip_tokenizer_init=True, enforce_eager=True, dtype="float32", max_model_len=512, max_num_seqs=batch,
        disable_log_stats=True, enable_prefix_caching=False,
    )
    ways = {"without wmcheck": [{}] * batch}
    if marked:
        ways = {"no request marked": [{"wmcheck_tenant": "a", "wmcheck_opt_out": True}] * batch}
        ways["all marked, a key each"] = [{"wmcheck_tenant": f"t{row}"} for row in range(batch)]
        ways["all marked, one key"] = [{"wmcheck_tenant": "a"}] * batch
    prompts = [{"prompt_token_ids": [(7 * row + place) % 4000 + 2 for place in range(4)]} for row in range(batch)]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, extra in ways.items():
            settings = {"max_tokens": tokens, "ignore_eos": True, "detokenize": False}
            params = [SamplingParams(**settings, extra_args=one or None) for one in extra]
            spent[0], started = 0.0, time.perf_counter()
            engine.generate(prompts, params, use_tqdm=False)
            if turn:
                # The first round warms up.
                seconds = time.perf_counter() - started
                found[name].append((batch * tokens / seconds, spent[0] / seconds))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="0.3B")
    parser.add_argument("--schemes", nargs="+", default=["redgreen", "gumbel"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--plain", action="store_true", help="also an engine without wmcheck, in a process of its own")
    parser.add_argument("--append", action="store_true", help="add rows to --out")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ.update({"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"})
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    os.environ.pop("WMCHECK_SERVING", None)
    import multiprocessing

    spawn = multiprocessing.get_context("spawn")
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model", args.shape)
        for scheme in (*args.schemes, *([""] if args.plain else [])):
            if scheme:
                deploy(folder, scheme)
            else:
                os.environ.pop("WMCHECK_SERVING", None)
            with spawn.Pool(1) as pool:
                found = pool.apply(measure, (folder / "model", args.batch, args.tokens, args.rounds), {"marked": bool(scheme)})
            base = next(iter(found.values()))
            for way, values in found.items():
                ratio = statistics.median(value / other for (value, _), (other, _) in zip(values, base, strict=True))
                speed, share = (statistics.median(column) for column in zip(*values, strict=True))
                lines.append(
                    f"| {args.shape} | {args.tokens} | {scheme or '-'} | {way} | {speed:.1f} | {ratio:.3f} | {share:.2%} |\n"
                )
                print(lines[-1], end="", flush=True)
    from importlib.metadata import version

    import torch

    head = (
        f"`python benchmarks/throughput.py`: vLLM {version('vllm-cpu')} (CPU build), Model Runner V1, torch {torch.__version__}, "
        f"{platform.machine()}, {torch.get_num_threads()} threads, float32, batch {args.batch}, "
        f"medians of {args.rounds} rounds.\n\n"
        "| shape | tokens a request | scheme | requests | tokens/s | / first of the engine | time in the processor |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    if args.out:
        known = args.out.read_text("utf-8") if args.append and args.out.exists() else head
        args.out.write_text(known + "".join(lines), "utf-8")


if __name__ == "__main__":
    main()
