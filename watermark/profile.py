"""Watermark profiles: the public contract between whoever embeds and whoever detects. JSON, without any key.

``{"schema": "wmcheck.profile/1", "scheme": ..., "parameters": {...}, "prf": ..., "tokenizer": {...} | null,
"special_ids": [...], "entropy_bits": ..., "commitments": [...]}``
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from wmcheck.watermark.core.errors import ConfigError, OutputError, ProfileError, TokenizerError
from wmcheck.watermark.keys import SecretKey, TenantKey
from wmcheck.watermark.peer_keys import PeerKey
from wmcheck.watermark.prf import PRF_VERSION
from wmcheck.watermark.scheme import Scheme, make_scheme
from wmcheck.watermark.tokenizer import TextTokenizer, wrap_tokenizer

SCHEMA = "wmcheck.profile/"
VERSION = 1
DEFAULT_ENTROPY_BITS = 1.0
_FIELDS = {"schema", "scheme", "parameters", "prf", "tokenizer", "special_ids", "entropy_bits", "commitments"}


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_tokenizer(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict) and set(value) == {"name", "digest", "vocabulary"} and isinstance(value["name"], str)
        and _is_digest(value["digest"]) and type(value["vocabulary"]) is int and 1 <= value["vocabulary"] <= 2**31
    )


def _is_list(value: Any, sound: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(sound(item) for item in value)


_SOUND: dict[str, Callable[[Any], bool]] = {
    "parameters": lambda value: isinstance(value, dict),
    "tokenizer": _is_tokenizer,
    "special_ids": lambda value: _is_list(value, lambda number: type(number) is int and 0 <= number < 2**31),
    "entropy_bits": lambda value: type(value) in (int, float) and 0 < value <= 32,
    "commitments": lambda value: _is_list(value, _is_digest),
}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One deployed watermark.

    Attributes:
        scheme_name: registry name of the scheme.
        parameters: the scheme's parameters.
        tokenizer: ``{"name", "digest", "vocabulary"}``, or None for detection from token ids alone.
        special_ids: ids that are never scored and never part of a scored window.
        entropy_bits: typical entropy a token of the deployment's text, which decides what is INSUFFICIENT.
        commitments: key commitments published with the profile; empty if none are.
        name: where it was loaded from, or the scheme's name.
    """

    scheme_name: str
    parameters: Mapping[str, Any]
    tokenizer: Mapping[str, Any] | None = None
    special_ids: tuple[int, ...] = ()
    entropy_bits: float = DEFAULT_ENTROPY_BITS
    commitments: tuple[str, ...] = ()
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", self.scheme.parameters())
        limit, known = getattr(self.scheme, "vocabulary", None), self.tokenizer and int(self.tokenizer["vocabulary"])
        if limit is not None and known and known > limit:
            raise ProfileError(
                "a vocabulary size that cannot be right", where=f"{self.name or self.scheme_name}, vocabulary", got=str(limit),
                expected=f"at least {known}, the ids of the tokenizer", hint="the width of the model's logits, padding included",
            )
        if not self.name:
            object.__setattr__(self, "name", self.scheme_name)

    @cached_property
    def scheme(self) -> Scheme:
        """The scheme, built once."""
        return make_scheme(self.scheme_name, self.parameters, where=self.name or "profile")

    @property
    def prf(self) -> str:
        """The version of the keyed function: ours, or that of the peer's contract."""
        return str(getattr(self.scheme, "prf", PRF_VERSION))

    @property
    def contract(self) -> str | None:
        """Whose watermark it is, in which version; None for our own."""
        scheme: Any = self.scheme
        return f"{scheme.project} {scheme.version}" if hasattr(scheme, "project") else None

    def need_own(self, where: str) -> None:
        """Refuse a peer's contract where a watermark is embedded or planned: peers' are read.

        Raises:
            ConfigError: it is one.
        """
        if self.contract:
            raise ConfigError(
                f"'{self.scheme_name}' is of {self.contract}: wmcheck detects it and does not embed it", where=where,
                hint="embed with a scheme of ours: wmcheck profile new gumbel",
            )

    @cached_property
    def planned_score(self) -> float:
        """Mean score of an item of watermarked text at ``entropy_bits``: a planning figure."""
        return self.scheme.expected(self.entropy_bits)

    @classmethod
    def create(
        cls, scheme: str, parameters: Mapping[str, Any] | None = None, *, tokenizer: Any = None,
        special_ids: tuple[int, ...] | None = None, entropy_bits: float = DEFAULT_ENTROPY_BITS,
        keys: tuple[SecretKey | TenantKey | PeerKey, ...] = (),
    ) -> Profile:
        """A new profile.

        Args:
            scheme: registry name.
            parameters: scheme parameters; the rest take their defaults.
            tokenizer: a ``transformers`` fast tokenizer, a ``tokenizers.Tokenizer`` or a :class:`TextTokenizer`.
            special_ids: overrides the tokenizer's own.
            entropy_bits: see :class:`Profile`.
            keys: keys whose commitments to publish in the profile.
        """
        described, specials = None, special_ids
        if tokenizer is not None:
            wrapped = wrap_tokenizer(tokenizer, getattr(tokenizer, "name_or_path", "tokenizer"))
            described = {"name": wrapped.source, "digest": wrapped.digest, "vocabulary": wrapped.vocabulary}
            specials = wrapped.special_ids if special_ids is None else special_ids
        return cls(
            scheme_name=scheme, parameters=dict(parameters or {}), tokenizer=described, special_ids=tuple(specials or ()),
            entropy_bits=entropy_bits, commitments=tuple(key.commitment for key in keys),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the profile file."""
        return {
            "schema": f"{SCHEMA}{VERSION}", "scheme": self.scheme_name, "parameters": dict(self.parameters),
            "prf": self.prf, "tokenizer": dict(self.tokenizer) if self.tokenizer else None,
            "special_ids": list(self.special_ids), "entropy_bits": self.entropy_bits, "commitments": list(self.commitments),
        }

    def save(self, path: str | Path) -> None:
        """Write the profile file.

        Raises:
            OutputError: the path cannot be written.
        """
        try:
            Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n", "utf-8")
        except OSError as error:
            raise OutputError("cannot write the profile", where=str(path), got=error.strerror or "") from None

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a profile file.

        Raises:
            ProfileError: unreadable, malformed, of a newer version, or with impossible values.
        """
        where = str(path)
        try:
            data = json.loads(Path(os.path.expanduser(path)).read_text("utf-8"))
        except FileNotFoundError:
            raise ProfileError("no such profile", where=where, hint="make one with: wmcheck profile new --help") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ProfileError("not a profile", where=where, got=str(error)[:100], expected="a JSON object") from None
        return cls.from_dict(data, where=where)

    @classmethod
    def from_dict(cls, data: Any, *, where: str = "profile") -> Profile:
        """The profile of a JSON object; see :meth:`load` for errors."""
        _check_version(data, where)
        unknown = set(data) - _FIELDS
        missing = {"schema", "scheme", "parameters", "prf"} - set(data)
        if unknown or missing:
            raise ProfileError(
                "unknown fields" if unknown else "missing fields", where=where, got=", ".join(sorted(unknown or missing)),
                expected=", ".join(sorted(_FIELDS)),
            )
        for name, sound in _SOUND.items():
            if name in data and not sound(data[name]):
                raise ProfileError(
                    "a field has an impossible value", where=where, got=f"{name} {data[name]!r}"[:80],
                    expected="see docs/formats.md",
                )
        found = cls(
            scheme_name=data["scheme"], parameters=data["parameters"], tokenizer=data.get("tokenizer"),
            special_ids=tuple(data.get("special_ids", ())), commitments=tuple(data.get("commitments", ())),
            entropy_bits=float(data.get("entropy_bits", DEFAULT_ENTROPY_BITS)), name=where,
        )
        if data["prf"] != found.prf:
            raise ProfileError("unknown keyed function", where=where, got=repr(data["prf"]), expected=found.prf)
        return found

    def needed_tokenizer(self) -> Mapping[str, Any]:
        """The tokenizer field.

        Raises:
            TokenizerError: the profile names none.
        """
        if self.tokenizer is None:
            raise TokenizerError(
                "the profile names no tokenizer, so text cannot be encoded", where=self.name,
                hint="give recorded token ids (--tokens-field), or a profile made with --tokenizer",
            )
        return self.tokenizer

    def check_tokenizer(self, tokenizer: TextTokenizer) -> None:
        """Refuse a tokenizer that is not the profile's: its ids would mean nothing.

        Raises:
            TokenizerError: another tokenizer, or a profile without one.
        """
        needed = self.needed_tokenizer()
        if tokenizer.digest != needed["digest"]:
            raise TokenizerError(
                "not the tokenizer of the profile", where=tokenizer.source, got=f"digest {tokenizer.digest[:16]}",
                expected=f"digest {str(needed['digest'])[:16]} ({needed['name']})",
                hint="pass the deployment's tokenizer with --tokenizer PATH",
            )

    def check_vocabulary(self, width: int) -> None:
        """Refuse logits of a model with fewer tokens than the profile's tokenizer.

        Raises:
            ConfigError: ``width`` logits are too few.
        """
        needed = int(self.tokenizer["vocabulary"]) if self.tokenizer else 0
        if width < needed:
            raise ConfigError(
                "the model has a smaller vocabulary than the profile", where=self.name, got=f"{width} logits",
                expected=f"at least {needed}", hint="the profile of another model? 'wmcheck profile show' names its tokenizer",
            )

    def commits_to(self, key: TenantKey | PeerKey, root: SecretKey | TenantKey | None = None) -> str | None:
        """``"tenant"`` if the profile publishes the commitment of ``key``, ``"root"`` if only that of its root, else
        ``"no"``; None if it publishes none."""
        if not self.commitments:
            return None
        if key.commitment in self.commitments:
            return "tenant"
        return "root" if root is not None and root.commitment in self.commitments else "no"


def _check_version(data: Any, where: str) -> None:
    schema = data.get("schema") if isinstance(data, dict) else None
    number = schema.removeprefix(SCHEMA) if isinstance(schema, str) and schema.startswith(SCHEMA) else ""
    if not (number.isascii() and number.isdigit() and len(number) < 9 and str(int(number)) == number):
        raise ProfileError("not a profile", where=where, got=f"schema {schema!r}"[:80], expected=f"{SCHEMA}{VERSION}")
    if int(number) != VERSION:
        raise ProfileError(
            "profile of a newer version" if int(number) > VERSION else "profile of an unknown version", where=where,
            got=str(schema), expected=f"{SCHEMA}{VERSION}", hint="upgrade wmcheck",
        )
