"""How strongly watermarked text of the bundled model speaks: median log10 p by scheme, own key and wrong key.

    python benchmarks/power.py --texts 64 --out benchmarks/results/power.md
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from wmcheck.watermark import Profile, SecretKey, detect_ids
from wmcheck.watermark.embed import STORY_PROMPTS, Sampling, embed_records, load_model

SCHEMES: list[tuple[str, dict[str, object]]] = [
    ("redgreen", {"width": 2}), ("redgreen", {"width": 0}), ("redgreen", {"width": 4, "rule": "min"}),
    ("redgreen", {"width": 4, "rule": "self"}), ("gumbel", {"width": 4}), ("tournament", {"width": 4}),
    ("reweight", {"width": 4}),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    language, key = load_model("bundled:stories2m"), SecretKey.new()
    prompts = [STORY_PROMPTS[i % len(STORY_PROMPTS)] for i in range(args.texts)]
    tenants = [key.tenant(f"account {i}") for i in range(args.texts)]
    sampling = Sampling(max_new_tokens=args.tokens, ignore_end=True)
    lines = [
        f"`python benchmarks/power.py --texts {args.texts} --tokens {args.tokens}`: bundled model, temperature 1, a key for "
        "each text. Median over texts; `re-encoded` tests the decoded text without its prompt.", "",
        "| scheme | log10 p | 10% to 90% | scored | re-encoded | wrong key |", "|---|---|---|---|---|---|",
    ]
    for scheme, parameters in SCHEMES:
        profile = Profile.create(scheme, parameters, tokenizer=language.tokenizer)
        own, again, wrong, scored = [], [], [], []
        records = embed_records(language, prompts, sampling, profile=profile, keys=tenants, batch_size=32)
        for place, record in enumerate(records):
            ids, start = record["prompt_tokens"] + record["tokens"], len(record["prompt_tokens"])
            found = detect_ids(ids, profile, tenants[place], prompt_length=start)
            own.append(found.log10_p)
            scored.append(found.n_scored)
            wrong.append(detect_ids(ids, profile, key.tenant("nobody"), prompt_length=start).log10_p)
            again.append(detect_ids(language.tokenizer.encode([record["text"]])[0], profile, tenants[place]).log10_p)
        low, middle, high = np.quantile(own, [0.1, 0.5, 0.9])
        shown = ", ".join(f"{name}={value}" for name, value in parameters.items())
        lines.append(
            f"| {scheme} {shown} | {middle:.1f} | {low:.1f} to {high:.1f} | {np.median(scored):.0f} | {np.median(again):.1f} | "
            f"{np.median(wrong):.2f} |"
        )
        print(lines[-1], flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
