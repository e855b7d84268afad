"""Logged API calls: which request belongs to which response, in the shapes in which people and batch APIs write them.

A record is one of: ``{"request", "response"}``; a bare response; a batch result ``{"custom_id", "response" | "result"}``;
a batch input ``{"custom_id", "body" | "params"}``, which gives the requests of results that lack them; the chunks of a
streamed answer as a list, bare or under ``response`` or ``chunks``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from wmcheck.fingerprint.adapter import Imported
from wmcheck.fingerprint.adapters.fields import LOG_SUITE, identifier, integer, mapping, prompt_item
from wmcheck.fingerprint.adapters.reading import Intake, Row, files
from wmcheck.fingerprint.transcript import Transcript
from wmcheck.watermark.core.errors import RecordError
from wmcheck.watermark.core.records import kind, listed

_REQUESTS = ("request", "params", "body")
_RESPONSES = ("response", "result", "chunks")
_ITEMS = ("item", "item_id", "question_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One call.

    Attributes:
        path, where: file, and place in it.
        request: the body sent; empty where it is not known.
        response: the body received, or a list of chunks.
        custom_id: what a batch calls it.
        labels: ``suite``, ``item``, ``sample``, ``stratum``, ``group`` and ``variant``, where record or metadata state them.
    """

    path: str
    where: str
    request: Mapping[str, Any]
    response: Any
    custom_id: str = ""
    labels: Mapping[str, Any] = field(default_factory=dict)


def read_exchanges(paths: Sequence[str], intake: Intake, is_response: Callable[[Any], bool]) -> Iterator[Exchange]:
    """Every call under ``paths``; records without an answer are counted as problems."""
    requests: dict[str, Mapping[str, Any]] = {}
    waiting: list[Exchange] = []
    for path in files(paths):
        for row in intake.rows(path):
            try:
                exchange = _exchange(row, requests, is_response)
            except RecordError as error:
                intake.problem(error)
                continue
            if exchange is None:
                continue
            if exchange.request or not exchange.custom_id:
                yield exchange
            else:
                waiting.append(exchange)
    for exchange in waiting:
        yield replace(exchange, request=requests.get(exchange.custom_id, {}))


def _exchange(row: Row, requests: dict[str, Mapping[str, Any]], is_response: Callable[[Any], bool]) -> Exchange | None:
    value = row.value
    if isinstance(value, list):
        return Exchange(path=row.path, where=row.where, request={}, response=value)
    if not isinstance(value, dict):
        raise RecordError("not a record", where=row.where, got=kind(value), expected="a JSON object")
    custom_id = identifier(value.get("custom_id"))
    request = next((body for name in _REQUESTS if (body := _body(value.get(name)))), {})
    response: Any = value
    if not is_response(value):
        response = next((value[name] for name in _RESPONSES if value.get(name) is not None), None)
        if response is None and request and custom_id and value.get("error") is None:
            requests[custom_id] = request
            return None
        response = _answer(response, value, row.where)
    labels = {**_labels(request.get("metadata")), **_labels(mapping(response).get("metadata")), **_labels(value.get("metadata"))}
    if response is not value:
        labels.update(_labels(value))
    return Exchange(path=row.path, where=row.where, request=request, response=response, custom_id=custom_id, labels=labels)


def _labels(data: Any) -> dict[str, Any]:
    found = mapping(data)
    return {name: found[name] for name in (*_ITEMS, "suite", "sample", "stratum", "group", "variant") if name in found}


def _body(value: Any) -> Mapping[str, Any]:
    """A request's body: as it is, as JSON text, or inside a logged HTTP request."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    found = mapping(value)
    return _body(found["body"]) if isinstance(found.get("body"), str | Mapping) else found


def _answer(response: Any, value: Mapping[str, Any], where: str) -> Any:
    """The body of the answer, out of the envelopes of batch APIs and HTTP logs.

    Raises:
        RecordError: there is none, or it is an error.
    """
    if isinstance(response, str):
        response = _body(response) or response
    envelope = mapping(response)
    status = integer(envelope.get("status_code"))
    if isinstance(envelope.get("body"), str | Mapping):
        response = _body(envelope["body"])
    failed = mapping(response).get("error") or (value.get("error") if not response else None)
    if mapping(failed).get("code") == "content_filter":
        return {"error": failed}
    if failed or (status is not None and status >= 400):
        raise RecordError("the call gave no answer", where=where, got=_reason(failed) or f"status {status}")
    if not isinstance(response, Mapping | list) or not response:
        raise RecordError(f"no response (has: {listed(value)})", where=where, expected="request and response")
    return response


def _reason(error: Any) -> str:
    """The message of an error object, which batch APIs wrap in another."""
    while isinstance(error, Mapping) and error.get("error"):
        error = error["error"]
    return str(mapping(error).get("message") or error or "")[:200]


class Questions:
    """Says which question a call puts; answers that nothing names are numbered, file by file.

    Args:
        suite: of calls that state none.
    """

    def __init__(self, suite: str) -> None:
        self._suite = suite
        self._counts: dict[str, int] = {}

    def place(self, exchange: Exchange, prompt: str) -> dict[str, Any]:
        """The fields of a transcript that name its question, given the digest of the prompt."""
        labels = exchange.labels
        stated = next((name for key in _ITEMS if (name := identifier(labels.get(key)))), "")
        return {
            "suite": identifier(labels.get("suite")) or self._suite,
            "item": stated or exchange.custom_id or prompt_item(prompt) or self._number(exchange.path),
            "prompt": prompt,
            **{name: identifier(labels.get(name)) for name in ("stratum", "group", "variant")},
        }

    def _number(self, path: str) -> str:
        self._counts[path] = self._counts.get(path, 0) + 1
        return f"answer {self._counts[path]}"

    def notes(self) -> list[str]:
        """One line for each file with answers that are known by their number alone."""
        return [
            f"{path}: {number} answers name no question; they are numbered, and compare only with a file in the same order"
            for path, number in self._counts.items()
        ]


def read_logs(
    paths: Sequence[str], model: str | None, expected: str, is_response: Callable[[Any], bool],
    add: Callable[[Exchange, Intake, Questions], None],
) -> Imported:
    """Read logged calls of one provider.

    Args:
        paths, model: as of ``Adapter.read``.
        expected: what a record looks like, for messages.
        is_response: True for a response itself, as opposed to a record that holds one.
        add: keeps the answers of one call, or raises RecordError.

    Raises:
        InputError: as ``Adapter.read``.
    """
    intake, questions = Intake(expected), Questions(LOG_SUITE)
    for exchange in read_exchanges(paths, intake, is_response):
        try:
            add(exchange, intake, questions)
        except RecordError as error:
            intake.problem(error)
    intake.notes += questions.notes()
    return intake.result(model)


def add_answers(intake: Intake, exchange: Exchange, transcripts: Sequence[Transcript], model: str, answer: str) -> None:
    """Keep the alternatives of one answer, counted where the record says which repetition it is."""
    stated = integer(exchange.labels.get("sample"))
    counted = stated is not None and stated >= 0 and len(transcripts) == 1
    for index, transcript in enumerate(transcripts):
        kept = replace(transcript, sample=stated) if counted and stated is not None else transcript
        intake.add(
            model, kept, exchange.where, named=bool(transcript.model_requested or transcript.model_served),
            counted=counted, answer=f"{answer}/{index}" if answer else "",
        )
