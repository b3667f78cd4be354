"""Whatever turns a client sends, in every family and with every kind of chat template."""

import re
from collections.abc import Sequence
from typing import Final

import pytest

from tests.families import FAMILIES, SPECIAL, TINY, tokenizer
from vlserve.errors import ServeError
from vlserve.models.chat import ChatEncoder
from vlserve.types import Image, Message, Role

USER, ASSISTANT, SYSTEM = Role.USER, Role.ASSISTANT, Role.SYSTEM
PARTS: Final = (
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% endif %}{% endfor %}"
)
TURN: Final = "{{ message['role'] }}: " + PARTS + "{{ '\\n' }}"
LOOP: Final = "{% for message in messages %}"
REFUSED_UNLESS: Final = "{{% if not ({}) %}}{{{{ raise_exception('no') }}}}{{% endif %}}"
ALTERNATE: Final = REFUSED_UNLESS.format(
    "(message['role'] == 'user') == (loop.index0 % 2 == 0) and message['role'] != 'system'"
)
# As chat templates treat turns of the system.
TEMPLATES: Final = {
    "its own": None,
    "knows none": LOOP + ALTERNATE + TURN + "{% endfor %}",
    "drops it": LOOP + "{% if message['role'] != 'system' %}" + TURN + "{% endif %}{% endfor %}",
    "at first, into the user's": (
        "{% set first = '' %}{% if messages[0]['role'] == 'system' %}"
        "{% set first = messages[0]['content'][0]['text'] %}{% set messages = messages[1:] %}"
        "{% endif %}" + LOOP + ALTERNATE + "{% if loop.first %}{{ first }}{% endif %}" + TURN
        + "{% endfor %}"
    ),
    "at first, as a text": (
        "{% if messages[0]['role'] == 'system' %}{{ 'S: ' + messages[0]['content'] }}"
        "{% set messages = messages[1:] %}{% endif %}" + LOOP + ALTERNATE + TURN + "{% endfor %}"
    ),
    "anywhere, turns in turn": (
        LOOP + "{% if loop.previtem is defined and loop.previtem['role'] == message['role'] %}"
        "{{ raise_exception('no') }}{% endif %}" + TURN + "{% endfor %}"
    ),
}  # fmt: skip
CONVERSATIONS: Final[dict[str, list[tuple[Role, tuple[str, ...]]]]] = {
    "one": [(SYSTEM, ("s1",)), (USER, ("u1",))],
    "two": [(SYSTEM, ("s1",)), (SYSTEM, ("s2", " s3")), (USER, ("u1",))],
    "mid": [(USER, ("u1",)), (ASSISTANT, ("a1",)), (SYSTEM, ("s1",)), (USER, ("u2",))],
    "two in mid": [
        (SYSTEM, ("s1",)), (USER, ("u1",)), (ASSISTANT, ("a1",)), (SYSTEM, ("s2",)),
        (SYSTEM, ("s3",)), (USER, ("u2",)),
    ],
    "between the user's": [(USER, ("u1",)), (SYSTEM, ("s1",)), (USER, ("u2",))],
    "before an answer": [
        (USER, ("u1",)), (SYSTEM, ("s1",)), (ASSISTANT, ("a1",)), (USER, ("u2",)),
    ],
    "last": [(SYSTEM, ("s1",)), (USER, ("u1",)), (SYSTEM, ("s2",))],
    "empty": [(SYSTEM, ("",)), (USER, ("u1",))],
    "empty between": [(SYSTEM, ("s1",)), (SYSTEM, ()), (SYSTEM, ("s2",)), (USER, ("u1",))],
    "empty in mid": [(USER, ("u1",)), (ASSISTANT, ("a1",)), (SYSTEM, ()), (USER, ("u2",))],
    "an empty answer": [(USER, ("u1",)), (ASSISTANT, ("",)), (USER, ("u2",))],
    "no answer": [(USER, ("u1",)), (ASSISTANT, ()), (USER, ("u2",))],
    "the user twice": [(USER, ("u1",)), (USER, ("u2",))],
}  # fmt: skip


def encoder(family: str, template: str | None) -> ChatEncoder:
    _, processor = FAMILIES[family](tokenizer(family), TINY)
    if template is not None:
        processor.chat_template = template
    return ChatEncoder(processor, SPECIAL)


def written(chat: ChatEncoder, turns: Sequence[tuple[Role, tuple[str, ...]]]) -> str:
    messages: list[Message[Image]] = [Message(role, content) for role, content in turns]
    rendered, texts = chat.render(messages)
    return re.sub("\ue000([0-9]+)\ue001", lambda match: texts[int(match[1])], rendered)


@pytest.mark.parametrize("kind", TEMPLATES)
@pytest.mark.parametrize("family", FAMILIES)
def test_all_that_was_said_is_read_once_and_in_order(family: str, kind: str) -> None:
    chat = encoder(family, TEMPLATES[kind])
    for name, turns in CONVERSATIONS.items():
        said = re.findall(r"\b[sua]\d", " ".join("".join(content) for _, content in turns))
        text = written(chat, turns)
        assert re.findall(r"\b[sua]\d", text) == said, (name, text)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_system_turns_in_a_row_are_one_with_an_empty_line_between(kind: str) -> None:
    text = written(encoder("idefics2", TEMPLATES[kind]), CONVERSATIONS["two"])
    assert "s1\n\ns2 s3" in text


def test_an_empty_turn_is_rendered_as_the_template_has_one() -> None:
    chat = encoder("idefics2", LOOP + TURN + "{% endfor %}")
    assert written(chat, CONVERSATIONS["empty"]) == "system: \nuser: u1\n"
    assert written(chat, CONVERSATIONS["no answer"]) == "user: u1\nassistant: \nuser: u2\n"
    assert written(chat, CONVERSATIONS["an empty answer"]) == written(
        chat, CONVERSATIONS["no answer"]
    )
    first_part = encoder("idefics2", LOOP + "{{ message['content'][0]['text'] }}|{% endfor %}")
    for name in ("no answer", "an empty answer"):
        assert written(first_part, CONVERSATIONS[name]) == "u1||u2|"


def test_what_no_folding_mends_is_refused_with_the_way_on() -> None:
    chat = encoder("idefics2", TEMPLATES["knows none"])
    with pytest.raises(ServeError, match="let those of the user and of the assistant take turns"):
        written(chat, [(ASSISTANT, ("a1",)), (USER, ("u1",))])
