"""Options that several verbs share, and how they become candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from wmcheck.watermark.detect import Candidate
    from wmcheck.watermark.keys import SecretKey, TenantKey

F = TypeVar("F", bound=Callable[..., Any])


def key_option(*, multiple: bool) -> Callable[[F], F]:
    """``--key SOURCE``."""
    return click.option(
        "--key", "key", multiple=multiple, envvar="WMCHECK_KEY", metavar="SOURCE",
        help="Secret key: file:PATH, env:NAME or keyring:SERVICE/NAME; never the key itself.",
    )


def profile_option(*, multiple: bool) -> Callable[[F], F]:
    """``--profile FILE``."""
    return click.option(
        "--profile", "-p", "profile", multiple=multiple, envvar="WMCHECK_PROFILE", metavar="FILE",
        help="Watermark profile (JSON).",
    )


def tenant_options(*, multiple: bool) -> Callable[[F], F]:
    """``--tenant NAME --epoch NAME``."""

    def wrap(function: F) -> F:
        tenant = click.option("--tenant", multiple=multiple, envvar="WMCHECK_TENANT", metavar="NAME", help="Tenant of the root key.")
        epoch = click.option("--epoch", multiple=multiple, envvar="WMCHECK_EPOCH", metavar="NAME", help="Epoch of the tenant's key.")
        return tenant(epoch(function))

    return wrap


def load_keys(sources: Sequence[str]) -> list[SecretKey | TenantKey]:
    """The keys behind the sources.

    Raises:
        ConfigError: no source was given.
    """
    from wmcheck.watermark.core.errors import ConfigError
    from wmcheck.watermark.keys import load_key

    if not sources:
        raise ConfigError(
            "no key", where="--key", expected="file:PATH, env:NAME or keyring:SERVICE/NAME",
            hint="give --key, set WMCHECK_KEY, or write key = \"file:lab.wmk\" in wmcheck.toml",
        )
    return [load_key(source) for source in sources]


def load_candidates(
    profiles: Sequence[str], keys: Sequence[str], tenants: Sequence[str], epochs: Sequence[str]
) -> list[Candidate]:
    """Every profile under every key, tenant and epoch that was named, without duplicates.

    Raises:
        ConfigError: no profile or no key was given.
    """
    from wmcheck.watermark.core.errors import ConfigError
    from wmcheck.watermark.detect import Candidate
    from wmcheck.watermark.keys import SecretKey
    from wmcheck.watermark.profile import Profile

    if not profiles:
        raise ConfigError(
            "no profile", where="--profile", expected="a profile file",
            hint="give --profile, set WMCHECK_PROFILE, or write profile = \"lab.profile.json\" in wmcheck.toml",
        )
    loaded, found = [Profile.load(path) for path in profiles], {}
    for key in load_keys(keys):
        root = isinstance(key, SecretKey)
        for tenant in tenants if root and tenants else [""]:
            for epoch in epochs if root and epochs else [""]:
                for profile in loaded:
                    candidate = Candidate.of(profile, key, tenant, epoch)
                    found[profile.name, candidate.key.commitment] = candidate
    return list(found.values())
