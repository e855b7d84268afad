"""Evidence that may be looked at after every item: betting e-processes.

An e-process starts at 1 and multiplies by the e-value of each item. Under the null hypothesis it is a nonnegative
supermartingale, so that by Ville's inequality ``P(sup_t E_t >= 1 / alpha) <= alpha``: whoever stops when he likes, at the
first crossing for instance, errs no more often than alpha. A p-value for a fixed number of items has no such property;
looked at after each of 1,000 items it rejects more than ten times as often as it says.

Several experts (alternatives, or predictors) each have their own product, and the e-process is the average of the products
under weights fixed in advance. It loses at most ``log(1 / weight)`` nats to the best expert in hindsight, where the product
of averages would pay at every item.

References:
    J. Ville, "Etude critique de la notion de collectif", 1939; I. Waudby-Smith and A. Ramdas, "Estimating means of bounded
    random variables by betting", JRSS B 86, 2024; A. Ramdas, P. Gruenwald, V. Vovk and G. Shafer, "Game-theoretic statistics
    and safe anytime-valid inference", Statistical Science 38, 2023.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wmcheck.watermark.core.experts import Expert, experts
from wmcheck.watermark.core.nulls import Null

Floats = NDArray[np.float64]

# Items multiplied at a time: bounds the memory of one call.
BLOCK = 1 << 16
# Weight of the whole stream, and the shares of marked records that divide the rest. It costs a stream that is marked
# throughout log(1 / 0.9) = 0.11 nats at most.
WHOLE = 0.9
SHARES = (0.5, 0.1, 0.02, 0.004)
_LOGS = ("products", "record", "closed")


def item_evidence(bets: Sequence[Expert], scores: Floats) -> Floats:
    """f64[n, k] natural logs of the e-values of n reduced scores, one column an expert."""
    found = np.empty((len(scores), len(bets)), order="F")
    for column, bet in enumerate(bets):
        found[:, column] = bet.log_e(scores)
    return found


def null_experts(null: Null) -> tuple[Expert, ...]:
    """The experts of a null law.

    Raises:
        ValueError: the law has none, so that nothing can be bet.
    """
    found = tuple(experts(null))
    if not found:
        raise ValueError(f"no experts for the null law {null.name}")
    return found


class EProcess:
    """A betting e-process over the items of a stream of records.

    The average, under weights fixed in advance, of strategies:

    - whole stream, weight 0.9: the average over experts of running products over all items;
    - one strategy for each share f: each record r has its own average over experts ``E_r``, begun anew, and the product over
      records of ``1 - f + f E_r`` is a bet that a share f of the records is marked. An unmarked record costs at most
      ``log(1 / (1 - f))`` nats, where it would cost the whole stream its evidence.

    Each factor has mean at most 1 under the null hypothesis given the items before it, so each strategy and their average are
    supermartingales that begin at 1. Numbers do not depend on how items are cut into calls of :meth:`update`.

    Args:
        names: of the experts.
        prior: f64[k] weights of the experts, chosen before any item is seen; equal if not given.
        shares: the f, each in (0, 1); empty for the whole stream alone.

    Attributes:
        names: of the experts.
        n: items so far.
        log_e_max: natural log of the largest value so far, at least 0.
        item_max: number of items at which ``log_e_max`` was reached first; 0 before the e-process exceeds 1.

    References:
        The mixture over records: T = sum_i log(1 - f + f E_i), the likelihood ratio of sparse mixtures (Donoho and Jin 2004).
    """

    def __init__(self, names: Sequence[str], prior: ArrayLike | None = None, *, shares: Sequence[float] = SHARES) -> None:
        self.names = tuple(names)
        weights = np.full(len(self.names), 1.0) if prior is None else np.asarray(prior, np.float64)
        if weights.shape != (len(self.names),) or not weights.size or not np.all(np.isfinite(weights)) or weights.min() <= 0:
            raise ValueError("e-process: need one positive weight an expert, and at least one expert")
        if not all(0.0 < share < 1.0 for share in shares):
            raise ValueError("e-process: shares must lie between 0 and 1")
        self._log_prior: Floats = np.log(weights / weights.sum())
        self._log_share = np.log(np.array(shares, np.float64))
        self._log_rest = np.log1p(-np.array(shares, np.float64))
        whole = WHOLE if len(shares) else 1.0
        self._log_plan: Floats = np.log(np.array([whole, *[(1.0 - whole) / max(len(shares), 1)] * len(shares)]))
        # Logs: products over the stream and over the open record, one an expert; products over the closed records.
        self._products: Floats = np.zeros(len(self.names))
        self._record: Floats = np.zeros(len(self.names))
        self._closed: Floats = np.zeros(len(shares))
        self.n = self.item_max = 0
        self.log_e_max = 0.0

    @property
    def log_e(self) -> float:
        """Natural log of the e-process now, an e-value at any stopping time."""
        return float(self._path(self._products[:, None], self._record[:, None])[0])

    @property
    def log_p(self) -> float:
        """Natural log of the anytime p-value ``1 / max_t E_t``: at most alpha at any time with probability at most alpha."""
        return -self.log_e_max

    @property
    def products(self) -> dict[str, float]:
        """Natural log of each expert's product over the stream: which alternative fits."""
        return dict(zip(self.names, self._products.tolist(), strict=True))

    def update(self, log_e: Floats, ends: ArrayLike = ()) -> Floats:
        """Add items in their order.

        Args:
            log_e: f64[n, k] natural logs of e-values, one column an expert; -inf is allowed. Given the items before it,
                each e-value has mean at most 1 under the null hypothesis.
            ends: ascending numbers of these items after which a record ends; the last record stays open unless its end
                is there too. Records must be cut without regard to scores.

        Returns:
            f64[n] natural log of the e-process after each item.

        Raises:
            ValueError: another number of experts, NaN or an infinite e-value, or impossible ends.
        """
        log_e, cuts = np.asarray(log_e, np.float64), np.asarray(ends, np.int64).tolist()
        if log_e.ndim != 2 or log_e.shape[1] != len(self.names):
            raise ValueError(f"e-process: need {len(self.names)} columns, got an array of shape {log_e.shape}")
        if np.isnan(log_e).any() or np.isposinf(log_e).any():
            raise ValueError("e-process: e-values must be finite numbers")
        if cuts != sorted(cuts) or (cuts and not 0 <= cuts[0] <= cuts[-1] <= len(log_e)):
            raise ValueError("e-process: ends must ascend from 0 to the number of items")
        path, start = np.empty(len(log_e)), 0
        for end in (*cuts, None):
            stop = len(log_e) if end is None else end
            for place in range(start, stop, BLOCK):
                there = slice(place, min(place + BLOCK, stop))
                path[there] = self._block(log_e[there])
            if end is not None and self._record.any():
                self._closed = self._closed + self._fragments(_log_mean(self._record[:, None], self._log_prior))[:, 0]
                self._record = np.zeros(len(self.names))
            start = stop
        return path

    def _block(self, log_e: Floats) -> Floats:
        """Items of one record."""
        products, record = _running(self._products, log_e), _running(self._record, log_e)
        self._products, self._record = products[:, -1].copy(), record[:, -1].copy()
        path = self._path(products, record)
        best = int(path.argmax())
        if path[best] > self.log_e_max:
            self.log_e_max, self.item_max = float(path[best]), self.n + best + 1
        self.n += len(path)
        return path

    def _path(self, products: Floats, record: Floats) -> Floats:
        whole = _log_mean(products, self._log_prior)
        if not len(self._closed):
            return whole
        parts = self._closed[:, None] + self._fragments(_log_mean(record, self._log_prior))
        return _log_mean(np.concatenate([whole[None], parts]), self._log_plan)

    def _fragments(self, log_e: Floats) -> Floats:
        """f64[shares, n] natural log of ``1 - f + f E``."""
        return np.asarray(np.logaddexp(self._log_rest[:, None], self._log_share[:, None] + log_e), dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready state, exact; -inf is written as text."""
        return {
            **self._terms(), "n": self.n, "item_max": self.item_max, "log_e_max": self.log_e_max,
            **{name: [_json(value) for value in getattr(self, f"_{name}").tolist()] for name in _LOGS},
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Go on from a state of :meth:`to_dict`.

        Raises:
            ValueError: it is of other experts, weights or shares, or impossible.
        """
        try:
            same = all(data[name] == value for name, value in self._terms().items())
            logs = {name: np.array([float(value) for value in data[name]]) for name in _LOGS}
            n, item_max, log_e_max = data["n"], data["item_max"], float(data["log_e_max"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"e-process: malformed state: {error}") from None
        if not same:
            raise ValueError("e-process: the state is of other experts, weights or shares")
        sound = all(len(found) == len(getattr(self, f"_{name}")) and np.all(found < math.inf) for name, found in logs.items())
        if not (sound and type(n) is type(item_max) is int and 0 <= item_max <= n and 0.0 <= log_e_max < math.inf):
            raise ValueError("e-process: impossible state")
        self._products, self._record, self._closed = (logs[name] for name in _LOGS)
        self.n, self.item_max, self.log_e_max = n, item_max, log_e_max

    def _terms(self) -> dict[str, Any]:
        return {
            "experts": list(self.names), "log_prior": self._log_prior.tolist(), "log_share": self._log_share.tolist(),
            "log_plan": self._log_plan.tolist(),
        }


def _running(carried: Floats, log_e: Floats) -> Floats:
    """f64[k, n] running sums of f64[n, k]. They add in order from the carried value, so that a cut changes no bit."""
    found = np.empty((log_e.shape[1], len(log_e) + 1))
    found[:, 0], found[:, 1:] = carried, log_e.T
    return np.asarray(np.cumsum(found, axis=1)[:, 1:], dtype=np.float64)


def first_reached(path: Floats, log_bar: float) -> int | None:
    """Index of the first item of a path at which the e-process is at least ``exp(log_bar)``; None if it never is."""
    reached = np.flatnonzero(path >= log_bar)
    return int(reached[0]) if reached.size else None


def _log_mean(log_values: Floats, log_weights: Floats) -> Floats:
    """``log sum_k w_k x_k`` of each column of f64[k, n]; the sum runs over k in order, whatever n."""
    terms = log_values + log_weights[:, None]
    top = terms.max(0)
    shift = np.where(np.isneginf(top), 0.0, top)
    total = np.zeros(terms.shape[1])
    for row in terms:
        total += np.exp(row - shift)
    with np.errstate(divide="ignore"):
        return np.asarray(shift + np.log(total), dtype=np.float64)


def _json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
