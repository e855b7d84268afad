"""The bundled model in the formats of engines that do not read safetensors."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from wmcheck.watermark.bundled import bundled_path


def to_onnx(folder):
    """The bundled model for onnxruntime-genai in ``folder``, by its own builder; gives the path."""
    target = Path(folder) / "onnx"
    if not (target / "genai_config.json").exists():
        command = [
            sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(bundled_path("bundled:stories2m")),
            "-o", str(target), "-p", "fp32", "-e", "cpu", "-c", str(Path(folder) / "cache"),
        ]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr[-2000:]
    return str(target)


def endless(folder):
    """A copy of a model for onnxruntime-genai that ends at a byte of no text: its texts have the length that was asked for."""
    copy = Path(f"{folder}-endless")
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    file = copy / "genai_config.json"
    config = json.loads(file.read_text("utf-8"))
    config["model"]["eos_token_id"] = json.loads((copy / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]["ÿ"]
    file.write_text(json.dumps(config), "utf-8")
    return str(copy)


def to_gguf(folder):
    """The bundled model as GGUF in ``folder``; gives the path of the file."""
    import gguf
    from safetensors.numpy import load_file

    target = Path(folder) / "stories2m.gguf"
    if target.exists():
        return str(target)
    source = bundled_path("bundled:stories2m")
    config = json.loads((source / "config.json").read_text("utf-8"))
    writer = gguf.GGUFWriter(str(target), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, gguf, source, config["eos_token_id"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, tensor in load_file(str(source / "model.safetensors")).items():
        kind = name.split(".")[-2]
        if kind in heads:
            # llama.cpp rotates neighbouring halves of a head, transformers the two halves of it.
            shape = heads[kind], 2, tensor.shape[0] // heads[kind] // 2, tensor.shape[1]
            tensor = tensor.reshape(shape).swapaxes(1, 2).reshape(tensor.shape)
        writer.add_tensor(_tensor_name(name), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(target)


def _add_tokenizer(writer, gguf, source, end):
    data = json.loads((source / "tokenizer.json").read_text("utf-8"))
    special = {token["id"] for token in data["added_tokens"]}
    vocabulary = sorted(data["model"]["vocab"].items(), key=lambda pair: pair[1])
    writer.add_tokenizer_model("gpt2")
    # Byte-level BPE behind GPT-2's regular expression, as ByteLevel(use_regex=True) has it.
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([gguf.TokenType.CONTROL if number in special else gguf.TokenType.NORMAL for _, number in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in data["model"]["merges"]])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)


_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def _tensor_name(name):
    stem = name.removesuffix(".weight")
    if not stem.startswith("model.layers."):
        return f"{_NAMES[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{_NAMES[part]}.weight"
