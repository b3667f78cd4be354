"""Objects of a JSON schema that list their properties have no others.

To JSON schema a list of properties forbids nothing: a model that may invent keys does so until it
is cut short. Who lists them means these; who wants more says so by `additionalProperties`.
"""

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote

# Keywords by what stands in them: a schema, a list of schemas, schemas by name.
_ONE: Final = ("items", "additionalProperties", "additionalItems", "if", "then", "else")
_LISTS: Final = ("prefixItems", "items", "allOf", "anyOf", "oneOf")
_NAMED: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
# Those whose schemas are about the same value as the schema that they stand in.
_SAME: Final = ("if", "then", "else", "allOf", "anyOf", "oneOf", "dependentSchemas")
_TYPES: Final = ("type", "enum", "const")
_MORE: Final = ("additionalProperties", "unevaluatedProperties")
# Those by which a schema says something of an object's properties itself.
_OWN: Final = ("patternProperties", "required", *_MORE)
# Schemas that one walk looks at: each that is joint walks through whatever it refers to.
MAX_VISITS: Final = 20_000


def close_objects(schema: Any) -> Any:
    """The schema with `additionalProperties: false` in each object that lists `properties` and does
    not say otherwise; what lists them and has no type is an object. Where several schemas are about
    one object (`allOf`, or an `anyOf` beside `properties`) it has all their properties.

    Raises ValueError for a schema whose parts refer to each other too often or too far.
    """
    try:
        return _Closing(schema).whole()
    except RecursionError:
        raise ValueError("its references follow each other too far") from None


class _Closing:
    """One walk through one schema, which is left as it is."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._open: dict[str, str] = {}  # a reference, and that to its copy which is not closed
        self._copies: dict[str, Any] = {}
        self._num_visits = 0
        self._anchors = dict(_anchored(root))

    def whole(self) -> Any:
        made = self._of(self._root, is_closed=True)
        if self._copies:
            made["$defs"] = _named(made, "$defs") | self._copies
        return made

    def _of(self, schema: Any, *, is_closed: bool) -> Any:
        """A schema, itself closed or left open; what is in its values is closed in either case."""
        if not isinstance(schema, dict):
            return schema
        every = schema.get("allOf")
        parts = [key in schema for key in (*_SAME, "$ref")]
        parts.append(any(key in schema for key in _OWN))
        is_joint = isinstance(schema.get("properties"), dict)
        is_joint |= isinstance(every, list) and len(every) > 1
        is_joint |= sum(parts) > 1
        inner_closed = is_closed and not is_joint
        made: dict[str, Any] = {}
        for key, value in schema.items():
            each_closed = key not in _SAME or (inner_closed and key != "if")
            made[key] = self._in(key, value, is_closed=each_closed)
        if isinstance(schema.get("$ref"), str) and not inner_closed:
            made["$ref"] = self._opened(schema["$ref"])
        if is_closed and is_joint:
            self._close(schema, made)
        return made

    def _in(self, key: str, value: Any, *, is_closed: bool) -> Any:
        """What stands under a keyword, its schemas closed or left open."""
        if key in _ONE and isinstance(value, dict):
            return self._of(value, is_closed=is_closed)
        if key in _LISTS and isinstance(value, list):
            return [self._of(each, is_closed=is_closed) for each in value]
        if key in _NAMED and isinstance(value, dict):
            return {name: self._of(each, is_closed=is_closed) for name, each in value.items()}
        return value

    def _close(self, schema: Any, made: dict[str, Any]) -> None:
        every = list(self._joint(schema, set()))
        says_otherwise = any(key in each for each in every for key in _MORE)
        if says_otherwise or not any("properties" in each for each in every):
            return
        names: dict[str, Any] = {}
        patterns: dict[str, Any] = {}
        for each in every:
            names |= dict.fromkeys(_named(each, "properties"), True)
            patterns |= dict.fromkeys(_named(each, "patternProperties"), True)
            required = each.get("required")
            if isinstance(required, list):
                names |= {name: True for name in required if isinstance(name, str)}
        made["properties"] = names | _named(made, "properties")
        if patterns:
            made["patternProperties"] = patterns | _named(made, "patternProperties")
        made["additionalProperties"] = False
        if not any(key in each for each in every for key in _TYPES):
            made["type"] = "object"  # who lists properties means one

    def _joint(self, schema: Any, seen: set[str]) -> Iterator[dict[str, Any]]:
        """All schemas about the value that this one is about."""
        if not isinstance(schema, dict):
            return
        self._num_visits += 1
        if self._num_visits > MAX_VISITS:
            raise ValueError("its schemas refer to each other too often")
        yield schema
        for each in _about_the_same(schema):
            yield from self._joint(each, seen)
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference not in seen:
            seen.add(reference)
            yield from self._joint(self._target(reference), seen)

    def _target(self, reference: str) -> Any:
        """What a reference within the schema is to; None where it is to nothing of it."""
        if reference[1:] in self._anchors:
            return self._anchors[reference[1:]]
        here: Any = self._root
        path = reference.removeprefix("#").split("/")[1:]
        if not reference.startswith("#"):
            return None
        for step in map(unquote, path):
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(here, list) and name.isdecimal() and int(name) < len(here):
                here = here[int(name)]
            elif isinstance(here, dict) and name in here:
                here = here[name]
            else:
                return None
        return here

    def _opened(self, reference: str) -> str:
        """A reference to a copy of its target that is not closed, made once."""
        target = self._target(reference)
        if not isinstance(target, dict) or target is self._root:
            return reference
        if reference not in self._open:
            name = f"vlserve-open-{len(self._open)}"
            self._open[reference] = f"#/$defs/{name}"
            self._copies[name] = _without_anchors(self._of(target, is_closed=False))
        return self._open[reference]


def _anchored(schema: Any) -> Iterator[tuple[str, Any]]:
    """Each schema that has a name of its own to refer to it by, and that name."""
    if isinstance(schema, dict):
        if isinstance(schema.get("$anchor"), str):
            yield schema["$anchor"], schema
        schema = list(schema.values())
    if isinstance(schema, list):
        for each in schema:
            yield from _anchored(each)


def _without_anchors(schema: Any) -> Any:
    """A copy of a schema, which must not have the name of the first."""
    if isinstance(schema, dict):
        return {k: _without_anchors(each) for k, each in schema.items() if k != "$anchor"}
    return [_without_anchors(each) for each in schema] if isinstance(schema, list) else schema


def _about_the_same(schema: dict[str, Any]) -> Iterator[Any]:
    for key in _SAME:
        value = schema.get(key)
        if key in _LISTS and isinstance(value, list):
            yield from value
        elif key in _NAMED and isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, dict):
            yield value


def _named(schema: dict[str, Any], key: str) -> dict[str, Any]:
    found = schema.get(key)
    return found if isinstance(found, dict) else {}
