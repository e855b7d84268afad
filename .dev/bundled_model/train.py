"""Train the bundled story model from TinyStories text, on one CPU core.

    python .dev/bundled_model/train.py --text DIR --out watermark/bundled/stories2m --minutes 45

DIR holds TinyStories files: ``*.jsonl.gz`` with a ``text`` field, and ``*.txt.gz`` where stories are separated by
``<|endoftext|>`` or by a single newline between blank-line paragraphs. The script trains a byte-level BPE tokenizer
(1,024 entries) and a Llama of 1.97 M parameters (4 layers, width 192, tied embeddings, fp32), keeps the weights with the
lowest validation loss, and writes ``training.json`` beside them with every figure it measured.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|endoftext|>"
VOCAB = 1024
LENGTH = 256
BATCH = 8
PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "–": "-", "—": "-", "…": "...", "\u00a0": " "})


def clean(story: str) -> str:
    """Plain ASCII punctuation, one newline between paragraphs, nothing else."""
    story = story.translate(PLAIN).encode("ascii", "ignore").decode()
    return re.sub(r"[ \t]*\n\s*", "\n", re.sub(r"[ \t]+", " ", story)).strip()


def read_stories(folder: Path) -> list[str]:
    """All distinct stories of at least 200 characters, in file order."""
    stories: list[str] = []
    for path in sorted(folder.glob("tinystories*.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as handle:
            text = handle.read()
        if ".jsonl" in path.name:
            found = [json.loads(line)["text"] for line in text.splitlines() if line.strip()]
        elif END in text:
            found = text.split(END)[1:]
        else:
            found = re.split(r"(?<!\n)\n(?!\n)", text)
        stories += [clean(story) for story in found]
    return list(dict.fromkeys(story for story in stories if len(story) >= 200))


def train_tokenizer(stories: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: every string of Unicode round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(stories, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)


def make_model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=6, max_position_embeddings=1024, rope_theta=10000.0, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, attention_bias=False, attention_dropout=0.0,
    )
    return LlamaForCausalLM(config)


def evaluate(model: LlamaForCausalLM, ids: np.ndarray) -> tuple[float, float]:
    """Mean cross-entropy in nats and mean entropy of the model's own distribution in bits a token."""
    model.eval()
    loss = entropy = count = 0.0
    with torch.no_grad():
        for start in range(0, min(len(ids) - LENGTH - 1, 160 * LENGTH), LENGTH):
            row = torch.from_numpy(ids[start : start + LENGTH + 1].astype(np.int64))[None]
            log_p = model(row[:, :-1]).logits.float().log_softmax(-1)
            loss -= log_p.gather(-1, row[:, 1:, None]).sum().item()
            entropy -= (log_p.exp() * log_p).sum().item() / math.log(2)
            count += LENGTH
    model.train()
    return loss / count, entropy / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)

    stories = read_stories(args.text)
    rng.shuffle(stories)
    held = len(stories) // 50
    tokenizer = train_tokenizer(stories[held:])
    encode = [tokenizer(END + story)["input_ids"] for story in stories]
    valid = np.concatenate(encode[:held]).astype(np.int32)
    train = np.concatenate(encode[held:]).astype(np.int32)
    print(f"{len(stories)} stories, {len(train)} training and {len(valid)} validation tokens", flush=True)

    model = make_model()
    decay = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    peak = 3e-3
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], lr=peak, betas=(0.9, 0.95)
    )
    started, step, best, history = time.time(), 0, float("inf"), []
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(args.out)
    while (share := (time.time() - started) / (60 * args.minutes)) < 1:
        rate = peak * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        starts = rng.integers(0, len(train) - LENGTH - 1, BATCH)
        rows = torch.from_numpy(np.stack([train[s : s + LENGTH + 1] for s in starts]).astype(np.int64))
        logits = model(rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCAB), rows[:, 1:].reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 250 == 0 or step == 20:
            nats, bits = evaluate(model, valid)
            history.append({"step": step, "seconds": round(time.time() - started), "valid_nats": round(nats, 4)})
            seconds = time.time() - started
            print(f"step {step} {seconds:.0f} s train {loss.item():.3f} valid {nats:.3f} entropy {bits:.2f}", flush=True)
            if nats < best:
                best = nats
                model.save_pretrained(args.out)
    nats, bits = evaluate(model, valid)
    if nats < best:
        best = nats
        model.save_pretrained(args.out)
    report = {
        "stories": len(stories), "training_tokens": len(train), "steps": step, "tokens_a_step": BATCH * LENGTH,
        "minutes": args.minutes, "threads": args.threads, "seed": args.seed, "torch": torch.__version__,
        "valid_nats": round(best, 4), "last_entropy_bits": round(bits, 3), "history": history,
    }
    (args.out / "training.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
