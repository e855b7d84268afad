"""Claim: a cyclic shift names one of M users; 1 - (1 - p)^M is its false positive rate, and accuracy falls slowly with M.

    python paper_repro/three_bricks_multibit.py [--out FILE]

Source: Fernandez et al. 2023, "Three bricks to consolidate watermarks for large language models", section 5 (multi-bit
watermarking by shifts of the secret vector, identification of users at a fixed false positive rate). Unmarked: random ids under
random keys. Marked: tokens of synthetic next-token laws of 1,000 tokens and 2 bits a token, embedded and read by this package
(scheme payload-shift, Gumbel-max, V = 2^17). Expected accuracy: given its own sum s of n scores, the right user is above M - 1
independent Gamma(n, 1) sums with probability (1 - Q(n, s))^(M - 1).
Deviation: the paper's users are of a chat model whose entropy is not stated, so its accuracies (.80 to .62) are not compared.
"""

from __future__ import annotations

import math
import sys

import numpy as np
import torch
from claim import Check, finish, options, standard_error, within
from scipy.special import gammainc

from wmcheck.watermark.core.planning import synthetic_laws
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.payload import AnyMessage, Payload
from wmcheck.watermark.rows import RowKeys
from wmcheck.watermark.scheme import keyed, make_scheme

USERS = (100, 1000, 10_000, 100_000)
LENGTHS = (10, 20, 40, 80)
LEVELS = (0.1, 0.01)
STRICT = 1e-6
SCHEME = make_scheme("payload-shift", {"width": 2, "vocabulary": 2**17, "messages": max(USERS)})


def windows_of(n: int, rng: np.random.Generator) -> np.ndarray:
    """u32[n, 2]: distinct contexts."""
    pairs = rng.choice(1_000_000, n, replace=False)
    return np.stack([pairs // 1000, pairs % 1000], axis=1).astype(np.uint32)


def marked(key: SecretKey, message: int, n: int, bits: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Contexts and the tokens that the scheme chooses there."""
    windows, prf = windows_of(n, rng), keyed(SCHEME, Payload(key, message))
    with np.errstate(divide="ignore"):
        logits = torch.from_numpy(np.log(synthetic_laws(n, bits, rng)))
    tokens = SCHEME.transform(torch.from_numpy(windows.astype(np.int64)), logits, RowKeys([prf] * n)).argmax(1)
    return windows, tokens.numpy()


def false_positives(tests: int, n: int, rng: np.random.Generator) -> tuple[list[Check], list[str]]:
    """Of the best of the first M users, for every M from the same sums."""
    checks, best = [], {users: np.empty(tests) for users in USERS}
    for test in range(tests):
        prf = keyed(SCHEME, SecretKey(rng.bytes(32)).tenant())
        totals = SCHEME.totals(windows_of(n, rng), rng.integers(0, 2**17, n), prf)
        for users in USERS:
            best[users][test] = totals[:users].max()
    extra = ["| M | " + " | ".join(f"share p <= {level:g}" for level in LEVELS) + " | mean p |", "|---" * (len(LEVELS) + 2) + "|"]
    for users in USERS:
        p = np.exp(AnyMessage(SCHEME.inner.null(), users).log_sf(best[users], np.full(tests, n)))
        shares = [float((p <= level).mean()) for level in LEVELS]
        extra.append(f"| {users} | " + " | ".join(f"{share:.4f}" for share in shares) + f" | {p.mean():.3f} |")
        checks += [within(f"M = {users}: share of p <= {level:g} in {tests} unmarked texts", level, share,
                          3.5 * math.sqrt(level * (1 - level) / tests)) for level, share in zip(LEVELS, shares, strict=True)]
    return checks, extra


def identification(texts: int, bits: float, rng: np.random.Generator) -> tuple[list[Check], list[str]]:
    """Whether the right one of M users has the largest sum, and its p is below 1e-6."""
    shape = (texts, len(LENGTHS), len(USERS))
    right, expected, named, wrong = (np.zeros(shape) for _ in range(4))
    for text in range(texts):
        key, user = SecretKey(rng.bytes(32)), int(rng.integers(USERS[0]))
        windows, tokens = marked(key, user, LENGTHS[-1], bits, rng)
        totals, prf, done = np.zeros(max(USERS)), keyed(SCHEME, key.tenant()), 0
        for row, n in enumerate(LENGTHS):
            totals += SCHEME.totals(windows[done:n], tokens[done:n], prf)
            done = n
            for column, users in enumerate(USERS):
                top = int(totals[:users].argmax())
                strict = AnyMessage(SCHEME.inner.null(), users).log_sf(totals[top], n) <= math.log(STRICT)
                right[text, row, column] = top == user
                named[text, row, column] = strict and top == user
                wrong[text, row, column] = strict and top != user
                expected[text, row, column] = math.exp((users - 1) * math.log(max(gammainc(n, totals[user]), 1e-300)))
    checks, extra = [], ["| tokens | M | right | right at p <= 1e-6 | wrong at p <= 1e-6 |", "|---" * 5 + "|"]
    for row, n in enumerate(LENGTHS):
        for column, users in enumerate(USERS):
            one, plan = right[:, row, column], expected[:, row, column]
            extra.append(f"| {n} | {users} | {one.mean():.3f} | {named[:, row, column].mean():.3f} | "
                         f"{int(wrong[:, row, column].sum())} |")
            # Given its sums, the measured share has the variance of coins of the expected chances.
            spread = math.sqrt(float((plan * (1 - plan)).sum())) / texts
            checks.append(within(f"{n} tokens, M = {users}: share of texts with the right user first", float(plan.mean()),
                                 float(one.mean()), 3.5 * spread + 0.5 / texts))
    fall = right[:, -2, 0] - right[:, -2, -1]
    checks.append(Check(f"{LENGTHS[-2]} tokens: right of 100 minus right of 100,000 users", "small: tokens grow as log M",
                        f"{fall.mean():.3f} (standard error {standard_error(fall):.3f})", bool(fall.mean() < 0.5)))
    return checks, extra


def main() -> int:
    torch.set_num_threads(1)
    args = options(__doc__, tests=2000, length=30, texts=150).parse_args()
    rng = np.random.default_rng(args.seed)
    checks, extra = identification(args.texts, 2.0, rng)
    null_checks, null_extra = false_positives(args.tests, args.length, rng)
    return finish(args, __doc__, null_checks + checks, [*null_extra, "", *extra])


if __name__ == "__main__":
    sys.exit(main())
