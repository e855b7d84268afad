"""One decoding step of every scheme beside the peers, in one process: milliseconds and ratios.

    python benchmarks/generation.py --out benchmarks/results/generation.md

Each round runs everything in turn, once untimed and once timed (the peers that take seconds: timed only, two rounds). The
table gives the median over rounds of each time, and of its ratio to softmax + multinomial in the same round. Peers are
transformers' own processors.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from transformers import SynthIDTextWatermarkLogitsProcessor, WatermarkLogitsProcessor

from wmcheck.watermark import Profile, SecretKey, WatermarkProcessor

SYNTHID_KEYS = list(range(1001, 1031))
OURS: dict[str, tuple[str, dict[str, object]]] = {
    "redgreen left h=2": ("redgreen", {"width": 2}),
    "redgreen min h=4": ("redgreen", {"width": 4, "rule": "min"}),
    "redgreen self h=4": ("redgreen", {"width": 4, "rule": "self"}),
    "gumbel h=4": ("gumbel", {"width": 4}),
    "tournament h=4 m=30": ("tournament", {"width": 4}),
    "reweight h=4": ("reweight", {"width": 4}),
}


def steps(batch: int, vocabulary: int, *, slow: bool) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    many = torch.randint(1, vocabulary, (1000, batch, 64))
    turn = iter(range(10**9))

    def fresh() -> torch.Tensor:
        return many[next(turn) % 1000]

    logits = torch.randn(batch, vocabulary) * 3
    found: dict[str, Callable[[], object]] = {
        "memory pass (add)": lambda: logits + 1.0,
        "softmax + multinomial": lambda: torch.multinomial(torch.softmax(logits, -1), 1),
    }
    lefthash = WatermarkLogitsProcessor(vocabulary, "cpu", seeding_scheme="lefthash", hashing_key=77777777)
    found["transformers lefthash"] = lambda: lefthash(fresh(), logits)
    if slow:
        selfhash = WatermarkLogitsProcessor(
            vocabulary, "cpu", seeding_scheme="selfhash", context_width=4, hashing_key=77777777
        )
        found["transformers selfhash h=4"] = lambda: selfhash(fresh(), logits)

        def synthid() -> object:
            processor = SynthIDTextWatermarkLogitsProcessor(
                ngram_len=5, keys=SYNTHID_KEYS, sampling_table_size=2**16, sampling_table_seed=0,
                context_history_size=1024, device=torch.device("cpu"),
            )
            return processor(fresh(), logits)

        found["transformers SynthID m=30"] = synthid
    key = SecretKey.new()
    tenants = [key.tenant(str(row)) for row in range(batch)]
    for name, (scheme, parameters) in OURS.items():
        processor = WatermarkProcessor(Profile.create(scheme, parameters), tenants)
        found[name] = lambda processor=processor: processor(fresh(), logits)
    return found


def measure(todo: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in todo}
    heavy = {"transformers SynthID m=30", "transformers selfhash h=4"}
    for turn in range(rounds):
        for name, step in todo.items():
            if name in heavy and turn >= 2:
                continue
            if name not in heavy:
                # Once untimed, so that nobody pays for memory that the step before gave back to the system.
                step()
            started = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - started))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=128_256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--fast", action="store_true", help="leave out the peers that take seconds a step")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    times = measure(steps(args.batch, args.vocabulary, slow=not args.fast), args.rounds)
    base, lines = times["softmax + multinomial"], []
    for name, values in times.items():
        ratios = [value / other for value, other in zip(values, base, strict=False)]
        lines.append((name, statistics.median(values), statistics.median(ratios)))
    slower = {name: value for name, value, _ in lines}
    head = (
        f"`python benchmarks/generation.py --rounds {args.rounds} --threads {args.threads}`: batch {args.batch}, V = "
        f"{args.vocabulary}, a key for each row, {platform.machine()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}.\n\n| step | ms (median) | / softmax + multinomial | lefthash / this | SynthID / this |"
        "\n|---|---|---|---|---|\n"
    )
    body = "".join(
        f"| {name} | {value:.1f} | {ratio:.3f} | {_times(slower, 'transformers lefthash', value)} | "
        f"{_times(slower, 'transformers SynthID m=30', value)} |\n"
        for name, value, ratio in lines
    )
    print(head + body)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(head + body)


def _times(found: dict[str, float], peer: str, value: float) -> str:
    return f"{found[peer] / value:.1f}" if peer in found else "-"


if __name__ == "__main__":
    main()
