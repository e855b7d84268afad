"""Verify ``prf_v1.json`` with nothing but the standard library and ``docs/prf.md``: no code is shared with the package.

    python tests/vectors/verify_prf.py [FILE]

Exits 1 and names each value that does not match.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import sys
from functools import lru_cache
from pathlib import Path


# AES-128, straight from FIPS 197: a state of 16 bytes in column order.
def times(a: int, b: int) -> int:
    """Product in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a = a << 1 ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return product


def make_sbox() -> list[int]:
    box = []
    for byte in range(256):
        inverse = next((other for other in range(256) if times(byte, other) == 1), 0)
        bits = [inverse >> i & 1 for i in range(8)]
        mixed = [
            bits[i] ^ bits[(i + 4) % 8] ^ bits[(i + 5) % 8] ^ bits[(i + 6) % 8] ^ bits[(i + 7) % 8] ^ (0x63 >> i & 1)
            for i in range(8)
        ]
        box.append(sum(bit << i for i, bit in enumerate(mixed)))
    return box


SBOX = make_sbox()
DOUBLE, TRIPLE = [times(2, byte) for byte in range(256)], [times(3, byte) for byte in range(256)]


@lru_cache(maxsize=256)
def round_keys(key: bytes) -> list[list[int]]:
    words = [list(key[place : place + 4]) for place in range(0, 16, 4)]
    constant = 1
    for place in range(4, 44):
        last = words[-1]
        if place % 4 == 0:
            last = [SBOX[byte] for byte in last[1:] + last[:1]]
            last[0] ^= constant
            constant = times(2, constant)
        words.append([a ^ b for a, b in zip(words[place - 4], last, strict=True)])
    return [[byte for word in words[4 * turn : 4 * turn + 4] for byte in word] for turn in range(11)]


def aes(key: bytes, block: bytes) -> bytes:
    keys = round_keys(key)
    state = [a ^ b for a, b in zip(block, keys[0], strict=True)]
    for turn in range(1, 11):
        # Row r of column c moves in from column c + r.
        state = [SBOX[state[(4 * (place // 4 + place % 4) + place % 4) % 16]] for place in range(16)]
        if turn < 10:
            columns = [state[place : place + 4] for place in range(0, 16, 4)]
            state = [
                DOUBLE[c[r]] ^ TRIPLE[c[(r + 1) % 4]] ^ c[(r + 2) % 4] ^ c[(r + 3) % 4]
                for c in columns for r in range(4)
            ]
        state = [a ^ b for a, b in zip(state, keys[turn], strict=True)]
    return bytes(state)


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256, RFC 5869 section 2."""
    extracted = hmac.digest(salt or bytes(32), secret, "sha256")
    out, block, counter = b"", b"", 0
    while len(out) < length:
        counter += 1
        block = hmac.digest(extracted, block + info + bytes([counter]), "sha256")
        out += block
    return out[:length]


# The keyed function, from docs/prf.md.
def canonical(*fields: bytes | str) -> bytes:
    whole = [field.encode("utf-8") if isinstance(field, str) else field for field in fields]
    return b"".join(len(field).to_bytes(2, "big") + field for field in whole)


def key_text(kind: int, secret: bytes, label: bytes) -> str:
    body = bytes([kind]) + secret + label
    checksum = hashlib.sha256(canonical("wmcheck/key/1", body)).digest()[:4]
    return "wmk1_" + base64.b32encode(body + checksum).decode("ascii").rstrip("=").lower()


def commitment(kind: int, secret: bytes, tenant: str, epoch: str) -> str:
    return hashlib.sha256(canonical("wmcheck/commitment/1", bytes([kind]), secret, tenant, epoch)).hexdigest()


def tenant_secret(root: bytes, tenant: str, epoch: str) -> bytes:
    return hkdf(root, b"", canonical("wmcheck/tenant/1", tenant, epoch), 32)


def subkey(secret: bytes, label: str, purpose: str) -> bytes:
    return hkdf(secret, b"", canonical("wmcheck/prf/1", label, purpose), 16)


@lru_cache(maxsize=65536)
def digest(ctx: bytes, window: tuple[int, ...]) -> bytes:
    message = b"".join(token.to_bytes(4, "little") for token in window)
    message += bytes(-len(message) % 16 if message else 16)
    state = bytes(16)
    for place in range(0, len(message), 16):
        state = aes(ctx, bytes(a ^ b for a, b in zip(state, message[place : place + 16], strict=True)))
    return state[:12]


@lru_cache(maxsize=65536)
def block(tok: bytes, context: bytes, index: int) -> bytes:
    return aes(tok, context + index.to_bytes(4, "big"))


def lane8(tok: bytes, context: bytes, token: int) -> int:
    return block(tok, context, token // 16)[token % 16]


def lane32(tok: bytes, context: bytes, token: int) -> int:
    place = 4 * (token % 4)
    return int.from_bytes(block(tok, context, token // 4)[place : place + 4], "little")


def order(context: bytes) -> int:
    return int.from_bytes(context[:4], "little") << 31 | int.from_bytes(context[4:8], "little") >> 1


def seed(ctx: bytes, rule: str, window: tuple[int, ...], token: int) -> bytes:
    """The digest that decides the lane of ``token``."""
    if rule == "left":
        return digest(ctx, window)
    runners = (*window, token) if rule == "self" else window
    return min((digest(ctx, (runner,)) for runner in runners), key=order)  # the first of equals, the candidate last


def score(scheme: str, parameters: dict, ctx: bytes, tok: bytes, window: tuple[int, ...], token: int):
    context = seed(ctx, parameters.get("rule", "left"), window, token)
    if scheme == "redgreen":
        return float(lane8(tok, context, token) < parameters["green"])
    word = lane32(tok, context, token)
    if scheme == "gumbel":
        return -math.log1p(-word / 2**32)
    if scheme == "tournament":
        return [word >> layer & 1 for layer in range(parameters["layers"])]
    return float(word >= 2**31)


class Comparison:
    def __init__(self) -> None:
        self.values, self.wrong = 0, 0

    def same(self, where: str, found: object, expected: object) -> None:
        self.values += 1
        numbers = isinstance(found, float) and isinstance(expected, float)
        if found != expected and not (numbers and math.isclose(found, expected, rel_tol=1e-12)):
            self.wrong += 1
            print(f"{where}: computed {found}, the file has {expected}")


def verify_context(compare: Comparison, where: str, ctx: bytes, tok: bytes, item: dict) -> None:
    context = digest(ctx, tuple(item["window"]))
    compare.same(f"{where} digest", context.hex(), item["digest"])
    compare.same(f"{where} order", str(order(context)), item["order"])
    compare.same(f"{where} lanes8", [lane8(tok, context, token) for token in item["tokens"]], item["lanes8"])
    compare.same(f"{where} lanes32", [lane32(tok, context, token) for token in item["tokens"]], item["lanes32"])
    for name, lane in (("stream8", lane8), ("stream32", lane32)):
        compare.same(f"{where} {name}", [lane(tok, context, token) for token in range(len(item[name]))], item[name])


def verify_key(compare: Comparison, where: str, kind: int, secret: bytes, item: dict) -> None:
    tenant, epoch = item.get("tenant", ""), item.get("epoch", "")
    label = f"{tenant}\0{epoch}".encode() if kind else b""
    compare.same(f"{where} secret", secret.hex(), item["secret"])
    compare.same(f"{where} text", key_text(kind, secret, label), item["text"])
    compare.same(f"{where} commitment", commitment(kind, secret, tenant, epoch), item["commitment"])
    compare.same(f"{where} id", item["commitment"][:16], item["id"])


def verify(data: dict) -> Comparison:
    compare = Comparison()
    compare.same("schema", data["schema"], "wmcheck.prf-vectors/1")
    compare.same("function", data["function"], "aes128-hkdf-sha256/1")
    for root in data["keys"]:
        secret = bytes.fromhex(root["secret"])
        verify_key(compare, root["id"], 0, secret, root)
        for tenant in root["tenants"]:
            where = f"{root['id']} {tenant['tenant']!r} {tenant['epoch']!r}"
            own = tenant_secret(secret, tenant["tenant"], tenant["epoch"])
            verify_key(compare, where, 1, own, tenant)
            for item in tenant["functions"]:
                ctx, tok = (subkey(own, item["label"], purpose) for purpose in ("ctx", "tok"))
                compare.same(f"{where} {item['label']} ctx", ctx.hex(), item["ctx"])
                compare.same(f"{where} {item['label']} tok", tok.hex(), item["tok"])
                for context in item["contexts"]:
                    verify_context(compare, f"{where} {item['label']} {context['window']}", ctx, tok, context)
    for group in data["scores"]:
        own = bytes.fromhex(data["keys"][group["key"]]["tenants"][group["tenant"]]["secret"])
        parameters = group["parameters"]
        label = f"{group['scheme']}/{parameters.get('rule', 'left')}/{parameters['width']}"
        compare.same("label", label, group["label"])
        ctx, tok = (subkey(own, label, purpose) for purpose in ("ctx", "tok"))
        for case in group["cases"]:
            found = score(group["scheme"], parameters, ctx, tok, tuple(case["window"]), case["token"])
            compare.same(f"{label} {case['window']} {case['token']}", found, case["score"])
    return compare


def main() -> int:
    known = aes(bytes(range(16)), bytes.fromhex("00112233445566778899aabbccddeeff"))
    if known.hex() != "69c4e0d86a7b0430d8cdb78070b4c55a":
        print("the AES of this script is wrong (FIPS 197, C.1)")
        return 1
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("prf_v1.json")
    compare = verify(json.loads(path.read_text("utf-8")))
    print(f"{path.name}: {compare.values - compare.wrong} of {compare.values} values match")
    return 1 if compare.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
