"""Options that several verbs share, and how they become candidates."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

if TYPE_CHECKING:
    from wmcheck.watermark.detect import Candidate
    from wmcheck.watermark.keys import SecretKey, TenantKey

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
        # A tenant's key is that tenant alone: it must be among the named ones, and is tested once.
        for tenant in (tenants if root or key.tenant_name not in tenants else ()) or [""]:
            for epoch in (epochs if root or key.epoch not in epochs else ()) or [""]:
                for profile in loaded:
                    candidate = Candidate.of(profile, key, tenant, epoch)
                    found[profile.name, candidate.key.commitment] = candidate
    return list(found.values())


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
