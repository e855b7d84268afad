"""Generation: the logits processor for ``transformers`` and a batch generator around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.keys import SecretKey, TenantKey
from wmcheck.watermark.layers import tenant_of
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.rows import RowKeys
from wmcheck.watermark.scheme import keyed
from wmcheck.watermark.windows import fresh_rows

Key = SecretKey | TenantKey | None


class WatermarkProcessor(LogitsProcessor):  # type: ignore[misc]
    """Watermarks the rows of a batch; pass it in ``generate(logits_processor=[...])``.

    Stateless: everything derives from ``input_ids``, so beams, reordering and resumed generation work. Rows are left
    alone where the window is shorter than the scheme's width, holds a special id (padding included) or occurred earlier
    in the row. ``generate`` applies temperature, top-k and top-p after this processor: use
    :func:`sampling_processors` to have them before it.

    Args:
        profile: the watermark contract.
        keys: one key for all rows, or one a prompt; None lets a prompt opt out. A root key stands for its tenant ``""``.
        rows_per_key: rows of each prompt: beams times returned sequences.

    Raises:
        ConfigError: no keys, or (at the call) another number of rows than keys times ``rows_per_key``.
    """

    def __init__(self, profile: Profile, keys: Key | Sequence[Key], *, rows_per_key: int = 1) -> None:
        profile.need_own("WatermarkProcessor")
        self.profile = profile
        if keys is None or isinstance(keys, (SecretKey, TenantKey)):
            # One key that was not given as a list serves a batch of any size.
            listed, self._any_rows = [keys], True
        else:
            listed, self._any_rows = list(keys), False
        if not listed:
            raise ConfigError("no keys", where="WatermarkProcessor", expected="one key, or one a prompt (None opts out)")
        made: dict[SecretKey | TenantKey, PrfKey] = {
            key: keyed(profile.scheme, tenant_of(profile, key)) for key in listed if key
        }
        self._prfs: list[PrfKey | None] = [made[key] if key else None for key in listed]
        self._each = rows_per_key
        self._special: dict[torch.device, Tensor] = {}
        # Place of each key among those that are not None.
        self._place = [sum(prf is not None for prf in self._prfs[:row]) for row in range(len(self._prfs))]
        self._rows: dict[tuple[int, torch.device], RowKeys] = {}

    def __repr__(self) -> str:
        return f"WatermarkProcessor(profile={self.profile.name!r}, keys={len(self._prfs)})"

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The watermarked scores, for ``input_ids`` int64 [B, L] and ``scores`` [B, V]."""
        scheme, count = self.profile.scheme, input_ids.shape[0]
        each = count if self._any_rows else self._each
        if count != each * len(self._prfs):
            raise ConfigError(
                "rows do not match keys", where="WatermarkProcessor", got=f"{count} rows for {len(self._prfs)} keys",
                expected=f"{each * len(self._prfs)} rows", hint="with beams or several sequences a prompt, say rows_per_key",
            )
        marked = self._to_mark(input_ids, [self._prfs[row // each] is not None for row in range(count)])
        if not marked:
            return scores
        keys = self._keys_of(each, scores.device)
        if len(marked) < len(keys):
            keys = keys.take([self._place[row // each] * each + row % each for row in marked])
        windows = input_ids[:, input_ids.shape[1] - scheme.width :]
        if len(marked) == count:
            return scheme.transform(windows, scores, keys)
        index = torch.tensor(marked, device=scores.device)
        return scores.index_copy(0, index, scheme.transform(windows[index], scores[index], keys))

    def _to_mark(self, input_ids: Tensor, keyed: list[bool]) -> list[int]:
        """The rows to mark of those that have a key."""
        scheme, special = self.profile.scheme, self._special_on(input_ids.device)
        fresh = fresh_rows(input_ids, scheme.width, special, window_rule=scheme.window_rule).tolist()
        rows = [row for row, both in enumerate(zip(fresh, keyed, strict=True)) if all(both)]
        more = getattr(scheme, "fresh", None)
        if more is None or not rows:
            return rows
        each = len(keyed) // len(self._prfs)
        functions = [prf for row in rows if (prf := self._prfs[row // each]) is not None]
        allowed = more(input_ids[rows], RowKeys(functions, input_ids.device)).tolist()
        return [row for row, new in zip(rows, allowed, strict=True) if new]

    def _keys_of(self, each: int, device: torch.device) -> RowKeys:
        """Keyed functions of all rows that have one, made once for a shape of batch and a device."""
        if (each, device) not in self._rows:
            self._rows[each, device] = RowKeys([prf for prf in self._prfs if prf is not None for _ in range(each)], device)
        return self._rows[each, device]

    def _special_on(self, device: torch.device) -> Tensor:
        if device not in self._special:
            self._special[device] = torch.tensor(self.profile.special_ids, dtype=torch.int64, device=device)
        return self._special[device]


def sampling_processors(
    profile: Profile, keys: Key | Sequence[Key], *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
    rows_per_key: int = 1,
) -> LogitsProcessorList:
    """Temperature, top-k and top-p, then the watermark: the law that the watermark preserves is the warped one.

    Pass the list to ``generate(..., do_sample=True, temperature=1.0, top_k=0, top_p=1.0)``.
    """
    processors = warpers(temperature=temperature, top_k=top_k, top_p=top_p)
    processors.append(WatermarkProcessor(profile, keys, rows_per_key=rows_per_key))
    return processors


def warpers(*, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> LogitsProcessorList:
    """Temperature, top-k (0 off) and top-p (1 off) alone: ordinary text at the settings of marked text."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    processors = LogitsProcessorList()
    if temperature != 1.0:
        processors.append(TemperatureLogitsWarper(temperature))
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        processors.append(TopPLogitsWarper(top_p))
    return processors


def generate_ids(
    model: Any, prompts: Sequence[Sequence[int]], processors: LogitsProcessorList, *, max_new_tokens: int, pad_id: int,
    seed: int | None = None, ignore_end: bool = False,
) -> list[list[int]]:
    """Sample one continuation of each prompt.

    Args:
        model: a ``transformers`` causal language model.
        prompts: token ids; prompts of different lengths are padded on the left.
        processors: from :func:`sampling_processors`, or :func:`warpers` for ordinary text.
        max_new_tokens: at most this many ids a prompt.
        pad_id: padding id, which must be one of the profile's special ids.
        seed: seeds torch's generator for the ordinary part of sampling.
        ignore_end: go on to ``max_new_tokens`` whatever the model says.

    Returns:
        The new ids of each prompt, cut at (and without) the end id.
    """
    if seed is not None:
        torch.manual_seed(seed)
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    out = model.generate(
        input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=pad_id,
        max_new_tokens=max_new_tokens, min_new_tokens=max_new_tokens if ignore_end else None, logits_processor=processors,
    )
    end = model.generation_config.eos_token_id
    ends = set(end) if isinstance(end, list) else {end}
    rows = []
    for row in out[:, longest:].tolist():
        stop = next((place for place, number in enumerate(row) if number in ends), len(row))
        rows.append(row[:stop])
    return rows
