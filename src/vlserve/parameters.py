"""What a parameter of a request may be: one rule each, in its field's annotation.

The field of a dataclass says a parameter's name, type and default, its rule the range and the
description. Every door reads them, so that a parameter is written down once.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_type_hints

from vlserve.errors import invalid

NOT_UNICODE: Final = "must be Unicode text, without half of a surrogate pair"
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SHOWN_CHARACTERS: Final = 32
_OFF: Final = -1


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded: it holds no half of a surrogate pair."""
    return _SURROGATE.search(text) is None


def shown_number(value: float) -> str:
    """A number as an error shows it: alike, whichever width it had on the wire."""
    text = f"{value:.7g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


@dataclass(frozen=True, slots=True)
class Rule(ABC):
    """What is told of a parameter, and what it is held to."""

    text: str

    @abstractmethod
    def held(self, name: str, value: Any) -> Any:
        """The value as it is kept. Raises ServeError(INVALID_ARGUMENT) naming the parameter."""


@dataclass(frozen=True, slots=True)
class Whole(Rule):
    """A whole number from `minimum` to `maximum`, where there is one."""

    minimum: int
    maximum: int | None = None

    @property
    def least(self) -> int:
        """The least number that a caller may write."""
        return self.minimum

    def held(self, name: str, value: int) -> int | None:
        """The number."""
        _refuse_outside(name, value, self.minimum, self.maximum)
        return value


@dataclass(frozen=True, slots=True)
class WholeOrOff(Whole):
    """A whole number that is off at its minimum, or at -1, as vLLM writes it."""

    @property
    def least(self) -> int:
        """-1."""
        return _OFF

    def held(self, name: str, value: int) -> int | None:
        """The number, the minimum for -1."""
        return Whole.held(self, name, self.minimum if value == _OFF else value)


@dataclass(frozen=True, slots=True)
class Seed(Rule):
    """A seed from -`maximum` to `maximum`. -1 draws a fresh one, as for vLLM and LMDeploy; every
    other negative number stands for a seed of 0 or more, always the same."""

    maximum: int

    def held(self, name: str, value: int) -> int | None:
        """The seed, 0 or more, None for a fresh one."""
        _refuse_outside(name, value, -self.maximum, self.maximum)
        return None if value == _OFF else value % (self.maximum + 1)


@dataclass(frozen=True, slots=True)
class Number(Rule):
    """A number from `minimum` to `maximum`, without the minimum itself where it `is_above`."""

    minimum: float
    maximum: float
    is_above: bool = False

    def held(self, name: str, value: float) -> float:
        """The number."""
        if self.is_above and not self.minimum < value <= self.maximum:
            allowed = f"must be above {self.minimum:g} and at most {self.maximum:g}"
            raise invalid(name, f"{allowed}, not {shown_number(value)}")
        _refuse_outside(name, value, self.minimum, self.maximum)
        return value


@dataclass(frozen=True, slots=True)
class Texts(Rule):
    """At most `max_items` texts of 1 to `max_characters` characters."""

    max_items: int
    max_characters: int

    def held(self, name: str, value: Collection[str]) -> tuple[str, ...]:
        """The texts."""
        _refuse_many(name, value, self.max_items, "texts")
        for text in value:
            if not 0 < len(text) <= self.max_characters:
                allowed = f"each must have 1 to {self.max_characters} characters"
                raise invalid(name, f"{allowed}; one has {len(text)}")
            if not is_unicode(text):
                raise invalid(name, NOT_UNICODE)
        return tuple(value)


@dataclass(frozen=True, slots=True)
class TokenIds(Rule):
    """At most `max_items` token ids, from 0 to `max_id`."""

    max_items: int
    max_id: int

    def held(self, name: str, value: Collection[int]) -> tuple[int, ...]:
        """The ids."""
        _refuse_many(name, value, self.max_items, "tokens")
        _refuse_no_ids(name, value, self.max_id)
        return tuple(value)


@dataclass(frozen=True, slots=True)
class Biases(Rule):
    """At most `max_items` token ids, from 0 to `max_id`, each with a number from -`most` to
    `most`."""

    max_items: int
    max_id: int
    most: float

    def held(self, name: str, value: Mapping[int, float]) -> dict[int, float]:
        """The numbers by token id."""
        _refuse_many(name, value, self.max_items, "tokens")
        _refuse_no_ids(name, value, self.max_id)
        for token_id, bias in value.items():
            if not -self.most <= bias <= self.most:
                allowed = f"each must be between -{self.most:g} and {self.most:g}"
                raise invalid(name, f"{allowed}; that of {token_id} is {shown_number(bias)}")
        return dict(value)


def rules(kind: type) -> dict[str, Rule]:
    """The rule of each field of a dataclass that has one."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        name: rule
        for name, hint in hints.items()
        for rule in getattr(hint, "__metadata__", ())
        if isinstance(rule, Rule)
    }


def hold(parameters: object, rules: Mapping[str, Rule], path: str = "") -> None:
    """Hold each field of a new instance to its rule, but for those that are None.

    Raises ServeError(INVALID_ARGUMENT) naming the field, behind `path`.
    """
    for name, rule in rules.items():
        value = getattr(parameters, name)
        if value is not None:
            object.__setattr__(parameters, name, rule.held(f"{path}{name}", value))


def _refuse_outside(name: str, value: float, minimum: float, maximum: float | None) -> None:
    if maximum is None:
        if not value >= minimum:
            raise invalid(name, f"must be at least {minimum}, not {shown_number(value)}")
    elif not minimum <= value <= maximum:
        allowed = f"must be between {minimum} and {maximum}"
        raise invalid(name, f"{allowed}, not {shown_number(value)}")


def _refuse_many(name: str, value: Collection[object], most: int, what: str) -> None:
    if len(value) > most:
        raise invalid(name, f"must hold at most {most} {what}, not {len(value)}")


def _refuse_no_ids(name: str, value: Collection[int], max_id: int) -> None:
    for token_id in value:
        if not 0 <= token_id <= max_id:
            allowed = f"each token id must be between 0 and {max_id}"
            raise invalid(name, f"{allowed}, not {shown_number(token_id)}")
