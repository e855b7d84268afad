"""Reading the fields of other projects' configurations: each is asked for once, and what is left over is an error.

No message repeats a value that may be a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NoReturn

from wmcheck.watermark.core.errors import ConfigError

# Stands where a field must be there.
NEEDED: Any = object()
ON_CPU = "read are texts that were generated on a CPU: torch on a GPU draws other green lists and sampling tables"


@dataclass(frozen=True)
class Imported:
    """What a configuration says, split into what may be published and what may not.

    Attributes:
        contract: registry name.
        parameters: of the contract; those left out take their defaults.
        secret: key text of a peer (:mod:`wmcheck.watermark.peer_keys`); empty where the configuration has none.
        notes: what to tell whoever imports it.
    """

    contract: str
    parameters: dict[str, Any]
    secret: str = field(default="", repr=False)
    notes: tuple[str, ...] = ()


class Fields:
    """The fields of one configuration.

    Args:
        where: file, for messages.
        data: the fields.
    """

    def __init__(self, where: str, data: Mapping[str, Any]) -> None:
        self.where = where
        self._data = data
        self._asked: list[str] = []

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._data.get(name) is not None

    def _value(self, name: str, default: Any) -> Any:
        self._asked.append(name)
        found = self._data.get(name)
        if found is None and default is NEEDED:
            raise ConfigError(f"no field '{name}'", where=self.where, got=", ".join(sorted(self._data))[:200])
        return default if found is None else found

    def integer(self, name: str, default: Any = NEEDED, *, low: int = 0) -> Any:
        """A whole number, at least ``low``."""
        found = self._value(name, default)
        if found is not default and (type(found) is not int or found < low):
            self.bad(name, repr(found)[:40], f"an integer from {low}")
        return found

    def number(self, name: str, default: Any = NEEDED) -> Any:
        """A number."""
        found = self._value(name, default)
        if found is not default and type(found) not in (int, float):
            self.bad(name, repr(found)[:40], "a number")
        return found

    def flag(self, name: str, *, default: bool = False) -> bool:
        """True or false."""
        found = self._value(name, default)
        if type(found) is not bool:
            self.bad(name, repr(found)[:40], "true or false")
        return bool(found)

    def choice(self, name: str, known: Sequence[str], default: Any = NEEDED) -> Any:
        """One of ``known``."""
        found = self._value(name, default)
        if found is not default and found not in known:
            self.bad(name, repr(found)[:40], ", ".join(known))
        return found

    def any(self, name: str) -> None:
        """A field that detection does not need."""
        self._asked.append(name)

    def key(self, name: str) -> int | None:
        """A secret whole number; None where there is none."""
        found = self._value(name, None)
        if found is not None and type(found) is not int:
            self.bad(name, type(found).__name__, "an integer")
        return None if found is None else int(found)

    def keys(self, name: str) -> list[int]:
        """A secret list of whole numbers."""
        found = self._value(name, NEEDED)
        if not isinstance(found, list) or not found or any(type(one) is not int for one in found):
            self.bad(name, type(found).__name__, "a list of integers")
        return list(found)

    def hexadecimal(self, name: str, digits: int) -> int | None:
        """A secret number as a text of hexadecimal digits; None where there is none."""
        found = self._value(name, None)
        if found is None:
            return None
        plain = found[2:] if isinstance(found, str) and found[:2] in ("0x", "0X") else found
        if not isinstance(plain, str) or not 1 <= len(plain) <= digits or set(plain.lower()) - set("0123456789abcdef"):
            self.bad(name, type(found).__name__, f"a text of 1 to {digits} hexadecimal digits")
        return int(plain, 16)

    def bad(self, name: str, got: str, expected: str) -> NoReturn:
        """Refuse the value of a field."""
        raise ConfigError(f"bad value of '{name}'", where=self.where, got=got, expected=expected)

    def finish(self) -> None:
        """Refuse fields that nobody asked for: a newer version may mean something by them.

        Raises:
            ConfigError: there are some.
        """
        unknown = sorted(set(self._data) - set(self._asked))
        if unknown:
            close = get_close_matches(unknown[0], self._asked, n=1)
            raise ConfigError(
                "unknown fields", where=self.where, got=", ".join(unknown)[:200], expected=", ".join(self._asked),
                hint=f"did you mean {close[0]}?" if close else "a newer version of that project than wmcheck knows?",
            )
