"""Claim: a model fine-tuned on watermarked text is radioactive, and found at a share of 5% where it can be read.

    python paper_repro/sander_radioactivity.py [--work DIR] [--out FILE]

Source: Sander et al. 2024, "Watermarking makes language models radioactive" (KGW, delta 3, two tokens of context; Llama-2-7B
fine-tuned on Self-Instruct): with an open model p < 1e-5 when 5% of the training text is watermarked, while the closed model
needs the provider's logs as a filter; p falls with the share, and is uniform under other keys and for models without marked text.

Here: the bundled model as teacher (gamma .5 and not .25), students of 0.28 million parameters fine-tuned from a base that knows
unmarked text, on 1,024 texts of 64 tokens, as in ``radioactive_students``. "Reading" is the paper's test: the likeliest token
after each window of the marked training text, with the exact law of independent terms. "Proven" is the package's test of the
same: it needs no independence of terms, leaves out windows that their text had before, and has a larger p. "Contrast" is an open
test on unmarked text: each window weighted by the root of its frequency in unmarked text, less what the base says.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from claim import Check, at_least, at_most, finish, options
from transformers import LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parent / "radioactive_students"))
from grid import Mark, seed_of
from judge import TOKENS, Judge, documents
from pools import PLAIN_SAMPLES, SAMPLES, Pools
from pupils import TUNING_RATE, School, train, write

from wmcheck.watermark.radioactivity import (
    Collected,
    ContextFilter,
    Radioactivity,
    collect,
    contrast_test,
    reading_test,
    sampled_items,
    sampled_test,
    weighted_test,
    with_decoys,
)

SHARES = (0, 5, 30, 100)
USUAL = 2000


class Case:
    """One mark, its students and what is read from them."""

    def __init__(self, folder: Path, seed: int, epochs: int) -> None:
        self.school = School(Pools(folder))
        self.pools, self.mark, self.epochs = self.school.pools, Mark("redgreen", 2, 1000 + seed), epochs
        self.judge = Judge(self.school)
        self.profile, self.key = self.mark.profile(self.pools.tokenizer), self.mark.key()
        # The marked texts that every student with a share has seen.
        self.logs = documents(self.pools.marked(self.mark)[: round(SAMPLES * 0.05)], SAMPLES * TOKENS)
        self.base = self.judge.frequent(collect(self.school.base(self.mark.seed, other=False), self.judge.neutral, self.profile))
        # The filters: all windows of the logs, and the usual windows of unmarked text.
        self.logged = ContextFilter.from_documents(self.logs, self.profile)
        plain = documents(self.pools.plain(), PLAIN_SAMPLES * TOKENS)
        self.usual = ContextFilter.from_documents(plain, self.profile, marked=False, top=USUAL)

    def student(self, share: int) -> LlamaForCausalLM:
        """Fine-tuned on so many percent of marked text, and unmarked text for the rest."""
        rng = np.random.default_rng(seed_of("sander", share, self.mark.seed))
        count = round(SAMPLES * share / 100)
        plain = self.pools.plain()[rng.permutation(PLAIN_SAMPLES)[: SAMPLES - count]]
        rows = np.concatenate([self.pools.marked(self.mark)[:count], plain])
        model = self.school.base(self.mark.seed, other=False)
        train(model, list(rows), epochs=self.epochs, rate=TUNING_RATE, seed=seed_of("sander order", share, self.mark.seed))
        return model.eval()

    def read(self, model: LlamaForCausalLM, share: int) -> dict[str, Collected]:
        """What the tests of one student look at."""
        return {
            "reading": collect(model, self.logs, self.profile),
            "reading, proven": collect(model, self.logs, self.profile, text="marked"),
            "contrast": self.judge.frequent(collect(model, self.judge.neutral, self.profile)),
            "closed": sampled_items(documents(write(model, f"sander {share}"), TOKENS), self.profile),
        }

    def tests(self, held: dict[str, Collected]) -> dict[str, Radioactivity]:
        """Every test of one student."""
        found = {name: reading_test(held[name], self.profile, self.key) for name in ("reading", "reading, proven")}
        found["weighted, proven"] = weighted_test(held["reading, proven"], self.profile, self.key)
        found["contrast"] = contrast_test(held["contrast"], self.base, self.profile, self.key)
        found["closed"] = sampled_test(held["closed"], self.profile, self.key)
        found["closed, logs"] = sampled_test(self.logged.apply(held["closed"]), self.profile, self.key)
        found["closed, usual windows"] = sampled_test(self.usual.apply(held["closed"]), self.profile, self.key)
        return found


def decoy_checks(case: Case, held: dict[str, Collected], tests: dict[str, Radioactivity], count: int) -> list[Check]:
    """Random keys on the most radioactive student."""
    checks = []
    for name in ("reading", "closed"):
        found = with_decoys(tests[name], held[name], case.profile, count=count).decoys or {}
        slack = 3 * np.sqrt(0.05 * 0.95 / count)
        checks.append(at_most(f"{name}, share 100%: p <= .05 under {count} wrong keys", 0.05 + slack, found["share_05"]))
    return checks


def main() -> int:
    parser = options(__doc__, epochs=10, decoys=1000)
    parser.add_argument("--work", type=Path, help="keep texts and base here (default: made anew, and dropped)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        case = Case(args.work or Path(scratch), args.seed, args.epochs)
        held: dict[int, dict[str, Collected]] = {}
        tests: dict[int, dict[str, Radioactivity]] = {}
        for share in SHARES:
            held[share] = case.read(case.student(share), share)
            tests[share] = case.tests(held[share])
        shown = {share: {name: one.log10_p for name, one in found.items()} for share, found in tests.items()}
        five, most = shown[5], shown[100]
        gain = tests[100]["closed, usual windows"].excess / tests[100]["closed"].excess
        checks = [
            at_most("open, reading, training text, share 5%: log10 p", -5.0, five["reading"]),
            at_most("the same, proven: log10 p", -5.0, five["reading, proven"]),
            at_most("open, weighted, training text, share 5%, proven: log10 p", -5.0, five["weighted, proven"]),
            at_least("closed, no filter, share 5%: log10 p (not found)", -3.0, five["closed"]),
            at_most("closed, filter of the logs, share 5%: log10 p", -5.0, five["closed, logs"]),
            at_least("closed, share 100%: excess in usual windows over that in all", 1.0, gain),
            at_most("dose, contrast: log10 p at 30% less that at 5%", 0.0, shown[30]["contrast"] - five["contrast"]),
            at_most("dose, contrast: log10 p at 100% less that at 30%", 0.0, most["contrast"] - shown[30]["contrast"]),
            at_least("never marked: smallest log10 p of all tests", -2.0, min(shown[0].values())),
            *decoy_checks(case, held[100], tests[100], args.decoys),
        ]
    table = ["| share | " + " | ".join(most) + " |", "|" + "---|" * (1 + len(most))]
    for share, found in tests.items():
        cells = [f"{one.log10_p:.1f} (z {one.z:.1f}, n {one.n_contexts})" for one in found.values()]
        table.append(f"| {share}% | {' | '.join(cells)} |")
    return finish(args, __doc__, checks, ["log10 p of every student (z, number of windows):", "", *table])


if __name__ == "__main__":
    sys.exit(main())
