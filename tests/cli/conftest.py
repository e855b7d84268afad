"""A folder with keys, profiles and suspect records made without a model, and a runner that watches for secrets."""

import base64
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from wmcheck.cli.main import run
from wmcheck.watermark.key_sources import write_key_file
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.prf import PrfKey
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.tokenizer import load_tokenizer

sys.path.append(str(Path(__file__).parents[1] / "support"))
import chat_server as chat
from marked_student import API_KEY, marked_student

ROOT = Path(__file__).parents[2]
LAB, OTHER = (SecretKey(hashlib.sha256(f"a test key: {name}".encode()).digest()) for name in ("lab", "other"))
SCHEMES = {"gumbel": {"width": 2}, "redgreen": {"width": 2, "green": 64}}
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("WMCHECK_")}


class Done(NamedTuple):
    """What one command line left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]


def leaks(text):
    """The forms in which a secret of the tests stands in a text."""
    forms = {}
    for key in (LAB, OTHER, LAB.tenant("acct-17"), LAB.tenant("acct-91")):
        secret = key._secret
        forms[key.reveal()[5:40]] = "key text"
        forms[secret.hex()] = "hex"
        forms[base64.b64encode(secret).decode()[:40]] = "base64"
        forms[base64.b32encode(secret).decode()[:40]] = "base32"
        forms[repr(secret)[2:-1]] = "bytes"
    return [f"{kind} of a key" for form, kind in forms.items() if form.lower() in text.lower()]


class Folder:
    """The current folder of a test and the command line in it."""

    def __init__(self, path, capsys, monkeypatch):
        self.path, self._capsys, self._monkeypatch = path, capsys, monkeypatch

    def __call__(self, *args, stdin=b""):
        """Run in this process."""
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self._capsys.readouterr()
        code = run([str(arg) for arg in args])
        done = Done(code, *self._capsys.readouterr())
        assert leaks(done.out + done.err) == []
        return done

    def start(self, *args, **options):
        """Run in a process of its own."""
        env = {**PLAIN, "PYTHONPATH": str(ROOT / ".dev" / "types"), **options.pop("env", {})}
        command = [sys.executable, "-m", "wmcheck.cli.main", *args]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        # A shell that runs the tests in the background ignores Ctrl-C, and its children inherit that.
        return subprocess.Popen(
            command, cwd=self.path, env=env, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **pipes
        )

    def write(self, name, data):
        """Write bytes, text or a list of records (as JSON lines), and return the name."""
        if isinstance(data, list):
            data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in data)
        (self.path / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return name

    def read(self, name):
        return (self.path / name).read_text("utf-8")


def fails(done, line, *, hint=""):
    """Assert exit 2 with exactly this error, and no traceback; with ``hint=None`` only how the error begins is known."""
    assert done.code == 2, done
    assert "Traceback" not in done.err
    if hint is None:
        assert done.err.startswith(f"error: {line}")
        return
    message = f"error: {line}" + (f"\n  hint: {hint}" if hint else "") + "\n"
    assert done.err[done.err.index("error: ") :] == message
    assert done.err.count("error: ") == 1


def watermarked(profile, key, length, rng):
    """Ids that carry a strong watermark: the best of 16 random ids at every place."""
    prf, scheme = PrfKey.derive(key, profile.scheme.label()), profile.scheme
    ids = rng.integers(1, 1024, scheme.width).tolist()
    while len(ids) < length:
        options = rng.choice(np.arange(1, 1024), 16, replace=False)
        windows = np.tile(np.array(ids[-scheme.width :], np.uint32), (16, 1))
        ids.append(int(options[np.argmax(scheme.null().reduce(scheme.score(windows, options, prf)))]))
    return ids


@pytest.fixture(scope="session")
def bundled():
    return load_tokenizer("bundled:stories2m")


@pytest.fixture(scope="session")
def profiles(bundled):
    return {
        name: Profile.create(name, parameters, tokenizer=bundled, entropy_bits=2.0, keys=(LAB,))
        for name, parameters in SCHEMES.items()
    }


@pytest.fixture(scope="session")
def records(profiles, bundled):
    """Six records: two gumbel (one a tenant's), one redgreen, two ordinary, one too short."""
    rng = np.random.default_rng(7)
    tenant = LAB.tenant("acct-17")
    made = {
        "gumbel": watermarked(profiles["gumbel"], LAB.tenant(), 120, rng),
        "gumbel of a tenant": watermarked(profiles["gumbel"], tenant, 120, rng),
        "redgreen": watermarked(profiles["redgreen"], LAB.tenant(), 120, rng),
        "ordinary 1": rng.integers(1, 1024, 120).tolist(),
        "ordinary 2": rng.integers(1, 1024, 120).tolist(),
    }
    made["short"] = made["gumbel"][:5]
    return [{"id": name, "text": bundled.decode(ids), "tokens": ids} for name, ids in made.items()]


@pytest.fixture
def wm(tmp_path, monkeypatch, capsys, profiles, records):
    """The command line in a folder with keys, profiles, settings and ``suspect.jsonl``."""
    for name in list(os.environ):
        if name.startswith("WMCHECK_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    write_key_file(LAB, "lab.wmk")
    write_key_file(OTHER, "other.wmk")
    for name, profile in profiles.items():
        profile.save(f"{name}.profile.json")
    folder = Folder(tmp_path, capsys, monkeypatch)
    folder.write("wmcheck.toml", 'profile = "gumbel.profile.json"\nkey = "file:lab.wmk"\n')
    folder.write("suspect.jsonl", records)
    return folder


@pytest.fixture
def fail():
    return fails


@pytest.fixture(scope="session")
def lab():
    return LAB


@pytest.fixture(scope="session")
def student(tmp_path_factory, lab, bundled):
    """A strong profile, its text, ordinary text, and a model that was trained on the former for some steps."""
    folder = tmp_path_factory.mktemp("student") / "student"
    profile, marked, plain = marked_student(folder, lab, bundled)
    return SimpleNamespace(profile=profile, folder=folder, marked=marked, plain=plain)


@pytest.fixture
def radioactivity(wm, student, monkeypatch):
    """``wmcheck radioactivity`` with the strong profile, the lab's key and few decoys."""
    pytest.importorskip("openai")
    chat.forget_proxies(monkeypatch)
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)
    (wm.path / "wmcheck.toml").unlink()
    student.profile.save("mark.json")
    wm.write("plain.jsonl", student.plain)
    wm.write("marked.jsonl", student.marked)
    (wm.path / "student").symlink_to(student.folder)

    def run(*args, key="file:lab.wmk", decoys=20):
        named = [] if "-p" in args else ["-p", "mark.json"]
        done = wm("radioactivity", *named, "--key", key, "--decoys", decoys, *args)
        assert API_KEY not in done.out + done.err
        return done

    run.wm = wm
    return run
