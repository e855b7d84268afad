"""The keyed function: published vectors of its parts, our own of the whole, and one result on every path."""

import copy
import importlib.util
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from wmcheck.watermark import keys, prf, prf_torch, rows
from wmcheck.watermark.keys import SecretKey, parse_key
from wmcheck.watermark.prf import PrfKey, anchor_order
from wmcheck.watermark.prf_torch import TorchPrf
from wmcheck.watermark.rows import RowKeys, order_of

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors"
DATA = json.loads((VECTORS / "prf_v1.json").read_text("utf-8"))

# (key, plain text, cipher text): FIPS 197, appendix C.1; NIST SP 800-38A, F.1.1 (ECB-AES128).
SP_KEY = "2b7e151628aed2a6abf7158809cf4f3c"
AES = [
    ("000102030405060708090a0b0c0d0e0f", "00112233445566778899aabbccddeeff", "69c4e0d86a7b0430d8cdb78070b4c55a"),
    (SP_KEY, "6bc1bee22e409f96e93d7e117393172a", "3ad77bb40d7a3660a89ecaf32466ef97"),
    (SP_KEY, "ae2d8a571e03ac9c9eb76fac45af8e51", "f5d3d58503b9699de785895a96fdbaaf"),
    (SP_KEY, "30c81c46a35ce411e5fbc1191a0a52ef", "43b1cd7f598ece23881b00e3ed030688"),
    (SP_KEY, "f69f2445df4f9b17ad2b417be66c3710", "7b0c785e27e8ad3f8223207104725dd4"),
]
WIDTHS = [0, 1, 2, 3, 4, 5, 8, 9, 16]


def load(name):
    """A script of the vectors folder as a module."""
    spec = importlib.util.spec_from_file_location(name, VECTORS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(text):
    return np.frombuffer(bytes.fromhex(text), "<u4").reshape(1, -1)


def tenant(number=0):
    return SecretKey(bytes.fromhex(DATA["keys"][0]["secret"])).tenant(f"t{number}")


def function(number=0, label="redgreen/left/4"):
    return PrfKey.derive(tenant(number), label)


def random_windows(count, width, seed=0):
    found = np.random.default_rng(seed).integers(0, 2**31, (count, width))
    if width:
        found[0], found[-1] = 0, 2**31 - 1
    return found


@pytest.mark.parametrize("key, plain, cipher", AES)
def test_published_aes_vectors_in_numpy(key, plain, cipher):
    both = PrfKey(bytes.fromhex(key), bytes.fromhex(key))
    assert both.digests(words(plain)).tobytes().hex() == cipher[:24]  # a window of four ids is one block
    index = int(plain[24:], 16)
    tokens = 16 * index + np.arange(16)
    assert both.lanes8(np.repeat(words(plain)[:, :3], 16, 0), tokens).tobytes().hex() == cipher
    assert both.lanes32(np.repeat(words(plain)[:, :3], 4, 0), 4 * index + np.arange(4)).tobytes().hex() == cipher
    assert prf._encrypt(bytes.fromhex(key), words(plain)).tobytes().hex() == cipher


@pytest.mark.parametrize("key, plain, cipher", AES)
def test_published_aes_vectors_in_torch(key, plain, cipher):
    schedule = prf_torch.RoundKeys([bytes.fromhex(key)], torch.device("cpu"))
    blocks = torch.from_numpy(words(plain).view(np.int32).copy())[None]
    assert prf_torch.encrypt(schedule, slice(None), blocks).numpy().tobytes().hex() == cipher


def test_published_key_expansion():
    # FIPS 197, appendix A.1: w[4], w[40] and w[43].
    schedule = np.array(prf_torch.expand_key(bytes.fromhex(SP_KEY)), np.int32)
    assert [schedule[i].tobytes().hex() for i in (0, 4, 40, 43)] == ["2b7e1516", "a0fafe17", "d014f9a8", "b6630ca6"]


# RFC 5869, appendix A.1 to A.3: (secret, salt, info, output). Ours has no salt, so it can express the third alone.
HKDF = [
    (b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)),
     "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"),
    (bytes(range(0x50)), bytes(range(0x60, 0xB0)), bytes(range(0xB0, 0x100)),
     "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09b836"
     "7793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"),
    (b"\x0b" * 22, b"", b"", "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"),
]


@pytest.mark.parametrize("secret, salt, info, output", HKDF)
def test_published_hkdf_vectors(secret, salt, info, output):
    expected = bytes.fromhex(output)
    assert load("verify_prf").hkdf(secret, salt, info, len(expected)) == expected
    if not salt:
        assert keys.hkdf(secret, info, len(expected)) == expected


def test_the_package_makes_the_vectors_that_are_checked_in():
    made = load("make_prf_vectors")
    built = made.build()
    assert {**built, "scores": None} == {**DATA, "scores": None}
    for group, expected in zip(built["scores"], DATA["scores"], strict=True):
        # The logarithm of another platform may differ in its last bit.
        found = [case.pop("score") for case in group["cases"]]
        assert found == [pytest.approx(case["score"], rel=1e-12) for case in expected["cases"]]
        cases = [{"window": case["window"], "token": case["token"]} for case in expected["cases"]]
        assert group == {**expected, "cases": cases}
    assert made.render(DATA) == (VECTORS / "prf_v1.json").read_text("utf-8")


def test_vectors_cover_what_the_specification_says():
    functions = [one for root in DATA["keys"] for item in root["tenants"] for one in item["functions"]]
    contexts = [context for one in functions for context in one["contexts"]]
    assert {one["width"] for one in functions} == {0, 1, 2, 4, 5, 8}
    assert {0, 2**31 - 1} <= {token for context in contexts for token in context["tokens"]}
    assert len({context["digest"] for context in contexts}) == len(contexts)
    ids = [one["id"] for root in DATA["keys"] for one in [root, *root["tenants"]]]
    assert len(set(ids)) == len(ids) == 14
    assert any(not item["tenant"].isascii() and not item["epoch"].isascii() for item in DATA["keys"][0]["tenants"])
    outcomes = {group["scheme"]: {str(case["score"]) for case in group["cases"]} for group in DATA["scores"]}
    assert all(len(scores) > 1 for scores in outcomes.values())


def test_key_text_of_the_vectors_reads_back():
    for root in DATA["keys"]:
        for item in [root, *root["tenants"]]:
            key = parse_key(item["text"])
            assert (key.id, key.commitment, key.reveal()) == (item["id"], item["commitment"], item["text"])
            assert (key.tenant_name, key.epoch) == (item.get("tenant", ""), item.get("epoch", ""))


def spoiled(tmp_path):
    """A copy of the vectors with one lane changed."""
    data = copy.deepcopy(DATA)
    data["keys"][0]["tenants"][1]["functions"][3]["contexts"][2]["lanes32"][5] ^= 1
    path = tmp_path / "spoiled.json"
    path.write_text(json.dumps(data), "utf-8")
    return str(path)


NODE = pytest.param(["node", "verify_prf.mjs"], marks=pytest.mark.skipif(not shutil.which("node"), reason="no node"))
# -I -S: without site-packages the script cannot reach the package or its dependencies.
PYTHON = pytest.param([sys.executable, "-I", "-S", "verify_prf.py"])


@pytest.mark.parametrize("command", [PYTHON, NODE])
def test_independent_verifiers(command, tmp_path):
    done = subprocess.run(command, cwd=VECTORS, capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "945 of 945 values match" in done.stdout
    done = subprocess.run(
        [*command, spoiled(tmp_path)], cwd=VECTORS, capture_output=True, text=True, encoding="utf-8", timeout=60
    )
    assert done.returncode == 1
    assert "redgreen/left/2" in done.stdout
    assert "944 of 945 values match" in done.stdout


def test_the_vectors_in_the_documentation_are_those_of_the_file():
    text = (ROOT / "docs" / "prf.md").read_text("utf-8")
    root = DATA["keys"][0]
    item = root["tenants"][1]
    one = next(one for one in item["functions"] if one["label"] == "gumbel/left/4")
    context = one["contexts"][2]
    quoted = [
        root["secret"], root["text"], root["commitment"], item["tenant"], item["epoch"], item["secret"], item["text"],
        item["commitment"], one["ctx"], one["tok"], context["digest"], context["order"],
        ", ".join(map(str, context["window"])), ", ".join(map(str, context["stream8"][:8])),
        ", ".join(map(str, context["stream32"][:4])), str(context["lanes8"][-1]), str(context["lanes32"][-1]),
    ]
    assert [value for value in quoted if value not in text] == []


@pytest.mark.parametrize("vocabulary", [1, 15, 16, 17, 1001])
def test_a_stream_is_the_lanes_of_its_tokens(vocabulary):
    key = function()
    digest = key.digests(random_windows(1, 4).astype(np.uint32))
    many, tokens = np.repeat(digest, vocabulary, 0), np.arange(vocabulary)
    for bits, lanes in ((8, key.lanes8), (32, key.lanes32)):
        stream = key.stream(digest[0], vocabulary, bits)
        assert stream.dtype == (np.uint8 if bits == 8 else np.uint32)
        np.testing.assert_array_equal(stream, lanes(many, tokens))


def devices():
    return ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("width", WIDTHS)
def test_torch_has_the_bits_of_numpy(width, device):
    held = [function(number) for number in range(3)]
    windows = random_windows(12, width).reshape(3, 4, width)
    tensor = TorchPrf(held, torch.device(device))
    digests = tensor.digests(slice(None), torch.from_numpy(windows).to(device))
    expected = np.stack([key.digests(own.astype(np.uint32)) for key, own in zip(held, windows, strict=True)])
    np.testing.assert_array_equal(digests.cpu().numpy().view(np.uint32), expected)
    for vocabulary in (1, 15, 16, 17, 1001):
        for bits, kind in ((8, np.uint8), (32, np.uint32)):
            lanes = tensor.lanes(slice(None), digests[:, 0], vocabulary, bits).cpu().numpy().view(kind)
            streams = [key.stream(own[0], vocabulary, bits) for key, own in zip(held, expected, strict=True)]
            np.testing.assert_array_equal(lanes, np.stack(streams))
    np.testing.assert_array_equal(order_of(digests).cpu().numpy(), anchor_order(expected))


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("width", [1, 3, 4, 9])
def test_both_backends_of_a_batch_agree(width, device):
    held = [function(number) for number in range(6)]  # more than one chunk of rows
    windows = torch.from_numpy(random_windows(6, width))
    windows[1, -1] = windows[1, 0]  # a tie between anchors
    plain, whole = RowKeys(held), RowKeys(held, device, backend="torch")
    assert len(plain) == len(whole) == 6
    moved = windows.to(device)
    assert torch.equal(plain.digests(windows), whole.digests(moved).cpu())
    assert torch.equal(plain.anchors(windows), whole.anchors(moved).cpu())
    digests = plain.digests(windows)
    for bits in (8, 32):
        parts = list(plain.lanes(digests, 1001, bits))
        assert [row for part in parts for row in range(6)[part[0]]] == [*range(6)]
        ((every, lanes),) = whole.lanes(digests.to(device), 1001, bits)
        assert range(6)[every] == range(6)
        assert torch.equal(torch.cat([part[1] for part in parts]), lanes.cpu())
    overlaid = torch.zeros(6, 50, dtype=torch.uint8), torch.zeros(6, 50, dtype=torch.uint8, device=device)
    plain.put_own(slice(0, 6), overlaid[0], digests)
    whole.put_own(slice(0, 6), overlaid[1], digests.to(device))
    assert torch.equal(overlaid[0], overlaid[1].cpu())


def test_anchors_are_the_smallest_single_digest_of_their_row():
    held = [function(number) for number in range(3)]
    windows = random_windows(3, 5, seed=1)
    found = RowKeys(held).anchors(torch.from_numpy(windows)).numpy().view(np.uint32)
    for key, window, anchor in zip(held, windows, found, strict=True):
        singles = key.digests(window[:, None].astype(np.uint32))
        assert anchor.tolist() == min(singles.tolist(), key=lambda digest: digest[0] << 31 | digest[1] >> 1)


def test_own_tables_are_those_of_each_token_as_its_own_seed():
    key = function()
    tokens = np.arange(40)
    digests = key.digests(tokens[:, None].astype(np.uint32))
    order = [int(a) << 31 | int(b) >> 1 for a, b, _ in digests]
    own = key.lanes8(digests, tokens)
    anchor = sorted(range(40), key=order.__getitem__)[25]
    lanes = torch.full((1, 40), 7, dtype=torch.uint8)
    RowKeys([key]).put_own(slice(0, 1), lanes, torch.from_numpy(digests[anchor : anchor + 1].copy().view(np.int32)))
    # A tie goes to the context: the anchor itself keeps the lane of the window.
    assert lanes[0].tolist() == [int(own[v]) if order[v] < order[anchor] else 7 for v in tokens]
    assert rows._own_tables(key, 40, torch.device("cpu"))[0] is key.cache["own", 40, "cpu"][0]


def test_widths_labels_and_tenants_are_separate_functions():
    window = random_windows(1, 4).astype(np.uint32)
    labels = ["redgreen/left/4", "redgreen/min/4", "gumbel/left/4", "redgreen/left/3"]
    digests = {function(number, label).digests(window).tobytes() for number in (0, 1) for label in labels}
    assert len(digests) == 8
    zero = np.zeros((1, 8), np.uint32)
    # Zero padding is no ambiguity only because each label has one width: the same key would say the same.
    assert function().digests(zero[:, :3]).tobytes() == function().digests(zero[:, :4]).tobytes()
    assert function(label="redgreen/left/3").digests(zero[:, :3]).tobytes() != function().digests(zero[:, :4]).tobytes()


@pytest.mark.parametrize("width", [0, 4])
def test_no_items(width):
    key = function()
    digests = key.digests(np.zeros((0, width), np.uint32))
    assert digests.shape == (0, 3)
    assert key.lanes8(digests, np.zeros(0, np.int64)).shape == (0,)
    assert key.lanes32(digests, np.zeros(0, np.int64)).shape == (0,)


def test_lanes_are_as_even_as_coins():
    # 160,000 lanes; each chi-squared statistic has 255 degrees of freedom, and 400 lies beyond its 1e-7 quantile.
    key = function()
    digests = key.digests(np.arange(400, dtype=np.uint32).reshape(100, 4))
    bytes8 = np.concatenate([key.stream(digest, 1600, 8) for digest in digests])
    words32 = np.concatenate([key.stream(digest, 1600, 32) for digest in digests])
    for values in (bytes8, words32 >> 24, words32 & 255):
        counts = np.bincount(values, minlength=256)
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 400


def test_a_keyed_function_shows_and_gives_away_nothing():
    key = function()
    assert repr(key) == f"{key}" == "PrfKey(...)"
    for spread in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps, vars):
        with pytest.raises(TypeError, match=r"not pickled|not JSON|__dict__"):
            spread(key)


def test_no_traceback_or_pickle_shows_round_keys():
    import pickle
    import traceback

    held = prf_torch.TorchPrf([function()], torch.device("cpu"))
    with pytest.raises(TypeError):
        pickle.dumps(held)
    try:
        held.lanes(slice(None), torch.zeros(1, 5, dtype=torch.int32), 8, 8)
    except RuntimeError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        words = prf_torch.expand_key(function().secrets()[1])
        assert "encrypt" in shown or "lanes" in shown
        assert not any(str(word) in shown for word in words)
