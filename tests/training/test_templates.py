import random

import pytest

from training.grammar import phrase, phrases
from training.held_out import HELD_OUT
from training.pairs import _BOTH, _BOTH_HELD_OUT
from training.questions import FORMS, KINDS, ask, description
from training.references import Reference
from training.templates import TRAINED
from training.world import Scene, Thing

SCENE = Scene((Thing(0, 0, 1, 0), Thing(3, 2, 0, 7), Thing(3, 0, 0, 5)))


def plain(text: str) -> str:
    return " ".join(text.lower().rstrip("?.! ").split())


@pytest.mark.parametrize("form", sorted(TRAINED))
def test_held_out_phrasings_are_never_trained(form: str) -> None:
    trained = {plain(p) for pattern in TRAINED[form] for p in phrases(pattern)}
    held_out = {plain(p) for p in HELD_OUT[form]}
    assert len(held_out) >= 3
    assert not trained & held_out


def test_held_out_phrasings_about_both_pictures_are_never_trained() -> None:
    trained = {plain(p) for pattern in _BOTH for p in phrases(pattern)}
    assert not trained & {plain(p) for p in _BOTH_HELD_OUT}


def test_every_form_has_phrasings() -> None:
    assert set(FORMS) <= set(TRAINED)
    assert set(TRAINED) == set(HELD_OUT)


def test_the_documented_prompt_is_trained() -> None:
    trained = {p for pattern in TRAINED["describe.whole"] for p in phrases(pattern)}
    assert "describe the image" in trained


def test_phrase_is_one_of_phrases() -> None:
    rng = random.Random(0)
    for patterns in TRAINED.values():
        for pattern in patterns:
            blanks = {s: "{" + s + "}" for s in SLOTS}
            assert phrase(pattern, rng, **blanks) in phrases(pattern)


SLOTS = ("the", "other", "bare", "a", "plural", "at", "value", "side", "more")


def test_description_names_every_shape_in_reading_order() -> None:
    assert description(SCENE) == (
        "a large red circle at the top left, a small red star at the right"
        " and a small blue star at the bottom."
    )
    assert description(Scene()) == "an empty picture."
    assert description(Scene(text="HELLO")) == 'the text "HELLO".'


def test_nobody_asks_where_one_of_two_twins_is() -> None:
    rng = random.Random(0)
    twins = Scene((Thing(0, 0, 1, 0), Thing(0, 0, 1, 8)))
    turns = [ask(twins, "where", rng) for _ in range(200)]
    answers = {turn.answer for turn in turns if turn is not None}
    assert answers
    assert all(answer.startswith("There is no ") for answer in answers)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_asked_seen_and_held_out(kind: str) -> None:
    rng = random.Random(kind)
    for held_out in (False, True):
        assert any(ask(SCENE, kind, rng, held_out) for _ in range(50))


def test_answers_follow_the_scene() -> None:
    rng = random.Random(3)
    for _ in range(300):
        turn = ask(SCENE, "count", rng)
        assert turn is not None
        if turn.form == "count.all":
            assert turn.answer == "3"
    assert Reference(shape=3).found(SCENE) == 2
    assert Reference(shape=3, colour=2).found(SCENE) == 1
