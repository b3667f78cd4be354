"""From messages to text sections and special tokens, so that text can never forge a token."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer

from vlserve.errors import ServeError, invalid
from vlserve.models.turns import TurnRules
from vlserve.types import Image, Message, Role

# Stands for a text of the conversation while the template is rendered. The template's own output
# is all that is searched for it, so a caller who types one gains nothing.
_PLACEHOLDER = re.compile("\ue000([0-9]+)\ue001")


@dataclass(frozen=True, slots=True)
class Special:
    """A special token that the chat template wrote."""

    text: str


class ChatEncoder:
    """Renders conversations with a processor's chat template and encodes them piece by piece.

    The model's own `marks` (as of `own_marks`) stay text in the texts of the conversation: only
    those that the template itself writes become tokens. `mark_ids` are theirs, but for the one
    that stands for characters which the tokenizer does not know.
    """

    def __init__(self, processor: Any, marks: Collection[str]) -> None:
        self._processor = processor
        backend: Tokenizer = processor.tokenizer.backend_tokenizer
        # A copy of our own: the flag is state, and the processor's tokenizer must keep its own.
        self._plain = Tokenizer.from_str(backend.to_str())
        self._plain.no_truncation()
        self._plain.no_padding()
        # As special, whatever the file says of them: only what is special is passed over.
        self._plain.add_special_tokens(sorted(marks))
        self._plain.encode_special_tokens = True
        added = backend.get_added_tokens_decoder()
        self._ids = {token.content: i for i, token in added.items() if token.content in marks}
        self.mark_ids = frozenset(self._ids.values()) - {processor.tokenizer.unk_token_id}
        self._strips_before = {token.content for token in added.values() if token.lstrip}
        self._strips_after = {token.content for token in added.values() if token.rstrip}
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._specials = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        probe = backend.encode("a", add_special_tokens=True)
        bare = [i for i, mark in enumerate(probe.special_tokens_mask) if not mark]
        self.prefix = tuple(probe.ids[: bare[0]])
        self.suffix = tuple(probe.ids[bare[-1] + 1 :])
        self._bos: str | None = processor.tokenizer.bos_token
        user, assistant, system = Role.USER, Role.ASSISTANT, Role.SYSTEM
        self._turns = TurnRules(
            knows_system=self._writes(system, user),
            knows_system_later=self._writes(user, assistant, system, user),
            knows_turns_in_a_row=self._writes(user, user),
        )

    def token_id(self, special: str) -> int:
        """The id of a mark. Raises KeyError for what is none."""
        return self._ids[special]

    def render(self, messages: Sequence[Message[Image]]) -> tuple[str, list[str]]:
        """The chat template's output with a placeholder for each text, and the texts, of a
        conversation as `TurnRules` has it.

        Raises ServeError(INVALID_ARGUMENT) when the template refuses the conversation.
        """
        return self._rendered(self._turns.applied(messages))

    def _rendered(self, messages: Sequence[Message[Image]]) -> tuple[str, list[str]]:
        texts: list[str] = []
        conversation = [
            {"role": message.role.value, "content": _content(message, texts)}
            for message in messages
        ]
        try:
            rendered: str = self._processor.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise invalid(
                "messages",
                "the model's chat template takes no turns in this order: let those of the user and"
                " of the assistant take turns, the first and the last of them the user's",
            ) from error
        return rendered, texts

    def _writes(self, *roles: Role) -> bool:
        """Whether the template writes turns of these roles, each once and in order."""
        try:
            rendered, texts = self._rendered([Message(role, ("a",)) for role in roles])
        except (ServeError, TypeError):  # some add the parts of a turn to a text
            return False
        found = [int(number) for number in _PLACEHOLDER.findall(rendered)]
        return found == list(range(len(texts)))

    def pieces(self, rendered: str, texts: Sequence[str]) -> list[Special | str]:
        """Special tokens of the template and the processor, and sections with the texts in."""
        pieces: list[Special | str] = []
        for index, part in enumerate(self._specials.split(rendered)):
            if index % 2:
                pieces.append(Special(part))
            elif part:
                pieces.append(_PLACEHOLDER.sub(lambda match: texts[int(match[1])], part))
        return self._stripped(pieces)

    def encode(self, text: str) -> list[int]:
        """The ids of a section; whatever it says, none of them is a mark's.

        Raises ServeError(INVALID_ARGUMENT, field="messages") for a text that a tokenizer makes a
        mark of all the same: one that knows its marks as words, too.
        """
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        if not self.mark_ids.isdisjoint(ids):
            raise invalid("messages", "holds what the model would take for a mark of its own")
        return ids

    def framed(self, pieces: Sequence[Special | str], token_ids: list[int]) -> tuple[int, ...]:
        """`token_ids` with what the tokenizer puts around a text that does not begin with it."""
        has_bos = bool(pieces) and pieces[0] == Special(self._bos or "")
        return tuple(token_ids) if has_bos else (*self.prefix, *token_ids, *self.suffix)

    def _stripped(self, pieces: list[Special | str]) -> list[Special | str]:
        for index, piece in enumerate(pieces):
            if not isinstance(piece, str):
                continue
            before = pieces[index - 1] if index else None
            after = pieces[index + 1] if index + 1 < len(pieces) else None
            text = piece
            if isinstance(after, Special) and after.text in self._strips_before:
                text = text.rstrip()
            if isinstance(before, Special) and before.text in self._strips_after:
                text = text.lstrip()
            pieces[index] = text
        return [piece for piece in pieces if piece]


def _content(message: Message[Image], texts: list[str]) -> list[dict[str, str]]:
    parts: list[dict[str, str]] = []
    for part in message.content:
        if isinstance(part, str):
            parts.append({"type": "text", "text": _held(part, texts)})
        else:
            parts.append({"type": "image"})
    return parts


def _held(text: str, texts: list[str]) -> str:
    """A placeholder for `text`, which joins `texts`, within the space around it: a template may
    strip that."""
    core = text.strip()
    if not core:
        return text
    before, _, after = text.partition(core)
    texts.append(core)
    return f"{before}\ue000{len(texts) - 1}\ue001{after}"
