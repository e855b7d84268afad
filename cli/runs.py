"""How a result was made: the command line, its inputs' digests, keys' commitments and software versions.

Every JSON result that ``wmcheck attest`` signs carries this record under ``run``; ``wmcheck verify`` repeats the command line
from it. It holds no key, and nothing of how the result was shown or where it was written.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from wmcheck import __version__

if TYPE_CHECKING:
    from wmcheck.watermark.keys import SecretKey, TenantKey
    from wmcheck.watermark.peer_keys import PeerKey

# Under this name the words of the command line stand in click's ``Context.meta``.
ARGV = "wmcheck.argv"
# Parameters that decide how a result is shown, where it goes or how fast it comes, never what it is.
SHOWN = frozenset((
    "output", "quiet", "verbose", "as_json", "layout", "html", "cache", "no_cache", "workers", "threads", "memory_limit",
    "temporary", "concurrency", "timeout", "retries", "api_key_source",
))
# Parameters of any verb that name files or folders to read.
READ = frozenset((
    "paths", "profile", "sweep", "tokenizer", "model", "base", "base_log", "texts", "filter", "filters", "reference", "tenants",
    "log", "teacher", "cohort", "tags", "sketches",
))
KEYS = frozenset(("key",))
_SOURCES = ("file:", "env:", "keyring:")
_PACKAGES = ("numpy", "scipy", "cryptography", "torch", "transformers", "tokenizers", "pyarrow", "duckdb", "reedsolo")


def run_record(inputs: Sequence[str]) -> dict[str, Any]:
    """The ``run`` field of the result that the current verb is about to write.

    Args:
        inputs: names of the files and folders that the result depends on, as the command line has them. Key sources and what
            is no file (``-``, URLs, ``bundled:`` names) may be among them; files that the verb's own options name are added.

    Returns:
        ``argv``: the verb and its options in a fixed order, without those of ``SHOWN``, with ``--json``;
        ``settings``: what came from ``WMCHECK_*`` variables or the configuration file, by parameter name;
        ``inputs``: ``name``, ``sha256`` and ``bytes`` of each, and ``files`` of a folder; nulls for what cannot be read again;
        ``keys``: ``source``, ``id`` and ``commitment`` of each key; ``versions``: of Python, wmcheck and the packages in use.
        Nothing that has become unreadable keeps a result from being written: it stands there as null.

    Raises:
        RuntimeError: no verb is running.
    """
    context = click.get_current_context()
    argv, settings, named = command_line(context)
    sources = [value for name in KEYS for value in named.get(name, ())]
    secret = {source.removeprefix("file:") for source in sources}
    closed = bool(named.get("endpoint"))
    read = [name for name in named if name in READ and not (closed and name == "model")]
    names = [*inputs, *(value for name in read for value in named[name])]
    kept = [name for name in dict.fromkeys(names) if not name.startswith((*_SOURCES, "bundled:")) and name not in secret]
    given = set(inputs)
    return {
        "argv": argv, "settings": settings,
        "inputs": [input_record(name) for name in kept if name in given or os.path.exists(name)],
        "keys": [_identity_or_null(source) for source in dict.fromkeys(sources)], "versions": versions(),
    }


def command_line(context: click.Context) -> tuple[list[str], dict[str, Any], dict[str, list[str]]]:
    """What a verb was called with.

    Args:
        context: click's context of the verb.

    Returns:
        The command line in a fixed order; the settings from elsewhere; and all values as text, by parameter name.
    """
    verb = _verb(context)
    words = list(context.meta[ARGV])[len(verb) :] if ARGV in context.meta else []
    given, _, _ = context.command.make_parser(context).parse_args(words)
    argv, settings, named = [*verb], {}, {}
    late: list[str] = []
    for param in context.command.params:
        name = str(param.name)
        if name in SHOWN or not param.expose_value:
            continue
        source = context.get_parameter_source(name)
        if source is click.core.ParameterSource.COMMANDLINE:
            value = given[name]
            (late if _dashed(param, value) else argv).extend(option_words(param, value))
        elif source is click.core.ParameterSource.DEFAULT_MAP:
            value = settings[name] = _plain(context.lookup_default(name))
        elif source is click.core.ParameterSource.ENVIRONMENT:
            value = settings[name] = _plain(param.value_from_envvar(context))
        else:
            continue
        named[name] = texts(value)
    if any(param.name == "as_json" for param in context.command.params):
        argv.append("--json")
    elif any(param.name == "layout" for param in context.command.params):
        argv += ["--format", "json"]
    return [*argv, *(["--", *late] if late else [])], settings, named


def versions() -> dict[str, str]:
    """Of Python, wmcheck, the platform, and the packages that are loaded."""
    import platform
    from importlib import metadata

    found = {"python": platform.python_version(), "wmcheck": __version__, "platform": f"{sys.platform} {platform.machine()}"}
    for name in _PACKAGES:
        if name in sys.modules:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    return found


def _verb(context: click.Context) -> list[str]:
    names: list[str] = []
    place: click.Context | None = context
    while place is not None and place.parent is not None:
        names.insert(0, str(place.info_name))
        place = place.parent
    return names


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _dashed(param: click.Parameter, value: Any) -> bool:
    """Whether an argument would be read as an option."""
    return isinstance(param, click.Argument) and any(text.startswith("-") and text != "-" for text in texts(value))


def option_words(param: click.Parameter, value: Any) -> Iterator[str]:
    """The words of a command line that give ``param`` the value that click's parser read, or its texts."""
    if isinstance(param, click.Argument):
        yield from texts(value)
        return
    assert isinstance(param, click.Option)
    name = max(param.opts, key=len)
    if param.is_flag:
        yield name if value or not param.secondary_opts else max(param.secondary_opts, key=len)
    elif param.count:
        yield from [name] * int(value)
    else:
        for one in value if param.multiple else [value]:
            yield name
            yield from texts(one)


def texts(value: Any) -> list[str]:
    """A parameter's value as text, however many it holds."""
    if isinstance(value, (list, tuple)):
        return [text for one in value for text in texts(one)]
    return [] if value is None else [str(value)]


def input_record(name: str) -> dict[str, Any]:
    """Name and digest of a file or folder; nulls for what is neither, or cannot be read."""
    from wmcheck.watermark.core.errors import InputError
    from wmcheck.watermark.evidence.digests import digest_path

    try:
        return {"name": name, **digest_path(name).to_dict()}
    except InputError:
        return {"name": name, "sha256": None, "bytes": None}


def _identity_or_null(source: str) -> Mapping[str, str | None]:
    from wmcheck.watermark.core.errors import WmcheckError

    try:
        return identity_of(source)
    except WmcheckError:
        return {"source": source, "id": None, "commitment": None}


def identity_of(source: str) -> dict[str, str]:
    """The public identity of the key behind a source.

    Raises:
        KeyFileError: it cannot be read.
    """
    key = read_any_key(source)
    return {"source": source, "id": key.id, "commitment": key.commitment}


def read_any_key(source: str) -> SecretKey | TenantKey | PeerKey:
    """A key of ours or a peer's, whichever stands behind the source.

    Raises:
        KeyFileError: it cannot be read, or is neither.
    """
    from wmcheck.watermark.key_sources import read_source
    from wmcheck.watermark.keys import PREFIX, parse_key
    from wmcheck.watermark.peer_keys import parse_peer_key

    text = read_source(source)
    return parse_key(text, where=source) if PREFIX in text else parse_peer_key(text, where=source)

