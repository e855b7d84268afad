"""The README's blocks run as written, in a folder that has what they name."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def blocks(language):
    return [text for kind, text in BLOCKS if kind == language]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """What the README takes for granted: a model folder, prompts and suspect files."""
    from wmcheck.watermark.bundled import DEFAULT_MODEL, bundled_path

    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(bundled_path(DEFAULT_MODEL), folder / "model")
    (folder / "prompts.jsonl").write_text('{"text": "Once upon a time"}\n')
    rows = [json.dumps({"id": str(i), "response": f"One day, Tim saw {i} dogs and a cat in the park."}) for i in range(3)]
    (folder / "suspect.jsonl").write_text("\n".join(rows) + "\n")
    with gzip.open(folder / "dump.jsonl.gz", "wt") as file:
        file.write("\n".join(rows) + "\n")
    return folder


def shell(home, script, **options):
    script = re.sub(r"(?m)(^|\| )wmcheck ", rf"\1{sys.executable} -m wmcheck.cli.main ", script)
    return subprocess.run(["bash", "-ec", script], cwd=home, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def made(home):
    """The folder after the README's first commands: a key and a profile."""
    found = shell(home, blocks("sh")[1])
    assert found.returncode == 0, found.stderr
    return home


def test_commands_of_the_readme_run_in_order(made):
    home, shells = made, blocks("sh")
    assert "make demo" in shells[0]
    assert "make test" in shells[0]
    (home / "wmcheck.toml").write_text('profile = "lab.profile.json"\nkey = "file:lab.wmk"\n')
    tested = shell(home, shells[2])
    assert tested.returncode == 0, tested.stderr
    assert tested.stdout.count("INSUFFICIENT") >= 6


def test_reading_of_peers_runs(made):
    (made / "vllm.key").write_text("123456789123456789\n")
    config = {"greenlist_ratio": 0.25, "bias": 2.0, "hashing_key": 987654321, "seeding_scheme": "lefthash"}
    (made / "generation_config.json").write_text(json.dumps({"watermarking_config": config}))
    (made / "peers.toml").write_text(
        'schema = "wmcheck.sweep/1"\ntokenizer = "model"\n'
        '[[candidate]]\ncontract = "vllm-gumbel"\nkey = "file:vllm.key"\n'
        '[[candidate]]\nprofile = "kgw.json"\nkey = "file:kgw.key"\n'
    )
    (found,) = [text for text in blocks("sh") if "--sweep" in text]
    done = shell(made, found)
    assert done.returncode == 0, done.stderr
    assert "transformers 5.23.0" in done.stdout
    assert (made / "kgw.key").read_text().strip().endswith("987654321")


def test_every_contract_is_documented():
    from wmcheck.watermark.peer import PEERS

    text = (ROOT / "docs" / "peers.md").read_text("utf-8")
    assert {name for name in PEERS if f"`{name}`" not in text} == set()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / "docs" / target).exists(), target


def test_python_of_the_readme_runs(made):
    import torch

    from wmcheck.watermark.embed import load_model

    language = load_model(str(made / "model"), device="cpu")
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "attention_mask": torch.ones(1, 4), "max_new_tokens": 8}
    names = {"token_ids": list(range(100)), "model": language.model, "inputs": inputs}
    with chdir(made):
        for text in blocks("python"):
            exec(compile(text, "README.md", "exec"), names)
    assert names["result"].n_scored == 88


def test_configuration_of_the_readme_is_accepted(home):
    from wmcheck.cli.config import load_defaults

    (home / "settings").mkdir()
    (home / "settings" / "wmcheck.toml").write_text(blocks("toml")[0])
    assert load_defaults(home / "settings")["check"]["alpha"] == 1e-6


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_embed_command_of_the_readme(made):
    command = re.search(r"`(wmcheck embed [^`]*)`", README).group(1).replace("\n", " ")
    found = shell(made, command + " --max-new-tokens 8")
    assert found.returncode == 0, found.stderr
    assert json.loads((made / "out.jsonl").read_text())["tenant"] == "acct-91"


def test_exit_codes_of_the_readme():
    from wmcheck.cli import exits

    numbers = {int(number) for row in re.findall(r"\n\| ([\d, ]+) \|", README) for number in row.split(",")}
    assert numbers == {value for name, value in vars(exits).items() if name.isupper()}
