"""Layered keys: every context belongs to one of several watermarks, of provider, epoch, cohort and account.

A wrapper round a scheme whose seed is the window itself. The layer of a context is decided by a keyed function of its last ids,
as many as the narrowest layer reads: an edit further back moves no context of that layer to another one. Of the digest's first
word ``w`` layer ``i`` gets the range ``[c_(i-1), c_i)`` of ``w / 2^32``, ``c`` the cumulative shares. Each layer then marks and
scores as the inner scheme does with the layer's own width and key, so the null law of an item is the inner scheme's.

A context is marked where its whole widest window is known, holds no special id, and the window of its own layer is new to
the row. Keys: :mod:`wmcheck.watermark.layers`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.errors import ProfileError
from wmcheck.watermark.core.graded import Graded
from wmcheck.watermark.core.nulls import Null
from wmcheck.watermark.keys import TenantKey
from wmcheck.watermark.law import Aided, Law
from wmcheck.watermark.layers import ACCOUNT, COHORT, EPOCH, LAYERED, ORDER, PROVIDER, layered_function, own_function
from wmcheck.watermark.prf import I64, U32, U64, PrfKey
from wmcheck.watermark.scheme import MAX_WIDTH, SCHEMES, Scheme, check_integer, check_number, left_codes, make_scheme
from wmcheck.watermark.windows import fresh_rows, hash64, mix64

if TYPE_CHECKING:
    from torch import Tensor

    from wmcheck.watermark.rows import RowKeys

MAX_COHORTS = 1 << 20
DEFAULT_LAYERS = (
    {"name": PROVIDER, "share": 0.5, "width": 2}, {"name": EPOCH, "share": 0.2, "width": 2},
    {"name": COHORT, "share": 0.1, "width": 4}, {"name": ACCOUNT, "share": 0.2, "width": 4},
)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: its name, its share of the contexts, and how many ids its windows hold."""

    name: str
    share: float
    width: int


class Layered:
    """The layered scheme.

    Args:
        scheme: registry name of the inner scheme, whose seed must be the window itself.
        parameters: its parameters without the width.
        layers: ``{"name", "share", "width"}`` each; shares sum to 1.
        cohorts: number of cohorts, 1 to 2^20.
        only: mark and score this layer alone: its width is the scheme's, and its contexts are the items.
    """

    name: ClassVar[str] = LAYERED
    # Of the class, for lists of schemes; an instance has its inner scheme's.
    unbiased: bool = False

    def __init__(
        self, *, scheme: str = "gumbel", parameters: Mapping[str, Any] | None = None,
        layers: Sequence[Mapping[str, Any]] = DEFAULT_LAYERS, cohorts: int = 1024, only: str | None = None,
    ) -> None:
        self.layers = _checked(layers)
        self.cohorts = check_integer("cohorts", cohorts, 1, MAX_COHORTS)
        names = [layer.name for layer in self.layers]
        if only is not None and only not in names:
            raise ProfileError("impossible parameter", where="only", got=repr(only)[:80], expected=f"null, {', '.join(names)}")
        self.only = only
        self.active = tuple(layer for layer in self.layers if only in (None, layer.name))
        self.narrowest = min(layer.width for layer in self.layers)
        self.inner = {width: _inner(scheme, parameters, width) for width in {layer.width for layer in self.layers}}
        self._one = one = self.inner[self.active[0].width]
        self.width = max(layer.width for layer in self.active)
        self.widths = tuple(sorted({layer.width for layer in self.active}))
        self.unbiased, self.window_rule = one.unbiased, one.window_rule
        self.chooses = bool(getattr(one, "chooses", False))
        # Whether windows alone tell effective seeds apart, and no key chooses among them.
        self.key_free_selection = only is None and len(self.widths) == 1
        shares = np.cumsum([layer.share for layer in self.layers])[:-1]
        # The last layer has what is left, whatever the rounding.
        self._bounds = np.rint(shares * 2.0**32).astype(np.int64)
        self._place = {names.index(layer.name): place for place, layer in enumerate(self.active)}

    def parameters(self) -> dict[str, Any]:
        inner = {name: value for name, value in self._one.parameters().items() if name != "width"}
        return {
            "scheme": self._one.name, "parameters": inner,
            "layers": [{"name": layer.name, "share": layer.share, "width": layer.width} for layer in self.layers],
            "cohorts": self.cohorts, "only": self.only,
        }

    def label(self) -> str:
        """The label for a key that knows no root."""
        return f"{LAYERED}/" + "+".join(self.inner[layer.width].label() for layer in self.layers)

    def layer_label(self, layer: Layer) -> str:
        """The label of a layer's token key."""
        return f"{LAYERED}/{layer.name}/{self.inner[layer.width].label()}"

    def context_label(self, layer: Layer) -> str:
        """The label of the context key, which layers of one width share."""
        return f"{LAYERED}/contexts/{self.inner[layer.width].label()}"

    def function(self, key: TenantKey) -> PrfKey:
        """The keyed functions of a tenant; :func:`wmcheck.watermark.scheme.keyed` calls it."""
        return layered_function(self, key)

    def assigned(self, windows: U32, key: PrfKey) -> I64:
        """i64[n]: the place of each context's layer in ``layers``.

        Args:
            windows: u32[n, h]; the last ``narrowest`` ids decide.
            key: the functions under test.
        """
        tails = np.ascontiguousarray(windows[:, windows.shape[1] - self.narrowest :])
        return np.searchsorted(self._bounds, own_function(self, key).digests(tails)[:, 0].astype(np.int64), side="right")

    def _parts(self, windows: U32, key: PrfKey) -> Iterator[tuple[I64, Scheme, U32, PrfKey]]:
        """Items by layer: which they are, the layer's inner scheme, their windows and the layer's keyed function.

        Under ``only`` one part with every item, as membership is what :meth:`members` decides.
        """
        functions = own_function(self, key).layers
        everything = np.arange(len(windows))
        which = np.zeros(len(windows), np.int64) if self.only else self.assigned(windows, key)
        for place, layer in enumerate(self.active):
            rows = everything if len(self.active) == 1 else np.flatnonzero(which == place)
            if len(rows) or not place:
                own = np.ascontiguousarray(windows[rows, windows.shape[1] - layer.width :])
                yield rows, self.inner[layer.width], own, functions[place]

    def score(self, windows: U32, tokens: I64, key: PrfKey) -> NDArray[Any]:
        out: NDArray[Any] | None = None
        for rows, inner, own, function in self._parts(windows, key):
            found = np.asarray(inner.score(own, tokens[rows], function))
            if len(rows) == len(tokens):
                return found
            out = np.empty((len(tokens), *found.shape[1:]), found.dtype) if out is None else out
            out[rows] = found
        assert out is not None
        return out

    def aided(self, windows: U32, tokens: I64, law: Law, key: PrfKey) -> Aided:
        """The inner scheme's, layer by layer: items of different layers share no keyed value."""
        places: list[I64] = []
        parts: list[Aided] = []
        for rows, inner, own, function in self._parts(windows, key):
            made: Any = inner
            places.append(rows)
            parts.append(made.aided(own, tokens[rows], law.take(rows), function))
        first, order = parts[0], np.argsort(np.concatenate(places), kind="stable")
        pivots = [part.pivot for part in parts if part.pivot is not None]
        graded = [part.graded for part in parts if part.graded is not None]
        return Aided(
            np.concatenate([part.log_e for part in parts])[order], first.experts,
            np.concatenate(pivots)[order] if pivots else None, first.shares, Graded.join(graded).take(order) if graded else None,
        )

    def codes(self, windows: U32, tokens: I64, key: PrfKey) -> U64:
        if self.only is not None:
            # All items of other layers count as one, so that a test which asks for nothing but codes is not diluted by them.
            return np.where(self.members(windows, key), left_codes(windows, tokens), np.uint64(0))
        if len(self.widths) == 1:
            return left_codes(windows, tokens)
        found = np.empty(len(windows), np.uint64)
        for rows, inner, own, _ in self._parts(windows, key):
            found[rows] = hash64(own, inner.width)
        return mix64(found ^ tokens.astype(np.uint64))

    def members(self, windows: U32, key: PrfKey) -> NDArray[np.bool_]:
        """bool[n]: which contexts belong to a layer in use: under ``only`` to that one, else all."""
        if self.only is None:
            return np.ones(len(windows), bool)
        return np.asarray(self.assigned(windows, key) == next(iter(self._place)))

    def null(self) -> Null:
        return self._one.null()

    def expected(self, entropy_bits: float) -> float:
        return self._one.expected(entropy_bits)

    def places(self, windows: Tensor, keys: RowKeys) -> Tensor:
        """int64 [B]: the place in ``layers`` of each row's context, on the device of ``windows``."""
        import torch

        from wmcheck.watermark.rows import RowKeys

        functions = RowKeys([own_function(self, key).assignment for key in keys.keys], keys.device, backend=_backend(keys))
        words = functions.digests(windows[:, windows.shape[1] - self.narrowest :])[:, 0].long() & 0xFFFFFFFF
        return torch.bucketize(words.contiguous(), torch.from_numpy(self._bounds).to(words.device), right=True)

    def own_widths(self, windows: Tensor, keys: RowKeys) -> Tensor:
        """int64 [B]: how many ids the layer of each row reads; of rows of other layers than ``only``, the scheme's width."""
        import torch

        table = torch.tensor([
            layer.width if place in self._place else self.width for place, layer in enumerate(self.layers)
        ], device=windows.device)
        return table[self.places(windows, keys)]

    def fresh(self, history: Tensor, keys: RowKeys) -> Tensor:
        """bool [B]: whether the window of its own layer is new to each row; asked beside
        :func:`~wmcheck.watermark.windows.fresh_rows` at the scheme's width.

        Args:
            history: int64 [B, L], at least the scheme's width.
            keys: one a row.
        """
        import torch

        new = torch.ones(len(history), dtype=torch.bool, device=history.device)
        if not self.window_rule or len(self.widths) == 1:
            return new
        own = self.own_widths(history[:, history.shape[1] - self.width :], keys)
        none = torch.zeros(0, dtype=history.dtype, device=history.device)
        for width in self.widths[:-1]:
            new &= (own != width) | fresh_rows(history, width, none, window_rule=True)
        return new

    def transform(self, windows: Tensor, logits: Tensor, keys: RowKeys) -> Tensor:
        out = logits.clone()
        self.transform_rows(windows, out, keys)
        return out

    def transform_rows(self, windows: Tensor, logits: Tensor, keys: RowKeys, rows: Tensor | None = None) -> None:
        import torch

        from wmcheck.watermark.rows import RowKeys, mark_rows

        # The rows of each layer are a batch of their own, so the host must know them: one wait for the device a step.
        found = self.places(windows, keys).tolist()
        for index, place in self._place.items():
            own = [row for row, which in enumerate(found) if which == index]
            if not own:
                continue
            layer = self.active[place]
            functions = RowKeys(
                [own_function(self, keys.keys[row]).layers[place] for row in own], keys.device, backend=_backend(keys)
            )
            part = torch.tensor(own, device=logits.device)
            tails = windows[:, windows.shape[1] - layer.width :]
            whole = len(own) == len(found)
            where = rows if whole else part if rows is None else rows[part]
            mark_rows(self.inner[layer.width], tails if whole else tails[part], logits, functions, where)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        thirds = [{"name": PROVIDER, "share": 0.7, "width": 1}, {"name": ACCOUNT, "share": 0.3, "width": 3}]
        return [
            {}, {"scheme": "redgreen", "parameters": {"green": 128}, "layers": thirds},
            {"scheme": "tournament", "parameters": {"layers": 12}, "layers": thirds},
        ]


def _backend(keys: RowKeys) -> str:
    """The backend of other keyed functions for the same rows."""
    return "triton" if keys._kernels is not None else "torch" if keys.whole else "auto"


def _inner(name: str, parameters: Mapping[str, Any] | None, width: int) -> Scheme:
    """The inner scheme at one width.

    Raises:
        ProfileError: an unknown scheme, one that cannot be layered, or bad parameters.
    """
    if parameters is not None and not isinstance(parameters, Mapping):
        raise ProfileError("impossible parameter", where="parameters", got=repr(parameters)[:80], expected="an object")
    if parameters and "width" in parameters:
        raise ProfileError("impossible parameter", where="parameters", got="a width", expected="a width in each layer")
    if name == LAYERED or name not in SCHEMES:
        names = ", ".join(one for one in SCHEMES if one != LAYERED)
        raise ProfileError("impossible parameter", where="scheme", got=repr(name)[:80], expected=names)
    found = make_scheme(name, {**(parameters or {}), "width": width}, where=name)
    if not found.key_free_selection or hasattr(found, "evaluate") or hasattr(found, "keyed"):
        raise ProfileError(
            "a scheme that cannot be layered", where="scheme", got=name, expected="one whose seed is the window",
            hint="of redgreen, the rule left",
        )
    return found


def _checked(layers: Sequence[Mapping[str, Any]]) -> tuple[Layer, ...]:
    """The layers.

    Raises:
        ProfileError: unknown or repeated names, impossible widths, or shares that do not sum to 1.
    """
    expected = f"layers of {', '.join(ORDER)}, each with name, share and width"
    sound = isinstance(layers, Sequence) and not isinstance(layers, str) and 0 < len(layers) <= len(ORDER)
    sound = sound and all(isinstance(one, Mapping) and set(one) == {"name", "share", "width"} for one in layers)
    names = [one["name"] for one in layers] if sound else []
    if not sound or any(name not in ORDER for name in names) or len(set(names)) < len(names):
        raise ProfileError("impossible parameter", where="layers", got=repr(layers)[:80], expected=expected)
    found = tuple(
        Layer(one["name"], check_number("share", one["share"], 0.0, 1.0), check_integer("width", one["width"], 1, MAX_WIDTH))
        for one in layers
    )
    total = math.fsum(layer.share for layer in found)
    if abs(total - 1.0) > 1e-9:
        raise ProfileError("impossible parameter", where="layers", got=f"shares that sum to {total:.9g}", expected="a sum of 1")
    return found
