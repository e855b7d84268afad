"""A registry: names to lazily imported attributes, open to third parties by entry points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """``name -> "module:attribute"``; the module is imported at the first use of the name.

    Args:
        kind: what is registered, for messages.
        entries: names of our own, which entry points cannot replace.
        entry_points: entry point group of third parties.
    """

    def __init__(self, kind: str, entries: Mapping[str, str], *, entry_points: str) -> None:
        self.kind = kind
        self._entries = dict(entries)
        self._group = entry_points
        self._loaded: dict[str, T] = {}

    def _all(self) -> dict[str, str]:
        return _installed(self._group) | self._entries

    def __getitem__(self, name: str) -> T:
        if name not in self._loaded:
            target = self._entries.get(name) or self._all()[name]
            module, _, attribute = target.partition(":")
            self._loaded[name] = getattr(import_module(module), attribute)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._all()))

    def __len__(self) -> int:
        return len(self._all())


@lru_cache(maxsize=32)
def _installed(group: str) -> dict[str, str]:
    """Entry points of a group; reading the metadata of all distributions takes milliseconds."""
    return {point.name: point.value for point in entry_points(group=group)}
