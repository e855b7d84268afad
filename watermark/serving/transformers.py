"""transformers: ``generate`` with the watermark after temperature, top-k and top-p, where transformers has a place for it.

``generate(..., do_sample=True, top_p=0.9, watermarking_config=WatermarkConfig(profile, key.tenant("acct-91")))``. Everything
derives from the token ids, so beams, several sequences, assisted generation and prompt lookup are marked too: the verification of
drafts reads the marked law. With ``do_sample=False`` a biased scheme marks greedy text, whereas an unbiased one still chooses by
its key. Continuous batching: :mod:`wmcheck.watermark.serving.transformers_batching`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import transformers
from torch import Tensor
from transformers import LogitsProcessor
from transformers.generation.configuration_utils import BaseWatermarkingConfig

from wmcheck.watermark.core.errors import ConfigError, RequestError
from wmcheck.watermark.generate import Key, WatermarkProcessor
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.serving.counters import Counters
from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.serving.marker import inside

ENGINE = f"transformers {transformers.__version__}"
TESTED = "transformers 5.23.0 or 5.24.0"
# The one field of what is saved. transformers reads it back as the name of an argument that none of its watermarks has.
SAVED = "wmcheck_needs_its_key"
Requests = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


class WatermarkConfig(BaseWatermarkingConfig):  # type: ignore[misc]
    """Marks what ``generate(watermarking_config=...)`` writes, after every other processor.

    It holds keys. What transformers saves, logs or shows of it is the public profile and the ids of the keys; such a file does
    not load again, instead of loading without a watermark.

    Args:
        profile: the watermark contract.
        keys: one key for all rows, or one a prompt; None lets a prompt opt out.
        rows_per_key: rows of each prompt: beams times returned sequences.
    """

    def __init__(self, profile: Profile, keys: Key | Sequence[Key], *, rows_per_key: int = 1) -> None:
        self._profile, self._each = profile, rows_per_key
        self._deployment: Deployment | None = None
        self._requests: Requests = None
        self._counters: Counters | None = None
        self._fixed = WatermarkProcessor(profile, keys, rows_per_key=rows_per_key)
        listed = keys if isinstance(keys, Sequence) else [keys]
        self._key_ids = [None if key is None else key.id for key in listed]

    @classmethod
    def of(cls, deployment: Deployment, requests: Requests = None, *, rows_per_key: int = 1) -> WatermarkConfig:
        """A deployment's watermark.

        Args:
            deployment: profile, key and policy.
            requests: the parameters of one request for all rows, or of one a prompt (``{"wmcheck_tenant": "acct-91"}``); None
                marks for the default tenant.
            rows_per_key: rows of each prompt.

        Raises:
            RequestError: the policy refuses a request.
        """
        made = cls(deployment.profile, None, rows_per_key=rows_per_key)
        made._deployment, made._requests, made._key_ids = deployment, requests, [deployment.key_id]
        made._counters = Counters(deployment, ENGINE)
        if requests is not None:
            # Refused here rather than in the middle of `generate`.
            made.rows()
        return made

    def rows(self) -> WatermarkProcessor:
        """What marks one call of ``generate``, in the epoch of its beginning."""
        served, asked = self._deployment, self._requests
        if served is None or self._counters is None:
            return self._fixed
        if asked is None or isinstance(asked, Mapping):
            return _Rows(served, self._counters, served.tenant_key(served.policy.decide(asked)), rows_per_key=self._each)
        keys = [served.tenant_key(served.policy.decide(one)) for one in asked]
        return _Rows(served, self._counters, keys, rows_per_key=self._each)

    def validate(self) -> None:
        """Nothing to do."""

    def construct_processor(self, vocab_size: int, device: Any = None) -> MarkingProcessor:
        """The processor, which transformers puts last.

        Raises:
            ConfigError: logits narrower than the profile's vocabulary.
        """
        self._profile.check_vocabulary(vocab_size)
        return MarkingProcessor(self, self._deployment)

    def to_dict(self) -> dict[str, Any]:
        """What transformers writes: no key."""
        return {SAVED: {"profile": self._profile.to_dict(), "key_ids": self._key_ids}}

    def to_json_string(self) -> str:
        """The same as JSON."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self.to_dict().items())

    def __repr__(self) -> str:
        return f"WatermarkConfig(profile={self._profile.name!r}, key_ids={self._key_ids})"

    @classmethod
    def from_dict(cls, config_dict: Any, **kwargs: Any) -> NoReturn:
        """Refused: what was saved holds no key."""
        raise ConfigError("a saved watermark holds no key", where="WatermarkConfig", expected="WatermarkConfig(profile, key)")

    def __deepcopy__(self, memo: object = None) -> WatermarkConfig:
        # `generate` copies its configuration: all copies are this one object.
        return self

    __copy__ = __deepcopy__

    def __reduce__(self) -> NoReturn:
        raise TypeError("a watermark holds a secret key and is not pickled")

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class MarkingProcessor(LogitsProcessor):  # type: ignore[misc]
    """What :class:`WatermarkConfig` puts last. Continuous batching turns it into its own kind, or refuses it."""

    def __init__(self, config: WatermarkConfig, deployment: Deployment | None) -> None:
        self.deployment, self._config = deployment, config
        self._rows: WatermarkProcessor | None = None

    @property
    def supports_continuous_batching(self) -> NoReturn:
        """Read where continuous batching would call this object, which knows no history there: refused before anything runs."""
        raise unserved()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The marked scores."""
        if input_ids.dim() != 2:
            raise unserved()
        self._rows = self._rows or self._config.rows()
        return self._rows(input_ids, scores)


class _Rows(WatermarkProcessor):
    """Rows of a deployment: counted, and unmarked inside reasoning."""

    def __init__(self, deployment: Deployment, counters: Counters, keys: Any, *, rows_per_key: int) -> None:
        super().__init__(deployment.profile, keys, rows_per_key=rows_per_key)
        self._reasoning, self._counters = deployment.reasoning, counters

    def _to_mark(self, input_ids: Tensor, keyed: list[bool]) -> list[int]:
        rows = super()._to_mark(input_ids, keyed)
        if self._reasoning is not None and input_ids.shape[1]:
            reasons = inside(input_ids, self._reasoning).tolist()
            rows = [row for row in rows if not reasons[row]]
        marked = set(rows)
        self._counters.count(["" if row in marked else "skipped" if own else "opted_out" for row, own in enumerate(keyed)])
        return rows


def enforce(model: Any, config: WatermarkConfig) -> None:
    """Mark whatever this model generates, also where a client sends a generation configuration of its own.

    For servers around a model, such as ``transformers serve``. A request for another watermark is refused.
    """
    inner = getattr(model, "_get_logits_processor", None)
    if inner is None:
        raise ConfigError("incompatible engine version", where=ENGINE, got="no _get_logits_processor", expected=TESTED)

    def marked(generation_config: Any, *args: Any, **options: Any) -> Any:
        if generation_config.watermarking_config not in (None, config):
            raise RequestError("a watermark of the client's", where="watermarking_config", expected="none: the server sets it")
        generation_config = copy.copy(generation_config)
        generation_config.watermarking_config = config
        return inner(generation_config, *args, **options)

    model._get_logits_processor = marked


def unserved() -> ConfigError:
    """Continuous batching that calls the processor of ``generate``."""
    return ConfigError(
        "continuous batching would lose this watermark", where=ENGINE, expected="a manager that marks",
        hint="make it with wmcheck.watermark.serving.transformers_batching.continuous_batching(model, deployment)",
    )
