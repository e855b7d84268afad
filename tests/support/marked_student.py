"""The bundled story model after some steps on text with a strong mark: a student that shows its key."""

import shutil
from itertools import cycle, islice

from wmcheck.cli.embed import calm_torch
from wmcheck.watermark.bundled import bundled_path
from wmcheck.watermark.profile import Profile

BUNDLED = "bundled:stories2m"
# A mark that a few steps teach: one token of context, a large bias.
MARK = {"width": 1, "green": 64, "delta": 6.0}
TEXTS, STEPS = 80, 8
# Sent to servers that the student is put behind; nothing that is written may hold it.
API_KEY = "sk-a-secret-of-the-tests-0123456789"


def marked_student(folder, key, tokenizer):
    """(profile, records of marked text, records of ordinary text); the student's files are in ``folder``."""
    with calm_torch(BUNDLED):
        return _taught(folder, key, tokenizer)


def named(done):
    """The tests of a result of ``wmcheck radioactivity``, by name."""
    return {one["test"]: one for one in done.json["tests"]}


def _taught(folder, key, tokenizer):
    import torch

    from wmcheck.watermark.embed import STORY_PROMPTS, Sampling, embed_records, load_model

    profile = Profile.create("redgreen", MARK, tokenizer=tokenizer, entropy_bits=2.0, keys=(key,))
    language = load_model(BUNDLED, device="cpu")

    def write(count, length, seed, **watermark):
        prompts = list(islice(cycle(STORY_PROMPTS), count))
        sampling = Sampling(max_new_tokens=length, seed=seed, ignore_end=True)
        return list(embed_records(language, prompts, sampling, batch_size=count, **watermark))

    marked = write(TEXTS, 60, 0, profile=profile, keys=[key] * TEXTS)
    plain = [{"id": one["id"], "text": one["text"]} for one in write(16, 80, 5)]
    model, ids = language.model.train(), torch.tensor([(one["prompt_tokens"] + one["tokens"])[:68] for one in marked])
    optimizer, drawn = torch.optim.AdamW(model.parameters(), lr=3e-3), torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        batch = ids[torch.randint(len(ids), (16,), generator=drawn)]
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    for file in bundled_path(BUNDLED).glob("*token*"):
        shutil.copy(file, folder)
    return profile, marked, plain
