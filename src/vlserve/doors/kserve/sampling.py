"""Sampling parameters as Triton's clients write them: JSON in a tensor, or a call's parameters."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from vlserve.doors.kserve.tensors import shown
from vlserve.errors import ServeError, invalid
from vlserve.settings import LimitSettings
from vlserve.types import (
    MAX_SEED,
    NOT_UNICODE,
    Guide,
    GuideKind,
    MediaBounds,
    SamplingParams,
    is_unicode,
)

_MAX_BYTES: Final = 256 * 1024
_MAX_WHOLE: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Given:
    """A value, and the path by which its caller knows it."""

    value: object
    path: str


def written(text: bytes) -> dict[str, Given]:
    """What a `sampling_parameters` tensor says. Raises ServeError(INVALID_ARGUMENT)."""
    field = "sampling_parameters"
    if len(text) > _MAX_BYTES:
        raise invalid(field, f"must be at most {_MAX_BYTES} bytes")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise invalid(field, "is not JSON") from None
    if not isinstance(values, dict):
        raise invalid(field, "must be a JSON object")
    return {name: Given(value, f"{field}.{shown(name)}") for name, value in values.items()}


def sampling(given: Mapping[str, Given], limits: LimitSettings) -> SamplingParams:
    """How the answer is sampled. What is null is as if it were left out.

    Raises ServeError(INVALID_ARGUMENT) naming the path of what is unknown or out of bounds.
    """
    values: dict[str, Any] = {"max_tokens": limits.default_max_tokens}
    guides: dict[str, Given] = {}
    for name, each in given.items():
        if name in _BOUNDS:
            continue
        if name not in _READERS and name not in _GUIDES:
            raise invalid(each.path, "is no sampling parameter that is served here")
        if each.value is None:
            continue
        if name in _GUIDES:
            guides[name] = each
        else:
            values[name] = _READERS[name](each)
    try:
        return SamplingParams(**values, guide=_guide(guides))
    except ServeError as error:
        raise invalid(callers_field(given, error.field or ""), error.message) from None


def media_bounds(given: Mapping[str, Given]) -> MediaBounds:
    """What the request may hold of pictures. What is null is as if it were left out.

    Raises ServeError(INVALID_ARGUMENT) naming the path of what is out of bounds.
    """
    values = {
        name: _whole(given[name])
        for name in _BOUNDS
        if name in given and given[name].value is not None
    }
    try:
        return MediaBounds(**values)
    except ServeError as error:
        raise invalid(callers_field(given, error.field or ""), error.message) from None


def callers_field(given: Mapping[str, Given], field: str) -> str:
    """The path of a field of SamplingParams or MediaBounds; of any other field itself."""
    names = _GUIDES if field == "guide" else {field.removeprefix("media_bounds.")}
    return next((given[name].path for name in names if name in given), field)


def _guide(guides: Mapping[str, Given]) -> Guide | None:
    made = [guide for name, each in guides.items() if (guide := _GUIDES[name](each))]
    if len(made) > 1:
        raise invalid(list(guides.values())[1].path, "only one guide can be followed")
    return made[0] if made else None


def _whole(given: Given, most: int = _MAX_WHOLE) -> int:
    value = given.value
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        number = int(value)
    except ValueError:
        raise invalid(given.path, "must be a whole number") from None
    if abs(number) > most:
        raise invalid(given.path, f"must be at most {most}")
    return number


def _seed(given: Given) -> int:
    return _whole(given, MAX_SEED)


def _number(given: Given) -> float:
    value = given.value
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        return float(value)
    except (ValueError, OverflowError):
        raise invalid(given.path, "must be a number") from None


def _text(given: Given) -> str:
    if not isinstance(given.value, str):
        raise invalid(given.path, "must be a string")
    if not is_unicode(given.value):
        raise invalid(given.path, NOT_UNICODE)
    return given.value


def _list(given: Given) -> list[Given]:
    if not isinstance(given.value, list):
        raise invalid(given.path, "must be a list")
    return [Given(value, f"{given.path}[{i}]") for i, value in enumerate(given.value)]


def _texts(given: Given) -> tuple[str, ...]:
    return tuple(map(_text, _list(given)))


def _stop(given: Given) -> tuple[str, ...]:
    return (_text(given),) if isinstance(given.value, str) else _texts(given)


def _bias(given: Given) -> dict[int, float]:
    if not isinstance(given.value, dict):
        raise invalid(given.path, "must map token ids to numbers")
    return {
        _whole(Given(token, given.path)): _number(Given(bias, f"{given.path}.{shown(token)}"))
        for token, bias in given.value.items()
    }


def _json_object(given: Given) -> Guide | None:
    if not isinstance(given.value, bool):
        raise invalid(given.path, "must be true or false")
    return Guide(GuideKind.JSON_OBJECT) if given.value else None


def _json_schema(given: Given) -> Guide:
    schema = given.value if isinstance(given.value, str) else json.dumps(given.value)
    return Guide(GuideKind.JSON_SCHEMA, schema)


# Each by the name that VisionService gives it, which is mostly vLLM's. Values may be written as
# strings, as Triton's own example does.
_READERS: Final[dict[str, Callable[[Given], object]]] = {
    "max_tokens": _whole,
    "min_tokens": _whole,
    "top_k": _whole,
    "n": _whole,
    "seed": _seed,
    "temperature": _number,
    "top_p": _number,
    "min_p": _number,
    "presence_penalty": _number,
    "frequency_penalty": _number,
    "repetition_penalty": _number,
    "stop": _stop,
    "stop_token_ids": lambda given: tuple(map(_whole, _list(given))),
    "logit_bias": _bias,
}
_BOUNDS: Final = tuple(field.name for field in fields(MediaBounds))
_GUIDES: Final[dict[str, Callable[[Given], Guide | None]]] = {
    "json_object": _json_object,
    "json_schema": _json_schema,
    "regex": lambda given: Guide(GuideKind.REGEX, _text(given)),
    "choice": lambda given: Guide(GuideKind.CHOICE, choices=_texts(given)),
}
