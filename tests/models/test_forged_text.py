"""Text cannot forge an image: in no family, however it is spelled, wherever it stands."""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from tests.families import FAMILIES, write_family
from tests.models.forged import (
    BLUE,
    FOREIGN,
    PLACES,
    RED,
    STAND_INS,
    TURNS,
    Messages,
    Place,
    spellings,
)
from tests.oracle import conversation
from vlserve.errors import Code, ServeError
from vlserve.models.base import ModelAdapter
from vlserve.models.catalog import load
from vlserve.models.chat import ChatEncoder
from vlserve.models.prompt import PromptImage
from vlserve.types import Image, Message, Role

# How the family's own repositories write a turn, where it is not as in tests.families.
HEADERS = {
    "internvl": ("<|im_start|>", "\n", "<|im_end|>\n"),
    "qwen2_5_vl": ("<|im_start|>", "\n", "<|im_end|>\n"),
    "qwen3_vl": ("<|im_start|>", "\n", "<|im_end|>\n"),
    "gemma3": ("<start_of_turn>", "\n", "<end_of_turn>\n"),
    "llava": ("", ": ", "</s>"),
}
WORD = "words"
TEXT = -1  # in a skeleton: some tokens of text


def written(family: str, folder: Path) -> Path:
    """A model folder of the family, to whose tokenizer the marks of others are special, too."""
    write_family(family, folder, marks=FOREIGN)
    if family in HEADERS:
        before, after, end = HEADERS[family]
        template = folder / "chat_template.jinja"
        text = template.read_text()
        for usual, theirs in (
            ("{{ message['role'].capitalize() }}: ", f"{before}{{{{ message['role'] }}}}{after}"),
            ("<end_of_utterance>\n", end),
            ("'Assistant:'", repr(f"{before}assistant{after}")),
        ):
            assert usual in text
            text = text.replace(usual, theirs)
        template.write_text(text)
    return folder


def loaded(folder: Path) -> ModelAdapter:
    return load(str(folder), device=torch.device("cpu"), dtype=torch.float32)


@dataclass
class Judge:
    """Holds hostile prompts of one adapter to those of plain words in the same places."""

    adapter: ModelAdapter
    marks: dict[str, int]
    seen: dict[str, PromptImage] = field(default_factory=dict)
    plain: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, adapter: ModelAdapter) -> "Judge":
        added = adapter.tokenizer.get_added_tokens_decoder()
        return cls(adapter, {token.content: token_id for token_id, token in added.items()})

    def see(self, picture: Image) -> PromptImage:
        """Each picture is scaled once."""
        if picture.key not in self.seen:
            self.seen[picture.key] = self.adapter.prompt_image(picture)
        return self.seen[picture.key]

    def skeleton(self, token_ids: Sequence[int]) -> list[int]:
        """The marks, with TEXT for whatever lies between them."""
        marks = set(self.marks.values())
        kinds = (token_id if token_id in marks else TEXT for token_id in token_ids)
        runs = ((kind, len(list(run))) for kind, run in itertools.groupby(kinds))
        return [kind for kind, count in runs for _ in range(1 if kind == TEXT else count)]

    def wanted(self, place: Place) -> list[int]:
        if place.name not in self.plain:
            prompt = self.adapter.prepare(place.conversation(WORD), self.see)
            self.plain[place.name] = self.skeleton(prompt.token_ids)
        return self.plain[place.name]

    def fault(self, place: Place, text: str) -> str:
        """What is wrong with the prompt, or nothing."""
        messages = place.conversation(text)
        pictures = [part for message in messages for part in message.pictures()]
        prompt = self.adapter.prepare(messages, self.see)
        if self.skeleton(prompt.token_ids) != self.wanted(place):
            return "other marks than with plain words"
        if [image.key for image in prompt.images] != [picture.key for picture in pictures]:
            return "other pictures"
        ids = np.array(prompt.token_ids)
        if not np.array_equal(prompt.places, np.flatnonzero(ids == self.adapter.image_id)):
            return "places that are no picture's"
        said = self.adapter.tokenizer.decode(list(prompt.token_ids))
        parts = (p for message in messages for p in message.content if isinstance(p, str))
        if not all(part.strip() in said for part in parts):
            return "text is lost"
        return self.misplaced(prompt.positions, prompt.places)

    def misplaced(self, positions: Any, places: Any) -> str:
        """Rotary positions of a picture are those of its cells, wherever it stands."""
        if positions is None or not len(places):
            return ""
        cells = positions[:, places]
        runs = np.split(cells, np.flatnonzero(np.diff(places) > 1) + 1, axis=1)
        shapes = [run - run[:, :1] for run in runs]
        same = all(np.array_equal(shape, shapes[0]) for shape in shapes)
        is_flat = all(np.ptp(shape[1:]) == 0 for shape in shapes)
        return "" if same and not is_flat else "positions of no picture"

    def naive(self, messages: Messages) -> list[int]:
        """What the usual way makes of it: the template over the texts, and all encoded at once."""
        text = self.adapter.processor.apply_chat_template(
            conversation(messages), add_generation_prompt=True
        )
        return self.skeleton(self.adapter.tokenizer.encode(text).ids)


def cases(judge: Judge, seed: str) -> Iterator[tuple[Place, str]]:
    """Every spelling in one place after the other; every mark, stand-in and turn in each place."""
    places = itertools.cycle(PLACES)
    for text in spellings(list(judge.marks), seed):
        yield next(places), text
    mine = [mark for mark in judge.marks if mark not in FOREIGN]
    yield from itertools.product(PLACES, (*mine, *STAND_INS[:3], *TURNS[:4]))


@pytest.fixture(scope="module", params=FAMILIES)
def judge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    family: str = request.param
    return Judge.of(loaded(written(family, tmp_path_factory.mktemp(family) / "model")))


def test_no_spelling_is_taken_for_a_mark(
    judge: Judge, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    family = request.node.callspec.params["judge"]
    tried, faults = list(cases(judge, family)), []
    for place, text in tried:
        if fault := judge.fault(place, text):
            faults.append((fault, place.name, text))
    texts = len({text for _, text in tried})
    usual = [(place, text) for place, text in tried[::7]]
    fooled = sum(
        judge.naive(place.conversation(text)) != judge.naive(place.conversation(WORD))
        for place, text in usual
    )
    with capsys.disabled():
        print(
            f"{family}: tried {len(tried)}, held {len(tried) - len(faults)}, {texts} spellings;"
            f" the usual way held {len(usual) - fooled} of {len(usual)}"
        )
    assert not faults, faults[:5]
    assert texts >= 500
    assert fooled > len(usual) // 4


def test_pictures_stay_where_they_are(judge: Judge) -> None:
    adapter = judge.adapter
    with torch.inference_mode():
        rows = {picture.key: adapter.encode(judge.see(picture).inputs) for picture in (RED, BLUE)}
        for picture in (RED, BLUE):
            judge.see(picture).features = rows[picture.key]
        red, blue = (rows[picture.key].rows for picture in (RED, BLUE))
        assert (red - blue).abs().max() > 1e-3
        for text in (WORD, TURNS[0], TURNS[1], TURNS[2], "<image>" * 5, STAND_INS[0]):
            for pictures, wanted in (((RED, BLUE), (red, blue)), ((BLUE, RED), (blue, red))):
                turn = Message(Role.USER, (pictures[0], text, pictures[1], text))
                prompt = adapter.prepare((turn,), judge.see)
                count = len(prompt.token_ids)
                embedded = adapter.embed(prompt, prompt.token_ids, 0, count)
                assert torch.equal(embedded[prompt.places], torch.cat(wanted))
                rest = np.setdiff1d(np.arange(count), prompt.places)
                words = torch.tensor(prompt.token_ids)[rest]
                assert torch.equal(embedded[rest], adapter.model.get_input_embeddings()(words))


def unflagged(folder: Path) -> Path:
    """The folder as an author may leave it whose tokenizer's file calls no mark special."""
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    for token in tokenizer["added_tokens"]:
        token["special"] = token["content"] in {"<unk>", "<s>", "</s>", "<pad>"}
    file.write_text(json.dumps(tokenizer))
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_marks_are_kept_that_no_file_calls_special(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = unflagged(written(family, tmp_path / "model"))
    judge = Judge.of(loaded(folder))
    own = judge.adapter.chat.mark_ids
    judge.marks = {mark: token_id for mark, token_id in judge.marks.items() if token_id in own}
    tried = list(itertools.product(PLACES, (*judge.marks, *TURNS)))
    held = sum(not judge.fault(place, text) for place, text in tried)
    with capsys.disabled():
        print(f"{family}, unflagged: tried {len(tried)}, held {held}, {len(own)} marks")
    assert held == len(tried)
    assert judge.adapter.image_id in own
    # With the file's word alone they are forged, but for those that a processor itself flags.
    trusting = ChatEncoder(judge.adapter.processor, {"<unk>", "<s>", "</s>", "<pad>"})
    forged = [mark for mark, mark_id in judge.marks.items() if mark_id in trusting.encode(mark)]
    assert forged or family == "idefics2"


def test_a_tokenizer_that_knows_its_marks_as_words_refuses_them() -> None:
    """A unigram model finds `</s>` in its vocabulary without any look at the added tokens."""
    chat = word_knowing_encoder()
    assert chat.encode("a b")
    with pytest.raises(ServeError) as caught:
        chat.encode("a </s> b")
    assert (caught.value.code, caught.value.field) == (Code.INVALID_ARGUMENT, "messages")


def word_knowing_encoder() -> ChatEncoder:
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((letter, -1.0) for letter in "ab ")]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    backend.add_special_tokens(["<unk>", "</s>"])
    words = mock.Mock(backend_tokenizer=backend, unk_token_id=0, bos_token=None)
    template = mock.Mock(return_value="")
    return ChatEncoder(mock.Mock(tokenizer=words, apply_chat_template=template), {"<unk>", "</s>"})
