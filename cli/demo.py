"""``wmcheck demo``: the whole path on the bundled model, in a folder that can be looked at afterwards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import click

from wmcheck.cli.embed import calm_torch

SCHEMES: dict[str, dict[str, Any]] = {
    "redgreen": {"width": 2, "green": 64, "delta": 3.0}, "gumbel": {"width": 4}, "tournament": {"width": 4}
}
TENANTS = ("acct-17", "acct-91")
MODEL = "bundled:stories2m"
SHORT = 8
LENGTH = 200
MARK = "# Made by 'wmcheck demo', which replaces what is in this folder when it runs again.\n"


@click.command()
@click.argument("folder", default="demo")
def demo(folder: str) -> int:
    """Make keys and profiles in FOLDER, generate text under two tenants and three schemes, and test it."""
    home = Path(folder)
    _claim(home)
    with chdir(home), _own_settings():
        _say("generating 200-token stories: 3 schemes x 2 tenants, ordinary text, and short texts")
        with calm_torch(MODEL):
            _prepare()
        _say("$ wmcheck suspect.jsonl")
        code = _wmcheck("suspect.jsonl", "--quiet")
        _say("\nThe same texts under a key that was never used:\n$ wmcheck suspect.jsonl --key file:other.wmk")
        return code or _wmcheck("suspect.jsonl", "--quiet", "--key", "file:other.wmk")


def _claim(home: Path) -> None:
    """Make the folder, or take one that an earlier demo made; a folder with anybody's keys in it is refused."""
    from wmcheck.watermark.core.errors import OutputError

    settings = home / "wmcheck.toml"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not any(home.iterdir()):
            settings.write_text(MARK, "utf-8")
        elif not settings.is_file() or not settings.read_bytes().startswith(MARK.encode()):
            raise OutputError("the folder is not empty", where=str(home), hint="name a new one: wmcheck demo FOLDER")
    except OSError as error:
        raise OutputError("cannot use the folder", where=str(home), got=error.strerror or type(error).__name__) from None


@contextmanager
def _own_settings() -> Iterator[None]:
    """Without the user's ``WMCHECK_*`` variables, which stand above the demo's wmcheck.toml."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("WMCHECK_")}
    try:
        yield
    finally:
        os.environ.update(kept)


def _prepare() -> None:
    from wmcheck.watermark.embed import STORY_PROMPTS, Sampling, embed_records, load_model
    from wmcheck.watermark.key_sources import write_key_file
    from wmcheck.watermark.keys import SecretKey
    from wmcheck.watermark.profile import Profile

    for name in ("lab.wmk", "other.wmk"):
        Path(name).unlink(missing_ok=True)
        write_key_file(SecretKey.new(), name)
    key = SecretKey.load("file:lab.wmk")
    language = load_model(MODEL)
    tenants = [key.tenant(name) for name in TENANTS]
    prompts, sampling = list(STORY_PROMPTS), Sampling(max_new_tokens=LENGTH, ignore_end=True)
    records = []
    for scheme, parameters in SCHEMES.items():
        profile = Profile.create(scheme, parameters, tokenizer=language.tokenizer, entropy_bits=2.0, keys=(key,))
        profile.save(f"{scheme}.profile.json")
        made = list(embed_records(language, prompts[:2], sampling, profile=profile, keys=tenants))
        for record, tenant in zip(made, tenants, strict=True):
            records.append({**record, "id": f"{scheme}, {tenant.tenant_name}"})
    ordinary = embed_records(language, prompts[2:6], sampling)
    records += [{**record, "id": f"ordinary {place}"} for place, record in enumerate(ordinary, 1)]
    for one in (records[0], records[4]):
        cut = one["tokens"][:SHORT]
        records.append({**one, "tokens": cut, "text": language.tokenizer.decode(cut), "id": f"first {SHORT} ids of {one['id']}"})
    with open("suspect.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    profiles = ", ".join(f'"{scheme}.profile.json"' for scheme in SCHEMES)
    names = ", ".join(f'"{name}"' for name in TENANTS)
    settings = f'profile = [{profiles}]\nkey = "file:lab.wmk"\ntenant = [{names}]\n'
    Path("wmcheck.toml").write_text(MARK + settings, "utf-8")


def _wmcheck(*args: str) -> int:
    from wmcheck.cli.main import run

    return run(list(args))


def _say(text: str) -> None:
    click.echo(text)
