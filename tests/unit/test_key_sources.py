"""Where keys come from: files, the environment, a keyring, and never the command line."""

import hashlib
import logging
import os
import stat
import sys
from datetime import UTC, datetime

import pytest

from wmcheck.watermark.core.errors import KeyFileError, MissingExtraError, OutputError
from wmcheck.watermark.key_sources import MAX_KEY_FILE_BYTES, read_source, write_key_file
from wmcheck.watermark.keys import SecretKey, TenantKey, load_key

SECRET = hashlib.sha256(b"a key for tests").digest()
ROOT = SecretKey(SECRET)
TENANT = ROOT.tenant("acct-91", "2026-11")
EXPECTED = "file:PATH, env:NAME or keyring:SERVICE/NAME"

posix = pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(source, kind=KeyFileError):
    with pytest.raises(kind) as caught:
        read_source(source)
    return caught.value


@pytest.mark.parametrize("key", [ROOT, TENANT], ids=["root", "tenant"])
def test_a_key_file_reads_back(key, folder):
    write_key_file(key, "lab.wmk")
    assert load_key("file:lab.wmk") == key
    assert load_key(f"file:{folder / 'lab.wmk'}") == key


def test_a_key_file_says_what_it_is(folder):
    write_key_file(ROOT, "lab.wmk", now=datetime(2026, 11, 21, tzinfo=UTC))
    assert (folder / "lab.wmk").read_text("utf-8") == (
        "# wmcheck key file v1: SECRET, do not share or commit\n"
        f"# root key, id {ROOT.id}, created 2026-11-21\n{ROOT.reveal()}\n"
    )
    write_key_file(TENANT, "tenant.wmk", now=datetime(2026, 11, 21, tzinfo=UTC))
    line = (folder / "tenant.wmk").read_text("utf-8").splitlines()[1]
    assert line == f"# tenant key 'acct-91' epoch '2026-11', id {TENANT.id}, created 2026-11-21"


@pytest.mark.parametrize("name", ["two\nlines", "\u2028", "\x1b[2J", "# x", "é 🙂", "a" * 500, "\r", "\x85"])
def test_a_label_cannot_break_its_file(name, folder):
    key = ROOT.tenant(name, name[:5])
    write_key_file(key, "tenant.wmk")
    again = load_key("file:tenant.wmk")
    assert again == key
    assert (again.tenant_name, again.epoch) == (name, name[:5])
    assert len((folder / "tenant.wmk").read_text("utf-8").splitlines()) == 3


@posix
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_key_file_is_its_owners_alone(umask, folder):
    before = os.umask(umask)
    try:
        write_key_file(ROOT, "lab.wmk")
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "lab.wmk").stat().st_mode) == 0o600


def test_a_file_is_never_overwritten(folder):
    write_key_file(ROOT, "lab.wmk")
    with pytest.raises(OutputError, match=r"lab\.wmk: the file exists") as caught:
        write_key_file(SecretKey.new(), "lab.wmk")
    assert "never overwritten" in caught.value.hint
    assert load_key("file:lab.wmk") == ROOT
    (folder / "empty").touch()
    with pytest.raises(OutputError, match="the file exists"):
        write_key_file(ROOT, "empty")
    assert (folder / "empty").read_bytes() == b""


@posix
def test_a_link_is_not_followed_when_writing(folder):
    (folder / "link").symlink_to(folder / "target")
    with pytest.raises(OutputError, match="the file exists"):
        write_key_file(ROOT, "link")
    assert not (folder / "target").exists()


def test_a_place_that_cannot_be_written(folder):
    with pytest.raises(OutputError, match="cannot write the key file") as caught:
        write_key_file(ROOT, "no/such/folder/lab.wmk")
    assert ROOT.reveal()[5:15] not in caught.value.message()


@posix
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o601])
def test_a_key_that_others_can_read_gives_a_warning(mode, folder, caplog):
    write_key_file(ROOT, "lab.wmk")
    os.chmod("lab.wmk", mode)
    with caplog.at_level(logging.WARNING):
        assert load_key("file:lab.wmk") == ROOT
    assert [record.getMessage() for record in caplog.records] == [
        "file:lab.wmk: other users can read this key (hint: chmod 600 lab.wmk)"
    ]


@posix
@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_private_key_gives_none(mode, folder, caplog):
    write_key_file(ROOT, "lab.wmk")
    os.chmod("lab.wmk", mode)
    with caplog.at_level(logging.DEBUG):
        assert load_key("file:lab.wmk") == ROOT
    assert not caplog.records


def test_files_that_are_no_keys(folder):
    assert str(refusal("file:none.wmk")) == "file:none.wmk: no such key file"
    assert "wmcheck key new" in refusal("file:none.wmk").hint
    assert "cannot read the key file" in str(refusal(f"file:{folder}"))
    (folder / "latin").write_bytes(b"# cl\xe9\n")
    assert str(refusal("file:latin")) == "file:latin: cannot read the key file (got UnicodeDecodeError)"
    (folder / "big").write_bytes(b"#" * (MAX_KEY_FILE_BYTES + 1))
    assert str(refusal("file:big")) == "file:big: too large for a key file (got 65537 bytes)"
    (folder / "empty").touch()
    with pytest.raises(KeyFileError, match=r"file:empty: no single key line \(got 0 lines"):
        load_key("file:empty")


def test_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    write_key_file(ROOT, "lab.wmk")
    assert load_key("file:~/lab.wmk") == ROOT


@posix
def test_the_home_of_nobody():
    assert "key file" in str(refusal("file:~no-such-user-here/lab.wmk"))


def test_a_name_with_a_nul():
    assert "key file" in str(refusal("file:a\0b"))


def test_the_environment(monkeypatch):
    monkeypatch.setenv("LAB_KEY", ROOT.reveal())
    assert load_key("env:LAB_KEY") == ROOT
    monkeypatch.setenv("LAB_KEY", f"# from the vault\n{TENANT.reveal()}\n")
    assert load_key("env:LAB_KEY") == TENANT
    monkeypatch.setenv("LAB_KEY", "")
    with pytest.raises(KeyFileError, match=r"env:LAB_KEY: no single key line"):
        load_key("env:LAB_KEY")
    monkeypatch.setenv("LAB_KEY", ROOT.reveal()[:-1])
    with pytest.raises(KeyFileError, match=r"env:LAB_KEY: the key is damaged") as caught:
        load_key("env:LAB_KEY")
    assert ROOT.reveal()[5:15] not in caught.value.message()
    monkeypatch.delenv("LAB_KEY")
    assert str(refusal("env:LAB_KEY")) == "env:LAB_KEY: the environment variable is not set"


@pytest.fixture
def ring():
    """A keyring in memory; the process's own comes back afterwards."""
    keyring = pytest.importorskip("keyring")
    from keyring.backend import KeyringBackend
    from keyring.errors import KeyringLocked

    held = {("wmcheck", "lab"): ROOT.reveal(), ("wmcheck", "a/b"): TENANT.reveal()}

    class Memory(KeyringBackend):
        priority = 1

        def get_password(self, service, username):
            if service == "locked":
                raise KeyringLocked("secret words of the backend")
            return held.get((service, username))

        def set_password(self, service, username, password):
            raise NotImplementedError

    before = keyring.get_keyring()
    keyring.set_keyring(Memory())
    yield Memory
    keyring.set_keyring(before)


def test_a_keyring(ring):
    assert load_key("keyring:wmcheck/lab") == ROOT
    assert load_key("keyring:wmcheck/a/b") == TENANT
    assert str(refusal("keyring:wmcheck/none")) == "keyring:wmcheck/none: no such keyring entry"
    assert str(refusal("keyring:locked/lab")) == "keyring:locked/lab: the keyring refused (got KeyringLocked)"
    for incomplete in ("keyring:wmcheck", "keyring:/lab", "keyring:wmcheck/"):
        assert "incomplete keyring entry (expected keyring:SERVICE/NAME)" in str(refusal(incomplete))


def test_keyring_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert refusal("keyring:wmcheck/lab", MissingExtraError).hint == "pip install 'wmcheck[keyring]'"


@pytest.mark.parametrize(
    "source", ["{}", " {}", "{}\n", "file:{}", "env:{}", "keyring:{}/x", "keyring:x/{}", "--key={}", "x {}"]
)
@pytest.mark.parametrize("key", [ROOT, TENANT], ids=["root", "tenant"])
def test_a_key_on_the_command_line_is_refused_and_not_repeated(source, key):
    error = refusal(source.format(key.reveal()))
    assert str(error).startswith("--key: a key was given on the command line")
    assert error.expected == EXPECTED
    assert "leaked" in error.hint
    text = key.reveal()
    for display in (error.message(), repr(error), repr(vars(error))):
        assert not any(text[place : place + 8] in display for place in range(5, len(text) - 7))


@pytest.mark.parametrize(
    "source",
    ["", "lab.wmk", SECRET.hex(), ROOT.reveal().upper(), "sk-proj-abcdef", "file:", "env:", "keyring:", "FILE:x", ":x"],
)
def test_other_sources_are_refused_and_not_repeated(source):
    error = refusal(source)
    assert str(error) == f"--key: not a key source (got {len(source)} characters, expected {EXPECTED})"
    assert len(source) <= 8 or source[:8] not in error.message()


def test_root_and_tenant_keys_load_as_what_they_are(folder):
    write_key_file(ROOT, "root.wmk")
    write_key_file(TENANT, "tenant.wmk")
    assert SecretKey.load("file:root.wmk") == ROOT
    assert TenantKey.load("file:tenant.wmk") == TENANT
    assert TenantKey.load("file:tenant.wmk", "acct-91", "2026-11") == TENANT
    assert TenantKey.load("file:root.wmk", "acct-91", "2026-11") == TENANT
    assert TenantKey.load("file:root.wmk") == ROOT.tenant()
    with pytest.raises(KeyFileError, match=r"file:tenant.wmk: not a root key \(got the key of tenant 'acct-91'"):
        SecretKey.load("file:tenant.wmk")
    with pytest.raises(KeyFileError, match="holds that tenant alone"):
        TenantKey.load("file:tenant.wmk", "acct-92")
