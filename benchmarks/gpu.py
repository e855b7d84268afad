"""One decoding step of every scheme on a GPU beside its limits and the peers: milliseconds and ratios.

    python benchmarks/gpu.py --out benchmarks/results/gpu.md

Says so and exits with 2 where there is no CUDA device. Before anything is timed, the kernels must have the bits of the CPU.

Times are medians of CUDA events around a step that was queued while the device was busy: what the device does, not the
host. The decode step stands for an 8B model (the weight shapes of Llama-3-8B in bfloat16: 32 layers of four matrix products,
one product with the vocabulary, and one read of as much memory as the keys and values of ``--context`` tokens a row). One
layer's weights are used 32 times: they are several times larger than any cache. What a step must cost at least is counted in
``docs/prf.md``, section 8.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from wmcheck.watermark import SecretKey
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.rows import RowKeys, mark_rows
from wmcheck.watermark.scheme import make_scheme

Step = Callable[[torch.Tensor, torch.Tensor], object]
OURS: dict[str, tuple[str, dict[str, object], int]] = {
    "redgreen left h=2": ("redgreen", {"width": 2}, 0),
    "redgreen min h=4": ("redgreen", {"width": 4, "rule": "min"}, 0),
    "redgreen self h=4": ("redgreen", {"width": 4, "rule": "self"}, 0),
    "gumbel h=4": ("gumbel", {"width": 4}, 0),
    "gumbel h=4, top-k 100": ("gumbel", {"width": 4}, 100),
    "tournament h=4 m=30": ("tournament", {"width": 4}, 0),
    "tournament h=4 m=30, top-k 100": ("tournament", {"width": 4}, 100),
    "reweight h=4": ("reweight", {"width": 4}, 0),
}
SYNTHID_KEYS = list(range(1001, 1031))
HIDDEN, LAYERS, FEED, KEY_VALUE = 4096, 32, 14336, 2 * 8 * 128


def top_k(logits: torch.Tensor, count: int) -> torch.Tensor:
    """``logits`` with all but the ``count`` largest of each row at ``-inf``."""
    values, places = logits.topk(count, 1)
    return torch.full_like(logits, -torch.inf).scatter_(1, places, values)


def functions(scheme: str, parameters: dict[str, object], batch: int) -> list[PrfKey]:
    """One keyed function a row."""
    root, label = SecretKey.new(), make_scheme(scheme, parameters).label()
    return [PrfKey.derive(root.tenant(str(row)), label) for row in range(batch)]


def check_bits(device: torch.device) -> None:
    """The kernels against the CPU at vocabularies that end inside a tile; raises ``AssertionError``."""
    for name, (scheme, parameters, few) in OURS.items():
        one, keys = make_scheme(scheme, parameters), functions(scheme, parameters, 3)
        for vocabulary in (1003, 32_000, 128_256):
            logits = torch.randn(3, vocabulary) * 3
            logits = top_k(logits, few) if few else logits
            windows, moved = torch.randint(0, vocabulary, (3, one.width)), logits.to(device)
            expected = one.transform(windows, logits, RowKeys(keys))
            mark_rows(one, windows.to(device), moved, RowKeys(keys, device))
            found = moved.cpu()
            if scheme in ("redgreen", "gumbel"):
                assert torch.equal(found, expected), f"{name}, V = {vocabulary}: the kernels differ from the CPU"
            wrong = (found.double().softmax(1) - expected.double().softmax(1)).abs().max().item()
            assert wrong < 1e-6, f"{name}, V = {vocabulary}: the laws differ by {wrong}"
    print("bits: the kernels agree with the CPU\n")


def peers(batch: int, vocabulary: int, device: torch.device) -> dict[str, Step]:
    """transformers' own processors; they get the whole history."""
    from transformers import SynthIDTextWatermarkLogitsProcessor, WatermarkLogitsProcessor

    left = WatermarkLogitsProcessor(vocabulary, str(device), seeding_scheme="lefthash", hashing_key=77777777)
    synthid = SynthIDTextWatermarkLogitsProcessor(
        ngram_len=5, keys=SYNTHID_KEYS, sampling_table_size=2**16, sampling_table_seed=0, context_history_size=1024, device=device
    )
    return {"transformers lefthash": left, "transformers SynthID m=30": synthid}


def limits() -> dict[str, Step]:
    """What any change of the logits, and what sampling alone, costs."""
    return {
        "memory pass (add)": lambda _, logits: logits + 1.0,
        "softmax + multinomial": lambda _, logits: torch.multinomial(torch.softmax(logits.float(), -1), 1),
    }


def ours(name: str, batch: int, device: torch.device) -> Step:
    """One scheme as serving calls it: keyed functions of this step's rows, then their rows in place."""
    scheme, parameters, _ = OURS[name]
    one, prfs = make_scheme(scheme, parameters), functions(scheme, parameters, batch)
    rows = torch.arange(batch, device=device)

    def step(ids: torch.Tensor, logits: torch.Tensor) -> None:
        mark_rows(one, ids[:, ids.shape[1] - one.width :], logits, RowKeys(prfs, device), rows)

    return step


def decode_step(batch: int, vocabulary: int, context: int, device: torch.device) -> Step:
    """The matrix products and the memory traffic of a step of an 8B model."""
    made = {"dtype": torch.bfloat16, "device": device}
    layer = [torch.randn(a, b, **made) for a, b in (
        (HIDDEN, HIDDEN + KEY_VALUE), (HIDDEN, HIDDEN), (HIDDEN, 2 * FEED), (FEED, HIDDEN)
    )]
    head, state = torch.randn(HIDDEN, vocabulary, **made), torch.randn(batch, HIDDEN, **made)
    wide = torch.randn(batch, FEED, **made)
    cache = torch.ones(batch * context * KEY_VALUE // 2, dtype=torch.int32, device=device)

    def step(ids: torch.Tensor, logits: torch.Tensor) -> None:
        for _ in range(LAYERS):
            for weights in layer:
                torch.mm(wide if weights.shape[0] == FEED else state, weights)
            cache.amax()
        torch.mm(state, head)

    return step


def milliseconds(step: Step, base: torch.Tensor, rounds: int) -> float:
    """Median time of a step, with fresh ids each time; NaN where memory does not suffice."""
    logits, times = torch.empty_like(base), []
    many = torch.randint(1, 30_000, (rounds + 3, base.shape[0], 64), device=base.device)
    try:
        for turn in range(rounds + 3):
            logits.copy_(base)
            # So that the host, which needs longer for a launch than the device for a small kernel, is ahead of it.
            torch.cuda._sleep(4_000_000)
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            step(many[turn], logits)
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
    except torch.cuda.OutOfMemoryError:
        return float("nan")
    return statistics.median(times[3:])


def table(batch: int, vocabulary: int, args: argparse.Namespace, device: torch.device) -> str:
    """One Markdown table."""
    base = (torch.randn(batch, vocabulary, device=device) * 3).to(getattr(torch, args.dtype))
    few = top_k(base, 100)
    times = {"8B-shaped decode step": milliseconds(decode_step(batch, vocabulary, args.context, device), base, args.rounds)}
    times |= {name: milliseconds(step, base, args.rounds) for name, step in limits().items()}
    if not args.fast:
        times |= {name: milliseconds(step, base, 3) for name, step in peers(batch, vocabulary, device).items()}
    for name, (_, _, count) in OURS.items():
        times[name] = milliseconds(ours(name, batch, device), few if count else base, args.rounds)
    whole, add = times["8B-shaped decode step"], times["memory pass (add)"]
    lines = [f"| {name} | {t:.3f} | {t / add:.1f} | {100 * t / whole:.2f}% |" for name, t in times.items()]
    head = f"\n## Batch {batch}, V = {vocabulary}\n\n| step | ms (median) | / memory pass | of the decode step |\n"
    return head + "|---|---|---|---|\n" + "\n".join(lines) + "\n"


def main() -> int:
    """Check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 8, 1])
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[32_000, 128_256, 151_936, 262_144])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--context", type=int, default=1024, help="tokens a row whose keys and values the decode step reads")
    parser.add_argument("--fast", action="store_true", help="leave out the peers")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu.py: no CUDA device: nothing was measured", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    check_bits(device)
    text = (
        f"`python benchmarks/gpu.py --rounds {args.rounds} --context {args.context}`: {torch.cuda.get_device_name(device)}, "
        f"logits {args.dtype}, a key for each row, torch {torch.__version__}.\n"
    )
    print(text)
    for batch in args.batch:
        for vocabulary in args.vocabulary:
            part = table(batch, vocabulary, args, device)
            print(part, flush=True)
            text += part
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
