"""vLLM's native watermarks ``gumbel`` and ``dual_key_gumbel``: Gumbel-max sampling on Philox words.

The context of a token is the last ids of the output, -1 before its first: prompts play no part, so that a first token has the
same noise after every prompt. ``u = ((w >> 8) + 1) / (2^24 + 1)`` as float32, and the token is ``argmax logit - log(-log u)``
after temperature and truncation; the score is ``-log(1 - u)``.

``u`` is rounded up: P(u >= (k + 1) / (N + 1)) = (N - k) / N = (1 + 1/N) (1 - (k + 1) / (N + 1)) with N = 2^24, and the step to
float32 only rounds down (``k / (N + 1)`` lies below ``k / N``, a float32 number, by between 1/2 and 1 of a float32 step). A score
is therefore stochastically at most Exp(1) + log(1 + 2^-24), which the null takes off: a p-value is a proven upper bound, and
differs from vLLM's by about 6e-8 a token.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wmcheck.watermark.core.errors import ProfileError
from wmcheck.watermark.core.mixed_nulls import MixedExponentialNull
from wmcheck.watermark.core.nulls import ExponentialNull, Null
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.peers.philox import PhiloxKeys, vllm_row, vllm_words
from wmcheck.watermark.prf import I64, U32, U64
from wmcheck.watermark.scheme import MAX_WIDTH, check_integer, check_number, choice_score, left_codes
from wmcheck.watermark.windows import WHOLE, ContextRule

if TYPE_CHECKING:
    from torch import Tensor

# Tokens that the noise did not choose keep their order this many nats below it.
LOSERS = 80.0
STEPS = 2**24
EXCESS = math.log1p(1.0 / STEPS)
SCOPES = ("single_turn", "all", "none")
# The context id -1.
PAD = 0xFFFFFFFF


class VllmGumbel:
    """vLLM's ``gumbel``.

    Args:
        context_width: ids of a context.
        deduplicate_contexts: as in vLLM's configuration. ``single_turn``: contexts that the output had before are sampled
            ordinarily. ``all``: so are those that the prompt had, and the first ``context_width`` tokens; these are left out
            where the prompt is unknown, and scored in vain where it is known. ``none``: repeats are marked as well.
    """

    name: ClassVar[str] = "vllm-gumbel"
    project: ClassVar[str] = "vLLM"
    version: ClassVar[str] = "0.33.0"
    prf: ClassVar[str] = "philox4x32-10-v1"
    source: ClassVar[str] = "vLLM, vllm.v1.watermarking, GumbelWatermarker and GumbelWatermarkDetector"
    differs: ClassVar[str] = (
        "vLLM's p-value takes its uniforms of 24 bits, which are rounded up, as exact: ours adds what that is worth, 6e-8 a token"
    )
    ideal: ClassVar[str] = "words of Philox4x32-10 under one 64-bit key behave as independent uniform draws"
    unbiased: ClassVar[bool] = True
    chooses: ClassVar[bool] = True
    context: ContextRule = ContextRule(own=True, pad=PAD)

    def __init__(self, *, context_width: int = 4, deduplicate_contexts: str = "single_turn") -> None:
        self.width = check_integer("context_width", context_width, 1, MAX_WIDTH)
        if deduplicate_contexts not in SCOPES:
            raise ProfileError(
                "impossible parameter", where="deduplicate_contexts", got=repr(deduplicate_contexts)[:40],
                expected=", ".join(SCOPES),
            )
        self.scope = deduplicate_contexts
        if self.scope == "all":
            self.context = WHOLE
        self.window_rule = self.scope != "none"
        self.key_free_selection = True
        self.vocabulary: int | None = None

    def parameters(self) -> dict[str, Any]:
        return {"context_width": self.width, "deduplicate_contexts": self.scope}

    def label(self) -> str:
        return f"{self.name}/{self.width}/{self.scope}"

    def keyed(self, key: PeerKey) -> PhiloxKeys:
        return PhiloxKeys(key.integer(self.name))

    def draw(self, rng: np.random.Generator) -> PeerKey:
        return PeerKey(int(rng.integers(0, 2**64, dtype=np.uint64)))

    def score(self, windows: U32, tokens: I64, key: PhiloxKeys) -> NDArray[np.float64]:
        scores = [-np.log1p(-uniforms(vllm_words(windows, tokens, value)).astype(np.float64)) for value in key.values]
        return scores[0] if len(scores) == 1 else np.stack(scores, axis=1)

    def codes(self, windows: U32, tokens: I64, key: PhiloxKeys) -> U64:
        return left_codes(windows, tokens)

    def null(self) -> Null:
        return ExponentialNull(bound=True, excess=EXCESS)

    def expected(self, entropy_bits: float) -> float:
        return choice_score(entropy_bits)

    def transform(self, windows: Tensor, logits: Tensor, keys: Sequence[PhiloxKeys]) -> Tensor:
        return forced(logits, self._chosen(windows, logits, [key.values[0] for key in keys]))

    def _chosen(self, windows: Tensor, logits: Tensor, values: Sequence[int]) -> Tensor:
        """int64 [B, 1]: the tokens that the noise under one key a row chooses."""
        import torch

        # -1 as an int64 is the word 0xFFFFFFFF.
        held = windows.cpu().numpy().astype(np.int64).astype(np.uint32)
        rows = [uniforms(vllm_row(row, logits.shape[1], value)) for row, value in zip(held, values, strict=True)]
        u = torch.from_numpy(np.stack(rows)).to(logits.device)
        return (logits.float() - torch.log(-torch.log(u))).argmax(1, keepdim=True)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"deduplicate_contexts": "all"}, {"context_width": 5, "deduplicate_contexts": "none"}]


class VllmDual(VllmGumbel):
    """vLLM's ``dual_key_gumbel``: of two keys derived from one, B chooses a token with probability ``alpha`` and A otherwise.

    Which key chose a token is unknown; the fused score is ``(1 - alpha) s_A + alpha s_B``, whose tail under the null hypothesis
    is that of a sum of two Gamma laws.

    Args:
        alpha: the share of key B, in [0.01, 0.99], or 0 or 1 for one key alone; vLLM's default was 0.2 before 0.1.
        context_width: see :class:`VllmGumbel`.
        deduplicate_contexts: see :class:`VllmGumbel`.
    """

    name: ClassVar[str] = "vllm-dual"
    source: ClassVar[str] = "vLLM, vllm.v1.watermarking, DualKeyGumbelWatermarker and DualKeyGumbelWatermarkDetector"
    differs: ClassVar[str] = (
        "vLLM matches two moments of the fused score by one Gamma law, which is too light far in the tail: its small p-values are"
        " too small; ours is the exact tail"
    )

    def __init__(self, *, alpha: float = 0.1, context_width: int = 4, deduplicate_contexts: str = "single_turn") -> None:
        super().__init__(context_width=context_width, deduplicate_contexts=deduplicate_contexts)
        if isinstance(alpha, (int, float)) and not isinstance(alpha, bool) and alpha in (0, 1):
            self.alpha = float(alpha)
        else:
            self.alpha = check_number("alpha", alpha, np.nextafter(0.01, 0.0), 0.99)

    def parameters(self) -> dict[str, Any]:
        return {"alpha": self.alpha, **super().parameters()}

    def label(self) -> str:
        return f"{super().label()}/{self.alpha!r}"

    def keyed(self, key: PeerKey) -> PhiloxKeys:
        secret = key.integer(self.name).to_bytes(8, "big")
        return PhiloxKeys(*(derived(secret, domain) for domain in (b"key_a", b"key_b")))

    def null(self) -> Null:
        return MixedExponentialNull((1.0 - self.alpha, self.alpha), excess=EXCESS, bound=True)

    def expected(self, entropy_bits: float) -> float:
        a, b = 1.0 - self.alpha, self.alpha
        return (a * a + b * b) * choice_score(entropy_bits) + 2.0 * a * b

    def transform(self, windows: Tensor, logits: Tensor, keys: Sequence[PhiloxKeys]) -> Tensor:
        """The choices of both keys with their shares as probabilities: whoever samples draws the key."""
        import torch

        plain = logits.float()
        one, two = (forced(plain, self._chosen(windows, plain, [key.values[place] for key in keys])) for place in (0, 1))
        shares = torch.tensor([1.0 - self.alpha, self.alpha]).log().tolist()
        return torch.logaddexp(one + shares[0], two + shares[1]).to(logits.dtype)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"alpha": 0.5}, {"alpha": 0.2, "deduplicate_contexts": "all"}]


def uniforms(words: U32) -> NDArray[np.float32]:
    """vLLM's float32 numbers in (0, 1) of 32-bit words."""
    return (((words >> np.uint32(8)).astype(np.float64) + 1.0) / (STEPS + 1.0)).astype(np.float32)


def derived(secret: bytes, domain: bytes) -> int:
    """One of the two keys of ``dual_key_gumbel``."""
    return int.from_bytes(hashlib.sha256(domain + secret).digest()[:8], "big")


def forced(logits: Tensor, chosen: Tensor) -> Tensor:
    """Logits after the choice of ``chosen`` int64 [B, 1]: 0 there, and the others in their order far below."""
    import torch

    top = logits.amax(1, keepdim=True)
    losers = logits - (top.clamp(min=torch.finfo(logits.dtype).min) + LOSERS)
    # A row without any finite logit has nothing to choose and stays as it is.
    return losers.scatter_(1, chosen, torch.where(torch.isneginf(top), top, 0.0))
