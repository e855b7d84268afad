"""Counts, heartbeat, and the audit that notices a watermark which does not arrive."""

import json

import pytest
import torch

from wmcheck.watermark import Profile, SecretKey
from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.serving.counters import heartbeats, running
from wmcheck.watermark.serving.deployment import Deployment
from wmcheck.watermark.serving.marker import Marker
from wmcheck.watermark.serving.policy import Policy
from wmcheck.watermark.serving.selftest import OPTED_OUT, PROBE, self_test
from wmcheck.watermark.serving.sessions import Sampling, Session

KEY = SecretKey(bytes((91 * i * i + 7 * i + 3) % 256 for i in range(32)))
VOCABULARY, ROWS = 300, 32


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def deployment(tmp_path, scheme="gumbel"):
    return Deployment(Profile.create(scheme, special_ids=(0,)), KEY, Policy(opt_out=True), state=tmp_path / "state")


def run(marker, steps, *, late=False, ignored=False):
    """An engine of 32 rows: the processor sees its ids, one token late, or is not listened to."""
    generator = torch.Generator().manual_seed(1)
    true = [[] for _ in range(ROWS)]
    seen = [[] for _ in range(ROWS)] if late else true
    sessions = [Session.open(marker.deployment, {"wmcheck_tenant": "a"}, [1, 2, 3, 4, 5], one, Sampling()) for one in seen]
    for _ in range(steps):
        logits = torch.randn(ROWS, VOCABULARY, generator=generator)
        marked = logits.clone()
        marker.mark(marked, sessions)
        law = (logits if ignored else marked).softmax(-1)
        for row, token in enumerate(law.multinomial(1, generator=generator)[:, 0].tolist()):
            if late:
                seen[row][:] = true[row]
            true[row].append(token)
    return marker.counters


@pytest.mark.parametrize("scheme", ["redgreen", "gumbel", "tournament", "reweight"])
def test_the_audit_sees_the_watermark(tmp_path, scheme):
    counters = run(Marker(deployment(tmp_path, scheme), "engine 1"), 100)
    assert counters.audit.scored >= 256
    assert counters.audit.z > 6
    assert not counters.audit.silent


def test_the_audit_notices_a_sampler_that_ignores_the_processor(tmp_path, caplog):
    counters = run(Marker(deployment(tmp_path), "engine 1"), 180, ignored=True)
    assert counters.audit.silent
    assert abs(counters.audit.z) < 4
    assert caplog.text.count("show no watermark") == 1
    assert counters.to_dict()["audit"]["silent"] is True


def test_the_audit_scores_what_the_engine_went_on_with(tmp_path):
    """One token late, as SGLang's overlap scheduler shows it: the tokens do not follow the windows that were marked."""
    counters = run(Marker(deployment(tmp_path), "engine 1"), 180, late=True)
    assert counters.audit.silent


def test_reasons_are_counted(tmp_path):
    marker = Marker(deployment(tmp_path), "engine 1")
    asked = [
        ([1, 2, 3, 4], {}, 1.0), ([1, 2], {}, 1.0), ([1, 2, 0, 4], {}, 1.0), ([1, 1, 1, 1, 1], {}, 1.0), ([1, 2, 3, 4], {}, 0.0),
        ([1, 2, 3, 4], {"wmcheck_opt_out": True}, 1.0),
    ]
    sessions = [
        Session.open(marker.deployment, {"wmcheck_tenant": "a", **extra}, ids, [], Sampling(temperature=heat))
        for ids, extra, heat in asked
    ]
    logits = torch.randn(6, VOCABULARY)
    before = logits.clone()
    marker.mark(logits, sessions)
    assert dict(marker.counters.tokens) == dict.fromkeys(("marked", "short", "special", "repeated", "greedy", "opted_out"), 1)
    assert torch.equal(logits[1:], before[1:])
    assert not torch.equal(logits[0], before[0])


def test_the_heartbeat(tmp_path):
    now = [1000.0]
    marker = Marker(deployment(tmp_path), "engine 1")
    marker.counters._clock = lambda: now[0]
    marker.counters.write()
    ((path, data),) = heartbeats(tmp_path / "state")
    assert path.name.startswith("engine-")
    assert running(data)
    assert data["key_id"] == KEY.id
    assert KEY.reveal()[5:25] not in path.read_text()
    marker.counters.count(["", ""])
    assert json.loads(path.read_text())["tokens"] == {}, "not written at every step"
    now[0] += 5
    marker.counters.count([""])
    assert json.loads(path.read_text())["tokens"] == {"marked": 3}


def test_a_folder_that_cannot_be_written_warns_once_and_stops_nothing(tmp_path, caplog):
    (tmp_path / "state").write_text("a file")
    counters = Marker(deployment(tmp_path), "engine 1").counters
    counters.write()
    counters.write()
    assert caplog.text.count("cannot write the heartbeat") == 1


def hook(change):
    """A hook over the marker, with a fault."""

    def open_rows(probe, prompt, outputs):
        marker = Marker(probe, "engine 1")
        asked = zip((PROBE, OPTED_OUT), outputs, strict=True)
        sessions = [Session.open(probe, fields, prompt, output, Sampling()) for fields, output in asked]

        def step(logits):
            before = logits.clone()
            marker.mark(logits, sessions)
            return change(before, logits)

        return step

    return open_rows


@pytest.mark.parametrize("scheme", ["redgreen", "gumbel", "tournament", "reweight"])
def test_the_self_test_passes_a_sound_hook(tmp_path, scheme):
    self_test(deployment(tmp_path, scheme), hook(lambda before, after: after), vocabulary=VOCABULARY, engine="engine 1")


def test_the_self_test_writes_no_token_that_ends_a_row(tmp_path):
    """An engine leaves a row at its own end ids, which need not be among the profile's special ids."""
    ends = range(20, VOCABULARY, 2)
    written = []

    def watched(before, after):
        written.append(int(after[0].argmax()))
        return after

    self_test(deployment(tmp_path), hook(watched), vocabulary=VOCABULARY, engine="engine 1", ends=ends)
    assert written
    assert not set(written) & set(ends)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda before, after: before, "no watermark after"),
        (lambda before, after: after + 1, "a row that opted out was changed"),
        (lambda before, after: torch.cat([after[:1].clamp(min=-50), after[1:]]), "a masked token was allowed"),
        (lambda before, after: torch.cat([after[:1].roll(1, 1).where(after[:1] > -1e9, after[:1]), after[1:]]), "no watermark"),
    ],
)
def test_the_self_test_stops_a_faulty_one(tmp_path, change, match):
    with pytest.raises(ConfigError, match=match):
        self_test(deployment(tmp_path), hook(change), vocabulary=VOCABULARY, engine="engine 1")
