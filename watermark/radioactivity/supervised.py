"""The supervised filter: contexts that the provider's logs say were in the training text.

A context that no training text held says nothing about training; leaving it out costs no signal and takes its noise away.

**Which law holds.** Whether a window occurs in watermarked text is decided before its own scores are first used, by the scores
of other windows. So it does not bias the score of any one window, but the windows of the filter depend on each other's scores:
the sum over them is a martingale in the order of the logs, not a sum of independent terms given the filter. Its p-value is
therefore the reciprocal of an e-value (``WeightedLaw.betting``). How often a window occurs does depend on its own scores, as
marked text that repeats itself returns to it; so the most frequent windows can be asked for in unmarked text alone. A filter of
unmarked text is independent of the key, and the exact laws hold.

References:
    T. Sander et al., "Watermarking makes language models radioactive", NeurIPS 2024 (closed model, supervised).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from wmcheck.watermark.core.errors import ConfigError, InputError
from wmcheck.watermark.prf import I64, U64
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.radioactivity.contexts import Collected, window_codes
from wmcheck.watermark.windows import Document, make_items

FORMAT = "wmcheck.contexts/1"
_BATCH = 256


@dataclass(frozen=True, slots=True)
class ContextFilter:
    """Hashed windows of known texts.

    Attributes:
        codes: u64[n] codes of windows, ascending.
        counts: i64[n] how often each occurred.
        width: h.
        marked: the texts are watermarked.
        name: what the texts were, as reports print it.
    """

    codes: U64
    counts: I64
    width: int
    marked: bool = True
    name: str = "windows of the provider's logs"

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def from_documents(
        cls, documents: Iterable[Document], profile: Profile, *, marked: bool = True, top: int | None = None, name: str = ""
    ) -> ContextFilter:
        """The windows before output tokens of documents.

        Args:
            documents: token ids in the profile's tokenizer.
            profile: whose width and special ids apply.
            marked: False if no text is watermarked under the key that will be tested.
            top: keep that many windows, the most frequent ones (ties by code); of unmarked texts alone.
            name: what the texts are.

        Raises:
            ConfigError: ``top`` of watermarked texts.
        """
        if marked and top is not None:
            raise ConfigError(
                "how often a window occurs in watermarked text depends on its scores", where="ContextFilter", got=f"top={top}",
                expected="all windows, or unmarked texts", hint="rank windows in text like the logs that is not watermarked",
            )
        special, parts, source = np.asarray(profile.special_ids, np.int64), [], iter(documents)
        while batch := list(islice(source, _BATCH)):
            parts.append(_counted(batch, profile.scheme.width, special))
        codes, counts = _summed(parts)
        if top is not None and top < len(codes):
            kept = np.sort(np.lexsort((codes, -counts))[:top])
            codes, counts = codes[kept], counts[kept]
        return cls(codes, counts, profile.scheme.width, marked, name or "windows of the provider's logs")

    def apply(self, collected: Collected) -> Collected:
        """The contexts whose window is in the filter.

        Raises:
            ConfigError: a filter of another width.
        """
        if collected.windows.shape[1] != self.width:
            raise ConfigError(
                "a filter of another width", where="--filter", got=str(self.width), expected=str(collected.windows.shape[1]),
                hint="make it with this profile",
            )
        kept = collected.keep(np.isin(window_codes(collected.windows), self.codes), label=f"{len(self)} {self.name}")
        return replace(kept, text="marked") if self.marked else kept

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` file."""
        with Path(path).open("wb") as handle:
            np.savez_compressed(
                handle, format=np.array(FORMAT), codes=self.codes, counts=self.counts, width=np.array(self.width),
                marked=np.array(self.marked), name=np.array(self.name),
            )

    @classmethod
    def load(cls, path: str | Path) -> ContextFilter:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: not such a file.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                if data["format"].item() != FORMAT:
                    raise InputError("not a context filter", where=str(path), got=str(data["format"])[:60], expected=FORMAT)
                return cls(data["codes"], data["counts"], int(data["width"]), bool(data["marked"]), str(data["name"]))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise InputError("not a context filter", where=str(path), got=str(error)[:100], expected=FORMAT) from None


def _counted(documents: list[Document], width: int, special: I64) -> tuple[U64, I64]:
    items = make_items(documents, width, special, window_rule=False)
    codes, counts = np.unique(window_codes(items.windows[items.scored]), return_counts=True)
    return codes, counts.astype(np.int64)


def _summed(parts: list[tuple[U64, I64]]) -> tuple[U64, I64]:
    if not parts:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    codes, place = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    counts = np.bincount(place, weights=np.concatenate([part[1] for part in parts]), minlength=len(codes))
    return codes, counts.astype(np.int64)
