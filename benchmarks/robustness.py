"""How key-only statistics hold on edited text: detection rate at 1e-5 and median log10 p by edit, strength and scheme.

    python benchmarks/robustness.py --texts 60 --out benchmarks/results/robustness.md

Texts of the bundled model under several schemes are edited at random, without knowledge of the key, and tested without their
prompt. The figure is written beside the table.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark import Profile, SecretKey
from wmcheck.watermark.candidate import Candidate
from wmcheck.watermark.core.statistics import STATISTICS
from wmcheck.watermark.detect import Detector
from wmcheck.watermark.embed import STORY_PROMPTS, LanguageModel, Sampling, embed_records, load_model
from wmcheck.watermark.windows import Document

I64 = NDArray[np.int64]

SCHEMES: dict[str, tuple[str, dict[str, object]]] = {
    "gumbel h=4": ("gumbel", {"width": 4}), "gumbel h=2": ("gumbel", {"width": 2}),
    "tournament h=4": ("tournament", {"width": 4}),
    "redgreen left h=2": ("redgreen", {"width": 2}), "redgreen self h=3": ("redgreen", {"width": 3, "rule": "self"}),
}
NAMES = ("sum", "sparse", "trgof1.5", "robust")
COLOURS = ("#444444", "#c2410c", "#15803d", "#1d4ed8")
DASHES = ("6 4", "", "2 3", "")
KEYS = 12
LOG10_ALPHA = -5.0

# Words that can stand for one another in a children's story.
GROUPS = """big large huge great|little small tiny wee|happy glad cheerful joyful|said replied answered|mom mother mum mama|
dad father papa daddy|saw spotted noticed|went walked headed|started began|house home|friend pal buddy|very really so|
looked gazed peered|wanted wished|liked loved enjoyed|pretty beautiful lovely|scared afraid frightened|fast quickly|
ran rushed hurried|found discovered|smiled grinned|nice kind sweet|good fine|but yet|then next|girl lass|boy lad|dog puppy|
cat kitty|sad unhappy|took grabbed|gave handed|jumped leaped|shouted yelled cried|thought believed|maybe perhaps|
always forever|garden yard|toy plaything|sun sunshine|tree oak|bird sparrow|new fresh|old aged|fun joy|felt seemed|
made built|put placed|asked begged|helped aided|tried attempted|every each|around about|under below|another other"""
SYNONYMS = {
    word: [other for other in group.split() if other != word]
    for group in GROUPS.split("|") for word in group.split()
}


class Editor:
    """Random edits of one text; ``ordinary`` are unmarked texts of the same model."""

    def __init__(self, language: LanguageModel, ordinary: list[I64], seed: int) -> None:
        self.language, self.ordinary = language, ordinary
        self.tokens = np.concatenate(ordinary)
        self.rng = np.random.default_rng(seed)
        self.swapped: list[tuple[float, float]] = []

    def substitute(self, ids: I64, share: float) -> I64:
        """Tokens replaced by tokens of ordinary texts."""
        hit = self.rng.random(len(ids)) < share
        return np.where(hit, self.rng.choice(self.tokens, len(ids)), ids)

    def delete(self, ids: I64, share: float) -> I64:
        """Tokens left out."""
        return ids[self.rng.random(len(ids)) >= share]

    def insert(self, ids: I64, share: float) -> I64:
        """Tokens of ordinary texts put in, ``share`` of them to a token of the text."""
        places = np.flatnonzero(self.rng.random(len(ids)) < share)
        return np.insert(ids, places, self.rng.choice(self.tokens, len(places)))

    def swap(self, ids: I64, share: float) -> I64:
        """Words with a known stand-in replaced, and the text encoded again."""
        words = swapped = 0

        def stand_in(match: re.Match[str]) -> str:
            nonlocal words, swapped
            words += 1
            others = SYNONYMS.get(match[0].lower())
            if not others or self.rng.random() >= share:
                return match[0]
            swapped += 1
            other = others[self.rng.integers(len(others))]
            return other.capitalize() if match[0][0].isupper() else other

        text = re.sub(r"[A-Za-z]+", stand_in, self.language.tokenizer.decode(ids.tolist()))
        self.swapped.append((share, swapped / max(words, 1)))
        return self.language.tokenizer.encode([text])[0]

    def mix(self, ids: I64, share: float) -> I64:
        """The end of the text replaced by ordinary text."""
        kept = round(len(ids) * (1.0 - share))
        other = self.ordinary[self.rng.integers(len(self.ordinary))]
        return np.concatenate([ids[:kept], other[: len(ids) - kept]])

    def edits(self) -> dict[str, tuple[Callable[[I64, float], I64], tuple[float, ...]]]:
        """Edits with their strengths."""
        tenths = tuple(k / 10 for k in range(11))
        return {
            "substitution": (self.substitute, tenths[:7]), "deletion": (self.delete, tenths[:7]),
            "insertion": (self.insert, tenths[:7]), "word swaps": (self.swap, (0.0, 0.25, 0.5, 0.75, 1.0)),
            "ordinary text": (self.mix, tenths),
        }


def texts_of(language: LanguageModel, count: int, length: int, profile: Profile | None, keys: list[SecretKey]) -> list[I64]:
    """Token ids of generated texts; text i under key i mod ``KEYS``."""
    prompts = [STORY_PROMPTS[i % len(STORY_PROMPTS)] for i in range(count)]
    chosen = [keys[i % KEYS] for i in range(count)] if profile else []
    sampling = Sampling(max_new_tokens=length, ignore_end=True, seed=0 if profile else 1)
    records = embed_records(language, prompts, sampling, profile=profile, keys=chosen, batch_size=32)
    return [np.asarray(record["tokens"], np.int64) for record in records]


def log10_p(statistic: str, texts: list[I64], profile: Profile, keys: list[SecretKey]) -> list[float]:
    """log10 p of each text under its own key."""
    found = [0.0] * len(texts)
    for place, key in enumerate(keys):
        detector = Detector([Candidate.of(profile, key)], statistic=statistic, corpus=False)
        own = list(range(place, len(texts), KEYS))
        evidence = detector.test([Document(texts[i], 0) for i in own])[0].evidence
        for i, value in zip(own, evidence.log_p, strict=True):
            found[i] = float(value) / np.log(10.0)
    return found


def measure(args: argparse.Namespace) -> tuple[dict[tuple[str, str, float, str], list[float]], Editor]:
    """log10 p by scheme, edit, strength and statistic, of every text; and the editor."""
    language = load_model("bundled:stories2m")
    keys = [SecretKey(bytes(np.random.default_rng([args.seed, i]).bytes(32))) for i in range(KEYS)]
    ordinary = texts_of(language, args.texts, args.tokens, None, keys)
    editor, found = Editor(language, ordinary, args.seed), {}
    for label, (scheme, parameters) in SCHEMES.items():
        profile = Profile.create(scheme, parameters, tokenizer=language.tokenizer)
        marked = texts_of(language, args.texts, args.tokens, profile, keys)
        fitting = [name for name in NAMES if not STATISTICS[name]().unfit(profile.scheme.null())]
        for edit, (change, strengths) in editor.edits().items():
            for strength in strengths:
                edited = [change(ids, strength) for ids in marked]
                for name in fitting:
                    found[label, edit, strength, name] = log10_p(name, edited, profile, keys)
        print(label, flush=True)
    return found, editor


def rate(values: list[float]) -> float:
    """Share of texts with p at most 1e-5."""
    return float(np.mean(np.array(values) <= LOG10_ALPHA))


def table(found: dict[tuple[str, str, float, str], list[float]]) -> list[str]:
    """One row a scheme, edit and strength."""
    lines = [f"| scheme | edit | strength | {' | '.join(NAMES)} |", "|---|---|---|" + "---|" * len(NAMES)]
    for label, edit, strength in dict.fromkeys(key[:3] for key in found):
        cells = []
        for name in NAMES:
            values = found.get((label, edit, strength, name))
            cells.append(f"{rate(values):.2f} ({np.median(values):.1f})" if values else "")
        lines.append(f"| {label} | {edit} | {strength:.0%} | {' | '.join(cells)} |")
    return lines


def figure(found: dict[tuple[str, str, float, str], list[float]]) -> str:
    """Detection rate against strength as SVG: a row of panels a scheme, a column an edit, a line a statistic."""
    rows, columns = list(SCHEMES), list(dict.fromkeys(key[1] for key in found))
    wide, high, left, top, gap = 170, 110, 130, 58, 22
    width, height = left + len(columns) * (wide + gap) + 10, top + len(rows) * (high + gap) + 36
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="sans-serif" font-size="11">', "<title>Detection rate at 1e-5 by strength of the edit</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for place, name in enumerate(NAMES):
        x = left + 110 * place
        out += [
            f'<path d="M{x} 16h26" stroke="{COLOURS[place]}" stroke-width="2" stroke-dasharray="{DASHES[place]}" fill="none"/>',
            f'<text x="{x + 32}" y="20">{name}</text>',
        ]
    for across, edit in enumerate(columns):
        out.append(f'<text x="{left + across * (wide + gap) + wide / 2}" y="{top - 10}" text-anchor="middle">{edit}</text>')
    for down, label in enumerate(rows):
        y0 = top + down * (high + gap)
        out.append(f'<text x="{left - 32}" y="{y0 + high / 2 + 4}" text-anchor="end">{label}</text>')
        for across, edit in enumerate(columns):
            out += _panel(found, label, edit, left + across * (wide + gap), y0, wide, high)
    out.append(f'<text x="{left}" y="{height - 8}">strength of the edit; vertical: share of texts with p at most 1e-5</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def _panel(
    found: dict[tuple[str, str, float, str], list[float]], label: str, edit: str, x0: float, y0: float, wide: float, high: float
) -> list[str]:
    strengths = sorted({key[2] for key in found if key[0] == label and key[1] == edit})
    most = strengths[-1]
    out = [f'<rect x="{x0}" y="{y0}" width="{wide}" height="{high}" fill="none" stroke="#bbbbbb"/>']
    for share in (0.0, 0.5, 1.0):
        y = y0 + high * (1.0 - share)
        out.append(f'<path d="M{x0} {y}h{wide}" stroke="#e5e5e5"/>')
        out.append(f'<text x="{x0 - 4}" y="{y + 4}" text-anchor="end">{share:g}</text>')
    out += [
        f'<text x="{x0 + wide * at}" y="{y0 + high + 13}" text-anchor="middle">{most * at:.0%}</text>' for at in (0.0, 0.5, 1.0)
    ]
    for place, name in enumerate(NAMES):
        points = [
            f"{x0 + wide * strength / most:.1f},{y0 + high * (1.0 - rate(found[label, edit, strength, name])):.1f}"
            for strength in strengths if (label, edit, strength, name) in found
        ]
        if points:
            out.append(
                f'<polyline points="{" ".join(points)}" fill="none" stroke="{COLOURS[place]}" stroke-width="2" '
                f'stroke-dasharray="{DASHES[place]}"/>'
            )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found, editor = measure(args)
    asked = np.array(editor.swapped)
    words = ", ".join(f"{asked[asked[:, 0] == share, 1].mean():.0%} at {share:.0%}" for share in (0.25, 0.5, 0.75, 1.0))
    lines = [
        f"`python benchmarks/robustness.py --texts {args.texts} --tokens {args.tokens} --seed {args.seed}`: share of texts with "
        f"p <= 1e-5 (median log10 p in brackets); bundled model, temperature 1, {args.tokens} tokens, {KEYS} keys. Edits are "
        "made at random and texts are tested without their prompt. Substituted and inserted tokens come from unmarked texts; "
        "insertion adds so many to a token of the text. Word swaps replace that share of the words that have a stand-in "
        f"({words} of all words) and encode the text again. Ordinary text replaces the end of the text; at 100% every detection "
        "is false.", "",
        "Red/green counts: sum, sparse and robust are the same test; Tr-GoF needs continuous scores.", "",
        "![Detection rate by edit](robustness.svg)", "", *table(found),
    ]
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join(lines) + "\n")
        args.out.with_suffix(".svg").write_text(figure(found))
    else:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
