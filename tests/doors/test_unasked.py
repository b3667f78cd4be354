"""What asks for nothing, and what does."""

from pathlib import Path

from vlserve.doors import unasked

DOCS = Path(__file__).parents[2] / "docs" / "openai.md"


def test_what_means_something_is_not_nothing() -> None:
    for name, value in (
        ("web_search_options", {}), ("web_search_options", {"user_location": None}),
        ("best_of", True), ("best_of", 2), ("echo", 0),
        ("reasoning", {"effort": "low"}), ("temprature", 0.0), ("background", True),
        ("reasoning", {"a": {"a": {"a": {"a": {"a": None}}}}}),
    ):  # fmt: skip
        assert not unasked.asks_nothing(name, value), (name, value)


def test_a_number_is_itself_in_either_form() -> None:
    assert unasked.asks_nothing("length_penalty", 1.0)
    assert unasked.asks_nothing("best_of", 1.0)


def test_the_document_lists_all_of_it() -> None:
    text = DOCS.read_text()
    names = (
        unasked.IGNORED_OF_REQUEST | unasked.IGNORED_OF_TURN | unasked.IGNORED_OF_PART
        | unasked.IGNORED_OF_SCHEMA | set(unasked.NOTHING)
    )  # fmt: skip
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
