"""Test every student that is made: a row a student, appended as it is found; a run that was stopped goes on where it was.

    python paper_repro/radioactive_students/judge.py --out DIR

Open model: the probability-weighted test and the reading mode on 10,240 tokens of neutral text, and on the student's own text.
Closed model: 10,240 tokens that the student wrote. Both also on a tenth. Students of another tokenizer are read where both
tokenizations have a boundary, and their text is encoded again. ``contrast`` takes off what a base of the same tokenizer says that
never saw a mark; ``frequent`` weights each context by the root of its frequency in unmarked text. Each student is also tested
under a wrong key and under decoys; controls under every key of their seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from grid import KINDS, Mark, Pupil, everything, marks
from pools import Pools
from pupils import School
from transformers import LlamaForCausalLM

from wmcheck.watermark.keys import TenantKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.radioactivity import (
    Collected,
    Radioactivity,
    collect,
    collect_aligned,
    contrast_test,
    marked_excess,
    reading_test,
    sampled_items,
    sampled_test,
    weighted_test,
    with_decoys,
)
from wmcheck.watermark.windows import Document, hash64

TOKENS, TENTH = 10_240, 1_024
DECOYS, MANY_DECOYS = 50, 1000
LOGGED = 256
# A context that unmarked text does not have counts as this often.
NEVER = 0.1
# Tests that are also made under a wrong key.
WRONG = ("weighted", "sampled", "reading", "contrast", "frequent contrast")
DECOY_FIELDS = ("count", "log10_p_rank", "z_mean", "z_variance", "share_05", "share_01")


@dataclass(frozen=True)
class Reading:
    """What each test of a student reads, and what each contrast takes off. Neither depends on a key."""

    read: dict[str, Collected]
    base: dict[str, Collected]

    def test(self, name: str, profile: Profile, key: TenantKey) -> Radioactivity:
        """One test under a key."""
        if name in self.base:
            return contrast_test(self.read[name], self.base[name], profile, key)
        kinds = {"sampled": sampled_test, "reading": reading_test}
        return kinds.get(name.split()[0], weighted_test)(self.read[name], profile, key)


class Judge:
    """Reads students once and tests what was read under keys."""

    def __init__(self, school: School) -> None:
        self.school, self.pools = school, school.pools
        self._excess: dict[str, dict[str, float]] = {}
        self._read: dict[tuple[str, int], Reading] = {}
        self._counts: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._bases: dict[tuple[int, bool, int], Collected] = {}

    def rows(self, pupil: Pupil) -> Iterator[dict[str, Any]]:
        """The row of a student, or the rows of a control: one a key."""
        model = self.school.load(pupil)
        self._read = {}
        for mark in [pupil.mark] if pupil.mark else marks(pupil.seed):
            yield self._row(pupil, mark, model)

    def _row(self, pupil: Pupil, mark: Mark, model: LlamaForCausalLM) -> dict[str, Any]:
        profile, key = mark.profile(self.pools.tokenizer), mark.key()
        held = self.held(pupil, model, profile)
        wrong = Mark(mark.scheme, mark.width, mark.seed + 100).key()
        row: dict[str, Any] = {
            "student": pupil.name, "scheme": mark.scheme, "h": mark.width, "share": pupil.share, "kind": pupil.kind,
            "seed": pupil.seed, "aligned": round(held.read["weighted"].aligned, 4),
        }
        tests = {name: held.test(name, profile, key) for name in held.read}
        row["tests"] = {name: short(one) for name, one in tests.items()}
        row["wrong"] = {name: round(held.test(name, profile, wrong).log10_p, 3) for name in WRONG}
        count = MANY_DECOYS if not pupil.mark and pupil.kind == KINDS[0] else DECOYS
        row["decoys"] = {}
        for name in ("weighted 1k", "sampled 1k"):
            found = with_decoys(tests[name], held.read[name], profile, count=count, seed=pupil.seed).decoys or {}
            row["decoys"][name] = {field: round(found[field], 4) for field in DECOY_FIELDS}
        if pupil.mark:
            row["marked"] = self._marked(mark, profile)
        return row

    def held(self, pupil: Pupil, model: LlamaForCausalLM, profile: Profile) -> Reading:
        """What each test reads; controls, which are tested under many keys, read once for each width."""
        place = (pupil.name, profile.scheme.width)
        if place not in self._read:
            written = self.written(pupil)
            reads = {"weighted": self.neutral, "weighted 1k": upto(self.neutral, TENTH), "weighted own": written}
            held = {name: self._collected(pupil, model, profile, texts) for name, texts in reads.items()}
            held["reading"] = held["weighted"]
            held["sampled"], held["sampled 1k"] = (sampled_items(upto(written, size), profile) for size in (TOKENS, TENTH))
            held["contrast"] = held["weighted"]
            held["frequent"] = held["frequent contrast"] = self.frequent(held["weighted"])
            base = self.base(pupil, profile)
            self._read[place] = Reading(held, {"contrast": base, "frequent contrast": self.frequent(base)})
        return self._read[place]

    def base(self, pupil: Pupil, profile: Profile) -> Collected:
        """The base of the student's tokenizer on the neutral text: what tuned students come from, a stranger to fresh ones."""
        place = (pupil.seed, pupil.other, profile.scheme.width)
        if place not in self._bases:
            model = self.school.base(pupil.seed, other=pupil.other).eval()
            self._bases[place] = self._collected(pupil, model, profile, self.neutral)
        return self._bases[place]

    @cached_property
    def neutral(self) -> list[Document]:
        """Text without a mark that nobody is trained on."""
        return documents(self.pools.neutral(), TOKENS)

    def frequent(self, read: Collected) -> Collected:
        """Each context also weighted by the root of how often unmarked text has it: the text has not seen the key."""
        width = read.windows.shape[1]
        if width not in self._counts:
            texts = self.pools.plain().astype(np.uint32)
            windows = np.lib.stride_tricks.sliding_window_view(texts, width, axis=1).reshape(-1, width)
            self._counts[width] = np.unique(hash64(windows), return_counts=True)
        (codes, counts), asked = self._counts[width], hash64(read.windows)
        place = np.minimum(np.searchsorted(codes, asked), len(codes) - 1)
        times = np.where(codes[place] == asked, counts[place], 0)
        root = np.sqrt((times + NEVER) / (counts.max() + NEVER))
        return replace(read, weights=read.weights * root[read.owner])

    def _collected(
        self, pupil: Pupil, model: LlamaForCausalLM, profile: Profile, texts: Sequence[Document]
    ) -> Collected:
        if not pupil.other:
            return collect(model, texts, profile, batch_size=32)
        decoded = [self.pools.tokenizer.decode(text.ids.tolist()) for text in texts]
        return collect_aligned(
            model, decoded, profile, self.pools.tokenizer, suspect_tokenizer=self.pools.own_tokenizer, batch_size=32
        )

    def written(self, pupil: Pupil) -> list[Document]:
        """What the student wrote, in the profile's ids."""
        rows = np.load(self.school.folder / "pupils" / f"{pupil.name}.written.npy")
        if pupil.other:
            rows = self.pools.tokenizer.encode([self.pools.own_tokenizer.decode(row) for row in rows.tolist()])
        return documents(rows, TOKENS)

    def _marked(self, mark: Mark, profile: Profile) -> dict[str, float]:
        if mark.name not in self._excess:
            texts = [Document(row) for row in self.pools.marked(mark).astype(np.int64)[:LOGGED]]
            found = marked_excess(texts, profile, mark.key())
            self._excess[mark.name] = {"excess": round(found.mean, 5), "se": round(found.se, 5)}
        return self._excess[mark.name]


def short(one: Radioactivity) -> dict[str, float]:
    """The figures of a result that the table needs."""
    return {
        "log10_p": round(one.log10_p, 3), "z": round(one.z, 3), "n": one.n_items, "contexts": one.n_contexts,
        "tokens": one.tokens_read, "total": float(f"{one.total:.5g}"), "excess": float(f"{one.excess:.4g}"),
        "se": float(f"{one.excess_se:.4g}"),
    }


def documents(rows: Sequence[np.ndarray] | np.ndarray, tokens: int) -> list[Document]:
    """Texts of so many tokens together, or of all there are."""
    return upto([Document(np.asarray(row, np.int64)) for row in rows], tokens)


def upto(texts: Sequence[Document], tokens: int) -> list[Document]:
    """The first texts, of at most ``tokens`` tokens together, the last one cut."""
    found: list[Document] = []
    for text in texts:
        if tokens <= 0:
            break
        found.append(Document(text.ids[:tokens]))
        tokens -= len(text.ids)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    school = School(Pools(args.out))
    judge, path = Judge(school), args.out / "rows.jsonl"
    done = {row["student"] for row in read_rows(path)}
    # Students before controls, which are tested under many keys.
    for pupil in sorted(everything(), key=lambda one: (one.seed, one.mark is None)):
        if pupil.name in done or not (args.out / "pupils" / f"{pupil.name}.written.npy").exists():
            continue
        lines = "".join(json.dumps(row) + "\n" for row in judge.rows(pupil))
        with path.open("a") as log:
            log.write(lines)
        print(pupil.name, flush=True)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; a last line that was cut off is cut away, so that its student is judged again."""
    if not path.exists():
        return []
    text = path.read_text("utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, "utf-8")
    return [json.loads(line) for line in whole.splitlines()]


if __name__ == "__main__":
    main()
