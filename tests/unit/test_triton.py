"""The Triton kernels have the bits of the numpy keyed function: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import math
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.prf_torch import TorchPrf
from wmcheck.watermark.rows import RowKeys, mark_rows
from wmcheck.watermark.scheme import make_scheme
from wmcheck.watermark.schemes.gumbel import LOSERS

sys.path.append(str(Path(__file__).parents[1] / "support"))
from triton_device import triton_device

DEVICE = triton_device()

from wmcheck.watermark import kernels, prf_triton  # noqa: E402
from wmcheck.watermark.aes_triton import KEY_WORDS, sliced_key  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
ROOT = SecretKey(bytes((37 * i * i + 11 * i + 5) % 256 for i in range(32)))
# FIPS 197, appendices B and C.1: key, plaintext, ciphertext.
AES = [
    ("2b7e151628aed2a6abf7158809cf4f3c", "3243f6a8885a308d313198a2e0370734", "3925841d02dc09fbdc118597196a0b32"),
    ("000102030405060708090a0b0c0d0e0f", "00112233445566778899aabbccddeeff", "69c4e0d86a7b0430d8cdb78070b4c55a"),
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def functions(count, label="gumbel/left/4"):
    """Keyed functions of ``count`` rows, some of which share a key."""
    made = [PrfKey.derive(ROOT.tenant(f"t{number}"), label) for number in range(3)]
    return [made[(0, 1, 0, 2, 1)[row % 5]] for row in range(count)]


def windows_of(count, width, high=2**31, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, high, (count, width)))


@pytest.mark.parametrize(("key", "plain", "cipher"), AES)
def test_published_vectors(key, plain, cipher):
    """The table cipher, as the digest of one block."""
    prf = prf_triton.TritonPrf([PrfKey(bytes.fromhex(key), bytes.fromhex(key))], torch.device(DEVICE))
    words = np.frombuffer(bytes.fromhex(plain), np.uint32)
    digest = prf.digests(slice(None), torch.from_numpy(words.astype(np.int64)).view(1, 1, 4).to(DEVICE))
    assert digest.cpu().numpy().tobytes().hex() == cipher[:24]


def test_the_blocks_of_a_context_are_counter_mode():
    """The bit-sliced cipher beside OpenSSL's counter mode: block numbers of two bytes, the end inside a tile."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key, nonce = bytes(range(16)), bytes(range(100, 112))
    prf = prf_triton.TritonPrf([PrfKey(key, key)], torch.device(DEVICE))
    digest = torch.from_numpy(np.frombuffer(nonce, np.int32).copy())[None].to(DEVICE)
    found = prf.words(prf.slots, digest, 2500).cpu().numpy().tobytes()
    assert found == Cipher(algorithms.AES(key), modes.CTR(nonce + bytes(4))).encryptor().update(bytes(16 * 2500))


@pytest.mark.parametrize("width", [0, 3, 4, 5, 16])
def test_digests_have_the_bits_of_numpy(width):
    keys, windows = functions(5), windows_of(10, width).view(5, 2, width)
    if width:
        windows[0, 0, 0], windows[0, 0, -1] = 0, 2**31 - 1
    found = prf_triton.TritonPrf(keys, torch.device(DEVICE)).digests(slice(None), windows.to(DEVICE)).cpu().numpy()
    for key, own, digests in zip(keys, windows.numpy().astype(np.uint32), found.view(np.uint32), strict=True):
        np.testing.assert_array_equal(digests, key.digests(own))


@pytest.mark.parametrize("width", [1, 3])
def test_anchors_have_the_bits_of_numpy(width):
    keys, windows = functions(5), windows_of(5, width)
    windows[1, -1] = windows[1, 0]  # a tie
    plain, whole = RowKeys(keys), RowKeys(keys, DEVICE, backend="triton")
    assert torch.equal(whole.anchors(windows.to(DEVICE)).cpu(), plain.anchors(windows))
    taken = [3, 1, 2]  # first seen in another order than in the whole batch
    assert torch.equal(whole.take(taken).anchors(windows[taken].to(DEVICE)).cpu(), plain.anchors(windows)[taken])


@pytest.mark.parametrize(("vocabulary", "bits"), [(17, 8), (1001, 32)])
def test_lanes_have_the_bits_of_numpy(vocabulary, bits):
    keys = functions(4)
    plain, whole = RowKeys(keys), RowKeys(keys, DEVICE, backend="triton")
    digests = plain.digests(windows_of(4, 4))
    expected = torch.cat([lanes for _, lanes in plain.lanes(digests, vocabulary, bits)])
    ((_, lanes),) = whole.lanes(digests.to(DEVICE), vocabulary, bits)
    assert torch.equal(lanes.cpu(), expected)
    assert torch.equal(TorchPrf(keys, torch.device("cpu")).lanes(slice(None), digests, vocabulary, bits), expected)


def batch_of(dtype, vocabulary=333):
    """Eight rows of logits: masked ones, one with a single finite logit, one without any."""
    logits = (torch.randn(8, vocabulary, generator=torch.Generator().manual_seed(4)) * 3).to(dtype)
    logits[:, ::3] = -math.inf
    logits[2] = -math.inf
    logits[2, 5] = 1.0
    logits[4] = -math.inf
    return logits


ROWS = [6, 2, 4, 0, 1]
MARKED = [
    ("redgreen", {"width": 0, "green": 255}, torch.float16), ("redgreen", {"width": 4, "rule": "min"}, torch.bfloat16),
    ("redgreen", {"width": 3, "rule": "self", "green": 65}, torch.float32),
    ("gumbel", {"width": 4}, torch.float32), ("gumbel", {"width": 1}, torch.bfloat16),
    ("tournament", {"width": 4}, torch.float32), ("reweight", {"width": 4}, torch.float32),
]


@pytest.mark.parametrize(("name", "parameters", "dtype"), MARKED, ids=str)
def test_rows_of_a_batch_are_marked_in_place_as_by_numpy(name, parameters, dtype):
    scheme, before = make_scheme(name, parameters), batch_of(dtype)
    windows, keys, rows = windows_of(5, scheme.width, 333), functions(5, scheme.label()), torch.tensor(ROWS)
    expected, logits = before.clone(), before.clone().to(DEVICE)
    mark_rows(scheme, windows, expected, RowKeys(keys), rows)
    mark_rows(scheme, windows.to(DEVICE), logits, RowKeys(keys, DEVICE, backend="triton"), rows.to(DEVICE))
    found = logits.cpu()
    others = [row for row in range(8) if row not in ROWS]
    assert torch.equal(found[others], before[others])
    assert torch.isneginf(found[torch.isneginf(before)]).all()
    assert torch.equal(found[4], before[4])
    if name in ("redgreen", "gumbel"):
        # The interpreter cuts bfloat16 off where the hardware rounds.
        cut = 2.0**-7 if dtype == torch.bfloat16 and DEVICE == "cpu" else 0.0
        torch.testing.assert_close(found, expected, rtol=cut, atol=0.0)
        assert torch.equal(found.argmax(1), expected.argmax(1)) or cut
    else:
        wrong = (found.double().softmax(1) - expected.double().softmax(1)).nan_to_num().abs().max()
        assert wrong < (1e-6 if dtype == torch.float32 else 2e-3)


def test_the_choice_in_dense_rows():
    """Rows with more finite logits than a list has room for, beside one that is short enough and one that is empty."""
    scheme, before = make_scheme("gumbel", {"width": 2}), batch_of(torch.float32, 203)[[2, 0, 4]]
    windows, keys = windows_of(3, 2, 203), functions(3, scheme.label())
    held, logits = RowKeys(keys, DEVICE, backend="triton"), before.clone().to(DEVICE)
    kernels.choose(logits, None, held, held.digests(windows.to(DEVICE)), LOSERS, capacity=16)
    assert torch.equal(logits.cpu(), scheme.transform(windows, before, RowKeys(keys)))


def test_the_tournament_of_dense_rows():
    layers = 32  # the last pass has two layers instead of three
    scheme, before = make_scheme("tournament", {"width": 2, "layers": layers}), batch_of(torch.float32, 203)[[2, 0, 4]]
    windows, keys = windows_of(3, 2, 203), functions(3, scheme.label())
    held = RowKeys(keys, DEVICE, backend="triton")
    logits = before.clone().to(DEVICE)
    kernels.compete(logits, None, held, held.digests(windows.to(DEVICE)), layers, capacity=16)
    expected = scheme.transform(windows, before, RowKeys(keys))
    torch.testing.assert_close(logits.cpu().softmax(1).nan_to_num(), expected.softmax(1).nan_to_num(), rtol=1e-5, atol=1e-6)


def test_one_row_and_no_rows():
    scheme = make_scheme("redgreen", {"width": 1})
    key, windows, logits = functions(1, scheme.label()), windows_of(1, 1), batch_of(torch.float32)[:1]
    expected = scheme.transform(windows, logits, RowKeys(key))
    found = scheme.transform(windows.to(DEVICE), logits.to(DEVICE), RowKeys(key, DEVICE, backend="triton"))
    assert torch.equal(found.cpu(), expected)
    for name in ("redgreen", "gumbel", "tournament", "reweight"):
        one = make_scheme(name, {"width": 1})
        left = logits.clone().to(DEVICE)
        none = torch.empty(0, dtype=torch.int64, device=DEVICE)
        mark_rows(one, none[:, None], left, RowKeys([], DEVICE, backend="triton"), none)
        assert torch.equal(left.cpu(), logits)


def test_logits_that_no_kernel_takes_go_the_other_way():
    scheme = make_scheme("redgreen", {"width": 1})
    keys, windows = functions(2, scheme.label()), windows_of(2, 1).to(DEVICE)
    held, doubles = RowKeys(keys, DEVICE, backend="triton"), torch.randn(2, 40, dtype=torch.float64, device=DEVICE)
    turned = torch.randn(40, 2, device=DEVICE).t()
    assert not held.fuses(doubles)
    assert not held.fuses(turned)
    expected = scheme.transform(windows.cpu(), doubles.cpu(), RowKeys(keys))
    mark_rows(scheme, windows, doubles, held)
    assert torch.equal(doubles.cpu(), expected)


def test_nothing_shows_or_pickles_expanded_keys():
    (key,) = functions(1)
    held = prf_triton.TritonPrf([key], torch.device(DEVICE))
    again = prf_triton.TritonPrf([key, key], torch.device(DEVICE))
    assert held.keys.shape == again.keys.shape == (1, 44 + KEY_WORDS)
    assert repr(held.keys) == f"{key.cache['slot', str(torch.device(DEVICE))]}" == "SecretWords(...)"
    for secret in (held, held.keys, RowKeys([key], DEVICE, backend="triton")):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(secret)


def test_planes_of_a_key():
    words = list(range(1, 45))
    planes = np.array(sliced_key(words), np.int32).view(np.uint32).reshape(11, 4, 8)
    octets = np.array(words, np.int32).view(np.uint8).reshape(11, 4, 4)
    for turn, row, plane, column in np.random.default_rng(0).integers(0, (11, 4, 8, 4), (50, 4)):
        bit = octets[turn, column, row] >> plane & 1
        assert planes[turn, row, plane] >> (8 * column) & 0xFF == 0xFF * bit
