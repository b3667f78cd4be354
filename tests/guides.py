"""Random schemas and expressions, each with answers that end soon; and guides that are bad."""

import json
import random
from typing import Any

from vlserve.types import Guide, GuideKind

NAMES = ("a", "name", "colour", "größe", "x y", "id-7")
WORDS = ("red", "blue", "naïve", "東京", 'a "quoted" one', "back\\slash", "")
DEPTH = 10_000
# Not \w, of which Python and Unicode think differently.
ATOMS = ("a", "Z", "7", "[a-f]", r"[^\n]", r"\d", r"\.", "é", "[東京]", "[A-Z0-9_]", " ", "-", "/")


def schema(rng: random.Random) -> dict[str, Any]:
    """A JSON schema of up to three levels."""
    whole = _value(rng, depth=3)
    if rng.random() < 0.2:
        return {
            "$defs": {"part": _value(rng, depth=1)},
            "type": "array",
            "prefixItems": [{"$ref": "#/$defs/part"}, whole],
            "items": False,
            "minItems": 2,
        }
    return whole


def _value(rng: random.Random, depth: int) -> dict[str, Any]:
    kinds = [_integer, _string, _boolean, _null, _enum, _const]
    if depth:
        kinds += [_object, _object, _array, _any_of]
    return rng.choice(kinds)(rng, depth)


def _integer(rng: random.Random, _: int) -> dict[str, Any]:
    low = rng.randint(-500, 500)
    high = low + rng.randint(0, 1000)
    if rng.random() < 0.3:
        return {"type": "integer", "exclusiveMinimum": low - 1, "exclusiveMaximum": high + 1}
    return {"type": "integer", "minimum": low, "maximum": high}


def _string(rng: random.Random, _: int) -> dict[str, Any]:
    low = rng.randint(0, 3)
    return rng.choice(
        [
            {"type": "string", "minLength": low, "maxLength": low + rng.randint(0, 5)},
            {"type": "string", "pattern": "^[a-z]{1,4}(-[0-9]{2})?$"},
            {"type": "string", "format": "date"},
        ]
    )


def _boolean(_: random.Random, __: int) -> dict[str, Any]:
    return {"type": "boolean"}


def _null(_: random.Random, __: int) -> dict[str, Any]:
    return {"type": "null"}


def _enum(rng: random.Random, _: int) -> dict[str, Any]:
    return {"enum": [*rng.sample(WORDS, rng.randint(1, 4)), rng.choice([1, 2.5, None, True])]}


def _const(rng: random.Random, _: int) -> dict[str, Any]:
    return {"const": rng.choice([*WORDS, 7, -0.5, None, False, ["x", 1]])}


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(NAMES, rng.randint(0, 3))
    return {
        "type": "object",
        "properties": {name: _value(rng, depth - 1) for name in names},
        "required": [name for name in names if rng.random() < 0.6],
        "additionalProperties": False,
    }


def _array(rng: random.Random, depth: int) -> dict[str, Any]:
    low = rng.randint(0, 2)
    return {
        "type": "array",
        "items": _value(rng, depth - 1),
        "minItems": low,
        "maxItems": low + rng.randint(0, 1),
    }


def _any_of(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_value(rng, depth - 1) for _ in range(rng.randint(2, 3))]}


def regex(rng: random.Random, depth: int = 2) -> str:
    """An expression that Python's re reads the same way."""
    return "".join(_piece(rng, depth) for _ in range(rng.randint(1, 4)))


def _piece(rng: random.Random, depth: int) -> str:
    atoms = [
        "a",
        "Z",
        "7",
        "[a-f]",
        r"[^\n]",
        r"\d",
        r"\.",
        "é",
        "[東京]",
        "[A-Za-z0-9_]",
        " ",
        "-",
        "/",
    ]
    atom = rng.choice(atoms)
    if depth and rng.random() < 0.4:
        atom = "(" + "|".join(regex(rng, depth - 1) for _ in range(rng.randint(1, 3))) + ")"
    low = rng.randint(0, 2)
    return atom + rng.choice(["", "", "?", f"{{{low},{low + rng.randint(1, 2)}}}"])


def bad_guides() -> dict[str, Guide]:
    """What cannot be followed, by what is wrong with it."""
    refused = {
        "no JSON": '{"type": ',
        "no object": "[]",
        "nested 10,000 deep": '{"enum": [' + "[" * DEPTH + "]" * DEPTH + "]}",
        "a type that is none": '{"type": "colour"}',
        "a type that is a number": '{"type": 3}',
        "if": '{"if": {"type": "string"}, "then": {}}',
        "not": '{"not": {"type": "string"}}',
        "uniqueItems": '{"type": "array", "uniqueItems": true}',
        "contains": '{"type": "array", "contains": {"type": "integer"}}',
        "a $ref elsewhere": '{"$ref": "http://example.com/schema.json"}',
        "a $ref to a file": '{"$ref": "file:///etc/passwd"}',
        "a $ref to nothing": '{"$ref": "#/$defs/nothing"}',
        "a $ref to itself": '{"$ref": "#"}',
        "a format that is none": '{"type": "string", "format": "nope"}',
        "oneOf that overlaps": '{"oneOf": [{"type": "integer"}, {"type": "number"}]}',
        "nothing fits": '{"type": "integer", "minimum": 5, "maximum": 1}',
        "an empty enum": '{"enum": []}',
        "look-ahead in a pattern": '{"type": "string", "pattern": "(?=a)b"}',
        "an unknown option": '{"type": "object", "x-guidance": {"none": 1}}',
        "2,000 optional names": json.dumps(
            {"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(2000)}}
        ),
        "a multiple of a large prime": '{"type": "integer", "multipleOf": 1000003}',
    }
    expressions = {
        "an open class": "[",
        "look-ahead": "(?=a)b",
        "a back-reference": r"(a)\1",
        "a word boundary": r"\bword\b",
        "nested 5,000 deep": "(" * 5000 + "a" + ")" * 5000,
        "nothing matches": r"[^\s\S]",
        "exponential": "(a?){5000}a{5000}",
    }
    return {name: Guide(GuideKind.JSON_SCHEMA, text) for name, text in refused.items()} | {
        f"regex: {name}": Guide(GuideKind.REGEX, text) for name, text in expressions.items()
    }


def large_guides() -> dict[str, Guide]:
    """What looks too expensive and is not: followed lazily, a token at a time."""
    return {
        "{1,1000000}": Guide(GuideKind.REGEX, "(ab){1,1000000}"),
        "a pattern {1,1000000}": Guide(
            GuideKind.JSON_SCHEMA, '{"type": "string", "pattern": "^(ab){1,1000000}$"}'
        ),
        "2^20 states": Guide(GuideKind.REGEX, "(a|b)*a(a|b){20}"),
        "an enum of 5,000": Guide(
            GuideKind.JSON_SCHEMA, json.dumps({"enum": [f"word {i}" for i in range(5000)]})
        ),
        "4,000 choices": Guide(GuideKind.CHOICE, choices=tuple(f"choice {i}" for i in range(4000))),
    }
