"""An object that lists its properties has no others, wherever it stands in a schema."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest

from tests.asked import request
from tests.engines.collect import answer, running
from tests.tiny_model import tiny_tokenizer
from vlserve.engines.native.text.closed_schema import close_objects
from vlserve.engines.native.text.grammar import json_grammar, matcher
from vlserve.engines.native.text.vocabulary import Vocabulary
from vlserve.types import FinishReason, Guide, GuideKind, SamplingParams

TEXT: Final = {"type": "string", "maxLength": 3}
WITH_A: Final = {"type": "object", "properties": {"a": TEXT}}
WITH_B: Final = {"type": "object", "properties": {"b": TEXT}}
DEFINED: Final = {"$defs": {"P": WITH_A}}
AN_A: Final = {"$ref": "#/$defs/P"}
# A schema, what fits it, and what does not.
CASES: Final[dict[str, tuple[Any, list[str], list[str]]]] = {
    "listed": (WITH_A, ['{"a":"x"}', "{}"], ['{"b":1}', '{"a":"x","z":1}']),
    "without a type": ({"properties": {"a": TEXT}}, ['{"a":"x"}'], ['{"b":1}', '"x"', "7"]),
    "none listed": ({"type": "object", "properties": {}}, ["{}"], ['{"a":1}']),
    "no list": ({"type": "object"}, ['{"a":1}'], []),
    "open": (WITH_A | {"additionalProperties": True}, ['{"a":"x","b":1}'], []),
    "open to numbers": (
        WITH_A | {"additionalProperties": {"type": "integer"}}, ['{"a":"x","b":1}'], ['{"b":"x"}'],
    ),
    "nested": (
        {"type": "object", "properties": {"o": WITH_A}}, ['{"o":{"a":"x"}}'], ['{"o":{"b":1}}'],
    ),
    "in what is open": (
        {"type": "object", "additionalProperties": WITH_A}, ['{"o":{"a":"x"}}'], ['{"o":{"b":1}}'],
    ),
    "items": ({"type": "array", "items": WITH_A}, ['[{"a":"x"}]'], ['[{"b":1}]']),
    "prefixItems": ({"type": "array", "prefixItems": [WITH_A]}, ['[{"a":"x"}]'], ['[{"b":1}]']),
    "anyOf": ({"anyOf": [WITH_A, WITH_B]}, ['{"a":"x"}', '{"b":"y"}'], ['{"c":1}']),
    "$defs": (
        DEFINED | {"type": "object", "properties": {"p": AN_A}},
        ['{"p":{"a":"x"}}'], ['{"p":{"b":1}}'],
    ),
    "a definition that holds itself": (
        {"$defs": {"N": {"type": "object", "properties": {"v": TEXT, "n": {"$ref": "#/$defs/N"}}}},
         "$ref": "#/$defs/N"},
        ['{"v":"x","n":{"v":"y"}}'], ['{"v":"x","n":{"w":1}}'],
    ),
    "allOf": ({"allOf": [WITH_A, WITH_B]}, ['{"a":"x","b":"y"}'], ['{"c":1}', '{"a":"x","c":1}']),
    "allOf of one beside anyOf": (
        DEFINED | {"allOf": [AN_A], "anyOf": [WITH_B]}, ['{"a":"x","b":"y"}'], ['{"a":"x","z":1}'],
    ),
    "anyOf beside oneOf": (
        {"type": "object", "anyOf": [WITH_A], "oneOf": [WITH_B]},
        ['{"a":"x","b":"y"}'], ['{"z":1}'],
    ),
    "anyOf beside required": (
        {"anyOf": [WITH_A], "required": ["a"]}, ['{"a":"x"}'], ["{}", '{"a":"x","z":1}'],
    ),
    "a definition, open": (
        DEFINED | {"allOf": [AN_A], "additionalProperties": True}, ['{"a":"x","z":1}'], [],
    ),
    "a definition by an escaped name": (
        {"$defs": {"P x": WITH_A}, "allOf": [{"$ref": "#/$defs/P%20x"}, WITH_B]},
        ['{"a":"x","b":"y"}'], ['{"z":1}'],
    ),
    "allOf of what an anchor names": (
        {"$defs": {"P": WITH_A | {"$anchor": "here"}}, "allOf": [{"$ref": "#here"}, WITH_B]},
        ['{"a":"x","b":"y"}'], ['{"a":"x","c":1}'],
    ),
    "allOf of one": (DEFINED | {"allOf": [AN_A]}, ['{"a":"x"}'], ['{"c":1}']),
    "allOf with a definition": (
        DEFINED | {"allOf": [AN_A, WITH_B]}, ['{"a":"x","b":"y"}'], ['{"a":"x","c":1}'],
    ),
    "a definition open and closed": (
        DEFINED | {"type": "object", "properties": {"p": AN_A, "q": {"allOf": [AN_A, WITH_B]}}},
        ['{"p":{"a":"x"},"q":{"a":"x","b":"y"}}'], ['{"p":{"b":"x"}}', '{"q":{"c":1}}'],
    ),
    "anyOf beside a list": (
        WITH_A | {"anyOf": [WITH_B | {"required": ["b"]}, {"required": ["a"]}]},
        ['{"a":"x","b":"y"}', '{"a":"x"}'], ['{"a":"x","z":1}'],
    ),
    "required and not listed": (
        WITH_A | {"required": ["b"]}, ['{"a":"x","b":1}'], ['{"b":1,"c":2}'],
    ),
    "patterns": (
        WITH_A | {"patternProperties": {"^x": TEXT}}, ['{"a":"x","x1":"y"}'], ['{"q":"a"}'],
    ),
    "a property of that name": (
        {"type": "object", "properties": {"properties": WITH_A}},
        ['{"properties":{"a":"x"}}'], ['{"properties":{"b":1}}'],
    ),
    "a value that looks like one": ({"const": {"properties": {}}}, ['{"properties":{}}'], []),
}  # fmt: skip
SPACED: Final = {
    '{ "a":"x"}': True,
    '{\n  "a": "x"\n}': True,
    '{"a":"x"\n                }': True,
    '{  "a":"x"}': False,
    '{\n\n"a":"x"}': False,
    '{"a":"x"\n                 }': False,
    '{"a":\t"x"}': False,
    '{"a":"x"} ': False,
    ' {"a":"x"}': False,
}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(tiny_tokenizer().backend_tokenizer, 340, frozenset([2]))


def fits(vocabulary: Vocabulary, schema: Any, text: str) -> bool:
    """Whether an answer may be that text."""
    assert vocabulary.trie is not None
    walker = matcher(vocabulary.trie, json_grammar(json.dumps(schema)))
    assert not walker.is_error(), walker.get_error()
    ids = tiny_tokenizer().encode(text, add_special_tokens=False)
    if walker.validate_tokens(ids) < len(ids):
        return False
    walker.consume_tokens(ids)
    return bool(walker.is_accepting())


@pytest.mark.parametrize("name", CASES)
def test_listed_properties_are_all_that_there_are(name: str, vocabulary: Vocabulary) -> None:
    schema, fitting, others = CASES[name]
    before = json.dumps(schema)
    assert [text for text in fitting if not fits(vocabulary, schema, text)] == []
    assert [text for text in others if fits(vocabulary, schema, text)] == []
    for text in fitting:  # closed, it is none that the caller's own would refuse
        jsonschema.validate(json.loads(text), schema)
        jsonschema.validate(json.loads(text), close_objects(schema))
    assert json.dumps(schema) == before


@pytest.mark.parametrize("text", SPACED)
def test_white_space_is_bounded(text: str, vocabulary: Vocabulary) -> None:
    assert fits(vocabulary, WITH_A, text) == SPACED[text]


async def test_no_key_is_invented(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Drawn hot, from a model of random weights, which invents whatever it may."""
    more = {
        "open to numbers",
        "anyOf beside a list",  # where a branch says nothing of a key, its value may be anything
        "in what is open",
        "required and not listed",
        "patterns",
        "prefixItems",
    }
    listing = [name for name, (_, _, others) in CASES.items() if others and name not in more]
    requests = [
        request(
            random.Random(i),
            str(i),
            num_images=0,
            sampling=SamplingParams(
                max_tokens=400,
                temperature=1.5,
                seed=i,
                guide=Guide(GuideKind.JSON_SCHEMA, json.dumps(CASES[listing[i % len(listing)]][0])),
            ),
        )
        for i in range(60)
    ]
    async with running(tiny_folder, max_running=16) as engine:
        got = await asyncio.gather(*(answer(engine, each) for each in requests))
    num_good, cut = 0, []
    for i, each in enumerate(got):
        if each.finish_reason is FinishReason.STOP:
            schema = close_objects(CASES[listing[i % len(listing)]][0])
            num_good += jsonschema.Draft202012Validator(schema).is_valid(json.loads(each.text))
        else:
            cut.append((listing[i % len(listing)], each.text))
    with capsys.disabled():
        print(f"answers without an invented key: {num_good} of {len(got)}")
    assert num_good == len(got), cut


def crossed(num_schemas: int, num_branches: int) -> dict[str, Any]:
    """Many schemas that all refer to one of many branches."""
    many = {str(i): {"properties": {}, "$ref": "#/$defs/h"} for i in range(num_schemas)}
    return {"$defs": {"h": {"anyOf": [{}] * num_branches}} | many, "type": "object"}


def chain(length: int) -> dict[str, Any]:
    """Definitions that refer to each other in a row, and an object that is all of them."""
    links: dict[str, Any] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(length)}
    first = {"$ref": "#/$defs/d0", "type": "object", "properties": {"b": {}}}
    return first | {"$defs": links | {f"d{length}": WITH_A}}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (crossed(300, 8_000), "its schemas refer to each other too often"),
        (chain(5_000), "its references follow each other too far"),
    ],
)
def test_what_would_take_seconds_to_close_is_refused(schema: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        close_objects(schema)
    assert close_objects(crossed(3, 8))
    assert close_objects(chain(3))
