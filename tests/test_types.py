"""Bounds of what a request may ask for."""

from typing import Any

import pytest

from vlserve.errors import Code, ServeError
from vlserve.types import (
    MAX_GUIDE_CHARACTERS,
    Guide,
    GuideKind,
    SamplingParams,
    Usage,
    total_usage,
)

SCHEMA, REGEX, CHOICE = GuideKind.JSON_SCHEMA, GuideKind.REGEX, GuideKind.CHOICE
LONG = "x" * (MAX_GUIDE_CHARACTERS // 2)


@pytest.mark.parametrize(
    ("name", "value"), [("n", 0), ("n", 17), ("logprobs", -1), ("logprobs", 21)]
)
def test_a_value_out_of_bounds_is_named(name: str, value: int) -> None:
    inside: dict[str, Any] = {name: value + (1 if value < 1 else -1)}
    SamplingParams(**inside)
    with pytest.raises(ServeError) as caught:
        SamplingParams(**{name: value})  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.field) == (Code.INVALID_ARGUMENT, name)


@pytest.mark.parametrize(
    ("kind", "text", "choices"),
    [
        (SCHEMA, "", ()),
        (REGEX, "", ()),
        (REGEX, "a", ("b",)),
        (CHOICE, "", ()),
        (CHOICE, "a", ("b",)),
        (CHOICE, "", ("a", "")),
        (CHOICE, "", (LONG, LONG, "x")),
        (SCHEMA, 2 * LONG + "x", ()),
        (REGEX, "\ud800", ()),
        (CHOICE, "", ("a", "\udfff")),
        (GuideKind.JSON_OBJECT, "{}", ()),
    ],
)
def test_a_guide_that_makes_no_sense(kind: GuideKind, text: str, choices: tuple[str, ...]) -> None:
    with pytest.raises(ServeError) as caught:
        Guide(kind, text, choices)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_ARGUMENT, "guide")


def test_a_stop_string_is_unicode_text() -> None:
    SamplingParams(stop=("\ud7ff\ue000\x00😀",))
    with pytest.raises(ServeError) as caught:
        SamplingParams(stop=("a", "\ud83d"))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_ARGUMENT, "stop")


def test_guides_that_do() -> None:
    assert Guide(GuideKind.JSON_OBJECT) == Guide(GuideKind.JSON_OBJECT)
    assert Guide(CHOICE, choices=(LONG, LONG)) != Guide(REGEX, 2 * LONG)


def test_the_prompt_of_several_answers_counts_once() -> None:
    usages = [Usage(prompt_tokens=10, image_tokens=4, completion_tokens=n) for n in (1, 5, 7)]
    assert total_usage(usages) == Usage(10, 4, 13)
