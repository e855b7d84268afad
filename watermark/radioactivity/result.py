"""What a radioactivity test found: frozen, without a truth value, with a verdict only at an alpha."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from wmcheck.watermark.core.multiplicity import holm_corrected
from wmcheck.watermark.core.results import Verdict, decide

SCHEMA = "wmcheck.radioactivity/1"

INDEPENDENT = "the suspect (weights and training text) is independent of the key, and p is over the random draw of the key"
NEUTRAL = "the texts that the suspect read are independent of the key"
MARKED = "watermarked texts that the suspect read, or that a filter was made of, are whole: nothing came before what is given"
WEIGHTS = "weights depend on suspect and texts alone"
SAYS = (
    "the suspect's next-token law depends on this key: it was trained on text under the key, or on text derived from it. Not how "
    "it came by that text, and not that it was distilled."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Radioactivity:
    """One test of one suspect under one profile and key.

    Attributes:
        test: ``weighted``, ``reading``, ``sampled`` or ``contrast``.
        profile: the profile's name, with its ``scheme`` and ``contract`` (None for our own).
        layer: layer of a layered profile; empty otherwise.
        suspect: where the suspect came from.
        n_contexts: distinct windows scored.
        n_items: distinct (effective seed, token) scored.
        tokens_read: positions read, or tokens written by the suspect.
        total: sum of weight times (score - null mean).
        z: ``total`` over its standard deviation under the null hypothesis; a description, no p-value comes from it.
        excess: mean score above the null mean under the suspect's law, ``total`` over the sum of weights; ``excess_se`` is its
            standard error, by windows as clusters. NaN for a contrast.
        log10_p: exact or a proven upper bound.
        log10_p_adjusted: after correction over the ``family``; None before :func:`correct`.
        log10_p_expected: what a suspect would reach that has learnt the whole watermark (planning figure).
        null: the law behind p.
        assumptions: what it rests on.
        rule: what was done with windows that occur several times.
        filter: supervised filter; empty without one.
        aligned: share of positions at which the tokenizers agree.
        decoys: the same test under random keys; None if not run.
        base: the same test on the base model; None if not run.
        dose: share of the training tokens that were marked; None if not estimated.
        warnings: what a reader must know before using p.
    """

    test: str
    profile: str
    scheme: str
    contract: str | None = None
    layer: str = ""
    suspect: str = ""
    n_contexts: int
    n_items: int
    tokens_read: int
    total: float
    z: float
    excess: float
    excess_se: float
    log10_p: float
    log10_p_adjusted: float | None = None
    log10_p_expected: float
    null: str
    assumptions: tuple[str, ...]
    rule: str
    filter: str = ""
    aligned: float = 1.0
    key_id: str
    key_commitment: str
    key_committed: str | None = None
    tenant: str = ""
    epoch: str = ""
    decoys: dict[str, Any] | None = None
    base: dict[str, Any] | None = None
    dose: dict[str, Any] | None = None
    correction: str | None = None
    family: int | None = None
    warnings: tuple[str, ...] = field(default=())

    def __bool__(self) -> NoReturn:
        raise TypeError("a result has no truth value; ask for .verdict(alpha)")

    def verdict(self, alpha: float) -> Verdict:
        """DETECTED if the corrected p is at most ``alpha``; INSUFFICIENT if a suspect that had learnt the whole watermark would,
        on average, not have reached it either; else NOT_DETECTED.

        Raises:
            ValueError: ``alpha`` is no error rate, or the result has not been corrected.
        """
        return decide(
            alpha, adjusted=self.log10_p_adjusted, expected=self.log10_p_expected, n=self.n_items, family=self.family
        )

    def to_dict(self, alpha: float | None = None) -> dict[str, Any]:
        """A JSON object under schema ``wmcheck.radioactivity/1``; with ``alpha`` it carries a verdict."""
        data: dict[str, Any] = {"schema": SCHEMA}
        for name in self.__dataclass_fields__:
            data[name] = _plain(getattr(self, name))
        if alpha is not None:
            data["alpha"] = alpha
            data["verdict"] = str(self.verdict(alpha))
        return data


def correct(results: Sequence[Radioactivity], *, family: int | None = None) -> list[Radioactivity]:
    """Holm's correction over all tests of one suspect; valid under any dependence between them."""
    return holm_corrected(results, family=family)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("-inf" if value < 0 else "inf")
    return value
