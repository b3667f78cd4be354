"""From the turns of a caller to turns that a chat template knows. Knows no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from vlserve.types import Image, Message, Role

_BETWEEN: Final = "\n\n"  # of what was said in turns of its own and stands in one


@dataclass(frozen=True, slots=True)
class TurnRules:
    """What a chat template knows: a turn of the system at first, one later, and several turns of
    one role in a row.

    System turns in a row are one, an empty line between their texts. Where the template does not
    know one it is folded into the user's turn that follows it, or, with the assistant's turn or
    nothing after it, into the one before. Turns in a row are one where the template takes them in
    no other way. An assistant's or a system's turn without a text is rendered with an empty one.
    """

    knows_system: bool
    knows_system_later: bool
    knows_turns_in_a_row: bool

    def applied(self, messages: Sequence[Message[Image]]) -> list[Message[Image]]:
        """The conversation as the template knows it."""
        turns: list[Message[Image]] = []
        held = ""  # of the system, for the user's turn that follows
        for role, group in groupby(messages, key=lambda message: message.role):
            if role is Role.SYSTEM:
                said = _BETWEEN.join(filter(None, map(_text, group)))
                if self.knows_system_later if turns else self.knows_system:
                    turns.append(Message(role, (said,)))
                else:
                    held = _BETWEEN.join(filter(None, (held, said)))
                continue
            each = [_with_text(message) for message in group]
            if held and role is Role.USER:
                each[0] = _joined([Message(role, (held,)), each[0]])
                held = ""
            elif held and turns:
                held = _fold_back(turns, held)
            turns += each if self.knows_turns_in_a_row else [_joined(each)]
        if held:
            _fold_back(turns, held)
        return self._in_turn(turns)

    def _in_turn(self, turns: list[Message[Image]]) -> list[Message[Image]]:
        """Folding may have left turns of one role in a row."""
        if self.knows_turns_in_a_row:
            return turns
        groups = groupby(turns, key=lambda message: message.role)
        return [_joined(list(group)) for _, group in groups]


def _text(message: Message[Image]) -> str:
    return "".join(part for part in message.content if isinstance(part, str))


def _with_text(message: Message[Image]) -> Message[Image]:
    is_empty = message.role is Role.ASSISTANT and not any(message.content)
    return Message(message.role, ("",)) if is_empty else message


def _joined(turns: Sequence[Message[Image]]) -> Message[Image]:
    """One turn of all, an empty line between them."""
    first, *others = turns
    content = first.content
    for turn in others:
        content = (*content, _BETWEEN, *turn.content)
    return Message(first.role, content)


def _fold_back(turns: list[Message[Image]], said: str) -> str:
    """Put what the system said behind the user's last turn; what is left of it, where there was
    none."""
    for i in range(len(turns) - 1, -1, -1):
        if turns[i].role is Role.USER:
            turns[i] = _joined([turns[i], Message(Role.USER, (said,))])
            return ""
    return said
