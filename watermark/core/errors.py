r"""Every error that wmcheck raises on purpose.

    WmcheckError              where, what, got, expected, hint
    |-- InputError            the suspect data cannot be read: nothing can be concluded
    |   `-- RecordError       one bad record: counted and reported, fatal only when strict
    |-- KeyFileError          a key is missing, malformed or does not match
    |-- ProfileError          a watermark profile is malformed or does not match
    |-- TokenizerError        the tokenizer is missing or is not the profile's tokenizer
    |-- ConfigError           an option or setting has no meaning here
    |   `-- RequestError      one request to a serving engine is refused; a ValueError too, which engines answer with HTTP 400
    |-- OutputError           the result cannot be written
    `-- MissingExtraError     an optional dependency is not installed

Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import unicodedata

# Joiners shape Persian, Indic scripts and emoji; the other format characters only hide or reorder text.
_KEPT_FORMAT_CHARACTERS = "\u200c\u200d"
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def printable(text: str) -> str:
    r"""Make hostile text safe to show on one terminal line.

    Control, bidirectional and invisible characters, line separators and lone surrogates become
    backslash escapes (``\x1b``, ``\u202e``); everything else is kept as it is.

    Args:
        text: Any text, for example from a suspect record.

    Returns:
        The text on one line, encodable as UTF-8.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(char) for char in text)


def _escaped(char: str) -> str:
    if unicodedata.category(char) in _ESCAPED_CATEGORIES and char not in _KEPT_FORMAT_CHARACTERS:
        return char.encode("unicode_escape").decode("ascii")
    return char


class WmcheckError(Exception):
    """Base of every error that is the input's, the user's or the environment's doing.

    ``str()`` is one line, ``where: what (got X, expected Y)``; the hint is also a note, so that it
    shows under a library user's traceback.

    Attributes:
        what: What is wrong.
        where: File and line, option or artefact; may be empty.
        got: What was found; may be empty.
        expected: What should have been found; may be empty.
        hint: The next step for the reader; may be empty.
    """

    def __init__(self, what: str, *, where: str = "", got: str = "", expected: str = "", hint: str = "") -> None:
        # Only `what` goes to args: unpickling calls cls(*args) and then restores the other attributes.
        super().__init__(what)
        self.what = what
        self.where = where
        self.got = got
        self.expected = expected
        self.hint = hint
        if hint:
            self.add_note(f"hint: {printable(hint)}")

    def __str__(self) -> str:
        """Return ``where: what (got X, expected Y)`` on one line."""
        place = f"{self.where}: " if self.where else ""
        details = [f"got {self.got}"] if self.got else []
        details += [f"expected {self.expected}"] if self.expected else []
        suffix = f" ({', '.join(details)})" if details else ""
        return printable(f"{place}{self.what}{suffix}")

    def message(self) -> str:
        """Return the line and, if there is a hint, an indented second line with it."""
        return f"{self}\n  hint: {printable(self.hint)}" if self.hint else str(self)


class InputError(WmcheckError):
    """The suspect data cannot be read: nothing can be concluded from it."""


class RecordError(InputError):
    """One record is unusable; reading goes on, and the record is counted and reported."""


class KeyFileError(WmcheckError):
    """A key is missing, malformed or not the key it is said to be."""


class ProfileError(WmcheckError):
    """A watermark profile is malformed or does not match the key or the text."""


class TokenizerError(WmcheckError):
    """The tokenizer is missing or is not the one that the profile names."""


class ConfigError(WmcheckError):
    """An option or setting has a value that means nothing here."""


class RequestError(ConfigError, ValueError):
    """One request to a serving engine is refused. Engines answer a ``ValueError`` with HTTP 400 and its text."""


class OutputError(WmcheckError):
    """The result cannot be written where it was asked for."""


class MissingExtraError(WmcheckError):
    """An optional dependency is not installed; the hint is the exact pip command."""
