"""Sampling parameters as Triton's clients write them: JSON in a tensor, or a call's parameters."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from vlserve.doors.fields import fields_named
from vlserve.doors.kserve.tensors import shown_name
from vlserve.doors.unasked import asks_nothing, is_empty
from vlserve.errors import ServeError, invalid
from vlserve.parameters import (
    NOT_UNICODE,
    Biases,
    Number,
    Rule,
    Seed,
    Texts,
    TokenIds,
    Whole,
    WholeOrOff,
    is_unicode,
)
from vlserve.settings import LimitSettings
from vlserve.types import (
    MEDIA_BOUNDS,
    SAMPLING,
    Guide,
    GuideKind,
    MediaBounds,
    SamplingParams,
)
from vlserve.words import shown

_MAX_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Given:
    """A value, and the path by which its caller knows it."""

    value: object
    path: str


def written(text: bytes) -> dict[str, Given]:
    """What a `sampling_parameters` tensor says. Raises ServeError(INVALID_ARGUMENT)."""
    field = "sampling_parameters"
    if len(text) > _MAX_BYTES:
        raise invalid(field, f"must be at most {_MAX_BYTES} bytes, not {len(text)}")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise invalid(field, 'is not JSON: write an object, such as {"temperature": 0.5}') from None
    if not isinstance(values, dict):
        raise invalid(field, f"must be a JSON object, not {shown(values)}")
    return {name: Given(value, f"{field}.{shown_name(name)}") for name, value in values.items()}


def sampling(given: Mapping[str, Given], limits: LimitSettings) -> SamplingParams:
    """How the answer is sampled. What is null is as if it were left out.

    Raises ServeError(INVALID_ARGUMENT) naming the path of what is unknown or out of bounds.
    """
    values: dict[str, Any] = {"max_tokens": limits.default_max_tokens}
    guides: dict[str, Given] = {}
    for name, each in given.items():
        if name in MEDIA_BOUNDS:
            continue
        if name not in SAMPLING and name not in _GUIDES:
            if asks_nothing(name, each.value):
                continue
            raise invalid(each.path, "is no sampling parameter that is served here; leave it out")
        if is_empty(each.value):
            continue
        if name in _GUIDES:
            guides[name] = each
        else:
            values[name] = _READERS[type(SAMPLING[name])](each)
    with fields_named(names(given)):
        return SamplingParams(**values, guide=_guide(guides))


def left_to_model(given: Mapping[str, Given]) -> frozenset[str]:
    """The temperature of several answers, where none is given: greedily they would be one."""
    said = {name for name, each in given.items() if not is_empty(each.value)}
    return frozenset({"temperature"} if "n" in said and "temperature" not in said else ())


def media_bounds(given: Mapping[str, Given]) -> MediaBounds:
    """What the request may hold of pictures. What is null is as if it were left out.

    Raises ServeError(INVALID_ARGUMENT) naming the path of what is out of bounds.
    """
    values = {
        name: _whole(given[name])
        for name in MEDIA_BOUNDS
        if name in given and not is_empty(given[name].value)
    }
    with fields_named(names(given)):
        return MediaBounds(**values)


def names(given: Mapping[str, Given]) -> dict[str, str]:
    """What the caller calls our fields: their paths."""
    bounds = {f"media_bounds.{name}": given[name].path for name in MEDIA_BOUNDS if name in given}
    paths = {name: each.path for name, each in given.items() if name in SAMPLING}
    guide = next((given[name].path for name in _GUIDES if name in given), "guide")
    return paths | bounds | {"guide": guide}


def _guide(guides: Mapping[str, Given]) -> Guide | None:
    made = [guide for name, each in guides.items() if (guide := _GUIDES[name](each))]
    if len(made) > 1:
        raise invalid(list(guides.values())[1].path, "only one guide can be followed")
    return made[0] if made else None


def _wrong(given: Given, what: str) -> ServeError:
    return invalid(given.path, f"must be {what}, not {shown(given.value)}")


def _whole(given: Given) -> int:
    value = given.value
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        return int(value)
    except ValueError:
        raise _wrong(given, "a whole number") from None


def _number(given: Given) -> float:
    value = given.value
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        return float(value)
    except (ValueError, OverflowError):
        raise _wrong(given, "a number") from None


def _text(given: Given) -> str:
    if not isinstance(given.value, str):
        raise _wrong(given, "a text")
    if not is_unicode(given.value):
        raise invalid(given.path, NOT_UNICODE)
    return given.value


def _list(given: Given) -> list[Given]:
    if not isinstance(given.value, list):
        raise _wrong(given, "a list")
    return [Given(value, f"{given.path}[{i}]") for i, value in enumerate(given.value)]


def _texts(given: Given) -> tuple[str, ...]:
    return tuple(map(_text, _list(given)))


def _stop(given: Given) -> tuple[str, ...]:
    return (_text(given),) if isinstance(given.value, str) else _texts(given)


def _bias(given: Given) -> dict[int, float]:
    if not isinstance(given.value, dict):
        raise _wrong(given, "an object of token ids and numbers")
    return {
        _whole(Given(token, given.path)): _number(Given(bias, f"{given.path}.{shown_name(token)}"))
        for token, bias in given.value.items()
    }


def _json_object(given: Given) -> Guide | None:
    if not isinstance(given.value, bool):
        raise _wrong(given, "true or false")
    return Guide(GuideKind.JSON_OBJECT) if given.value else None


def _json_schema(given: Given) -> Guide:
    schema = given.value if isinstance(given.value, str) else json.dumps(given.value)
    return Guide(GuideKind.JSON_SCHEMA, schema)


# By what a parameter is, whatever it is called. Values may be written as strings, as Triton's own
# example does.
_READERS: Final[dict[type[Rule], Callable[[Given], object]]] = {
    Whole: _whole,
    WholeOrOff: _whole,
    Seed: _whole,
    Number: _number,
    Texts: _stop,
    TokenIds: lambda given: tuple(map(_whole, _list(given))),
    Biases: _bias,
}
_GUIDES: Final[dict[str, Callable[[Given], Guide | None]]] = {
    "json_object": _json_object,
    "json_schema": _json_schema,
    "regex": lambda given: Guide(GuideKind.REGEX, _text(given)),
    "choice": lambda given: Guide(GuideKind.CHOICE, choices=_texts(given)),
}
