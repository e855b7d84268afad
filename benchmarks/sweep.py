"""Time of a sweep: 50 candidates, contracts and keys, over 1,000 records of 300 tokens of ordinary English.

    OMP_NUM_THREADS=1 python benchmarks/sweep.py --out benchmarks/results/sweep.md

Texts are Python's own help topics under the bundled tokenizer, at random places. Times are of the processor and of one thread.
The contracts have as many keys each as 50 allows, and the parameters of their first examples, with the tokenizer's size for a
vocabulary.
"""

from __future__ import annotations

import argparse
import platform
import pydoc_data.topics
import time
from pathlib import Path

import numpy as np

from wmcheck.watermark.bundled import DEFAULT_MODEL
from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.records import Record
from wmcheck.watermark.peer import PEERS
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.sweep import SweepScreen
from wmcheck.watermark.sweep_file import Entry
from wmcheck.watermark.tokenizer import TextTokenizer, load_tokenizer

CANDIDATES, RECORDS, TOKENS = 50, 1000, 300
ALPHA = 1e-5


def records(tokenizer: TextTokenizer, count: int) -> list[Record]:
    rng = np.random.default_rng(11)
    ids = np.concatenate(tokenizer.encode([text for _, text in sorted(pydoc_data.topics.topics.items())]))
    starts = rng.integers(0, len(ids) - TOKENS, count)
    return [Record(str(i), f"topics:{i + 1}", tokens=ids[start : start + TOKENS]) for i, start in enumerate(starts)]


def entries(tokenizer: TextTokenizer, names: list[str], count: int) -> list[Entry]:
    rng = np.random.default_rng(12)
    found = []
    for i in range(count):
        name = names[i % len(names)]
        parameters = PEERS[name].examples()[0]
        if "vocabulary" in parameters:
            parameters = {**parameters, "vocabulary": tokenizer.vocabulary}
        profile = Profile.create(name, parameters, tokenizer=tokenizer, special_ids=())
        found.append(Entry(Candidate.of(profile, profile.scheme.draw(rng)), "drawn"))  # type: ignore[attr-defined]
    return found


def sweep(tokenizer: TextTokenizer, names: list[str], candidates: int, count: int) -> list[str]:
    """Lines of a report: the whole, then each contract."""
    texts = records(tokenizer, count)
    started = time.process_time()
    tested = entries(tokenizer, names, candidates)
    for entry in tested:
        entry.candidate.prf  # noqa: B018  # keyed functions are made once
    made = time.process_time() - started
    dropped: list[str] = []
    screen = SweepScreen(
        tested, statistic="robust", on_error=lambda error: None, on_drop=lambda entry, _: dropped.append(entry.name), origin="",
    )
    started = time.process_time()
    for _ in screen.run(texts):
        pass
    outcome = screen.outcome("topics", ALPHA)
    whole = time.process_time() - started
    tokens = count * TOKENS
    found = sum(one.detected for one in outcome.records)
    lines = [
        f"{len(outcome.candidates)} candidates of {len(names)} contracts on {count:,} records of {TOKENS} tokens: {whole:.1f} s, "
        f"{candidates * tokens / whole / 1e6:.2f} M tokens x candidates a second; keyed functions {made:.1f} s more. "
        f"Dropped: {len(dropped)}. Detected at {ALPHA:g}: {found}.", "",
        "| contract | keys | seconds a key | share | M tokens/s |", "|---|---|---|---|---|",
    ]
    for name in names:
        rows = [row for row in outcome.candidates if row.entry.candidate.profile.scheme_name == name]
        spent = sum(row.seconds for row in rows)
        each = spent / max(len(rows), 1)
        lines.append(f"| {name} | {len(rows)} | {each:.3f} | {spent / whole:.1%} | {tokens / max(each, 1e-9) / 1e6:.2f} |")
    shared = whole - sum(row.seconds for row in outcome.candidates)
    return [*lines, f"| what candidates share, corpus, correction | | | {shared / whole:.1%} | |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--candidates", type=int, default=CANDIDATES)
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(DEFAULT_MODEL)
    lines = [
        f"`OMP_NUM_THREADS=1 python benchmarks/sweep.py`: processor time, {platform.machine()}, numpy {np.__version__}; bundled "
        f"tokenizer of {tokenizer.vocabulary:,} ids.", "",
        *sweep(tokenizer, [*PEERS], arguments.candidates, arguments.records),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
