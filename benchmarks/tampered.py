"""Bundles that someone changed, and what ``wmcheck verify`` says of each, beside the untouched one.

    python benchmarks/tampered.py --flips 2000 --out benchmarks/results/tampered.md

The bundle is of six texts of the bundled model (120 tokens, gumbel, width 2; two of them marked). The kinds are those of
``tests/support/tampered_bundles.py``. Below them: bytes of the bundle changed at random places, each alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from tampered_bundles import HONEST, TAMPERED, Case, prepare

from wmcheck.cli.main import run
from wmcheck.watermark import Profile, SecretKey
from wmcheck.watermark.embed import STORY_PROMPTS, Sampling, embed_records, load_model
from wmcheck.watermark.key_sources import write_key_file

NAMES = ("gumbel", "gumbel 2", "ordinary 1", "ordinary 2", "ordinary 3", "ordinary 4")


def wmcheck(*args: str) -> tuple[int, str]:
    """Exit code and stdout of a command line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(args))
    return code, out.getvalue()


def make(folder: Path) -> None:
    """Texts, keys, a profile and the good bundle."""
    os.chdir(folder)
    key = SecretKey.new()
    write_key_file(key, "lab.wmk")
    write_key_file(SecretKey.new(), "other.wmk")
    language = load_model("bundled:stories2m")
    profile = Profile.create("gumbel", {"width": 2}, tokenizer=language.tokenizer, entropy_bits=2.0, keys=(key,))
    profile.save("gumbel.profile.json")
    sampling, prompts = Sampling(max_new_tokens=120, ignore_end=True), list(STORY_PROMPTS)
    marked = embed_records(language, prompts[:2], sampling, profile=profile, keys=[key.tenant()] * 2)
    records = [*marked, *embed_records(language, prompts[2:6], sampling)]
    lines = [json.dumps({**record, "id": name}) + "\n" for name, record in zip(NAMES, records, strict=True)]
    Path("suspect.jsonl").write_text("".join(lines))
    Path("wmcheck.toml").write_text('profile = "gumbel.profile.json"\nkey = "file:lab.wmk"\n')
    prepare(folder, lambda *args: wmcheck(*args)[0])


def judged(args: list[str]) -> tuple[int, str, str, str]:
    """Exit code, conclusion, the step that decided, and what it says."""
    code, out = wmcheck("verify", "bundle.json", *args, "--json")
    found = json.loads(out)
    bad = [step for step in found["steps"] if step["state"] in ("REFUTED", "not checked")]
    first = next((step for step in bad if step["state"] == "REFUTED"), bad[0] if bad else None)
    if first is None:
        return code, found["conclusion"], "-", "every value is the same"
    where = f" at {first['where']}: got {first['got']}, expected {first['expected']}" if first["where"] else ""
    return code, found["conclusion"], first["step"], first["detail"] + where


def table(good: Path, scratch: Path) -> list[str]:
    """A row for each kind."""
    rows = ["| changed | exit | conclusion | step | what and where |", "|---|---|---|---|---|"]
    kinds = {"nothing": lambda case: None, **{name: kind[0] for name, kind in TAMPERED.items()}}
    for name, change in kinds.items():
        folder = scratch / "case"
        shutil.copytree(good, folder)
        os.chdir(folder)
        case = Case(folder)
        change(case)
        code, conclusion, step, said = judged(case.args)
        said = said.replace(str(scratch), "").replace("|", "\\|")
        rows.append(f"| {name} | {code} | {conclusion} | {step} | {said[:240]} |")
        os.chdir(scratch)
        shutil.rmtree(folder)
    return rows


def flips(good: Path, count: int, seed: int) -> str:
    """How many bundles with one byte changed are refused."""
    os.chdir(good)
    data = Path("bundle.json").read_bytes()
    draw, codes = random.Random(seed), []
    for _ in range(count):
        place = draw.randrange(len(data))
        Path("changed.json").write_bytes(data[:place] + bytes([data[place] ^ draw.randrange(1, 256)]) + data[place + 1 :])
        codes.append(wmcheck("verify", "changed.json", *HONEST)[0])
    refused = sum(code == 2 for code in codes)
    return f"{refused} of {count} bundles of {len(data):,} bytes with one byte changed at random were refused with exit 2."


def main() -> None:
    """Print the tables, and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    out = options.out and options.out.resolve()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name).resolve()
        good = scratch / "good"
        good.mkdir()
        make(good)
        rows = table(good, scratch)
        random_changes = flips(good, options.flips, options.seed)
        os.chdir("/")
    command = f"`python benchmarks/tampered.py --flips {options.flips}`"
    changed = len(TAMPERED)
    head = (
        f"{command}: {changed} bundles that were changed, by outsiders and by a signer who lies (`signed`), and what `wmcheck "
        "verify` says. INCOMPLETE (exit 3) is not verified: something could not be checked, or is not done for a stranger's "
        "command line."
    )
    text = "\n".join([head, "", *rows, "", random_changes, ""])
    print(text)
    if out:
        out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
