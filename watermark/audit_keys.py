"""Checks of an audit that change the key, a context id or the device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.audit_checks import PLACES, correlate
from wmcheck.watermark.audit_subject import Floats, Secret, Sizes, Subject, flipped, raised, related
from wmcheck.watermark.audit_words import CORRELATION, ERRORS, KEY_BITS, MANY, Finding, State, unmeasured
from wmcheck.watermark.core.errors import KeyFileError
from wmcheck.watermark.prf import I64, U32
from wmcheck.watermark.windows import first_occurrences

# Largest difference of key numbers at which correlations are looked for, and how many scores of each key.
KEY_LAGS, KEY_ITEMS = 128, 8192
# Related keys whose scores correlate less than this are taken as independent, however certain the figure.
RELATED = 0.02
# Pairs that tell whether a bit of the key acts.
ACTING = 256
# What is known of contracts whose keys do less than a search of single bits shows: (bits, why).
KNOWN_BITS = {
    "sglang": (32, "the state of Murmur3 after the key has 32 bits, so 2^32 keys are all there are"),
    "transformers-synthid": (16, "each layer reads its integer modulo the table's size, and layers can be searched one by one"),
    "markllm-kgw": (32, "the key seeds torch's generator once and is read modulo the vocabulary's size otherwise"),
}
# Contracts that draw from torch's generator on a CPU wherever the model runs.
ON_CPU = ("kuditipudi", "markllm-exp", "markllm-unigram", "three-bricks")
# Contracts that read a context id for something else than the score of a token.
READ_ELSEWHERE = {"mpac": "the other context id chooses the position of the message"}


def related_keys(subject: Subject, sizes: Sizes, rng: np.random.Generator) -> Finding:
    """Correlation of the scores under two keys with a simple relation."""
    secret = subject.draw(rng)
    each = sizes.tokens
    most = min(1 << 14, sizes.windows)
    n = min(most, each * sizes.contexts(0.01, most, each, least=128))
    windows, tokens = _distinct(subject, *subject.spread(n, each, rng), subject.keyed(secret))
    n = len(tokens)
    found = {}
    random = ("two random keys", subject.keyed(secret), subject.keyed(subject.draw(rng)))
    for relation, one, other in (random, *related(subject, secret)):
        found[relation] = correlate(subject.scores(windows, tokens, one), subject.scores(windows, tokens, other))
    doubled = _doubled(subject, secret, windows, tokens)
    if doubled is not None:
        found["2K on a context and K on twice its ids"] = doubled
    other = _equivalent(subject, secret)
    if other is not None:
        found["a key made to have the same state"] = correlate(
            subject.scores(windows, tokens, subject.keyed(secret)), subject.scores(windows, tokens, subject.keyed(other))
        )
    limit = max(RELATED, ERRORS / math.sqrt(n))
    alike = [relation for relation, value in found.items() if value > 0.999]
    near = [relation for relation, value in found.items() if limit < abs(value) <= 0.999]
    details = {"pairs": n, "correlations": found}
    worst = max(found.values(), key=abs)
    if not alike and not near:
        return Finding("related keys", State.CLEAN, worst, limit, shown="independent", details=details)
    words = [f"keys mark alike: {', '.join(alike)}"] if alike else []
    words += [f"keys mark with correlation {found[relation]:.2f}: {relation}" for relation in near]
    shown = ", ".join(alike + [f"{relation} ({found[relation]:.2f})" for relation in near])
    return Finding("related keys", State.WEAK, worst, limit, "; ".join(words), shown=shown, details=details)


def _doubled(subject: Subject, secret: Secret, windows: U32, tokens: I64) -> float | None:
    """Twice a key against the key itself on contexts of twice the ids; the key is halved first, so that both are keys."""
    if not subject.width or isinstance(secret, bytes):
        return None
    half: Secret = tuple(number // 2 for number in secret) if isinstance(secret, tuple) else secret // 2
    twice: Secret = tuple(2 * number for number in half) if isinstance(half, tuple) else 2 * half
    try:
        one, other = subject.keyed(twice), subject.keyed(half)
    except KeyFileError:
        return None
    small, tokens = _distinct(subject, windows // np.uint32(2) + np.uint32(1), tokens, one)
    return correlate(subject.scores(small, tokens, one), subject.scores(2 * small, tokens, other))


def _distinct(subject: Subject, windows: U32, tokens: I64, prf: Any) -> tuple[U32, I64]:
    """Pairs as detection scores them: contexts whose seed no key changes are one item to it, and would make all keys alike."""
    kept = first_occurrences(subject.codes(windows, tokens, prf))
    return windows[kept], tokens[kept]


def _equivalent(subject: Subject, secret: Secret) -> Secret | None:
    """Another key with the same Murmur3 state after its two words, where a contract absorbs its key like that."""
    if not subject.name.startswith("sglang") or not isinstance(secret, int):
        return None
    low, high = secret & 0xFFFFFFFF, secret >> 32
    changed = low ^ 0x9E3779B9
    wanted = _absorbed(0, low) ^ _mixed(high) ^ _absorbed(0, changed)
    return changed | _unmixed(wanted) << 32


def _mixed(word: int) -> int:
    word = word * 0xCC9E2D51 & 0xFFFFFFFF
    return ((word << 15 | word >> 17) & 0xFFFFFFFF) * 0x1B873593 & 0xFFFFFFFF


def _unmixed(word: int) -> int:
    word = word * pow(0x1B873593, -1, 1 << 32) & 0xFFFFFFFF
    return ((word >> 15 | word << 17) & 0xFFFFFFFF) * pow(0xCC9E2D51, -1, 1 << 32) & 0xFFFFFFFF


def _absorbed(state: int, word: int) -> int:
    state ^= _mixed(word)
    return ((state << 13 | state >> 19) * 5 + 0xE6546B64) & 0xFFFFFFFF


def small_ids(subject: Subject, sizes: Sizes, rng: np.random.Generator) -> Finding:
    """Correlation of scores under different random keys where the context, or the token, is 0 or 1."""
    n = sizes.items(0.01, 1 << 11, least=512)
    prfs = [subject.keyed(subject.draw(rng)) for _ in range(4)]
    found: dict[str, float] = {}
    merged: set[str] = set()
    for number in (0, 1):
        if subject.width:
            tokens = rng.integers(1, subject.vocabulary, n, dtype=np.int64)
            windows = np.full((n, subject.width), number, np.uint32)
            found[f"context {number}"] = _across(subject, windows, tokens, prfs, merged, f"context {number}")
        if subject.width and not subject.whole:
            windows = subject.contexts(n, rng)
            tokens = np.full(len(windows), number, np.int64)
            found[f"token {number}"] = _across(subject, windows, tokens, prfs, merged, f"token {number}")
    limit = max(RELATED, ERRORS / math.sqrt(6 * n))
    if not found:
        return unmeasured("small ids", "no context is read")
    worst = max(found, key=lambda name: abs(found[name]))
    details = {"pairs": n, "keys": len(prfs), "correlations": found}
    if abs(found[worst]) <= limit:
        return Finding("small ids", State.CLEAN, found[worst], limit, shown="independent", details=details)
    off = [name for name, value in found.items() if abs(value) > limit]
    words = f"all keys mark alike at {', '.join(off)}" if found[worst] > 0.99 else f"keys are correlated at {', '.join(off)}"
    state = State.CORRECTED if all(name in merged for name in off) else State.WEAK
    return Finding("small ids", state, found[worst], limit, words, shown=", ".join(off), details=details)


def _across(subject: Subject, windows: U32, tokens: I64, prfs: list[Any], merged: set[str], name: str) -> float:
    """Mean correlation of scores of items over pairs of keys; items that detection counts as one are noted in ``merged``."""
    if all(len(np.unique(subject.codes(windows, tokens, prf))) == 1 for prf in prfs):
        merged.add(name)
    scores = [subject.scores(windows, tokens, prf) for prf in prfs]
    pairs = [correlate(one, other) for place, one in enumerate(scores) for other in scores[:place]]
    return float(np.mean(pairs))


def key_lags(subject: Subject, sizes: Sizes, rng: np.random.Generator) -> Finding:
    """Correlation of scores under keys whose numbers differ by a little, as of accounts that count up from a base key."""
    each = sizes.tokens
    most = min(KEY_ITEMS, sizes.windows)
    items = min(most, each * sizes.contexts(0.1 / KEY_LAGS, most, each, least=32))
    secret = subject.draw(rng)
    windows, tokens = _distinct(subject, *subject.spread(items, each, rng), subject.keyed(secret))
    items = len(tokens)
    keys = sizes.times(0.15, 2 * KEY_LAGS, lambda: subject.scores(windows, tokens, subject.keyed(secret)), least=16)
    table: Floats = np.empty((keys, items))
    for step in range(keys):
        try:
            table[step] = subject.scores(windows, tokens, subject.keyed(raised(secret, step)))
        except KeyFileError:
            return unmeasured("key lags", "keys have no neighbours")
    table -= table.mean(1, keepdims=True)
    scale = np.sqrt((table**2).mean(1))
    gram = table @ table.T / items / np.maximum(np.outer(scale, scale), 1e-12)
    lags = keys // 2
    found = np.array([np.diagonal(gram, lag).mean() for lag in range(1, lags + 1)])
    noise = 1.0 / np.sqrt(items * (keys - np.arange(1.0, lags + 1)))
    at = int(np.argmax(np.abs(found) - MANY * noise))
    worst, limit = float(found[at]), max(CORRELATION, MANY * float(noise[at]))
    details = {"lag": at + 1, "lags": lags, "pairs": items, "keys": keys, "noise": float(noise[at])}
    if abs(worst) <= limit:
        return Finding("key lags", State.CLEAN, worst, limit, shown=f"{worst:.4f}", details=details)
    words = f"scores under keys {at + 1} apart have correlation {worst:.2f}"
    return Finding("key lags", State.WEAK, worst, limit, words, shown=f"{worst:.2f} at {at + 1}", details=details)


def width(subject: Subject, sizes: Sizes, rng: np.random.Generator) -> Finding:
    """Which ids of the context change the scores of a token, one at a time."""
    if subject.whole:
        return unmeasured("width", PLACES)
    n = sizes.items(0.01, 1 << 12, least=512)
    prf = subject.keyed(subject.draw(rng))
    windows, tokens = subject.random(n, rng)
    plain, seeds = subject.layers(windows, tokens, prf), subject.codes(windows, tokens, prf)
    shares, read = [], 0
    for place in range(subject.width):
        changed = windows.copy()
        changed[:, place] = rng.integers(1, subject.vocabulary, n)
        shares.append(float((subject.layers(changed, tokens, prf) != plain).any(1).mean()))
        other = not subject.scheme.key_free_selection and (subject.codes(changed, tokens, prf) != seeds).any()
        read += bool(shares[-1] > 0.0 or other)
    details = {"pairs": n, "changed": shares}
    shown = f"{read} of {subject.width}"
    if read == subject.width or subject.name in READ_ELSEWHERE:
        other = READ_ELSEWHERE.get(subject.name, "")
        return Finding("width", State.CLEAN, float(read), float(subject.width), other, shown=shown, details=details)
    words = f"{read} of the {subject.width} context ids {'is' if read == 1 else 'are'} read"
    return Finding("width", State.WEAK, float(read), float(subject.width), words, shown=shown, details=details)


def key_bits(subject: Subject, sizes: Sizes, rng: np.random.Generator) -> Finding:
    """How many bits of the key change any score, and how many the function has where its definition says fewer."""
    secret = subject.draw(rng)
    windows, tokens = subject.random(ACTING, rng)
    plain = subject.layers(windows, tokens, subject.keyed(secret))
    acting, taken = 0, 0
    size = 8 * len(secret) if isinstance(secret, bytes) else 64
    for bit in range(size):
        try:
            prf = subject.keyed(flipped(secret, bit))
        except KeyFileError:
            continue
        taken += 1
        acting += not np.array_equal(subject.layers(windows, tokens, prf), plain)
    each = len(secret) if isinstance(secret, tuple) else 1
    bits, why, source = _known(subject, acting)
    details = {"flipped": taken, "acting": acting, "integers": each, "bits": bits}
    shown = f"{bits}" + (f" x {each}" if each > 1 else "")
    if bits >= KEY_BITS:
        return Finding("key bits", State.CLEAN, float(bits), float(KEY_BITS), source=source, shown=shown, details=details)
    words = f"only {bits} bits of {'each integer of the key' if each > 1 else 'the key'} act{': ' + why if why else ''}"
    return Finding("key bits", State.WEAK, float(bits), float(KEY_BITS), words, source, shown, details)


def _known(subject: Subject, acting: int) -> tuple[int, str, str]:
    given = getattr(subject.scheme, "key_bits", None)
    known = next((value for name, value in KNOWN_BITS.items() if subject.name.startswith(name)), None)
    if isinstance(given, int) and given < acting:
        return given, "by the definition of the function", "derived"
    if known is not None and known[0] < acting:
        return known[0], known[1], "derived"
    return acting, "", "measured"


def devices(subject: Subject) -> Finding:
    """Whether a GPU gives the scores of a CPU."""
    if subject.peer:
        if subject.draws_from_torch and not subject.name.startswith(ON_CPU):
            words = "torch's generator is another one on a GPU: text that was marked there cannot be read on a CPU"
            return Finding("devices", State.WEAK, words=words, source="derived", shown="no")
        shown = "yes, drawn on the CPU" if subject.draws_from_torch else "yes, whole numbers"
        return Finding("devices", State.CLEAN, source="derived", shown=shown)
    try:
        import torch
    except ImportError:
        return unmeasured("devices", "torch is not installed")
    names = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    equal = all(_same_lanes(subject, name) for name in names)
    details = {"devices": names, "cuda": "measured" if "cuda" in names else "not measured: no GPU"}
    shown = "yes" if "cuda" in names else "yes (no GPU here)"
    if equal:
        return Finding("devices", State.CLEAN, shown=shown, details=details)
    words = "tensors give other scores than numpy"
    return Finding("devices", State.WEAK, words=words, shown="no", details=details)


def _same_lanes(subject: Subject, device: str) -> bool:
    """Digests and lanes of our keyed function as tensors on ``device`` against those of numpy."""
    import torch

    from wmcheck.watermark.rows import RowKeys

    rng = np.random.default_rng(0)
    prf = subject.keyed(subject.draw(rng))
    windows, vocabulary = subject.random(16, rng)[0], 4096
    rows = RowKeys([prf] * len(windows), device, backend="torch" if device == "cpu" else "auto")
    digests = rows.digests(torch.from_numpy(windows.astype(np.int64)).to(device))
    expected = prf.digests(windows)
    if not np.array_equal(digests.cpu().numpy().view(np.uint32), expected):
        return False
    for bits in (8, 32):
        for part, lanes in rows.lanes(digests, vocabulary, bits):
            stream = np.stack([prf.stream(digest, vocabulary, bits) for digest in expected[part]])
            if not np.array_equal(_unsigned(lanes.cpu().numpy()), stream):
                return False
    return True


def _unsigned(lanes: NDArray[Any]) -> NDArray[Any]:
    return lanes if lanes.dtype == np.uint8 else lanes.view(np.uint32)
