"""Configurations of other projects: what is public, what is secret, and what cannot be read."""

import json
import os

import pytest

from wmcheck.watermark.core.errors import ConfigError, KeyFileError, ProfileError, WmcheckError
from wmcheck.watermark.imports import read_config
from wmcheck.watermark.peer_keys import PeerKey

KGW = {"greenlist_ratio": 0.25, "bias": 2.5, "hashing_key": 98765432198, "seeding_scheme": "selfhash", "context_width": 4}
SYNTHID = {
    "ngram_len": 5, "keys": [98765432198, 12345678998, 777777777], "context_history_size": 1024, "sampling_table_seed": 7,
    "sampling_table_size": 4096,
}
TRANSFORMERS_SYNTHID = {**SYNTHID, "skip_first_ngram_calls": True, "debug_mode": False}
VLLM = {"algorithm": "gumbel", "key": 98765432198, "context_width": 3, "deduplicate_contexts": "all"}
SGLANG = {"key": "16febc6206", "context_window": 5, "default_enabled": True}
MARKLLM = {
    "algorithm_name": "KGW", "gamma": 0.5, "delta": 2.0, "hash_key": 98765432198, "prefix_length": 1, "z_threshold": 4.0,
    "f_scheme": "time", "window_scheme": "left",
}
SECRETS = ("98765432198", "12345678998", "777777777", "16febc6206", "2b2b2b2b2b")


def write(folder, data, name="config.txt"):
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return str(path)


def without(data, *names):
    return {name: value for name, value in data.items() if name not in names}


@pytest.mark.parametrize(
    ("data", "options", "contract", "parameters", "secret"),
    [
        (
            {"watermarking_config": KGW, "transformers_version": "5.23.0", "temperature": 0.7}, {"vocabulary": 1000},
            "transformers-kgw",
            {"vocabulary": 1000, "greenlist_ratio": 0.25, "bias": 2.5, "seeding_scheme": "selfhash", "context_width": 4},
            98765432198,
        ),
        (KGW, {"vocabulary": 1000}, "transformers-kgw", {"vocabulary": 1000, "bias": 2.5}, 98765432198),
        (
            {"watermarking_config": SYNTHID, "transformers_version": "4.46.0.dev0"}, {}, "transformers-synthid",
            {"ngram_len": 5, "depth": 3, "sampling_table_size": 4096, "sampling_table_seed": 7}, tuple(SYNTHID["keys"]),
        ),
        (TRANSFORMERS_SYNTHID, {}, "transformers-synthid", {"ngram_len": 5, "depth": 3}, tuple(SYNTHID["keys"])),
        (SYNTHID, {"contract": "transformers-synthid"}, "transformers-synthid", {"depth": 3}, tuple(SYNTHID["keys"])),
        (SYNTHID, {"contract": "synthid-text"}, "synthid-text", {"ngram_len": 5, "depth": 3}, tuple(SYNTHID["keys"])),
        ({**SYNTHID, "device": "cuda:0"}, {}, "synthid-text", {"ngram_len": 5, "depth": 3}, tuple(SYNTHID["keys"])),
        (VLLM, {}, "vllm-gumbel", {"context_width": 3, "deduplicate_contexts": "all"}, 98765432198),
        ({"key": 98765432198}, {}, "vllm-gumbel", {"context_width": 4, "deduplicate_contexts": "single_turn"}, 98765432198),
        (
            {"algorithm": "dual_key_gumbel", "key": 98765432198, "alpha": 0.3}, {}, "vllm-dual",
            {"alpha": 0.3, "context_width": 4}, 98765432198,
        ),
        (
            {"algorithm": "sbw", "key": 98765432198, "sbw_scheme": "lefthash", "sbw_gamma": 0.25}, {}, "vllm-sbw",
            {"seeding": "lefthash", "gamma": 0.25, "delta": 2.0, "context_width": 1}, 98765432198,
        ),
        (SGLANG, {}, "sglang-gumbel", {"context_window": 5}, 0x16FEBC6206),
        ({"key": "0x16FEBC6206"}, {}, "sglang-gumbel", {"context_window": 4}, 0x16FEBC6206),
        (
            {**SGLANG, "key_b": "2b2b2b2b2b", "mixing_probability": 0.25, "max_probability": 0.9, "enforce_all": False}, {},
            "sglang-dual", {"context_window": 5, "mixing_probability": 0.25}, (0x16FEBC6206, 0x2B2B2B2B2B),
        ),
        (MARKLLM, {"vocabulary": 1000}, "markllm-kgw", {"vocabulary": 1000, "gamma": 0.5, "prefix_length": 1}, 98765432198),
        (
            {**without(MARKLLM, "f_scheme", "window_scheme"), "algorithm_name": "SWEET", "entropy_threshold": 0.9},
            {"vocabulary": 1000}, "markllm-kgw", {"algorithm": "SWEET", "delta": 2.0}, 98765432198,
        ),
        (
            {**without(MARKLLM, "f_scheme", "window_scheme", "prefix_length"), "algorithm_name": "Unigram"}, {"vocabulary": 1000},
            "markllm-unigram", {"vocabulary": 1000, "gamma": 0.5, "delta": 2.0}, 98765432198,
        ),
        (
            {
                "algorithm_name": "EXP", "prefix_length": 4, "hash_key": 98765432198, "threshold": 1e-4, "sequence_length": 200,
                "top_k": 50,
            },
            {"vocabulary": 1000}, "markllm-exp", {"vocabulary": 1000, "prefix_length": 4, "top_k": 50}, 98765432198,
        ),
    ],
    ids=lambda value: "",
)
def test_a_file_is_split(tmp_path, data, options, contract, parameters, secret):
    found, key = read_config(write(tmp_path, data), **options)
    assert found.contract == contract
    assert parameters.items() <= found.parameters.items()
    assert key == PeerKey(secret)
    assert not [one for one in SECRETS if one in repr(found) + repr(key) + json.dumps(found.parameters)]


LINE = "'" + json.dumps(VLLM) + "'"


@pytest.mark.parametrize(
    "text",
    [
        f"vllm serve m --watermark-config {LINE} --port 8000",
        f"#!/bin/sh\n# it's ours\nexec vllm serve m \\\n  --watermark-config={LINE} \\\n  --port 8000\n",
        f"[Service]\nExecStart=/bin/vllm serve m --watermark_config {json.dumps(json.dumps(VLLM))}\n",
        f"command:\n  - vllm\n  - --watermark-config\n  - {LINE}\n  - --port=1\n",
        "vllm serve m --watermark-config.key 98765432198 --watermark-config.context_width=3 "
        "--watermark-config.deduplicate_contexts all",
        f"model: m\nwatermark-config: {LINE}\nport: 8000\n",
        "model: m\nwatermark_config:\n  # the first\n  key: 98765432198\n  context_width: 3\n\n  deduplicate_contexts: 'all'\n"
        "port: 1\n",
        "serve:\n  watermark-config:\n    key: 0x16febc6206  # hex\n    context_width: 3\n    deduplicate_contexts: \"all\"\n"
        "    prf: ~\n  port: 1\n",
        f"vllm serve a --watermark-config {LINE}\nvllm serve b --watermark-config {LINE}\n",
    ],
)
def test_a_command_line_or_settings_of_vllm(tmp_path, text):
    found, key = read_config(write(tmp_path, text))
    assert found.contract == "vllm-gumbel"
    assert found.parameters == {"context_width": 3, "deduplicate_contexts": "all"}
    assert key in (PeerKey(98765432198), PeerKey(0x16FEBC6206))


def test_a_command_line_that_names_a_file(tmp_path, monkeypatch):
    write(tmp_path, SGLANG, "sglang.json")
    path = write(tmp_path, "python -m sglang.launch_server --enable-watermark --watermark-config sglang.json\n", "run.sh")
    found, key = read_config(path)
    assert (found.contract, key) == ("sglang-gumbel", PeerKey(0x16FEBC6206))
    monkeypatch.chdir(tmp_path.parent)
    assert read_config(os.path.relpath(path))[0] == found
    with pytest.raises(ConfigError, match="without --enable-watermark"):
        read_config(write(tmp_path, "sglang --watermark-config sglang.json"))


def test_the_vocabulary_stands_beside_generation_config(tmp_path):
    path = write(tmp_path, {"watermarking_config": KGW}, "generation_config.json")
    with pytest.raises(ConfigError, match="--vocabulary N"):
        read_config(path)
    write(tmp_path, {"text_config": {"vocab_size": 2000}}, "config.json")
    assert read_config(path)[0].parameters["vocabulary"] == 2000
    write(tmp_path, {"vocab_size": 1500}, "config.json")
    assert read_config(path)[0].parameters["vocabulary"] == 1500
    assert read_config(path, vocabulary=1000)[0].parameters["vocabulary"] == 1000


def test_what_is_told(tmp_path):
    def notes(data, **options):
        return " ".join(read_config(write(tmp_path, data), **options)[0].notes)

    assert "0.1 is the default" in notes({"algorithm": "dual_key_gumbel", "key": 98765432198})
    assert "published default" in notes({"key": 42})
    assert "published default" in notes({"watermarking_config": without(KGW, "hashing_key")}, vocabulary=1000)
    assert "outside 4.46 to 5.x" in notes({"watermarking_config": SYNTHID, "transformers_version": "6.0.0"})
    assert "outside 4.46 to 5.x" in notes({"watermarking_config": SYNTHID, "transformers_version": "new"})
    assert "outside" not in notes({"watermarking_config": SYNTHID, "transformers_version": "5.24.0"})
    assert "generated on a CPU" in notes(TRANSFORMERS_SYNTHID)
    assert notes(SYNTHID, contract="synthid-text") == ""
    assert "generated on a CPU" in notes(KGW, vocabulary=1000)
    assert "alpha, sbw_gamma: not used" in notes({**VLLM, "alpha": 0.5, "sbw_gamma": 0.5})
    assert "draft tokens carry no watermark" in notes({**VLLM, "allow_target_only_watermarking": True})
    assert "only where they ask for it" in notes({"key": "16febc6206"})
    assert "num_leaves 3" in notes({**SYNTHID, "num_leaves": 3})
    assert notes(VLLM) == ""


def test_a_configuration_without_a_key(tmp_path):
    found, key = read_config(write(tmp_path, without(VLLM, "key")))
    assert (found.contract, found.secret, key) == ("vllm-gumbel", "", None)
    found, key = read_config(write(tmp_path, {"context_window": 4}))
    assert (found.contract, key) == ("sglang-gumbel", None)


@pytest.mark.parametrize(
    ("data", "options", "kind", "words"),
    [
        (SYNTHID, {}, ConfigError, "both write such files, and their texts differ"),
        ({**TRANSFORMERS_SYNTHID, "device": "cpu"}, {}, ConfigError, "fields of two projects (got debug_mode, device"),
        (TRANSFORMERS_SYNTHID, {"contract": "synthid-text"}, ConfigError, "fields that synthid-text does not have (got debug"),
        ({"watermarking_config": SYNTHID}, {"contract": "synthid-text"}, ConfigError, "transformers wrote this file"),
        ({**TRANSFORMERS_SYNTHID, "debug_mode": True}, {}, ConfigError, "bad value of 'debug_mode' (got true"),
        ({**KGW, "ngram_len": 5}, {}, ConfigError, "fields of several watermarks"),
        ({"watermarking_config": {**KGW, "keys": [1]}}, {}, ConfigError, "fields of two watermarks (got bias, greenlist_ratio"),
        ({"watermarking_config": KGW, "ngram_len": 5}, {}, ConfigError, "watermark fields beside 'watermarking_config'"),
        ({"watermarking_config": None}, {}, ConfigError, "bad value of 'watermarking_config' (got NoneType"),
        ({**KGW, "salt": 4}, {"vocabulary": 1000}, ConfigError, "unknown fields (got salt, expected greenlist_ratio"),
        (KGW, {}, ConfigError, "depend on the size of the vocabulary"),
        (KGW, {"vocabulary": 1000, "contract": "unigram"}, ConfigError, "a contract that does not fit the file (got --contract"),
        ({**KGW, "seeding_scheme": "righthash"}, {"vocabulary": 1000}, ConfigError, "bad value of 'seeding_scheme'"),
        ({**KGW, "greenlist_ratio": 2.0}, {"vocabulary": 1000}, ProfileError, "greenlist_ratio"),
        ({**KGW, "greenlist_ratio": "x"}, {"vocabulary": 1000}, ConfigError, "bad value of 'greenlist_ratio'"),
        ({**KGW, "hashing_key": "98765432198"}, {"vocabulary": 1000}, ConfigError, "bad value of 'hashing_key' (got str"),
        ({**KGW, "hashing_key": 98765432198 * 2**60}, {"vocabulary": 1000}, KeyFileError, "a key that transformers-kgw cannot"),
        (without(TRANSFORMERS_SYNTHID, "keys"), {}, ConfigError, "no field 'keys'"),
        ({**TRANSFORMERS_SYNTHID, "keys": []}, {}, ConfigError, "bad value of 'keys' (got list, expected a list of integers"),
        ({**TRANSFORMERS_SYNTHID, "keys": ["98765432198"]}, {}, ConfigError, "bad value of 'keys'"),
        ({**TRANSFORMERS_SYNTHID, "ngram_len": 1}, {}, ConfigError, "bad value of 'ngram_len' (got 1, expected an integer"),
        ({**TRANSFORMERS_SYNTHID, "skip_first_ngram_calls": 1}, {}, ConfigError, "bad value of 'skip_first_ngram_calls'"),
        ({**VLLM, "algorithm": "synthid"}, {}, ConfigError, "bad value of 'algorithm' (got 'synthid', expected gumbel, dual_key"),
        ({**VLLM, "prf": "aes"}, {}, ConfigError, "bad value of 'prf' (got 'aes', expected philox)"),
        ({**VLLM, "deduplicate_contexts": True}, {}, ConfigError, "bad value of 'deduplicate_contexts'"),
        ({**VLLM, "key": "98765432198"}, {}, ConfigError, "bad value of 'key' (got str, expected an integer)"),
        ({**VLLM, "key": True}, {}, ConfigError, "bad value of 'key' (got bool"),
        ({**VLLM, "key": -98765432198}, {}, KeyFileError, "a key that vllm-gumbel cannot take (got a negative integer"),
        ({**VLLM, "key": 98765432198 * 2**60}, {}, KeyFileError, "a key that vllm-gumbel cannot take"),
        ({**VLLM, "key": 98765432198**20}, {}, KeyFileError, "not a peer's key"),
        ({**VLLM, "watermark": True}, {}, ConfigError, "unknown fields (got watermark"),
        ({**VLLM, "context_width": 0}, {}, ConfigError, "bad value of 'context_width'"),
        ({**VLLM, "alpha": "0.1"}, {}, ConfigError, "bad value of 'alpha'"),
        (VLLM, {"contract": "vllm-dual"}, ConfigError, "a contract that does not fit the file"),
        ({"algorithm": "dual_key_gumbel", "key": 98765432198, "alpha": 1.5}, {}, ProfileError, "alpha"),
        ({**SGLANG, "alpha": 0.1}, {}, ConfigError, "fields of several watermarks (got vLLM: alpha; SGLang: context_window"),
        ({**SGLANG, "key": "16febc6206" * 3}, {}, ConfigError, "bad value of 'key' (got str, expected a text of 1 to 16"),
        ({**SGLANG, "key": "xyz"}, {}, ConfigError, "bad value of 'key' (got str"),
        ({**SGLANG, "key": 98765432198}, {}, ConfigError, "bad value of 'key' (got int"),
        ({"key_b": "2b2b2b2b2b"}, {}, ConfigError, "'key_b' without 'key'"),
        ({**SGLANG, "mixing_probability": 0.25}, {}, ConfigError, "'mixing_probability' without 'key_b'"),
        ({**SGLANG, "key_b": "2b2b2b2b2b", "mixing_probability": 1}, {}, ConfigError, "bad value of 'mixing_probability'"),
        ({**SGLANG, "max_probability": 0}, {}, ConfigError, "bad value of 'max_probability'"),
        ({"default_enabled": True}, {}, ConfigError, "without 'key'"),
        ({**SGLANG, "context_window": 65}, {}, ProfileError, "context_window"),
        ({**SGLANG, "contextwindow": 4}, {}, ConfigError, "unknown fields (got contextwindow"),
        ({**MARKLLM, "algorithm_name": "SIR"}, {"vocabulary": 10}, ConfigError, "bad value of 'algorithm_name' (got 'SIR'"),
        ({**MARKLLM, "algorithm_name": "EWD"}, {"vocabulary": 10}, ConfigError, "unknown fields (got f_scheme, window_scheme"),
        (MARKLLM, {}, ConfigError, "depend on the size of the vocabulary"),
        ({"temperature": 0.7, "eos_token_id": 2}, {}, ConfigError, "no watermark configuration (got eos_token_id, temperature"),
        ({}, {}, ConfigError, "no watermark configuration (got no fields"),
        ("[1, 2]", {}, ConfigError, "no watermark configuration"),
        ("just words", {}, ConfigError, "no watermark configuration (expected a JSON object, or a text with --watermark-config"),
        ("vllm --watermark-config '{\"key\": 98765432198'", {}, ConfigError, "not a JSON object (got 19 characters"),
        ("vllm --watermark-config '{\"key\": 98765432198}", {}, ConfigError, "not a command line (got No closing quotation"),
        ("vllm --watermark-config", {}, ConfigError, "--watermark-config without a value"),
        ("sglang --watermark-config gone.json", {}, ConfigError, "gone.json: no such file"),
        (
            "a --watermark-config '{\"key\": 98765432198}' b --watermark-config '{\"key\": 12345678998}'", {}, ConfigError,
            "several watermark configurations (got 2 that differ",
        ),
        ("watermark-config:\n  98765432198\n", {}, ConfigError, "a setting that is not 'NAME: VALUE' (got 13 characters"),
        ("watermark-config:\n  kee: 98765432198\n", {}, ConfigError, "no watermark configuration (got kee"),
        ("watermark-config: '{\"key\": 98765432198'\n", {}, ConfigError, "not a JSON object"),
    ],
    ids=lambda value: "",
)
def test_what_cannot_be_read(tmp_path, data, options, kind, words):
    path = write(tmp_path, data)
    with pytest.raises(WmcheckError) as caught:
        read_config(path, **options)
    assert isinstance(caught.value, kind), caught.value
    assert words in str(caught.value)
    assert not [one for one in SECRETS if one in caught.value.message()]


def test_files_that_are_none(tmp_path):
    for name, data, words in (("gone.json", None, "no such file"), ("bytes", b"\xff\xfe\x00", "cannot read the configuration")):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(ConfigError, match=words):
            read_config(str(tmp_path / name))
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        read_config(str(tmp_path))
    (tmp_path / "big").write_bytes(b" " * (4 << 20) + b"{}")
    with pytest.raises(ConfigError, match="too large"):
        read_config(str(tmp_path / "big"))
