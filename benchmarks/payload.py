"""Messages in a watermark: how many tokens a message needs, what edits cost, and seconds.

    python benchmarks/payload.py [--texts 15] [--out benchmarks/results/payload.md]

Synthetic next-token laws of 1,000 tokens, 1 or 2 bits a token, embedded and read by the schemes, Gumbel-max with width 2. Edits:
a substituted token spoils its own item and the two whose window holds it, which read a random lane instead. ``right`` is the
share of texts whose message is read; ``p`` and ``sure`` the shares that also have p <= 1e-6, and (codes alone) a bound of a wrong
message <= 1e-2. Seconds: processor time, the median of one text; and of a generated token of 128,256 logits, in milliseconds.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch

from wmcheck.watermark.core.planning import synthetic_laws
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.payload import Payload
from wmcheck.watermark.rows import RowKeys
from wmcheck.watermark.scheme import keyed, make_scheme
from wmcheck.watermark.schemes.payload_code import PayloadCode

CASES = [
    *[("payload-shift", {"messages": 2**bits}) for bits in (8, 12, 16)],
    *[("payload-code", {"bits": bits}) for bits in (8, 16, 20, 24, 32)],
]
# Beyond this many bits edits are left out.
EDITED_BITS = {"payload-shift": 12, "payload-code": 24}
LENGTHS = (50, 100, 200, 300, 500)
EDITS = (0.0, 0.1, 0.2)
WIDTH = 2


def texts_of(scheme, count, bits, edits, rng):
    """Keyed functions, messages, windows and tokens of marked and then edited texts."""
    for _ in range(count):
        key, message, n = SecretKey(rng.bytes(32)), int(rng.integers(scheme.messages)), LENGTHS[-1]
        pairs = rng.choice(1_000_000, n, replace=False)
        windows = np.stack([pairs // 1000, pairs % 1000], axis=1).astype(np.uint32)
        with np.errstate(divide="ignore"):
            logits = torch.from_numpy(np.log(synthetic_laws(n, bits, rng)))
        rows = RowKeys([keyed(scheme, Payload(key, message))] * n)
        tokens = scheme.transform(torch.from_numpy(windows.astype(np.int64)), logits, rows).argmax(1).numpy()
        spoilt = rng.random(n) > (1 - edits) ** (WIDTH + 1)
        yield keyed(scheme, key.tenant()), message, windows, np.where(spoilt, rng.integers(0, 1000, n), tokens)


def read(scheme, prf, windows, tokens):
    """(message, log p, log of a bound of a wrong one or None, seconds)."""
    started, sure = time.process_time(), None
    if isinstance(scheme, PayloadCode):
        table, counts = scheme.table(windows, tokens, prf)
        message = scheme.code.decode(table)
        codeword = scheme.code.encode(np.array([message]))[0]
        total, sure = table[np.arange(len(table)), codeword].sum(), scheme.log_wrong(table, counts, codeword)
    else:
        totals = scheme.totals(windows, tokens, prf)
        message = int(totals.argmax())
        total = totals[message]
    return message, float(scheme.null().log_sf([total], [len(tokens)])[0]), sure, time.process_time() - started


def cell(scheme, texts, n):
    """One cell of the table and the seconds of its texts."""
    found = [(message, read(scheme, prf, windows[:n], tokens[:n])) for prf, message, windows, tokens in texts]
    right = [message == one[0] for message, one in found]
    strict = [hit and one[1] <= math.log(1e-6) for hit, (_, one) in zip(right, found, strict=True)]
    shown = f"{np.mean(right):.2f} / {np.mean(strict):.2f}"
    if found[0][1][2] is not None:
        shown += f" / {np.mean([hit and one[2] <= math.log(1e-2) for hit, (_, one) in zip(right, found, strict=True)]):.2f}"
    return shown, [one[3] for _, one in found]


def generation(batch=8, vocabulary=128_256, rounds=7):
    """Lines of milliseconds a row of the payload schemes and of the inner scheme."""
    lines, logits = [], torch.randn(batch, vocabulary, generator=torch.Generator().manual_seed(0))
    windows, key = torch.arange(batch * WIDTH).reshape(batch, WIDTH), SecretKey.new()
    for name, parameters in [("gumbel", {}), ("payload-shift", {"messages": 2**16}), ("payload-code", {"bits": 20})]:
        scheme = make_scheme(name, {"width": WIDTH, **parameters})
        held = key.tenant() if name == "gumbel" else Payload(key, scheme.messages - 1)
        rows, spent = RowKeys([keyed(scheme, held)] * batch), []
        for _ in range(rounds):
            started = time.process_time()
            scheme.transform(windows, logits, rows)
            spent.append(1e3 * (time.process_time() - started) / batch)
        lines.append(f"| {name} | {min(spent):.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [f"`python benchmarks/payload.py --texts {args.texts}`: right / p / sure (see the script) after so many tokens.", "",
             "| scheme | bits a token | edited | " + " | ".join(str(n) for n in LENGTHS) + " | seconds, 300 tokens |",
             "|---" * (len(LENGTHS) + 4) + "|"]
    print("\n".join(lines), flush=True)
    for name, parameters in CASES:
        scheme = make_scheme(name, {"width": WIDTH, **parameters})
        size = f"{name}, {math.log2(scheme.messages):.0f} bits"
        edited = EDITS if scheme.messages <= 2 ** EDITED_BITS[name] else EDITS[:1]
        for bits, edits in [(1, 0.0), *[(2, edits) for edits in edited]]:
            texts = list(texts_of(scheme, args.texts, bits, edits, np.random.default_rng([bits, int(100 * edits)])))
            cells, spent = zip(*(cell(scheme, texts, n) for n in LENGTHS), strict=True)
            seconds = float(np.median(spent[LENGTHS.index(300)]))
            lines.append(f"| {size} | {bits} | {edits:.0%} | " + " | ".join(cells) + f" | {seconds:.3f} |")
            print(lines[-1], flush=True)
            if args.out:
                args.out.write_text("\n".join(lines) + "\n", "utf-8")
    lines += ["", "| generation, V = 128,256 | ms a token, least of 7 |", "|---|---|", *generation()]
    print("\n".join(lines[-5:]), flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
