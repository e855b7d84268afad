"""``wmcheck verify`` with timestamps: of an authority on this machine, over bundles and plans, before and after a certificate."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "support"))
from tampered_bundles import HONEST, Case, prepare, report, verify

from wmcheck.watermark.core.errors import InputError
from wmcheck.watermark.evidence.bundle import BUNDLE, PLAN, Sealed
from wmcheck.watermark.evidence.signing import Identity, Signer
from wmcheck.watermark.evidence.statement import ResultStatement


@pytest.fixture
def lab(wm):
    """A folder with a bundle and what it takes to verify it."""
    prepare(wm.path, lambda *args: wm(*args).code)
    return wm


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A timestamp authority on this machine: openssl, behind HTTP."""
    pytest.importorskip("rfc3161_client")
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    home = tmp_path_factory.mktemp("tsa")
    for name in ("one", "two"):
        _certificate(home, name)
    (home / "tsa.cnf").write_text(
        "[tsa]\ndefault_tsa = one\n[one]\nserial = serial\nsigner_cert = one.pem\nsigner_key = one.key\nsigner_digest = sha256\n"
        "default_policy = 1.2.3.4\ndigests = sha256\ness_cert_id_alg = sha256\n"
    )
    (home / "serial").write_text("01\n")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            reply = stamped(home, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield home, f"http://127.0.0.1:{server.server_port}/tsr"
    server.shutdown()
    thread.join()
    server.server_close()


def _certificate(home, name):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {name}")])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key()).serial_number(7)
        .not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(30)).add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    (home / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (home / f"{name}.key").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))


def stamped(home, query):
    (home / "q.tsq").write_bytes(query)
    command = ["openssl", "ts", "-reply", "-config", "tsa.cnf", "-queryfile", "q.tsq", "-out", "r.tsr"]
    subprocess.run(command, cwd=home, check=True, capture_output=True)
    return (home / "r.tsr").read_bytes()


def test_a_timestamp_from_an_authority(lab, authority):
    home, url = authority
    assert lab("attest", "result.json", "--sign", "inv.pem", "--timestamp", url, "-o", "b.json").code == 0
    done = verify(lab, *HONEST, "--tsa", home / "one.pem", bundle="b.json")
    assert done.code == 0
    assert report(done)["timestamp"]["state"] == "holds"
    assert verify(lab, *HONEST, bundle="b.json").code == 3
    done = verify(lab, *HONEST, "--tsa", home / "two.pem", bundle="b.json")
    assert done.code == 2
    assert "not of a trusted authority" in report(done)["timestamp"]["detail"]


def test_a_timestamp_from_a_file(lab, authority, fail):
    from wmcheck.watermark.evidence.timestamp import query

    home, _ = authority
    lab.write("r.tsr", stamped(home, query(Sealed.load("bundle.json", BUNDLE).envelope.signature)))
    assert lab("attest", "bundle.json", "--sign", "inv.pem", "--timestamp", "r.tsr", "-o", "b.json").code == 0
    assert verify(lab, *HONEST, "--tsa", home / "one.pem", bundle="b.json").code == 0
    # One of another bundle.
    lab("attest", "result.json", "--sign", "foreign.pem", "-o", "other.json")
    done = lab("attest", "other.json", "--sign", "foreign.pem", "--timestamp", "r.tsr")
    assert done.code == 2
    assert "r.tsr: a timestamp over something else" in done.err
    done = lab("attest", "bundle.json", "--sign", "foreign.pem", "--timestamp", "r.tsr")
    assert "signed by another key" in done.err
    done = lab("attest", "bundle.json", "--sign", "inv.pem")
    assert "this is signed already" in done.err
    assert "openssl ts -query" in done.err
    lab.write("bad.tsr", b"nothing")
    assert "not an RFC 3161 reply" in lab("attest", "bundle.json", "--sign", "inv.pem", "--timestamp", "bad.tsr").err
    assert "a reply is over a bundle that exists" in lab("attest", "result.json", "--sign", "inv.pem", "--timestamp", "r.tsr").err


def test_no_byte_of_a_timestamp_can_change(lab, authority):
    _, url = authority
    lab("attest", "result.json", "--sign", "inv.pem", "--timestamp", url, "-o", "b.json")
    good = Sealed.load("b.json", BUNDLE)
    identity = Identity.load("inv.pub.pem")
    good.check(identity, "b")
    for place in range(len(good.reply)):
        reply = good.reply[:place] + bytes([good.reply[place] ^ 1]) + good.reply[place + 1 :]
        with pytest.raises(InputError, match="does not fit the content"):
            Sealed(BUNDLE, good.envelope, reply, good.reply_signature).check(identity, "b")
    data = json.loads(lab.read("b.json"))
    data["timestamp"] = None
    Case(lab.path).write(data)
    # Without it the bundle is sound again, and says that its date is the signer's word.
    assert report(verify(lab, *HONEST))["timestamp"]["state"] == "none"


def test_an_expired_certificate_holds_with_a_timestamp_from_before(lab, authority, monkeypatch):
    import wmcheck.cli.verification as module

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2999, 1, 1, tzinfo=UTC)

    home, url = authority
    lab("attest", "--new-signer", "c.pem", "--valid-days", "3")
    lab("attest", "result.json", "--sign", "c.pem", "--timestamp", url, "-o", "b.json")
    monkeypatch.setattr(module, "datetime", Later)
    args = [*HONEST[:4], "--trust", "c.pub.pem"]
    assert verify(lab, *args, "--tsa", home / "one.pem", bundle="b.json").code == 0
    done = verify(lab, *args, bundle="b.json")
    assert done.code == 2
    assert "has expired" in report(done)["signer"]["detail"]


def test_a_timestamped_plan_comes_before_its_result(lab, authority):
    home, url = authority
    lab.write("plan.toml", """schema = "wmcheck.plan/1"
question = "Was it?"
alpha = 1e-5
command = ["check", "{inputs}", "--profile", "gumbel.profile.json", "--key", "file:lab.wmk"]
""")
    assert lab("attest", "--plan", "plan.toml", "--sign", "inv.pem", "--timestamp", url, "-o", "plan.json").code == 0
    # Authorities count in seconds.
    time.sleep(1.1)
    assert lab("attest", "result.json", "--plan", "plan.json", "--sign", "inv.pem", "--timestamp", url, "-o", "b.json").code == 0
    done = verify(lab, *HONEST, "--tsa", home / "one.pem", bundle="b.json")
    assert done.code == 0
    assert "which existed at" in report(done)["plan"]["detail"]
    # The same plan stamped after the result is none that came before.
    lab("attest", "--plan", "plan.toml", "--sign", "inv.pem", "-o", "late.json")
    lab("attest", "result.json", "--plan", "late.json", "--sign", "inv.pem", "--timestamp", url, "-o", "b.json")
    time.sleep(1.1)
    from wmcheck.watermark.evidence.timestamp import fetch

    signer, plan = Signer.load("inv.pem"), Sealed.load("late.json", PLAN)
    plan = plan.stamped(fetch(url, plan.envelope.signature), signer)
    sealed = Sealed.load("b.json", BUNDLE)
    statement = ResultStatement.parse(sealed.envelope.payload, "b")
    object.__setattr__(statement, "plan", plan)
    envelope = signer.sign(statement.payload())
    late = Sealed(BUNDLE, envelope).stamped(fetch(url, envelope.signature), signer)
    lab.write("late.bundle.json", late.to_bytes())
    done = verify(lab, *HONEST, "--tsa", home / "one.pem", bundle="late.bundle.json")
    assert done.code == 2
    assert "is not before that of the result" in report(done)["plan"]["detail"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/none", "http://[bad/"])
def test_an_authority_that_does_not_answer(lab, url):
    pytest.importorskip("rfc3161_client")
    done = lab("attest", "result.json", "--sign", "inv.pem", "--timestamp", url, "-o", "b.json")
    assert done.code == 2
    assert "did not answer" in done.err
    assert not os.path.exists("b.json")
