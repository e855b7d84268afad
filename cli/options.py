"""Options that several verbs share, and how they become candidates."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

if TYPE_CHECKING:
    from wmcheck.watermark.candidate import Candidate
    from wmcheck.watermark.keys import SecretKey, TenantKey
    from wmcheck.watermark.peer_keys import PeerKey
    from wmcheck.watermark.profile import Profile

F = TypeVar("F", bound=Callable[..., Any])


class Listed(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """Text; a ``WMCHECK_*`` variable lists several with commas, because paths and tenant names may hold spaces."""

    name = "text"
    envvar_list_splitter = ","

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Without the spaces that may follow a comma."""
        return str(value).strip()


class ListedChoice(click.Choice):  # type: ignore[type-arg]  # generic since click 8.2
    """A choice whose variable lists several with commas."""

    envvar_list_splitter = ","

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Without the spaces that may follow a comma."""
        return str(super().convert(str(value).strip(), param, ctx))


def check_alpha(ctx: click.Context, param: click.Parameter, value: float) -> float:
    """Callback of ``--alpha``."""
    if math.isnan(value) or not 0.0 < value < 1.0:
        raise click.BadParameter(f"alpha out of range (got {value:g}, expected between 0 and 1)", ctx, param)
    return value


def open_output(path: str | None, inputs: Iterable[str]) -> AbstractContextManager[TextIO]:
    """Open the output of a verb, atomic if it is a file.

    Args:
        path: ``-o``; None or ``-`` for stdout.
        inputs: paths and key sources that the output must not replace.

    Raises:
        OutputError: it would replace an input, or stdout is closed.
    """
    import sys

    from wmcheck.watermark.core.errors import OutputError
    from wmcheck.watermark.core.writers import atomic_output

    if path is None or path == "-":
        if sys.stdout is None:
            raise OutputError("stdout is closed", where="<stdout>", hint="write to a file with -o FILE")
        return atomic_output(None)
    for name in inputs:
        source = name.removeprefix("file:")
        if os.path.isfile(path) and os.path.isfile(source) and os.path.samefile(path, source):
            raise OutputError("the output would replace an input", where=path, hint="choose another name for -o")
    return atomic_output(path)


def _text(multiple: bool) -> click.ParamType[str]:
    return Listed() if multiple else click.STRING


def key_option(*, multiple: bool) -> Callable[[F], F]:
    """``--key SOURCE``."""
    return click.option(
        "--key", "key", multiple=multiple, envvar="WMCHECK_KEY", metavar="SOURCE", type=_text(multiple),
        help="Secret key: file:PATH, env:NAME or keyring:SERVICE/NAME; never the key itself.",
    )


def profile_option(*, multiple: bool) -> Callable[[F], F]:
    """``--profile FILE``."""
    return click.option(
        "--profile", "-p", "profile", multiple=multiple, envvar="WMCHECK_PROFILE", metavar="FILE", type=_text(multiple),
        help="Watermark profile (JSON).",
    )


def tenant_options(*, multiple: bool) -> Callable[[F], F]:
    """``--tenant NAME --epoch NAME``."""

    def wrap(function: F) -> F:
        tenant = click.option(
            "--tenant", multiple=multiple, envvar="WMCHECK_TENANT", metavar="NAME", type=_text(multiple),
            help="Tenant of the root key.",
        )
        epoch = click.option(
            "--epoch", multiple=multiple, envvar="WMCHECK_EPOCH", metavar="NAME", type=_text(multiple),
            help="Epoch of the tenant's key.",
        )
        return tenant(epoch(function))

    return wrap


def load_keys(sources: Sequence[str]) -> list[SecretKey | TenantKey]:
    """Our keys behind the sources.

    Raises:
        ConfigError: no source was given.
    """
    from wmcheck.watermark.keys import load_key
    from wmcheck.watermark.layers import rooted

    _need_keys(sources)
    # Tenants of a layered profile need the root that they come from.
    return [rooted(load_key(source)) for source in sources]


def _need_keys(sources: Sequence[str]) -> None:
    from wmcheck.watermark.core.errors import ConfigError

    if not sources:
        raise ConfigError(
            "no key", where="--key", expected="file:PATH, env:NAME or keyring:SERVICE/NAME",
            hint="give --key, set WMCHECK_KEY, or write key = \"file:lab.wmk\" in wmcheck.toml",
        )


def _load_any(source: str, profiles: Sequence[Profile]) -> SecretKey | TenantKey | PeerKey:
    """A key of ours, or a peer's own where a profile is a peer's contract."""
    from wmcheck.watermark.core.errors import KeyFileError
    from wmcheck.watermark.key_sources import read_source
    from wmcheck.watermark.keys import PREFIX, load_key, parse_key
    from wmcheck.watermark.peer_keys import parse_peer_key

    if not any(profile.contract for profile in profiles):
        return load_key(source)
    try:
        text = read_source(source)
    except KeyFileError as error:
        # How to make a key of ours is no help where a peer's is missing.
        raise KeyFileError(error.what, where=error.where, got=error.got, expected=error.expected) from None
    ours = PREFIX in text and not all(profile.contract for profile in profiles)
    return parse_key(text, where=source) if ours else parse_peer_key(text, where=source)


def load_candidates(
    profiles: Sequence[str], keys: Sequence[str], tenants: Sequence[str], epochs: Sequence[str]
) -> list[Candidate]:
    """Every profile under every key, tenant and epoch that was named, without duplicates.

    A key is tested under the profiles that read keys of its kind: ours, or a peer's own of a form that its contract takes.

    Raises:
        ConfigError: no profile or no key was given, or one that goes with none of the others.
        KeyFileError: a key that none of the contracts can take.
    """
    from wmcheck.watermark.candidate import Candidate
    from wmcheck.watermark.core.errors import ConfigError
    from wmcheck.watermark.keys import SecretKey
    from wmcheck.watermark.peer_keys import PeerKey
    from wmcheck.watermark.profile import Profile

    if not profiles:
        raise ConfigError(
            "no profile", where="--profile", expected="a profile file",
            hint="give --profile, set WMCHECK_PROFILE, or write profile = \"lab.profile.json\" in wmcheck.toml",
        )
    _need_keys(keys)
    loaded = [Profile.load(path) for path in profiles]
    read = {source: _load_any(source, loaded) for source in keys}
    found = {}
    for source, fitting in _fitting(loaded, read).items():
        key = read[source]
        if isinstance(key, PeerKey):
            found.update({(profile.name, key.commitment): Candidate.of(profile, key) for profile in fitting})
            continue
        root = isinstance(key, SecretKey)
        # A tenant's key is that tenant alone: it must be among the named ones, and is tested once.
        for tenant in (tenants if root or key.tenant_name not in tenants else ()) or [""]:
            for epoch in (epochs if root or key.epoch not in epochs else ()) or [""]:
                for profile in fitting:
                    candidate = Candidate.of(profile, key, tenant, epoch)
                    found[profile.name, candidate.key.commitment] = candidate
    return list(found.values())


def _fitting(
    profiles: Sequence[Profile], keys: Mapping[str, SecretKey | TenantKey | PeerKey]
) -> dict[str, list[Profile]]:
    """The profiles that can read each key: those of its kind, and of peers those that its form fits.

    Raises:
        ConfigError: a profile or a key that goes with none of the others.
        KeyFileError: a peer's key that fits no contract.
    """
    from wmcheck.watermark.core.errors import ConfigError
    from wmcheck.watermark.peer_keys import PeerKey
    from wmcheck.watermark.scheme import takes

    found = {}
    for source, key in keys.items():
        kin = [profile for profile in profiles if takes(profile.scheme, key)]
        if not kin:
            kind = "a peer's key" if isinstance(key, PeerKey) else "a wmk1_ key"
            raise ConfigError("no profile for a key", where=source, got=kind, hint="give the profile with --profile")
        found[source] = _readers(source, key, kin) if isinstance(key, PeerKey) else kin
    served = {id(profile) for fitting in found.values() for profile in fitting}
    for profile in profiles:
        if id(profile) not in served:
            kind = "the peer's own key" if profile.contract else "a wmk1_ key"
            raise ConfigError("no key for a profile", where=profile.name, expected=kind, hint="give it with --key")
    return found


def _readers(source: str, key: PeerKey, profiles: Sequence[Profile]) -> list[Profile]:
    from wmcheck.watermark.core.errors import KeyFileError
    from wmcheck.watermark.scheme import keyed

    found, refusal = [], None
    for profile in profiles:
        try:
            keyed(profile.scheme, key)
        except KeyFileError as error:
            refusal = refusal or error
        else:
            found.append(profile)
    if not found and refusal is not None:
        raise KeyFileError(refusal.what, where=source, got=refusal.got, expected=refusal.expected, hint=refusal.hint) from None
    return found


def read_secret(source: str, option: str) -> str:
    """What stands behind ``env:NAME`` or ``file:PATH``, for an option that takes the secret of another service."""
    from wmcheck.watermark.core.errors import ConfigError, KeyFileError
    from wmcheck.watermark.key_sources import read_source

    try:
        return read_source(source).strip()
    except KeyFileError as error:
        if not error.where.startswith(("env:", "file:", "keyring:")):
            # The value may be the secret itself, so it is not repeated.
            hint = "a secret given on the command line is readable by every user of the machine: treat it as leaked"
            raise ConfigError("not a source", where=option, expected="env:NAME or file:PATH", hint=hint) from None
        raise ConfigError(error.what.replace("key file", "file"), where=f"{option} {error.where}", got=error.got) from None
