"""Detection speed: ids to p-values, many keys on one document, and the command line on 10,000 records.

    python benchmarks/detection.py --out benchmarks/results/detection.md

The peer of the first table is transformers' WatermarkDetector (lefthash) on a small share of the same ids.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wmcheck.watermark import Candidate, Detector, Document, Profile, SecretKey, load_tokenizer
from wmcheck.watermark.bundled import DEFAULT_MODEL
from wmcheck.watermark.core.readers import read_records
from wmcheck.watermark.detect import scan_keys
from wmcheck.watermark.scheme import SCHEMES
from wmcheck.watermark.screen import BATCH_RECORDS, Screen

ROUNDS = 5
TOKENS = 1_000_000
VOCABULARY = 50_257
PEER_TOKENS = 2_000


def seconds(step: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median wall seconds."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def cores(key: SecretKey) -> list[str]:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, VOCABULARY, TOKENS)
    shapes = {"one document": [Document(ids)], "5,000 x 200": [Document(part) for part in ids.reshape(-1, 200)]}
    lines = ["| scheme | documents | M tokens/s |", "|---|---|---|"]
    for scheme in SCHEMES:
        for shape, documents in shapes.items():
            detector = Detector([Candidate.of(Profile.create(scheme), key, "a")], corpus=False)
            spent = seconds(lambda d=detector, x=documents: in_batches(d, x))
            lines.append(f"| {scheme} | {shape} | {TOKENS / spent / 1e6:.1f} |")
    lines.append(f"| transformers lefthash | one of {PEER_TOKENS:,} ids | {peer(ids) / 1e6:.5f} |")
    return lines


def in_batches(detector: Detector, documents: list[Document]) -> None:
    """As many documents at a time as the command line takes."""
    for start in range(0, len(documents), BATCH_RECORDS):
        detector.test(documents[start : start + BATCH_RECORDS])


def peer(ids: np.ndarray) -> float:
    import torch
    from transformers import PretrainedConfig, WatermarkDetector, WatermarkingConfig

    config = PretrainedConfig(vocab_size=VOCABULARY, bos_token_id=VOCABULARY - 1)
    detector = WatermarkDetector(config, "cpu", WatermarkingConfig(hashing_key=77777777))
    row = torch.from_numpy(ids[:PEER_TOKENS])[None]
    return PEER_TOKENS / seconds(lambda: detector(row), 1)


def many_keys(key: SecretKey, count: int) -> list[str]:
    document = Document(np.random.default_rng(1).integers(0, VOCABULARY, 500))
    keys = [key.tenant(f"account {i}") for i in range(count)]
    lines = ["| scheme | keys | tokens | seconds |", "|---|---|---|---|"]
    for scheme in SCHEMES:
        profile = Profile.create(scheme)
        spent = seconds(lambda p=profile: scan_keys(document, p, keys), 3)
        lines.append(f"| {scheme} | {count:,} | 500 | {spent:.2f} |")
    return lines


def command_line(key: SecretKey) -> list[str]:
    from wmcheck.watermark.key_sources import write_key_file

    tokenizer = load_tokenizer(DEFAULT_MODEL)
    rng = np.random.default_rng(2)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_key_file(key, str(home / "k.wmk"))
        Profile.create("gumbel", tokenizer=tokenizer).save(home / "p.json")
        texts = [tokenizer.decode(row) for row in rng.integers(256, 1024, (10_000, 200))]
        rows = [json.dumps({"id": str(place), "text": text}) for place, text in enumerate(texts)]
        (home / "s.jsonl").write_text("\n".join(rows) + "\n")
        command = [sys.executable, "-m", "wmcheck.cli.main"]
        check = [*command, str(home / "s.jsonl"), "-p", str(home / "p.json"), "--key", f"file:{home / 'k.wmk'}", "-q"]
        quiet = {"stdout": subprocess.DEVNULL, "env": os.environ}
        helped = seconds(lambda: subprocess.run([*command, "--help"], check=True, **quiet))
        whole = seconds(lambda: subprocess.run([*check, "--format", "jsonl"], check=True, **quiet), 3)
        screen = Screen([Candidate.of(Profile.load(home / "p.json"), key)], on_error=lambda error: None)
        started = time.perf_counter()
        count = sum(1 for _ in screen.run(read_records(str(home / "s.jsonl"))))
        inside = time.perf_counter() - started
    return [
        "| what | measured |", "|---|---|", f"| `wmcheck --help` | {helped:.2f} s |",
        f"| `wmcheck` on {count:,} records of about 200 tokens, start-up included | {whole:.2f} s, "
        f"{count / whole:,.0f} records/s |",
        f"| of the screening itself ({inside:.2f} s): tokenizer | {screen.seconds_encoding / inside:.0%} |",
        f"| of the screening itself: ids to results | {screen.seconds_testing / inside:.0%} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=24_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    key = SecretKey.new()
    head = f"`python benchmarks/detection.py`: medians, one process, {platform.machine()}, numpy {np.__version__}."
    sections = [[head], cores(key), many_keys(key, args.keys), command_line(key)]
    text = "\n\n".join("\n".join(section) for section in sections) + "\n"
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)


if __name__ == "__main__":
    main()
