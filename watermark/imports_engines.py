"""Watermark configurations of serving engines and of MarkLLM: vLLM's and SGLang's ``--watermark-config``.

References:
    https://docs.vllm.ai/en/latest/features/watermarking/ (``WatermarkConfig``);
    https://docs.sglang.io/docs/advanced_features/text_watermarking;
    https://github.com/THU-BPM/MarkLLM (``config/KGW.json``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wmcheck.watermark.core.errors import ConfigError
from wmcheck.watermark.imports_fields import ON_CPU, Fields, Imported

VLLM_FIELDS = frozenset((
    "algorithm", "alpha", "deduplicate_contexts", "deduplicate_contexts_max_history", "prf", "allow_target_only_watermarking",
    "sbw_scheme", "sbw_gamma", "sbw_delta",
))
SGLANG_FIELDS = frozenset(("key_b", "context_window", "mixing_probability", "max_probability", "default_enabled", "enforce_all"))
MARKLLM_FIELDS = frozenset(("algorithm_name",))
ALGORITHMS = {"gumbel": "vllm-gumbel", "dual_key_gumbel": "vllm-dual", "sbw": "vllm-sbw"}
MARKLLM = {
    "KGW": "markllm-kgw", "SWEET": "markllm-kgw", "EWD": "markllm-kgw", "Unigram": "markllm-unigram", "EXP": "markllm-exp",
}
SGLANG = ("sglang-gumbel", "sglang-dual")
KEY_DIGITS = 16


def from_vllm(where: str, data: Mapping[str, Any], *, contract: str | None) -> Imported:
    """vLLM's ``WatermarkConfig``.

    Raises:
        ConfigError: an unknown algorithm or field, or a value that vLLM would not take.
    """
    fields = Fields(where, data)
    name = ALGORITHMS[fields.choice("algorithm", tuple(ALGORITHMS), "gumbel")]
    check_contract(where, contract, (name,))
    scheme = fields.choice("sbw_scheme", ("selfhash", "lefthash"), "selfhash")
    width = fields.integer("context_width", 1 if (name, scheme) == ("vllm-sbw", "lefthash") else 4, low=1)
    alpha, gamma, delta = fields.number("alpha", 0.1), fields.number("sbw_gamma", 0.5), fields.number("sbw_delta", 2.0)
    scope = fields.choice("deduplicate_contexts", ("none", "single_turn", "all"), "single_turn")
    fields.integer("deduplicate_contexts_max_history", None, low=1)
    fields.choice("prf", ("philox",), "philox")
    key = fields.key("key")
    notes = []
    if fields.flag("allow_target_only_watermarking"):
        notes.append("under speculative decoding the accepted draft tokens carry no watermark: more text is needed")
    fields.finish()
    parameters: dict[str, Any] = {"context_width": width, "deduplicate_contexts": scope}
    if name == "vllm-sbw":
        parameters |= {"seeding": scheme, "gamma": gamma, "delta": delta}
    if name == "vllm-dual":
        parameters["alpha"] = alpha
        if not fields.has("alpha"):
            notes.append("alpha is not in the file: 0.1 is the default of vLLM 0.33, and earlier releases had 0.2")
    unused = [one for one in ("alpha", "sbw_scheme", "sbw_gamma", "sbw_delta") if fields.has(one) and not _reads(name, one)]
    if unused:
        notes.append(f"{', '.join(unused)}: not used by this algorithm")
    return Imported(name, parameters, "" if key is None else str(key), tuple(notes))


def _reads(contract: str, name: str) -> bool:
    return contract == ("vllm-dual" if name == "alpha" else "vllm-sbw")


def from_sglang(where: str, data: Mapping[str, Any], *, contract: str | None) -> Imported:
    """SGLang's watermark settings.

    Raises:
        ConfigError: an unknown field, or a value that SGLang would not take.
    """
    fields = Fields(where, data)
    key, second = fields.hexadecimal("key", KEY_DIGITS), fields.hexadecimal("key_b", KEY_DIGITS)
    window = fields.integer("context_window", 4, low=1)
    mixing, most = fields.number("mixing_probability", 0.5), fields.number("max_probability", 1.0)
    always = fields.flag("default_enabled"), fields.flag("enforce_all")
    fields.finish()
    if second is not None and key is None:
        raise ConfigError("'key_b' without 'key'", where=where, expected="both, or 'key' alone")
    if second is None and mixing != 0.5:
        raise ConfigError("'mixing_probability' without 'key_b'", where=where, expected="both, or neither")
    if any(always) and key is None:
        raise ConfigError("'default_enabled' or 'enforce_all' without 'key'", where=where, expected="a key")
    for name, value, open_end in (("mixing_probability", mixing, True), ("max_probability", most, False)):
        if not 0 < value <= 1 or (open_end and value == 1):
            fields.bad(name, f"{value:g}", "a number between 0 and 1")
    single, dual = SGLANG
    name = single if second is None else dual
    check_contract(where, contract, (name,))
    parameters = {"context_window": window} | ({} if second is None else {"mixing_probability": mixing})
    # Requests may bring keys of their own, which are then the first of two.
    notes = () if any(always) else ("requests are marked only where they ask for it: a text may be unmarked",)
    secret = "" if key is None else str(key) if second is None else json.dumps([key, second])
    return Imported(name, parameters, secret, notes)


def from_markllm(where: str, data: Mapping[str, Any], *, contract: str | None, vocabulary: int | None) -> Imported:
    """MarkLLM's ``config/ALGORITHM.json``, of the algorithms that have a contract here.

    Raises:
        ConfigError: another algorithm, an unknown field, or no vocabulary size.
    """
    fields = Fields(where, data)
    algorithm = fields.choice("algorithm_name", tuple(MARKLLM))
    name = MARKLLM[algorithm]
    check_contract(where, contract, (name,))
    parameters: dict[str, Any] = {}
    unused = ["z_threshold"]
    if name == "markllm-exp":
        parameters["top_k"] = fields.integer("top_k", 0)
        unused = ["threshold", "sequence_length"]
    else:
        parameters |= {"gamma": fields.number("gamma"), "delta": fields.number("delta")}
    if name != "markllm-unigram":
        parameters["prefix_length"] = fields.integer("prefix_length", low=1)
    if name == "markllm-kgw":
        parameters["algorithm"] = algorithm
    if algorithm == "KGW":
        parameters["f_scheme"] = fields.choice("f_scheme", ("time", "additive", "skip", "min"))
        parameters["window_scheme"] = fields.choice("window_scheme", ("left", "self"))
    if algorithm == "SWEET":
        unused.append("entropy_threshold")
    for one in unused:
        fields.any(one)
    key = fields.key("hash_key")
    fields.finish()
    if vocabulary is None:
        raise ConfigError(
            "the lists depend on the size of the vocabulary, which the file does not have", where=where,
            expected="--vocabulary N", hint="'vocab_size' that MarkLLM's TransformersConfig was given",
        )
    notes = (ON_CPU,) if name == "markllm-kgw" else ()
    return Imported(name, {"vocabulary": vocabulary, **parameters}, "" if key is None else str(key), notes)


def check_contract(where: str, contract: str | None, known: tuple[str, ...]) -> None:
    """Refuse ``--contract`` where the file says that it is another one."""
    if contract is not None and contract not in known:
        raise ConfigError("a contract that does not fit the file", where=where, got=f"--contract {contract}",
                          expected=" or ".join(known))
