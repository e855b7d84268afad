"""Profiles: what is read back, what is refused, and that no key is in them."""

import base64
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmcheck.watermark.core.errors import OutputError, ProfileError, TokenizerError
from wmcheck.watermark.core.results import Detection
from wmcheck.watermark.keys import SecretKey
from wmcheck.watermark.prf import PRF_VERSION
from wmcheck.watermark.profile import Profile
from wmcheck.watermark.scheme import SCHEMES, make_scheme
from wmcheck.watermark.tokenizer import TextTokenizer

FORMATS = (Path(__file__).parents[2] / "docs" / "formats.md").read_text("utf-8")
BASE = {"schema": "wmcheck.profile/1", "scheme": "redgreen", "parameters": {}, "prf": PRF_VERSION}
TOKENIZER = {"name": "a", "digest": "0" * 64, "vocabulary": 5}
COMMITMENT = SecretKey.new().commitment
MISSING = object()

widths = st.integers(1, 16)
below = st.floats(0, 1, exclude_min=True)
parameters = st.one_of(
    st.tuples(st.just("redgreen"), st.fixed_dictionaries({
        "width": widths, "rule": st.sampled_from(["left", "min", "self"]), "green": st.integers(1, 255),
        "delta": below.map(lambda share: 50 * share).filter(bool), "window_rule": st.booleans(),
    })),
    st.tuples(st.just("redgreen"), st.fixed_dictionaries({"width": st.just(0)})),
    st.tuples(st.just("gumbel"), st.fixed_dictionaries({"width": widths})),
    st.tuples(st.just("tournament"), st.fixed_dictionaries({"width": widths, "layers": st.integers(1, 32)})),
    st.tuples(st.just("reweight"), st.fixed_dictionaries({"width": widths, "alpha": st.floats(1e-9, 0.5)})),
)
profiles = st.builds(
    lambda scheme, **rest: Profile(scheme_name=scheme[0], parameters=scheme[1], **rest), parameters,
    tokenizer=st.none() | st.fixed_dictionaries({
        "name": st.text(st.characters(exclude_categories=["Cs"]), max_size=20), "digest": st.just("ab" * 32),
        "vocabulary": st.integers(1, 2**31),
    }),
    special_ids=st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple),
    entropy_bits=st.floats(0, 32, exclude_min=True),
    commitments=st.lists(st.just(COMMITMENT), max_size=2).map(tuple),
)


def data(**changes):
    """A sound profile object with some fields replaced."""
    return {name: value for name, value in {**BASE, **changes}.items() if value is not MISSING}


def refusal(value, where="lab.profile.json"):
    with pytest.raises(ProfileError) as caught:
        Profile.from_dict(value, where=where)
    return caught.value


@given(profiles)
@settings(deadline=None)
def test_a_profile_reads_back(profile):
    again = Profile.from_dict(json.loads(json.dumps(profile.to_dict())))
    assert again == profile
    assert again.to_dict() == profile.to_dict()
    assert again.scheme.parameters() == profile.scheme.parameters()


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_examples_of_every_scheme_read_back(name, tmp_path):
    for example in SCHEMES[name].examples():
        profile = Profile.create(name, example, special_ids=(0, 2**31 - 1), entropy_bits=2)
        profile.save(tmp_path / "p.json")
        again = Profile.load(tmp_path / "p.json")
        assert again == profile
        assert again.parameters == make_scheme(name, example).parameters()
        assert (again.name, profile.name) == (str(tmp_path / "p.json"), name)


def test_defaults():
    profile = Profile.from_dict(data(), where="p.json")
    assert profile.to_dict() == {
        **BASE, "parameters": {"width": 2, "rule": "left", "green": 64, "delta": 2.0, "window_rule": True},
        "tokenizer": None, "special_ids": [], "entropy_bits": 1.0, "commitments": [],
    }
    assert profile == Profile.create("redgreen")


def test_a_file_is_ascii_json_with_its_version_first(tmp_path):
    path = tmp_path / "p.json"
    Profile(scheme_name="gumbel", parameters={}, tokenizer={**TOKENIZER, "name": "modèle/é\u2028"}).save(path)
    text = path.read_text("ascii")
    assert text.startswith('{\n  "schema": "wmcheck.profile/1",\n')
    assert text.endswith("}\n")
    assert Profile.load(str(path)).tokenizer["name"] == "modèle/é\u2028"


def test_no_key_is_in_a_profile(tmp_path):
    root = SecretKey.new()
    tenant = root.tenant("acct-91", "2026-11")
    profile = Profile.create("redgreen", {"width": 4}, keys=(root, tenant))
    profile.save(tmp_path / "p.json")
    saved = (tmp_path / "p.json").read_bytes()
    assert json.loads(saved)["commitments"] == [root.commitment, tenant.commitment]
    shown = saved + json.dumps(profile.to_dict()).encode() + repr(profile).encode() + str(vars(profile)).encode()
    for key in (root, tenant):
        secret = key._secret
        subkeys = [tenant.subkey(profile.scheme.label(), purpose) for purpose in ("ctx", "tok")]
        for held in [secret, *subkeys]:
            for encoded in [
                held, held.hex().encode(), held.hex().upper().encode(), base64.b32encode(held), base64.b64encode(held),
                base64.b32encode(held).lower(), repr(held).encode(), str(int.from_bytes(held)).encode(),
                json.dumps(list(held)).encode(),
            ]:
                assert encoded not in shown
                assert encoded[:12] not in shown
        body = key.reveal()[5:]
        assert not any(body[place : place + 8].encode() in shown for place in range(len(body) - 7))


@pytest.mark.parametrize(
    "schema, what",
    [
        ("wmcheck.profile/2", "profile of a newer version"), ("wmcheck.profile/10", "profile of a newer version"),
        ("wmcheck.profile/", "not a profile"), ("wmcheck.profile/x", "not a profile"),
        ("wmcheck.profile", "not a profile"), ("wmcheck.profile/1.1", "not a profile"),
        ("wmcheck.profile/-1", "not a profile"),
        ("wmcheck.detection/1", "not a profile"), ("", "not a profile"), (None, "not a profile"), (1, "not a profile"),
        (["wmcheck.profile/1"], "not a profile"), (MISSING, "not a profile"),
    ],
)
def test_other_versions_and_schemas(schema, what):
    error = refusal(data(schema=schema))
    assert error.what == what
    assert error.where == "lab.profile.json"
    assert error.got
    assert error.expected == "wmcheck.profile/1"
    assert (error.hint == "upgrade wmcheck") == ("newer" in what)


@pytest.mark.parametrize("number", ["\u00b2", "9" * 5000])
def test_versions_that_are_no_numbers(number):
    assert refusal(data(schema=f"wmcheck.profile/{number}")).where == "lab.profile.json"


@pytest.mark.parametrize("value", [None, [], "profile", 5, True, {}, [BASE]])
def test_other_json(value):
    error = refusal(value)
    assert str(error) == "lab.profile.json: not a profile (got schema None, expected wmcheck.profile/1)"


@pytest.mark.parametrize("field", ["scheme", "parameters", "prf"])
def test_missing_fields(field):
    error = refusal(data(**{field: MISSING}))
    assert (error.what, error.where, error.got) == ("missing fields", "lab.profile.json", field)
    assert field in error.expected


@pytest.mark.parametrize("field", ["key", "secret", "Scheme", "", "name", "special_id"])
def test_unknown_fields(field):
    error = refusal(data(**{field: 1}))
    assert (error.what, error.where, error.got) == ("unknown fields", "lab.profile.json", field)
    assert "special_ids" in error.expected


@pytest.mark.parametrize("prf", ["aes128-hkdf-sha256/2", "", None, 1, ["aes128-hkdf-sha256/1"], {}])
def test_another_keyed_function(prf):
    error = refusal(data(prf=prf))
    assert (error.what, error.where, error.got) == ("unknown keyed function", "lab.profile.json", repr(prf))
    assert error.expected == PRF_VERSION


IMPOSSIBLE = [
    ("parameters", [None, [], "width=4", 4]),
    ("tokenizer", [{}, "bundled:stories2m", [], False, {**TOKENIZER, "key": 1}, {"name": "a"}]),
    ("special_ids", [None, {}, "0", 0, [-1], [2**31], [True], [1.0], ["1"], [None], [[1]], [0, 10**30]]),
    ("entropy_bits", [None, "1", 0, -1, 0.0, 32.5, 33, True, [1], float("nan"), float("inf"), 10**400]),
    ("commitments", [None, "a" * 64, ["a"], [1], [None], {"a" * 64: 1}, ["a" * 63], ["a" * 65]]),
]


@pytest.mark.parametrize("field, value", [(field, value) for field, values in IMPOSSIBLE for value in values])
def test_impossible_values(field, value):
    error = refusal(data(**{field: value}))
    assert error.where == "lab.profile.json"
    assert error.what == "a field has an impossible value"
    assert error.expected == "see docs/formats.md"


@pytest.mark.parametrize(
    "field, value",
    [("tokenizer", {**TOKENIZER, name: value})
     for name, values in [("name", [None, 5, []]), ("digest", [None, 5, [], "x", "A" * 64, "é" * 64]),
                          ("vocabulary", [None, "5", [], -1, 0, True, 5.0])]
     for value in values] + [("commitments", ["z" * 64]), ("commitments", ["A" * 64]), ("commitments", ["é" * 64])],
)
def test_impossible_values_that_pass(field, value):
    refusal(data(**{field: value}))


@pytest.mark.parametrize("name", ["", "RedGreen", "kgw", "redgreen ", None, 5, True, 1.5])
def test_unknown_schemes(name):
    error = refusal(data(scheme=name))
    assert (error.what, error.where, error.got) == ("unknown scheme", "lab.profile.json", repr(name))
    assert error.expected.startswith("gumbel, layered, payload-code, payload-shift, redgreen, reweight, tournament, ")


@pytest.mark.parametrize("name", [[], {}, ["redgreen"]])
def test_schemes_that_are_no_names(name):
    assert refusal(data(scheme=name)).what == "unknown scheme"


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
@pytest.mark.parametrize("name", ["Width", "gamma", "key", "", "a b", "self"])
def test_unknown_parameters(scheme, name):
    error = refusal(data(scheme=scheme, parameters={name: 1}))
    assert (error.what, error.where) == (f"bad parameters for scheme '{scheme}'", "lab.profile.json")
    assert name in error.got


WRONG = [None, "4", [], {}, True, float("nan"), float("inf"), -1, 10**9]
BOUNDS = {
    ("redgreen", "width"): [*WRONG, 17, 2.0], ("redgreen", "green"): [*WRONG, 0, 256, 64.0],
    ("redgreen", "delta"): [*WRONG, 0, 0.0, 50.1],
    ("redgreen", "rule"): [None, "right", "LEFT", "", 1, [], {}, ["left"]],
    ("gumbel", "width"): [*WRONG, 0, 17, 4.0], ("tournament", "width"): [*WRONG, 0, 17],
    ("tournament", "layers"): [*WRONG, 0, 33, 3.0], ("reweight", "width"): [*WRONG, 0, 17],
    ("reweight", "alpha"): [*WRONG, 0, 0.0, 0.51, 1],
}


@pytest.mark.parametrize(
    "scheme, name, value", [(*place, value) for place, values in BOUNDS.items() for value in values]
)
def test_impossible_parameters(scheme, name, value):
    error = refusal(data(scheme=scheme, parameters={name: value}))
    assert (error.what, error.where, error.got) == ("impossible parameter", f"lab.profile.json, {name}", repr(value))
    assert error.expected


@pytest.mark.parametrize("rule", ["min", "self"])
def test_a_rule_that_needs_a_window(rule):
    assert refusal(data(parameters={"rule": rule, "width": 0})).expected == "an integer from 1 to 16"


@pytest.mark.parametrize("value", ["no", 0, 3, [], {}, 1.0])
def test_a_window_rule_that_is_no_boolean(value):
    refusal(data(parameters={"window_rule": value}))


def test_width_zero_has_no_window_rule():
    assert Profile.create("redgreen", {"width": 0}).parameters["window_rule"] is False
    assert Profile.create("redgreen", {"width": 0, "window_rule": True}).parameters["window_rule"] is False


def test_bounds_are_inclusive():
    for parameters in ({"width": 16, "green": 255, "delta": 50}, {"width": 0, "green": 1, "delta": 1e-9}):
        assert Profile.from_dict(data(parameters=parameters)).scheme.width == parameters["width"]
    assert Profile.from_dict(data(entropy_bits=32, special_ids=[2**31 - 1])).entropy_bits == 32.0


@pytest.mark.parametrize("content", ["", "{", "not json", "\ufeff{}", "{'schema': 1}", "\0", b"\xff\xfe", b"{\x80}"])
def test_files_that_are_no_json(content, tmp_path):
    path = tmp_path / "p.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ProfileError) as caught:
        Profile.load(path)
    assert (caught.value.what, caught.value.where) == ("not a profile", str(path))
    assert caught.value.got
    assert caught.value.expected == "a JSON object"


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(ProfileError, match="no such profile") as caught:
        Profile.load(tmp_path / "none.json")
    assert "wmcheck profile new" in caught.value.hint
    with pytest.raises(ProfileError, match="not a profile"):
        Profile.load(tmp_path)
    with pytest.raises(OutputError, match="cannot write the profile"):
        Profile.create("gumbel").save(tmp_path / "no" / "p.json")


def test_a_file_of_brackets(tmp_path):
    (tmp_path / "p.json").write_text("[" * 100_000)
    with pytest.raises(ProfileError):
        Profile.load(tmp_path / "p.json")


def test_the_home_of_nobody():
    with pytest.raises(ProfileError):
        Profile.load("~no-such-user-here/p.json")


@given(st.dictionaries(
    st.sampled_from([*BASE, "tokenizer", "special_ids", "entropy_bits", "commitments", "other"]),
    st.recursive(
        st.none() | st.booleans()
        | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([*BASE.values()]),
        lambda inner: st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["width", "name", "x"]), inner, max_size=2),
        max_leaves=4,
    ),
    max_size=5,
))
@settings(deadline=None, max_examples=300)
def test_any_json_is_a_profile_or_an_error(changes):
    value = {**BASE, **changes}
    if isinstance(value["scheme"], (list, dict)):  # see test_schemes_that_are_no_names
        value["scheme"] = "gumbel"
    try:
        profile = Profile.from_dict(value)
    except ProfileError:
        return
    assert Profile.from_dict(profile.to_dict()) == profile


@pytest.mark.parametrize("name", ["scheme_name", "parameters", "special_ids"])
def test_profiles_are_frozen(name):
    with pytest.raises(AttributeError):
        setattr(Profile.create("gumbel"), name, None)


def test_a_profile_keeps_its_own_parameters():
    given_parameters = {"width": 3}
    profile = Profile.create("gumbel", given_parameters)
    given_parameters["width"] = 5
    assert profile.parameters == profile.to_dict()["parameters"] == {"width": 3}
    assert profile.scheme is profile.scheme


class Backend:
    """A tokenizer of four tokens."""

    def __init__(self, last="d"):
        self.last = last

    def get_vocab(self, with_added_tokens):
        return {"a": 0, "b": 1, "c": 2, self.last: 3}

    def get_added_tokens_decoder(self):
        return {}

    def encode(self, text, add_special_tokens):
        return type("Encoding", (), {"ids": [0, 1, 2, 3]})


def test_the_tokenizer_must_be_the_profiles():
    tokenizer = TextTokenizer(Backend(), "here")
    profile = Profile.create("gumbel", tokenizer=tokenizer)
    assert profile.tokenizer == {"name": "here", "digest": tokenizer.digest, "vocabulary": 4}
    profile.check_tokenizer(tokenizer)
    profile.check_tokenizer(TextTokenizer(Backend(), "elsewhere"))
    other = TextTokenizer(Backend("e"), "elsewhere")
    with pytest.raises(TokenizerError, match="not the tokenizer of the profile") as caught:
        profile.check_tokenizer(other)
    assert caught.value.where == "elsewhere"
    assert caught.value.got == f"digest {other.digest[:16]}"
    assert caught.value.expected == f"digest {tokenizer.digest[:16]} (here)"


def test_a_profile_without_a_tokenizer_encodes_nothing():
    with pytest.raises(TokenizerError, match="names no tokenizer") as caught:
        Profile.create("gumbel").check_tokenizer(TextTokenizer(Backend(), "here"))
    assert "--tokens-field" in caught.value.hint


def test_commitments():
    root = SecretKey.new()
    tenant, other = root.tenant("a"), root.tenant("b")
    assert Profile.create("gumbel").commits_to(tenant, root) is None
    to_tenant, to_root = Profile.create("gumbel", keys=(tenant,)), Profile.create("gumbel", keys=(root,))
    assert to_tenant.commits_to(tenant) == to_tenant.commits_to(tenant, root) == "tenant"
    assert to_tenant.commits_to(other, root) == "no"
    assert to_root.commits_to(other, root) == "root"
    assert to_root.commits_to(other) == "no"
    assert to_root.commits_to(SecretKey.new().tenant("a")) == "no"


def test_the_example_in_the_documentation():
    example = json.loads(re.search(r"```json\n(.*?)```", FORMATS, re.DOTALL)[1])
    assert Profile.from_dict(example).to_dict() == example


def section(title):
    return FORMATS.split(f"\n## {title}")[1].split("\n## ")[0]


def fields(text):
    """Names in backquotes in the first column of tables."""
    columns = re.findall(r"^\|(?: \|)? ([^|]*)\|", text, re.MULTILINE)
    return {name for column in columns for name in re.findall(r"`([\w-]+)`", column)}


def test_the_documentation_lists_every_field():
    parameters = [name for scheme in SCHEMES for name in SCHEMES[scheme]().parameters() if name != "width"]
    assert fields(section("Profile")) - {"width"} == {*Profile.create("gumbel").to_dict(), *SCHEMES, *parameters}
    assert fields(section("Detection result")) == {"schema", "alpha", "verdict", *Detection.__dataclass_fields__}


def test_the_documentation_has_the_defaults():
    rows = re.findall(r"^\| (?:`([\w-]+)`)? ?\| `(\w+)` \|[^|]*\| `?([^|`]+)`? \|$", section("Profile"), re.MULTILINE)
    scheme, found = "", {}
    for name, parameter, value in rows:
        scheme = name or scheme
        found.setdefault(scheme, {})[parameter] = value if value == "left" else json.loads(value)
    assert found == {name: SCHEMES[name]().parameters() for name in SCHEMES}
