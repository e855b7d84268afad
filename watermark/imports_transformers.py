"""Configurations of Hugging Face transformers and of synthid-text: ``WatermarkingConfig``, ``SynthIDTextWatermarkingConfig``.

``generation_config.json`` has them under ``watermarking_config`` beside ``transformers_version``; they may also stand alone. The
SynthID fields of the two projects are the same, and the projects' texts are not: where a file does not say which one wrote it,
that must be named.

References:
    https://huggingface.co/docs/transformers/internal/generation_utils (``WatermarkingConfig``);
    https://github.com/google-deepmind/synthid-text (``SynthIDLogitsProcessor``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.imports_fields import ON_CPU, Fields, Imported

KGW, SYNTHID, SYNTHID_TEXT = "transformers-kgw", "transformers-synthid", "synthid-text"
NESTED = "watermarking_config"
KGW_FIELDS = frozenset(("greenlist_ratio", "bias", "hashing_key", "seeding_scheme"))
SYNTHID_FIELDS = frozenset((
    "ngram_len", "keys", "context_history_size", "sampling_table_seed", "sampling_table_size", "skip_first_ngram_calls",
    "debug_mode",
))
# Fields that only one of the two projects has.
ONLY_TRANSFORMERS, ONLY_SYNTHID_TEXT = frozenset(("debug_mode",)), frozenset(("device", "temperature", "top_k", "num_leaves"))
# SynthID is in transformers from 4.46 on; the vectors that the contracts are tested on are of 5.x.
OLDEST, NEWEST = (4, 46), (5, 99)


def from_generation_config(
    where: str, data: Mapping[str, Any], *, contract: str | None, vocabulary: int | None
) -> Imported:
    """A file with ``watermarking_config``: what stands beside it is the generation's own."""
    nested = data[NESTED]
    if not isinstance(nested, dict):
        raise ConfigError(f"bad value of '{NESTED}'", where=where, got=type(nested).__name__, expected="an object")
    outer = sorted((KGW_FIELDS | SYNTHID_FIELDS) & set(data))
    if outer:
        raise ConfigError(f"watermark fields beside '{NESTED}'", where=where, got=", ".join(outer), expected="all of them in it")
    inside = f"{where}, {NESTED}"
    if contract == SYNTHID_TEXT:
        raise ConfigError("transformers wrote this file", where=inside, got=f"--contract {contract}", expected=SYNTHID)
    synthid = bool(SYNTHID_FIELDS & set(nested))
    found = from_fields(
        inside, nested, contract=contract or (SYNTHID if synthid else None), vocabulary=vocabulary
    )
    return Imported(found.contract, found.parameters, found.secret, (*_version_notes(data), *found.notes))


def from_fields(where: str, data: Mapping[str, Any], *, contract: str | None, vocabulary: int | None) -> Imported:
    """A watermark configuration alone.

    Raises:
        ConfigError: fields of both watermarks, unknown ones, or a file that two projects could have written.
    """
    red, bits = sorted(KGW_FIELDS & set(data)), sorted(SYNTHID_FIELDS & set(data))
    if red and bits:
        raise ConfigError("fields of two watermarks", where=where, got=f"{', '.join(red)}; {', '.join(bits)}", expected="one")
    if not bits:
        return _kgw(Fields(where, data), contract=contract, vocabulary=vocabulary)
    return _synthid(Fields(where, data), set(data), contract)


def _kgw(fields: Fields, *, contract: str | None, vocabulary: int | None) -> Imported:
    _check_contract(fields.where, contract, (KGW,))
    parameters = {
        "greenlist_ratio": fields.number("greenlist_ratio", 0.25), "bias": fields.number("bias", 2.0),
        "seeding_scheme": fields.choice("seeding_scheme", ("lefthash", "selfhash"), "lefthash"),
        "context_width": fields.integer("context_width", 1, low=1),
    }
    key = fields.key("hashing_key")
    fields.finish()
    if vocabulary is None:
        raise ConfigError(
            "the green lists depend on the size of the vocabulary, which the file does not have", where=fields.where,
            expected="--vocabulary N", hint="'vocab_size' in the model's config.json: the width of its logits, padding included",
        )
    # The default of the class, for a file that leaves it out.
    return Imported(KGW, {"vocabulary": vocabulary, **parameters}, str(15485863 if key is None else key), (ON_CPU,))


def _synthid(fields: Fields, names: set[str], contract: str | None) -> Imported:
    _check_contract(fields.where, contract, (SYNTHID, SYNTHID_TEXT))
    ours, theirs = names & ONLY_TRANSFORMERS, names & ONLY_SYNTHID_TEXT
    if ours and theirs:
        got = ", ".join(sorted(ours | theirs))
        raise ConfigError("fields of two projects", where=fields.where, got=got, expected=f"{SYNTHID} or {SYNTHID_TEXT}")
    chosen = contract or (SYNTHID if ours else SYNTHID_TEXT if theirs else None)
    if chosen is None:
        raise ConfigError(
            "transformers and synthid-text both write such files, and their texts differ", where=fields.where,
            expected=f"--contract {SYNTHID} or --contract {SYNTHID_TEXT}", hint="name the library that generated the text",
        )
    other = theirs if chosen == SYNTHID else ours
    if other:
        raise ConfigError(f"fields that {chosen} does not have", where=fields.where, got=", ".join(sorted(other)))
    keys = fields.keys("keys")
    parameters = {"ngram_len": fields.integer("ngram_len", low=2), "depth": len(keys)}
    table = {
        "sampling_table_size": fields.integer("sampling_table_size", 2**16, low=1),
        "sampling_table_seed": fields.integer("sampling_table_seed", 0),
    }
    fields.integer("context_history_size", 1024, low=1)
    fields.flag("skip_first_ngram_calls")
    notes: tuple[str, ...] = ()
    if chosen == SYNTHID:
        parameters |= table
        notes = (ON_CPU,)
        if fields.flag("debug_mode"):
            fields.bad("debug_mode", "true", "false: with it the text is not the model's, but drawn from uniform scores")
    else:
        notes = _only_synthid_text(fields)
    fields.finish()
    return Imported(chosen, parameters, json.dumps(keys), notes)


def _only_synthid_text(fields: Fields) -> tuple[str, ...]:
    for name in ("device", "temperature", "top_k", "apply_top_k"):
        fields.any(name)
    leaves = fields.integer("num_leaves", 2, low=2)
    return () if leaves == 2 else (f"num_leaves {leaves}: the test is as valid, and the watermark stronger than planned for",)


def _check_contract(where: str, contract: str | None, known: tuple[str, ...]) -> None:
    if contract is not None and contract not in known:
        raise ConfigError("a contract that does not fit the file", where=where, got=f"--contract {contract}",
                          expected=" or ".join(known))


def _version_notes(data: Mapping[str, Any]) -> tuple[str, ...]:
    version = data.get("transformers_version")
    if version is None:
        return ()
    parts = str(version).split(".")
    numbers = tuple(int(part) for part in parts[:2] if part.isascii() and part.isdigit())
    if len(numbers) == 2 and OLDEST <= numbers <= NEWEST:
        return ()
    return (f"transformers {str(version)[:20]} is outside 4.46 to 5.x, whose watermarks are known here: test a text of it first",)
