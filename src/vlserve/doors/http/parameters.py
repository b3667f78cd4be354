"""A table of parameters as fields of a body: read and documented from their rules."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field, create_model

from vlserve.doors.http.body_model import Said, Text
from vlserve.errors import invalid
from vlserve.parameters import Biases, Number, Rule, Seed, Texts, TokenIds, Whole
from vlserve.types import MAX_TOKEN_ID

Body = TypeVar("Body", bound=Said)
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
_Texts: Any = Text | Annotated[list[Text], Field(fail_fast=True)]
_TokenIds: Any = Annotated[list[TokenId], Field(fail_fast=True)]
_MAX_DIGITS: Final = 20


def with_parameters(parameters: Mapping[str, Rule]) -> Callable[[type[Body]], type[Body]]:
    """Gives a body a field for each, by its name there. The bounds are told, not held: values out
    of bounds are refused by the rules, as at every door."""

    def extended(kind: type[Body]) -> type[Body]:
        fields: dict[str, Any] = {name: _field(rule) for name, rule in parameters.items()}
        return create_model(
            kind.__name__,
            __base__=kind,
            __module__=kind.__module__,
            __doc__=kind.__doc__,
            **fields,
        )

    return extended


def given_parameters(body: Said, parameters: Mapping[str, Rule]) -> dict[str, Any]:
    """Those that the caller gave. The others keep the default that every door shares.

    Raises ServeError(INVALID_ARGUMENT) naming what is no map of token ids to numbers.
    """
    values = {name: getattr(body, name) for name in parameters}
    return {
        name: _value(name, parameters[name], value)
        for name, value in values.items()
        if value is not None
    }


def _field(rule: Rule) -> tuple[Any, Any]:
    kind, bounds = _told(rule)
    return kind | None, Field(None, description=rule.text, json_schema_extra=bounds)


def _told(rule: Rule) -> tuple[Any, dict[str, Any]]:
    """What a rule is in JSON, and its bounds for the document."""
    match rule:
        case Whole():
            most = {} if rule.maximum is None else {"maximum": rule.maximum}
            return int, {"minimum": rule.least} | most
        case Seed():
            return int, {"minimum": -rule.maximum, "maximum": rule.maximum}
        case Number():
            least = "exclusiveMinimum" if rule.is_above else "minimum"
            return float, {least: rule.minimum, "maximum": rule.maximum}
        case Texts():
            lengths = {"minLength": 1, "maxLength": rule.max_characters}
            return _Texts, {**lengths, "maxItems": rule.max_items}
        case TokenIds():
            return _TokenIds, {"maxItems": rule.max_items}
        case Biases():
            each: dict[str, Any] = {"type": "number", "minimum": -rule.most, "maximum": rule.most}
            return dict[str, Any], {"maxProperties": rule.max_items, "additionalProperties": each}
    raise AssertionError(f"no form in JSON: {rule}")


def _value(name: str, rule: Rule, value: Any) -> Any:
    if isinstance(rule, Texts):
        return (value,) if isinstance(value, str) else value
    if isinstance(rule, Biases):
        return {_token_id(name, key): _bias(name, key, bias) for key, bias in value.items()}
    return value


def _token_id(name: str, key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) <= _MAX_DIGITS):
        raise invalid(name, "each name must be a token id, in digits")
    return int(key)


def _bias(name: str, key: str, bias: object) -> float:
    if isinstance(bias, bool) or not isinstance(bias, int | float):
        raise invalid(name, f"each must be a number; that of {key} is none")
    return bias
