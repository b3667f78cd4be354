"""What pydantic found wrong with a value, in our words."""

import json
from collections.abc import Mapping
from typing import Any, Final

from vlserve.parameters import shown_number

_SHOWN_CHARACTERS: Final = 32
# What a value of each type must be. `union` errors come one by one, and are said together.
_TYPES: Final = {
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "an object",
    "float_type": "a number",
    "float_parsing": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_attributes_type": "an object",
    "model_type": "an object",
    "none_required": "null",
    "string_type": "a text",
}
# The rest, by the names that pydantic gives its own bounds.
_SENTENCES: Final = {
    "extra_forbidden": "is not served here; leave it out",
    "finite_number": "must be a finite number",
    "greater_than": "must be above {gt}, not {value}",
    "greater_than_equal": "must be at least {ge}, not {value}",
    "invalid_key": "each name must be a text",
    "less_than": "must be below {lt}, not {value}",
    "less_than_equal": "must be at most {le}, not {value}",
    "literal_error": "must be {expected}, not {value}",
    "missing": "is required",
    "string_unicode": "must be Unicode text, without half of a surrogate pair",
    "too_long": "must hold at most {max_length}, not {num}",
    "too_short": "must hold at least {min_length}, not {num}",
    "union_tag_invalid": "must be one of {expected_tags}, not {value}",
    "union_tag_not_found": "is required",
    "value_error": "{error}",
}
TYPES: Final = frozenset(_TYPES)
KINDS: Final = TYPES | frozenset(_SENTENCES)


def sentence(kinds: list[str], context: Mapping[str, Any], value: object) -> str:
    """What is wrong with `value`: it is none of what it may be. `kinds` are pydantic's names for
    it, of which a union has one each, `context` what it says of the first."""
    kind = kinds[0]
    if kind in _TYPES:
        allowed = dict.fromkeys(_TYPES[each] for each in kinds if each in _TYPES)
        return f"must be {' or '.join(allowed)}, not {shown(value)}"
    template = _SENTENCES.get(kind, "is not what is allowed here: {value}")
    num = len(value) if isinstance(value, list | dict | str) else 0
    bounds = {n: shown_number(b) if isinstance(b, float) else b for n, b in context.items()}
    return template.format_map({**bounds, "value": shown(value), "num": num})


def shown(value: object) -> str:
    """A value as an error shows it: short, and nothing of what is in it."""
    match value:
        case bool() | None:
            return json.dumps(value)
        case int() | float():
            return shown_number(value)
        case str():
            more = "..." if len(value) > _SHOWN_CHARACTERS else ""
            begin = value[:_SHOWN_CHARACTERS].encode(errors="replace").decode()
            return f"{json.dumps(begin, ensure_ascii=False)}{more}"
        case list():
            return "a list"
        case _:
            return "an object"
