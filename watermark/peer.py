"""The contract of peers' watermarks and the registry of those that are read.

A peer is one file in ``peers/`` with one class and one line in :data:`PEERS`; it scores and has a null law like a scheme of ours
(:class:`wmcheck.watermark.scheme.Scheme`), under the peer's own key. Third parties register the entry point group
``wmcheck.peers``. ``tests/conformance/test_peer.py`` then tests it without further code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.nulls import Null
from wmcheck.watermark.core.registry import Registry
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.prf import I64, U32, U64
from wmcheck.watermark.windows import ContextRule


class Peer(Protocol):
    """How another project marks text, as far as its detection needs it.

    Attributes:
        name: registry name.
        project: who embeds it, e.g. ``vLLM``.
        version: the release whose contract this is, e.g. ``0.33.0``.
        prf: name of the keyed function, in profiles: a profile of another one is refused.
        source: where the contract is described.
        differs: why the p-value of the peer's own detector differs from ours; empty if it does not.
        ideal: what the p-value takes for granted about the keyed function.
        unbiased: averaged over keys, the transformed law equals the model's.
        context: what stands in the windows of the first ids.
        width: number of context ids before a token.
        window_rule: windows that occurred earlier in a row are sampled ordinarily and not scored.
        key_free_selection: equal windows are equal effective seeds and conversely.
        vocabulary: ids are below this; None where the contract does not depend on it.
    """

    name: ClassVar[str]
    project: ClassVar[str]
    version: ClassVar[str]
    prf: ClassVar[str]
    source: ClassVar[str]
    differs: ClassVar[str]
    ideal: ClassVar[str]
    unbiased: ClassVar[bool]
    context: ClassVar[ContextRule]
    width: int
    window_rule: bool
    key_free_selection: bool
    vocabulary: int | None

    def __init__(self, **parameters: Any) -> None:
        """Build from profile parameters; unknown or impossible ones raise ``ProfileError``."""

    def parameters(self) -> dict[str, Any]:
        """Everything that ``__init__`` needs, JSON-ready, without any key."""

    def keyed(self, key: PeerKey) -> Any:
        """The keyed function of a key, made once a key.

        Raises:
            KeyFileError: a key that the contract cannot take.
        """

    def draw(self, rng: np.random.Generator) -> PeerKey:
        """A key uniform over the contract's keys: for decoys, calibration and the audit."""

    def score(self, windows: U32, tokens: I64, key: Any) -> NDArray[Any]:
        """Scores of ``tokens[i]`` in ``windows[i]``: [n] or [n, d]; ``key`` is what :meth:`keyed` made."""

    def codes(self, windows: U32, tokens: I64, key: Any) -> U64:
        """u64[n], well mixed and equal for items with the same effective seed and token."""

    def null(self) -> Null:
        """The law of one item's score for text that is independent of the key."""

    def expected(self, entropy_bits: float) -> float:
        """Mean reduced score of one item of watermarked text: a planning figure."""

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        """Parameter sets that the conformance and calibration suites run; vocabularies of at most 4,096."""

    # Optional: ``transform(windows: Tensor, logits: Tensor, keys: Sequence[Any]) -> Tensor``, the watermarked logits of rows, one
    # keyed function a row.

    # Optional: ``evaluate(items: Chosen, key) -> Evidence`` (``core.statistics``), where the evidence of a text is no sum of one
    # number an item against a fixed law: a payload, a law that depends on the text, an alignment. ``null`` then describes the law
    # for planning and reports.

    # Optional, with ``evaluate``: ``whole = True`` where places and not contexts are keyed: repeats are scored too, and texts
    # have no pooled test.


@dataclass(frozen=True, slots=True)
class Chosen:
    """The scored items of a batch of documents, in text order, for ``evaluate``.

    Attributes:
        windows: u32[n, h].
        tokens: i64[n].
        place: i64[n] index of the token in its document; the output begins at ``begins``.
        document: i64[n] index of the document, ascending.
        documents: m.
        begins: i64[m] length of each document's prompt.
    """

    windows: U32
    tokens: I64
    place: I64
    document: I64
    documents: int
    begins: I64


PEERS: Registry[type[Peer]] = Registry(
    "peer",
    {
        "dipmark": "wmcheck.watermark.peers.dipmark:DipMark",
        "kuditipudi-exp": "wmcheck.watermark.peers.kuditipudi:KuditipudiExp",
        "kuditipudi-its": "wmcheck.watermark.peers.kuditipudi:KuditipudiIts",
        "lm-watermarking": "wmcheck.watermark.peers.lm_watermarking:LmWatermarking",
        "markllm-exp": "wmcheck.watermark.peers.markllm:MarkLlmExp",
        "markllm-kgw": "wmcheck.watermark.peers.markllm:MarkLlmKgw",
        "markllm-unigram": "wmcheck.watermark.peers.markllm:MarkLlmUnigram",
        "mpac": "wmcheck.watermark.peers.mpac:Mpac",
        "sglang-dual": "wmcheck.watermark.peers.sglang_gumbel:SglangDual",
        "sglang-gumbel": "wmcheck.watermark.peers.sglang_gumbel:SglangGumbel",
        "synthid-text": "wmcheck.watermark.peers.synthid_text:SynthIdText",
        "textseal-dual": "wmcheck.watermark.peers.textseal:TextSealDual",
        "textseal-gumbel": "wmcheck.watermark.peers.textseal:TextSealGumbel",
        "three-bricks-aaronson": "wmcheck.watermark.peers.three_bricks:Aaronson",
        "three-bricks-maryland": "wmcheck.watermark.peers.three_bricks:Maryland",
        "transformers-kgw": "wmcheck.watermark.peers.transformers_kgw:TransformersKgw",
        "transformers-synthid": "wmcheck.watermark.peers.transformers_synthid:TransformersSynthId",
        "unigram": "wmcheck.watermark.peers.unigram:Unigram",
        "vllm-dual": "wmcheck.watermark.peers.vllm_gumbel:VllmDual",
        "vllm-gumbel": "wmcheck.watermark.peers.vllm_gumbel:VllmGumbel",
        "vllm-sbw": "wmcheck.watermark.peers.vllm_sbw:Sbw",
    },
    entry_points="wmcheck.peers",
)
