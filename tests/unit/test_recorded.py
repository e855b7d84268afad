"""Recorded log probabilities: the forms of several servers give the same predictions, and what does not fit is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

from wmcheck.watermark.core.errors import RecordError
from wmcheck.watermark.core.logprobs import logprobs_from
from wmcheck.watermark.core.readers import read_records
from wmcheck.watermark.recorded import Spellings, recorded_law
from wmcheck.watermark.tokenizer import TextTokenizer, load_tokenizer

TOKENS = [5, 9, 7]
TOP = [[[5, -0.5], [6, -1.5]], [[8, -0.25], [9, -2.0], [4, -3.0]], [[7, -0.125]]]
OWN = [-0.5, -2.0, -0.125]


def by_text(number):
    """A token of the vocabulary below, as a chat server writes it."""
    text = f"t{number}"
    return {"token": text, "bytes": list(text.encode())}


FORMS = {
    "compact": {"token_logprobs": OWN, "top_logprobs": TOP},
    "compact, objects": {"token_logprobs": OWN, "top_logprobs": [{str(v): lp for v, lp in row} for row in TOP]},
    "compact, inside": {"logprobs": {"token_logprobs": OWN, "top_logprobs": TOP}},
    "likely tokens alone": {"top_logprobs": TOP},
    "vLLM, offline": {"logprobs": [{str(v): {"logprob": lp, "rank": 1, "decoded_token": "x"} for v, lp in row} for row in TOP]},
    "pairs": {"logprobs": TOP},
    "completions, texts": {"choices": [{"logprobs": {
        "tokens": ["t5", "t9", "t7"], "token_logprobs": OWN, "top_logprobs": [{f"t{v}": lp for v, lp in row} for row in TOP],
    }}]},
    "completions, ids": {"choices": [{"logprobs": {
        "tokens": [f"token_id:{v}" for v in TOKENS], "token_logprobs": OWN,
        "top_logprobs": [{f"token_id:{v}": lp for v, lp in row} for row in TOP],
    }}]},
    "chat": {"choices": [{"logprobs": {"content": [
        {**by_text(v), "logprob": own, "top_logprobs": [{**by_text(u), "logprob": lp} for u, lp in row]}
        for v, own, row in zip(TOKENS, OWN, TOP, strict=True)
    ]}}]},
    "chat, no bytes": {"logprobs": {"content": [
        {"token": f"t{v}", "bytes": None, "logprob": own, "top_logprobs": [{"token": f"t{u}", "logprob": lp} for u, lp in row]}
        for v, own, row in zip(TOKENS, OWN, TOP, strict=True)
    ]}},
}


@pytest.fixture(scope="module")
def spellings():
    backend = Tokenizer(models.WordLevel({f"t{number}": number for number in range(12)}, unk_token="t0"))
    return Spellings(TextTokenizer(backend, "test"))


def law_of(record, ids=TOKENS, prompt=0, spellings=None):
    found = logprobs_from(record, "s.jsonl:3")
    assert found is not None
    return recorded_law(found, np.array(ids, np.int64), prompt, "s.jsonl:3", spellings)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_predictions(name, spellings):
    law = law_of(FORMS[name], spellings=spellings)
    assert law.known.all()
    for place, row in enumerate(TOP):
        weights = np.array([lp for _, lp in row])
        expected = dict(zip([v for v, _ in row], weights - np.logaddexp.reduce(weights), strict=True))
        kept = law.candidates[place] >= 0
        found = dict(zip(law.candidates[place][kept].tolist(), law.log_p[place][kept].tolist(), strict=True))
        assert found == pytest.approx(expected)
        assert law.candidates[place, 0] == TOKENS[place]


@pytest.mark.parametrize("name", FORMS)
def test_which_forms_need_a_tokenizer(name):
    assert logprobs_from(FORMS[name], "").spelled == (name in ("completions, texts", "chat", "chat, no bytes"))


def test_prompts_have_no_prediction():
    law = law_of(FORMS["compact"], [1, 2, *TOKENS], prompt=2)
    assert law.known.tolist() == [False, False, True, True, True]
    assert law.candidates[:, 0].tolist() == [1, 2, *TOKENS]


def test_places_without_the_token_are_unknown():
    record = {"token_logprobs": [-0.5, None, float("nan")], "top_logprobs": [None, [[8, -0.1]], [[7, -0.125]]]}
    law = law_of(record)
    assert law.known.tolist() == [True, False, True]
    assert law.candidates[1].tolist() == [9, -1]


def test_a_place_of_another_token_is_unknown(spellings):
    record = json.loads(json.dumps(FORMS["chat"]))
    record["choices"][0]["logprobs"]["content"][1].update(by_text(3))
    assert law_of(record, spellings=spellings).known.tolist() == [True, False, True]


def test_no_candidate_stands_twice_in_a_row():
    # Listed twice, a candidate would count as two independent draws of the key.
    record = {"token_logprobs": OWN, "top_logprobs": [[[6, -1.0], [6, -1.0], [5, -0.5], [2**40, -1.0]]] * 3}
    law = law_of(record)
    for row in law.candidates:
        assert len(set(row[row >= 0].tolist())) == (row >= 0).sum()
    assert law.candidates.max() < 2**31


def test_a_named_end_token_after_the_text_is_left_out(spellings):
    record = json.loads(json.dumps(FORMS["chat"]))
    record["choices"][0]["logprobs"]["content"].append({**by_text(0), "logprob": -0.1, "top_logprobs": []})
    assert len(law_of(record, spellings=spellings)) == 3


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"logprobs": 3}, "field 'logprobs' holds no log probabilities (got 3, "),
        ({"logprobs": {"a": 1}}, "field 'logprobs' holds no log probabilities (got [\"a\"], "),
        ({"logprobs": [{"x": -1.0}]}, "field 'logprobs' at index 0: no token id (got \"x\", "),
        ({"logprobs": [[[5, 0.7]]]}, "field 'logprobs' at index 0: a log probability above 0 (got 0.7, "),
        ({"token_logprobs": [True]}, "field 'token_logprobs' at index 0: no log probability (got true, "),
        ({"token_logprobs": [-1.0], "top_logprobs": [5]}, "field 'token_logprobs' at index 0: no log probabilities of a token "),
        ({"top_logprobs": [[[5]]]}, "field 'token_logprobs' at index 0: no token with its log probability (got [5], "),
        ({"token_logprobs": OWN, "top_logprobs": TOP[:2]}, "lists of log probabilities of different lengths (got "),
        ({"token_logprobs": OWN[:2]}, "log probabilities do not match the tokens (got 2 entries, expected 3, one an "),
        ({"logprobs": [{"1": -0.5}] * 3}, "no recorded log probability fits its token (got 3 tokens)"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(record, message):
    with pytest.raises(RecordError) as caught:
        law_of(record)
    assert str(caught.value).startswith(f"s.jsonl:3: {message}")


def test_a_record_without_any_has_none():
    assert logprobs_from({"text": "a", "logprobs": None, "choices": [{"text": "a"}]}, "") is None


def test_numbers_at_the_edge():
    found = logprobs_from({"token_logprobs": [1e-6, -math.inf, -(10**400)]}, "")
    assert found.log_p.tolist() == [0.0, -math.inf, -1e300]
    assert np.isfinite(recorded_law(found, np.array(TOKENS), 0, "").log_p).all()


@pytest.mark.parametrize("layout", ["jsonl", "json", "csv"])
def test_readers_take_them_only_when_asked(tmp_path, layout):
    record = {"id": "a", "tokens": TOKENS, "token_logprobs": OWN, "top_logprobs": TOP}
    broken = {"id": "b", "tokens": TOKENS, "token_logprobs": "no", "top_logprobs": None}
    path = tmp_path / f"s.{layout}"
    if layout == "csv":
        cells = [[json.dumps(one[name]) if name != "id" else one["id"] for name in record] for one in (record, broken)]
        rows = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in cells]
        path.write_text("\n".join([",".join(record), *rows]) + "\n")
    else:
        text = [json.dumps(one) for one in (record, broken)]
        path.write_text("\n".join(text) + "\n" if layout == "jsonl" else f"[{','.join(text)}]")
    asked = list(read_records(str(path), logprobs=True))
    assert asked[0].logprobs.log_p.tolist() == OWN
    assert isinstance(asked[1], RecordError)
    assert [one.logprobs for one in read_records(str(path))] == [None, None]


def test_parquet_columns_are_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "s.parquet"
    parquet.write_table(pyarrow.table({"tokens": [TOKENS], "token_logprobs": [OWN]}), path)
    assert next(iter(read_records(str(path), logprobs=True))).logprobs.log_p.tolist() == OWN
    assert next(iter(read_records(str(path)))).logprobs is None


def test_spellings_of_a_byte_level_vocabulary_join_to_the_text():
    tokenizer = load_tokenizer("bundled:stories2m")
    spellings = Spellings(tokenizer)
    text = "Once upon a time, there was a “naïve” girl.\n"
    assert b"".join(spellings.of[number] for number in tokenizer.encode([text])[0].tolist()) == text.encode()
    assert all(spellings.of[number] == spelled for spelled, number in spellings.ids.items())


def test_spellings_of_a_sentence_piece_vocabulary():
    backend = Tokenizer(models.BPE({"\u2581the": 0, "<0xC3>": 1, "the": 2, "<0xZZ>": 3}, []))
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    spellings = Spellings(TextTokenizer(backend, "test"))
    assert spellings.of == {0: b" the", 1: b"\xc3", 2: b"the", 3: b"<0xZZ>"}


def test_a_text_that_two_tokens_share_names_neither():
    backend = Tokenizer(models.BPE({"a": 0, "<0x61>": 1, "b": 2}, []))
    backend.decoder = decoders.ByteFallback()
    spellings = Spellings(TextTokenizer(backend, "test"))
    assert spellings.ids == {b"b": 2}
    record = {"logprobs": {"content": [{"token": "a", "logprob": -1.0, "top_logprobs": [{"token": "b", "logprob": -0.5}]}]}}
    # The token that came has a known spelling, so the place is known; as a candidate its text could be either id.
    assert law_of(record, [1], spellings=spellings).known.tolist() == [True]
    both = {"logprobs": {"content": [{"token": "b", "logprob": -1.0, "top_logprobs": [{"token": "a", "logprob": -0.5}]}]}}
    assert law_of(both, [2], spellings=spellings).candidates.tolist() == [[2]]
