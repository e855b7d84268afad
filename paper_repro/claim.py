"""What the scripts of published claims share: options, the model, a table of expected and measured, and the exit code."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wmcheck.watermark.embed import STORY_PROMPTS, LanguageModel, Sampling, load_model
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.traffic import Traffic, sample_traffic

BUNDLED_MODEL = "bundled:stories2m"


@dataclass(frozen=True)
class Check:
    """One figure of a claim.

    Attributes:
        what: the figure.
        expected, measured: as printed.
        holds: measured is within tolerance of what is expected.
    """

    what: str
    expected: str
    measured: str
    holds: bool


def within(what: str, expected: float, measured: float, tolerance: float) -> Check:
    """Measured lies within ``tolerance`` of expected."""
    return Check(what, f"{expected:.4g} +- {tolerance:.2g}", f"{measured:.4g}", abs(measured - expected) <= tolerance)


def at_least(what: str, expected: float, measured: float) -> Check:
    """Measured is no smaller."""
    return Check(what, f">= {expected:.4g}", f"{measured:.4g}", measured >= expected)


def at_most(what: str, expected: float, measured: float) -> Check:
    """Measured is no larger."""
    return Check(what, f"<= {expected:.4g}", f"{measured:.4g}", measured <= expected)


def options(doc: str | None, **sizes: int) -> argparse.ArgumentParser:
    """A parser with ``--out``, ``--seed`` and an option for each size."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the table here")
    parser.add_argument("--seed", type=int, default=0)
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.set_defaults(started=time.time())
    return parser


def with_model(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """With ``--model`` and ``--prompts``, to run on the paper's own model."""
    parser.add_argument("--model", default=BUNDLED_MODEL, help="bundled:stories2m, a model folder or a hub name")
    parser.add_argument("--prompts", type=Path, help="a text file with one prompt a line")
    return parser


def load(args: argparse.Namespace) -> tuple[LanguageModel, list[str]]:
    """The model and its prompts, one for each of ``args.texts``."""
    if args.model == BUNDLED_MODEL:
        torch.set_num_threads(1)
    lines = [line for line in args.prompts.read_text("utf-8").splitlines() if line.strip()] if args.prompts else STORY_PROMPTS
    return load_model(args.model), [lines[place % len(lines)] for place in range(args.texts)]


def sampled(
    language: LanguageModel, prompts: Sequence[str], tokens: int, *, temperature: float = 1.0, seed: int = 0,
    profile: Profile | None = None,
) -> Traffic:
    """Texts of the model with its next-token laws, marked under throw-away keys if there is a profile."""
    sampling = Sampling(tokens, temperature, seed=seed, ignore_end=True)
    return sample_traffic(language, prompts, sampling, profile=profile, batch_size=32)


def standard_error(values: np.ndarray) -> float:
    """Of the mean of independent values."""
    return float(np.std(values) / np.sqrt(len(values)))


def finish(args: argparse.Namespace, doc: str | None, checks: Sequence[Check], extra: Sequence[str] = ()) -> int:
    """Print the table, write it to ``--out``; 0 if every check holds, else 1."""
    seconds = time.time() - args.started
    settings = [f"--{name} {value}" for name, value in vars(args).items() if name not in ("out", "started") and value is not None]
    claim = (doc or "").partition("\n")[0].removeprefix("Claim: ")
    lines = [claim, "", f"`python paper_repro/{Path(sys.argv[0]).name} {' '.join(settings)}`, {seconds:.0f} seconds.", "",
             "| figure | expected | measured | holds |", "|---|---|---|---|"]
    lines += [f"| {one.what} | {one.expected} | {one.measured} | {'yes' if one.holds else 'NO'} |" for one in checks]
    text = "\n".join([*lines, *(["", *extra] if extra else [])]) + "\n"
    print(text, flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, "utf-8")
    return 0 if all(one.holds for one in checks) else 1
