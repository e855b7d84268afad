"""The state of a monitor in a file: JSON, whole or not at all, without key or text.

Seen items are stored as values of a keyed function, and a message authentication code under another subkey covers the whole:
an edited or damaged state is refused, and one made for other candidates or another alpha too. Records that were fed before
the state was saved may be fed again: all their items are repeats, and nothing moves.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from wmcheck.watermark.core.errors import ConfigError, InputError
from wmcheck.watermark.core.writers import atomic_output
from wmcheck.watermark.monitor import Monitor, Stop, Track

SCHEMA = "wmcheck.monitor/1"
MAC_LABEL = "monitor/1/state"


def save_state(monitor: Monitor, path: str) -> None:
    """Write the state between two records.

    Raises:
        OutputError: the file cannot be written.
        RuntimeError: the monitor is in the middle of a record.
    """
    data = state(monitor)
    with atomic_output(path) as out:
        json.dump(data, out)
        out.write("\n")


def load_state(monitor: Monitor, path: str) -> bool:
    """Go on from a saved state.

    Args:
        monitor: a new one under the same candidates, alpha and family.
        path: where :func:`save_state` wrote.

    Returns:
        False if there is no such file, so that the stream begins.

    Raises:
        InputError: the file is damaged, altered or no state.
        ConfigError: it is the state of other candidates, or of another alpha.
    """
    if not os.path.exists(path):
        return False
    try:
        with open(path, encoding="utf-8") as handle:
            data = json.load(handle)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("not a monitor's state", where=path, got=str(error)[:100], expected="a file of --state") from None
    restore(monitor, data, where=path)
    return True


def state(monitor: Monitor) -> dict[str, Any]:
    """The state as a JSON object under schema ``wmcheck.monitor/1``."""
    if monitor.busy:
        raise RuntimeError("the monitor is in the middle of a record")
    data: dict[str, Any] = {
        "schema": SCHEMA, **_terms(monitor), "records": monitor.records, "any_log_e_max": monitor.any_log_e_max,
        "tracks": [
            {**track.process.to_dict(), "stop": [track.stop.record, track.stop.item] if track.stop else None}
            for track in monitor.tracks
        ],
        "groups": [
            {
                "repeated": group.repeated, "excluded": group.excluded,
                "seen": base64.b64encode(group.seen.masked().astype("<u8").tobytes()).decode(),
            }
            for group in monitor.groups
        ],
    }
    return {**data, "mac": _mac(monitor, data)}


def restore(monitor: Monitor, data: Any, *, where: str = "state") -> None:
    """Put a monitor into the state of :func:`state`; see :func:`load_state` for errors."""
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else data
        raise InputError("not a monitor's state", where=where, got=repr(found)[:60], expected=f"schema {SCHEMA}")
    for name, ours in _terms(monitor).items():
        if data.get(name) != ours:
            raise ConfigError(
                f"the state was made with another {name}", where=where, got=_short(data.get(name)), expected=_short(ours),
                hint="an error rate or a set of keys changed in the middle bounds nothing: begin a new state file",
            )
    mac = data.get("mac")
    if not isinstance(mac, str) or not mac.isascii() or not hmac.compare_digest(mac, _mac(monitor, data)):
        raise InputError("the state was altered or is damaged", where=where, hint="restore it, or begin a new state file")
    for track, held in zip(monitor.tracks, data["tracks"], strict=True):
        try:
            track.process.restore(held)
        except ValueError as error:
            raise ConfigError("the state does not fit", where=where, got=str(error), hint="begin a new state file") from None
        track.stop = Stop(*held["stop"]) if held["stop"] else None
    for group, held in zip(monitor.groups, data["groups"], strict=True):
        group.repeated, group.excluded = held["repeated"], held["excluded"]
        group.seen.restore(np.frombuffer(base64.b64decode(held["seen"]), "<u8").astype(np.uint64))
    monitor.records, monitor.any_log_e_max = data["records"], data["any_log_e_max"]


def _terms(monitor: Monitor) -> dict[str, Any]:
    """What must be the same when the stream goes on; public."""
    return {
        "alpha": monitor.alpha, "family": monitor.family, "candidates": [_terms_of(track) for track in monitor.tracks],
    }


def _terms_of(track: Track) -> dict[str, Any]:
    profile, key = track.candidate.profile, track.candidate.key
    described = profile.to_dict()
    return {
        **{name: described[name] for name in ("scheme", "parameters", "prf", "special_ids")},
        "tokenizer": profile.tokenizer["digest"] if profile.tokenizer else None,
        "key_id": key.id, "key_commitment": key.commitment, "predictions": track.aided,
    }


def _mac(monitor: Monitor, data: Mapping[str, Any]) -> str:
    body = json.dumps({name: value for name, value in data.items() if name != "mac"}, sort_keys=True)
    subkey = monitor.tracks[0].candidate.key.subkey(MAC_LABEL, "mac")
    return hmac.new(subkey, body.encode(), hashlib.sha256).hexdigest()


def _short(value: object) -> str:
    if not isinstance(value, list):
        return str(value)
    names = [f"{one.get('scheme')} under key {one.get('key_id')}" for one in value if isinstance(one, dict)]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
