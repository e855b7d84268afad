"""Serving files, and what a server refuses before it starts."""

import pytest

from wmcheck.watermark import Profile, SecretKey
from wmcheck.watermark.core.errors import ConfigError, KeyFileError, ProfileError, TokenizerError
from wmcheck.watermark.key_sources import write_key_file
from wmcheck.watermark.keys import PREFIX
from wmcheck.watermark.serving.deployment import Deployment, Reasoning, read_server
from wmcheck.watermark.serving.policy import Decision
from wmcheck.watermark.tokenizer import load_tokenizer

HEAD = 'schema = "wmcheck.serving/1"\nprofile = "p.json"\nkey = "file:lab.wmk"\n'


@pytest.fixture
def folder(tmp_path):
    key = SecretKey.new()
    write_key_file(key, str(tmp_path / "lab.wmk"))
    Profile.create("gumbel", tokenizer=load_tokenizer("bundled:stories2m"), keys=(key,)).save(tmp_path / "p.json")
    return tmp_path


def written(folder, text=""):
    path = folder / "serving.toml"
    path.write_text(HEAD + text, "utf-8")
    return path


def test_load(folder):
    (folder / "accounts.txt").write_text("# of November\nacct-1\n\nacct-2\n", "utf-8")
    path = written(folder, 'tenants = ["a"]\ntenants_file = "accounts.txt"\nopt_out = ["a"]\nepoch = "e1"\nepochs = ["e0"]\n'
                           'state = "s"\nreasoning = { start = 3, end = 4 }\n')
    made = Deployment.load(path)
    assert made.policy.tenants == {"a", "acct-1", "acct-2"}
    assert made.policy.opt_out == {"a"}
    assert made.reasoning == Reasoning(3, 4)
    assert made.state == folder / "s"
    key = SecretKey.load(f"file:{folder / 'lab.wmk'}")
    assert made.tenant_key(Decision("a", "e1")) == key.tenant("a", "e1")
    assert made.keyed(Decision("a", "e1")) is made.keyed(Decision("a", "e1"))
    assert made.keyed(Decision("a", "e0")) is not made.keyed(Decision("a", "e1"))
    assert made.keyed(Decision(None)) is None
    server = read_server(path)
    assert (server.policy, server.state, server.require_heartbeat) == (made.policy, made.state, True)


def test_the_environment_names_the_file(folder, monkeypatch):
    monkeypatch.setenv("WMCHECK_SERVING", str(written(folder)))
    assert Deployment.load().key_id
    monkeypatch.delenv("WMCHECK_SERVING")
    with pytest.raises(ConfigError, match="no serving file"):
        Deployment.load()


def test_no_secret_is_shown(folder):
    made = Deployment.load(written(folder))
    secret = SecretKey.load(f"file:{folder / 'lab.wmk'}").reveal()
    assert secret[5:25] not in repr(made) + str(vars(made))
    assert PREFIX not in repr(made)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("opt_out = 3\n", "field 'opt_out' is malformed"), ('tenants = "a"\n', "field 'tenants' is malformed"),
        ("tenants = [1]\n", "field 'tenants' is malformed"), ("colour = 1\n", "field 'colour' is unknown"),
        ('unknown_tenant = "default"\n', "field 'unknown_tenant' is malformed"),
        ("reasoning = { start = 1 }\n", "field 'reasoning' is malformed"), ("epoch = 11\n", "field 'epoch' is malformed"),
        ('tenants_file = "none.txt"\n', "cannot read the tenants"), ("x = = 1", "not a serving file"),
    ],
)
def test_malformed_files(folder, text, match):
    with pytest.raises(ConfigError, match=match):
        Deployment.load(written(folder, text))


def test_malformed_require_heartbeat(folder):
    with pytest.raises(ConfigError, match="require_heartbeat"):
        read_server(written(folder, "require_heartbeat = 1\n"))


def test_files_of_other_kinds(folder):
    path = folder / "serving.toml"
    other, keyless = "schema = 'wmcheck.serving/2'", HEAD.replace("key =", "# ")
    for text, match in ((other, "expected wmcheck.serving/1"), (keyless, "'key' is missing")):
        path.write_text(text, "utf-8")
        with pytest.raises(ConfigError, match=match):
            Deployment.load(path)
    with pytest.raises(ConfigError, match="no such serving file"):
        Deployment.load(folder / "none.toml")


def test_unreadable_key_at_start(folder):
    path = written(folder)
    (folder / "lab.wmk").unlink()
    with pytest.raises(KeyFileError, match="no such key file"):
        Deployment.load(path)
    (folder / "lab.wmk").write_text("wmk1_damaged\n", "utf-8")
    with pytest.raises(KeyFileError, match="the key is damaged"):
        Deployment.load(path)
    path.write_text(HEAD.replace("file:lab.wmk", "env:NO_SUCH_KEY_HERE"), "utf-8")
    with pytest.raises(KeyFileError, match="not set"):
        Deployment.load(path)


def test_a_key_that_the_profile_does_not_commit_to(folder):
    path = written(folder)
    (folder / "lab.wmk").unlink()
    write_key_file(SecretKey.new(), str(folder / "lab.wmk"))
    with pytest.raises(ProfileError, match="behind none of them"):
        Deployment.load(path)


def test_a_tenants_key_serves_that_tenant_alone(folder):
    key = SecretKey.new().tenant("a")
    profile = Profile.create("gumbel", keys=(key,))
    made = Deployment(profile, key)
    assert made.tenant_key(Decision("a")) == key
    with pytest.raises(KeyFileError, match="that tenant alone"):
        made.keyed(Decision("b"))


def test_wrong_model(folder):
    made = Deployment.load(written(folder))
    made.check_model(tokenizer="bundled:stories2m", vocabulary=1024)
    made.check_model(vocabulary=2048)
    with pytest.raises(ConfigError, match="smaller vocabulary than the profile"):
        made.check_model(vocabulary=1000)
    from tokenizers import Tokenizer, models

    other = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    other.save(str(folder / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="not the tokenizer of the profile"):
        made.check_model(tokenizer=str(folder / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="no such tokenizer"):
        made.check_model(tokenizer="./no/such/folder")
