"""The scheme contract and the registry of schemes.

A scheme is one file with one class and one line in :data:`SCHEMES`. Third parties register the entry point group
``wmcheck.schemes``. ``tests/conformance/test_scheme.py`` then tests it without further code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from wmcheck.watermark.core.errors import ConfigError, KeyFileError, ProfileError
from wmcheck.watermark.core.nulls import Null
from wmcheck.watermark.core.registry import Registry
from wmcheck.watermark.keys import SecretKey, TenantKey
from wmcheck.watermark.payload import Payload
from wmcheck.watermark.peer import PEERS
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.prf import I64, U32, U64, PrfKey
from wmcheck.watermark.windows import hash64, mix64

if TYPE_CHECKING:
    from torch import Tensor

    from wmcheck.watermark.rows import RowKeys

MAX_WIDTH = 16


class Scheme(Protocol):
    """A keyed change of the next-token law and the score that finds it again.

    Attributes:
        name: registry name.
        width: ``h``, the number of context ids before a token.
        window_rule: windows that occurred earlier in a row are sampled ordinarily and not scored.
        key_free_selection: equal windows are equal effective seeds and conversely, so that the choice of scored items
            needs no key.
        unbiased: averaged over keys, the transformed law equals the model's.
    """

    name: ClassVar[str]
    unbiased: ClassVar[bool]
    width: int
    window_rule: bool
    key_free_selection: bool

    def __init__(self, **parameters: Any) -> None:
        """Build from profile parameters; unknown or impossible ones raise ``ProfileError``."""

    def parameters(self) -> dict[str, Any]:
        """Everything that ``__init__`` needs to rebuild the scheme, JSON-ready, without any key."""

    def label(self) -> str:
        """The PRF label: schemes with different labels draw from independent keyed functions."""

    def transform(self, windows: Tensor, logits: Tensor, keys: RowKeys) -> Tensor:
        """The watermarked logits.

        Args:
            windows: int64 [B, h], the last ``h`` ids of each row.
            logits: floating [B, V]; ``-inf`` stays ``-inf``. Not changed in place.
            keys: one keyed function a row.

        Returns:
            [B, V], dtype and device of ``logits``.
        """

    def score(self, windows: U32, tokens: I64, key: PrfKey) -> NDArray[Any]:
        """Scores of ``tokens[i]`` in ``windows[i]``: [n] or [n, d]. Larger speaks for the watermark.

        Args:
            windows: u32[n, h].
            tokens: i64[n].
            key: the keyed function under test.
        """

    def codes(self, windows: U32, tokens: I64, key: PrfKey) -> U64:
        """u64[n], equal for items with the same effective seed and token: only one of them may be scored.

        With ``key_free_selection`` they must be those of :func:`left_codes`, which detection then calls by itself.
        """

    def null(self) -> Null:
        """The exact law of one item's score for text that is independent of the key."""

    # Optional: ``transform_rows(windows, logits, keys, rows=None) -> None``, the same in place by fused kernels, on the rows
    # ``rows`` (int64 [b], None for all in order) of ``logits`` [B, V]; ``windows`` and ``keys`` are those of the ``b`` rows.
    # :func:`wmcheck.watermark.rows.mark_rows` calls it where ``keys.fuses(logits)``. Other rows keep every bit, and nothing
    # waits for the device.

    # Optional: ``function(key) -> PrfKey``, the keyed function of a tenant's key, where ``label`` alone does not derive it.

    # Optional: ``members(windows, key) -> bool[n]``, which contexts are the scheme's, where the key chooses some of them; and
    # ``fresh(history, keys) -> bool [B]``, which rows may be marked of those that may by their windows.

    # Optional: ``aided(windows, tokens, law, key) -> Aided``, the likelihood ratios of items given a model's predictions at their
    # places. The items are those that are scored, of several documents: under the window rule no window occurs twice in a
    # document; without it no (effective seed, token) does, but windows may. For text that is independent of the key and any
    # predictions that are, products of e-values over a document must have mean at most 1, so evidence that reads the keyed
    # noise of other candidates may only be taken from items that share none.

    def expected(self, entropy_bits: float) -> float:
        """Mean reduced score of one item of watermarked text whose next-token laws are uniform over
        ``2^entropy_bits`` tokens: a planning figure for INSUFFICIENT, never part of a p-value."""

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        """Parameter sets that the conformance and calibration suites run."""


SCHEMES: Registry[type[Scheme]] = Registry(
    "scheme",
    {
        "gumbel": "wmcheck.watermark.schemes.gumbel:Gumbel",
        "layered": "wmcheck.watermark.schemes.layered:Layered",
        "payload-code": "wmcheck.watermark.schemes.payload_code:PayloadCode",
        "payload-shift": "wmcheck.watermark.schemes.payload:PayloadShift",
        "redgreen": "wmcheck.watermark.schemes.redgreen:RedGreen",
        "reweight": "wmcheck.watermark.schemes.reweight:Reweight",
        "tournament": "wmcheck.watermark.schemes.tournament:Tournament",
    },
    entry_points="wmcheck.schemes",
)


def make_scheme(name: str, parameters: Mapping[str, Any], *, where: str = "scheme") -> Scheme:
    """The scheme or peer's contract ``name`` with ``parameters``.

    Raises:
        ProfileError: an unknown scheme or parameter, or an impossible value.
    """
    if not isinstance(name, str) or (name not in SCHEMES and name not in PEERS):
        raise ProfileError("unknown scheme", where=where, got=repr(name)[:80], expected=", ".join((*SCHEMES, *PEERS)))
    known: type[Scheme] = SCHEMES[name] if name in SCHEMES else PEERS[name]  # type: ignore[assignment]
    try:
        return known(**parameters)
    except ProfileError as error:
        raise ProfileError(
            error.what, where=f"{where}, {error.where}", got=error.got, expected=error.expected, hint=error.hint
        ) from None
    except TypeError as error:
        detail = str(error).split("__init__() got an ")[-1]
        names = ", ".join(known(**known.examples()[0]).parameters())
        raise ProfileError(f"bad parameters for scheme '{name}'", where=where, got=detail, expected=names) from None


def keyed(scheme: Scheme, key: TenantKey | PeerKey) -> Any:
    """The keyed function of ``key`` as ``scheme`` reads it.

    Raises:
        KeyFileError: a key of another kind than the scheme's.
        ConfigError: a key with a message for a scheme that carries none.
    """
    derive = getattr(scheme, "keyed", None)
    if isinstance(key, PeerKey) != (derive is not None):
        raise KeyFileError(
            f"a key that {scheme.name} cannot take", where="key",
            got=f"a peer's key, {key.shape}" if isinstance(key, PeerKey) else "a wmcheck key",
            expected="a wmk1_ key" if derive is None else "the peer's own key",
        )
    if isinstance(key, Payload) and not hasattr(scheme, "messages"):
        raise ConfigError(
            "the profile carries no payload", where="payload", got=f"scheme {scheme.name}",
            expected="payload-shift or payload-code",
            hint="make one with 'wmcheck profile new payload-shift', or leave out the payload",
        )
    function = derive or getattr(scheme, "function", None)
    return PrfKey.derive(key, scheme.label()) if function is None else function(key)


def takes(scheme: Scheme, key: SecretKey | TenantKey | PeerKey) -> bool:
    """Whether the scheme reads keys of this kind: ours, or a peer's own."""
    return isinstance(key, PeerKey) == hasattr(scheme, "keyed")


def check_integer(name: str, value: object, low: int, high: int) -> int:
    """``value`` if it is an integer within bounds, else a ``ProfileError`` that names the parameter."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ProfileError("impossible parameter", where=name, got=repr(value), expected=f"an integer from {low} to {high}")
    return int(value)


def check_number(name: str, value: object, low: float, high: float) -> float:
    """``value`` as a float if it lies in (low, high], else a ``ProfileError`` that names the parameter."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low < value <= high:
        raise ProfileError("impossible parameter", where=name, got=repr(value), expected=f"a number in ({low}, {high}]")
    return float(value)


def uniform_choices(entropy_bits: float) -> int:
    """Number of equally likely tokens that carry ``entropy_bits``, at least 1."""
    return int(max(1, round(2.0 ** min(entropy_bits, 16.0))))


def choice_score(entropy_bits: float) -> float:
    """Mean of ``-log(1 - u)`` of the best of ``2^entropy_bits`` equally likely tokens: what Gumbel-max schemes plan with."""
    return float(digamma(1.0 + 2.0**entropy_bits) - digamma(1.0)) if entropy_bits < 60 else entropy_bits * math.log(2)


def left_codes(windows: U32, tokens: I64) -> U64:
    """Codes of items whose effective seed is the window itself."""
    return mix64(hash64(windows) ^ tokens.astype(np.uint64))
