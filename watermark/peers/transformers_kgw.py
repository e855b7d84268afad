"""Green lists as Hugging Face transformers embeds them: ``WatermarkingConfig`` and ``WatermarkLogitsProcessor``.

- ``lefthash``: the seed is ``key * x mod (2^64 - 1)`` of the one id x before the token, whatever ``context_width`` says.
- ``selfhash``: with ``a_i = T[w_i mod 1000003] + 1`` for the last ``context_width`` ids, the token itself as the last of them,
  the least ``key * a_i * a_last`` in wrapping signed 64 bits, taken modulo 2^64 - 1. ``T`` permutes 1,000,003 numbers under the
  key. Width 1, the default, is one colour for each id whatever stands before it.

Text that was made on a GPU has lists of CUDA's generator, which no CPU can draw.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.errors import ProfileError
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.green_lists import GreenKey, GreenListPeer, Seeds, modulo, product
from wmcheck.watermark.peers.torch_rng import Prefixes, randperm
from wmcheck.watermark.prf import I64, U32, U64
from wmcheck.watermark.scheme import MAX_WIDTH, check_integer

TABLE = 1_000_003
SCHEMES = ("lefthash", "selfhash")


class TransformersKgw(GreenListPeer):
    """The contract of transformers' green lists.

    Args:
        vocabulary: V, ``config.vocab_size`` of the model.
        greenlist_ratio: share of green ids.
        bias: nats added to green ids.
        seeding_scheme: ``lefthash`` or ``selfhash``.
        context_width: of the configuration, 1 to 16; ``lefthash`` does not read it.
        device: where the text was made: only ``cpu`` can be read.
    """

    name: ClassVar[str] = "transformers-kgw"
    project: ClassVar[str] = "transformers"
    version: ClassVar[str] = "5.23.0"
    prf: ClassVar[str] = "transformers-kgw/5.23"
    source: ClassVar[str] = "transformers, WatermarkLogitsProcessor; Kirchenbauer et al. 2023"
    differs: ClassVar[str] = (
        "its detector takes the normal tail of a z-score and counts repeated n-grams again unless told not to"
    )
    candidates: ClassVar[int | None] = 40

    def __init__(
        self, *, vocabulary: int, greenlist_ratio: float = 0.25, bias: float = 2.0, seeding_scheme: str = "lefthash",
        context_width: int = 1, device: str = "cpu",
    ) -> None:
        super().__init__(vocabulary=vocabulary, ratio=greenlist_ratio, bias=bias, where=("greenlist_ratio", "bias"))
        if seeding_scheme not in SCHEMES:
            raise ProfileError(
                "impossible parameter", where="seeding_scheme", got=repr(seeding_scheme)[:80], expected=", ".join(SCHEMES)
            )
        if device != "cpu":
            raise ProfileError(
                "text made on another device cannot be read", where="device", got=repr(device)[:80], expected="'cpu'",
                hint="on a GPU the lists are those of CUDA's generator (Philox, sorted random keys); torch on that device "
                "alone can draw them again, with transformers' own WatermarkDetector",
            )
        self.seeding_scheme, self.device = seeding_scheme, device
        self.context_width = check_integer("context_width", context_width, 1, MAX_WIDTH)
        self.own = seeding_scheme == "selfhash"
        self.width = self.context_width - 1 if self.own else 1

    def parameters(self) -> dict[str, Any]:
        return {
            "vocabulary": self.vocabulary, "greenlist_ratio": self.ratio, "bias": self.bias,
            "seeding_scheme": self.seeding_scheme, "context_width": self.context_width, "device": self.device,
        }

    def label(self) -> str:
        return f"{self.name}/{self.seeding_scheme}/{self.width}"

    def keyed(self, key: PeerKey) -> GreenKey:
        number = key.integer(self.name, high=2**63 - 1, low=1)
        return GreenKey(self._seeds(number), Prefixes(self.vocabulary, self.listed))

    def draw(self, rng: np.random.Generator) -> PeerKey:
        return PeerKey(int(rng.integers(1, 2**63)))

    def _seeds(self, number: int) -> Seeds:
        if not self.own:
            return lambda windows, tokens: product(number, windows[:, -1].astype(np.int64))
        table = HashTable(number, self.vocabulary)

        def least(windows: U32, tokens: I64) -> U64:
            last = table.of(tokens)
            with np.errstate(over="ignore"):
                found = np.int64(number) * last * last
                for column in range(windows.shape[1]):
                    found = np.minimum(found, np.int64(number) * table.of(windows[:, column].astype(np.int64)) * last)
            return modulo(found)

        return least

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {"vocabulary": 1000}, {"vocabulary": 4096, "greenlist_ratio": 0.5, "context_width": 3},
            {"vocabulary": 256, "seeding_scheme": "selfhash", "context_width": 4},
            {"vocabulary": 512, "seeding_scheme": "selfhash"},
        ]


class HashTable:
    """``T[id mod 1000003] + 1`` of one key, drawn as far as ids ask for. Holds a secret."""

    __slots__ = ("_seed", "_table")

    def __init__(self, seed: int, ids: int) -> None:
        self._seed = seed
        self._table = randperm(TABLE, seed, ids) + 1

    def __repr__(self) -> str:
        return "HashTable(...)"

    def of(self, ids: I64) -> I64:
        places = ids % TABLE
        if len(places) and int(places.max()) >= len(self._table):
            self._table = randperm(TABLE, self._seed) + 1
        return np.asarray(self._table[places])


def detector_counts(
    peer: TransformersKgw, key: GreenKey, rows: NDArray[np.int64], *, bos: int | None = None, ignore_repeated: bool = False
) -> tuple[I64, I64]:
    """What ``WatermarkDetector`` counts in rows of ids [b, L]: tokens scored, and green ones, both i64[b].

    A leading ``bos`` of every row is dropped; n-grams are ``context_width`` ids and the token (``selfhash``: the token is the
    last of them), so ``lefthash`` skips more first tokens than it must.
    """
    if bos is not None and rows.shape[1] and (rows[:, 0] == bos).all():
        rows = rows[:, 1:]
    size = peer.context_width + (0 if peer.own else 1)
    grams = np.lib.stride_tricks.sliding_window_view(rows, size, axis=1)
    flat = grams.reshape(-1, size)
    if ignore_repeated:
        kept = [np.unique(row, axis=0) for row in grams]
        flat = np.concatenate(kept)
        owner = np.repeat(np.arange(len(rows)), [len(row) for row in kept])
    else:
        owner = np.repeat(np.arange(len(rows)), grams.shape[1])
    green = key.green(flat[:, :-1][:, -peer.width :] if peer.width else flat[:, :0], flat[:, -1])
    return np.bincount(owner, minlength=len(rows)), np.bincount(owner[green], minlength=len(rows))
