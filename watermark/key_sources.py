"""Where key text comes from and goes to: ``file:``, ``env:`` and ``keyring:``; never the command line."""

from __future__ import annotations

import logging
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

from wmcheck.watermark.core.errors import KeyFileError, MissingExtraError, OutputError
from wmcheck.watermark.keys import PREFIX, SecretKey, TenantKey

log = logging.getLogger("wmcheck")

MAX_KEY_FILE_BYTES = 65_536
EXPECTED = "file:PATH, env:NAME or keyring:SERVICE/NAME"


def leaked_key(where: str) -> KeyFileError:
    """The error for a key that stands where others can read it; it does not repeat the key."""
    return KeyFileError(
        "a key was given on the command line, where every user of the machine can read it", where=where,
        expected=EXPECTED, hint="treat that key as leaked: make a new one with 'wmcheck key new -o lab.wmk'",
    )


def read_source(source: str) -> str:
    """The text behind a key source.

    Raises:
        KeyFileError: the source is a literal key, is of an unknown kind, or cannot be read. No message repeats it then.
    """
    kind, _, rest = source.partition(":")
    if source.strip().startswith(PREFIX) or PREFIX in source:
        raise leaked_key("--key")
    readers = {"file": _read_file, "env": _read_env, "keyring": _read_keyring}
    if kind not in readers or not rest:
        # The value may be a secret of another tool, so it is not echoed.
        raise KeyFileError("not a key source", where="--key", got=f"{len(source)} characters", expected=EXPECTED)
    return readers[kind](rest)


def _read_file(name: str) -> str:
    path = Path(os.path.expanduser(name))
    where = f"file:{name}"
    try:
        if path.stat().st_size > MAX_KEY_FILE_BYTES:
            raise KeyFileError("too large for a key file", where=where, got=f"{path.stat().st_size} bytes")
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise KeyFileError("no such key file", where=where, hint="make one with: wmcheck key new -o lab.wmk") from None
    except (OSError, ValueError) as error:
        raise KeyFileError("cannot read the key file", where=where, got=type(error).__name__) from None
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        log.warning("%s: other users can read this key (hint: chmod 600 %s)", where, path)
    return text


def _read_env(name: str) -> str:
    text = os.environ.get(name)
    if text is None:
        raise KeyFileError("the environment variable is not set", where=f"env:{name}")
    return text


def _read_keyring(name: str) -> str:
    service, _, user = name.partition("/")
    where = f"keyring:{name}"
    if not service or not user:
        raise KeyFileError("incomplete keyring entry", where=where, expected="keyring:SERVICE/NAME")
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        raise MissingExtraError(
            "keyring is not installed", where=where, hint="pip install 'wmcheck[keyring]'"
        ) from None
    try:
        text = keyring.get_password(service, user)
    except KeyringError as error:
        raise KeyFileError("the keyring refused", where=where, got=type(error).__name__) from None
    if text is None:
        raise KeyFileError("no such keyring entry", where=where)
    return str(text)


def write_key_file(key: SecretKey | TenantKey, path: str, *, now: datetime | None = None) -> None:
    """Write a key file, mode 0600, never over an existing file.

    Raises:
        OutputError: the file exists or cannot be written.
    """
    created = (now or datetime.now(UTC)).strftime("%Y-%m-%d")
    kind = "root key" if isinstance(key, SecretKey) else f"tenant key {key.tenant_name!r} epoch {key.epoch!r}"
    text = f"# wmcheck key file v1: SECRET, do not share or commit\n# {kind}, id {key.id}, created {created}\n{key.reveal()}\n"
    write_secret(text, path, what="the key file", hint="keys are never overwritten: choose another name or move it away")


def write_secret(text: str, path: str, *, what: str = "", hint: str = "choose another name or move it away") -> None:
    """Write ``text`` to a new file that only its owner can read.

    Args:
        text: the secret.
        path: where; never overwritten.
        what: what it is, for the message that it cannot be written.
        hint: what to do where the file exists.

    Raises:
        OutputError: the file exists or cannot be written.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise OutputError("the file exists", where=path, hint=hint) from None
    except OSError as error:
        raise OutputError(f"cannot write {what}".rstrip(), where=path, got=error.strerror or type(error).__name__) from None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
