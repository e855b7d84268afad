"""The error tree: one line per error, safe to print, and whole after a trip through a worker process."""

import copy
import pickle
import re
import traceback

import pytest

from wmcheck.watermark.core import errors
from wmcheck.watermark.core.errors import InputError, RecordError, WmcheckError, printable


@pytest.mark.parametrize(
    "details, line",
    [
        ({}, "bad"),
        ({"where": "a.jsonl:3"}, "a.jsonl:3: bad"),
        ({"got": "a list"}, "bad (got a list)"),
        ({"expected": "a string"}, "bad (expected a string)"),
        ({"where": "a:1", "got": "x", "expected": "y", "hint": "z"}, "a:1: bad (got x, expected y)"),
    ],
)
def test_str_is_where_what_got_expected(details, line):
    assert str(WmcheckError("bad", **details)) == line


def test_message_adds_the_hint_on_its_own_line():
    error = InputError("no field 'text'", where="a.jsonl:4812", hint="--field response")
    assert error.hint == "--field response"
    assert error.message() == "a.jsonl:4812: no field 'text'\n  hint: --field response"
    assert InputError("no field").message() == "no field"


def test_details_are_keywords():
    with pytest.raises(TypeError):
        WmcheckError("bad", "a.jsonl:3")  # type: ignore[misc]


def test_the_hint_shows_in_a_traceback():
    shown = "".join(traceback.format_exception_only(InputError("bad", hint="--field response")))
    assert "hint: --field response" in shown


def test_the_line_stays_one_line_whatever_the_data_say():
    error = RecordError("no field (has: a\nb)", where="\x1b[31m.jsonl", got="\u202eevil", hint="x\ry")
    assert "\n" not in str(error)
    assert str(error) == r"\x1b[31m.jsonl: no field (has: a\nb) (got \u202eevil)"
    assert error.message().splitlines()[1:] == [r"  hint: x\ry"]


@pytest.mark.parametrize("remake", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_pickle_and_copy_keep_everything(remake):
    error = RecordError("bad", where="a:1", got="x", expected="y", hint="z")
    again = remake(error)
    assert type(again) is RecordError
    assert again.message() == error.message()
    assert again.__notes__ == error.__notes__ == ["hint: z"]


def test_the_tree_is_the_one_in_the_docstring():
    drawn = re.findall(r"-- (\w+)", errors.__doc__)
    here = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, WmcheckError)]
    assert sorted(drawn) == sorted(cls.__name__ for cls in here if cls is not WmcheckError)
    assert [cls for cls in here if WmcheckError not in cls.__bases__] == [WmcheckError, RecordError, errors.RequestError]
    assert RecordError.__bases__ == (InputError,)
    assert errors.RequestError.__bases__ == (errors.ConfigError, ValueError)


def test_printable_keeps_letters_and_escapes_what_hides():
    assert printable("naïve 漢字 👨‍👩‍👧 می‌خواهم") == "naïve 漢字 👨‍👩‍👧 می‌خواهم"
    assert printable("a\tb\x00\x9b\u2028\u200b\ud800") == r"a\tb\x00\x9b\u2028\u200b\ud800"
