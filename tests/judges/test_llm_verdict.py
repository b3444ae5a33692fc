"""A reply is exactly a verdict, or it is missing: nothing is guessed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emodistill.judges.llm import SCHEMA, Malformed, read_verdict


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        *(('{"score": 7}', 7.0), (' {"score":1}\n', 1.0), ('{"score": 10}', 10.0), ('{"score": 6.5}', 6.5)),
        *(('```json\n{"score": 7}\n```', 7.0), ('```\n{"score": 7}\n```\n', 7.0), ('```JSON {"score": 7}```', 7.0)),
    ],
)
def test_the_form_is_read(reply, score):
    assert read_verdict(reply) == score


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("7", "one key"),
        ("", "not one JSON object"),
        ("I would give it 10.", "not one JSON object"),
        ('Here it is: {"score": 7}', "not one JSON object"),
        ('{"score": 7} {"score": 9}', "not one JSON object"),
        ('Here:\n```json\n{"score": 7}\n```', "not one JSON object"),
        ('```json\n{"score": 7}\n```\nIt is firm.', "not one JSON object"),
        ('```json\n{"score": 7}\n```\n```json\n{"score": 9}\n```', "not one JSON object"),
        ('```json\n{"score": 7}', "not one JSON object"),
        ('```python\n{"score": 7}\n```', "not one JSON object"),
        ('```json\n{"score": 7, "score": 9}\n```', "twice"),
        ('{"score": 7', "not one JSON object"),
        ('[{"score": 7}]', "one key"),
        ('{"score": 7, "why": "firm"}', "one key"),
        ('{"Score": 7}', "one key"),
        ('{"score": 7, "score": 9}', "twice"),
        ('{"score": "7"}', "not a number"),
        ('{"score": true}', "not a number"),
        ('{"score": null}', "not a number"),
        ('{"score": [7]}', "not a number"),
        ('{"score": 0}', "between"),
        ('{"score": 11}', "between"),
        ('{"score": 1e999}', "between"),
        ('{"score": NaN}', "NaN"),
        ('{"score": Infinity}', "Infinity"),
        ("[" * 100_000, "characters long"),
        ('{"score": 7' + " " * 300 + "}", "characters long"),
    ],
)
def test_all_else_is_refused_with_the_reason(reply, why):
    with pytest.raises(Malformed, match=why):
        read_verdict(reply)


@given(st.text(max_size=300))
def test_no_text_does_anything_but_give_a_score_or_a_reason(reply):
    try:
        assert 1 <= read_verdict(reply) <= 10
    except Malformed as error:
        assert str(error)


def test_the_schema_allows_what_is_read_and_nothing_else():
    assert [read_verdict(json.dumps({"score": value})) for value in SCHEMA["properties"]["score"]["enum"]] == [
        float(value) for value in range(1, 11)
    ]
    assert SCHEMA["required"] == ["score"] and SCHEMA["additionalProperties"] is False
