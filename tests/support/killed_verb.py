"""A verb of ``wmcheck`` in processes of its own that are killed, and ``transformers serve`` for it to ask."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from chat_server import PROXIES

from wmcheck.fingerprint.runlog import load_run

ROOT = Path(__file__).parents[2]


class KilledVerb:
    """A verb that keeps a run log; ``start(log)`` of a subclass says how it is told which.

    Args:
        folder: where it runs. Modules there are found, so that a ``sitecustomize.py`` is run before its first line.
        command: the verb and what every session says.
    """

    def __init__(self, folder, *command):
        self.folder, self.command = folder, command

    def process(self, *arguments):
        """A session, with nothing of this machine's settings, keys and proxies."""
        env = {
            name: value for name, value in os.environ.items()
            if not name.startswith(("WMCHECK_", "OPENAI_")) and name.upper() not in PROXIES
        }
        env["PYTHONPATH"] = os.pathsep.join([str(self.folder), str(ROOT / ".dev" / "types")])
        return subprocess.Popen(
            [sys.executable, "-m", "wmcheck.cli.main", *self.command, *arguments], cwd=self.folder, env=env,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )

    def kill_at(self, log, answers, within=240.0):
        """Kill a session with SIGKILL once the log holds so many answers."""
        process = self.start(log)
        path, end = self.folder / log, time.monotonic() + within
        while not path.exists() or path.read_bytes().count(b'"kind":"answer"') < answers:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        process.stdout.close()
        process.stderr.close()
        return load_run(path)


def need_transformers_serve():
    """Skip the test where there is no ``transformers serve``, or nothing to ask it with."""
    pytest.importorskip("openai")
    from transformers.utils.import_utils import is_serve_available

    if not is_serve_available():
        pytest.skip("needs pip install 'transformers[serving]'")


@contextmanager
def transformers_serve(model):
    """``transformers serve`` on a free port of 127.0.0.1, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--device", "cpu"]
    place = ["--host", "127.0.0.1", "--port", str(port)]
    # Straight to the address, whatever proxy the environment names.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with (model.parent / "serve.log").open("wb") as log:
        process = subprocess.Popen([*command, *place], env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 240.0
            while True:
                assert process.poll() is None, (model.parent / "serve.log").read_text("utf-8")
                assert time.monotonic() < end
                try:
                    direct.open(f"http://127.0.0.1:{port}/health", timeout=2).close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)
