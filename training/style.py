"""How a question looks on the keyboard: case, punctuation, politeness, filler and slips."""

import random
import string

_BEFORE = (
    "please ", "please, ", "tell me: ", "question: ", "hello, ", "hi! ", "ok, ", "and ", "so ",
    "now ", "look at the picture. ", "look at this image and answer: ", "in this image, ",
    "looking at the picture, ", "in the photo, ", "in the drawing, ", "i wonder, ", "you there, ",
    "quick question: ", "then ", "answer me: ", "next: ", "could you say: ", "hey, ", "well, ",
)  # fmt: skip
_AFTER = (
    " please", ", please", " answer briefly.", " answer in one word.", " thanks", " thank you",
    " be brief.", " answer with one word", " be exact", " tell me", " do you know", " exactly",
    " answer shortly.", " i am curious.", " for me", " just the answer.",
)  # fmt: skip
# Words that a question can lose and still mean the same.
_DROPPABLE = frozenset(
    (
        "is", "are", "the", "a", "an", "of", "there", "do", "you", "see", "does", "please", "this",
        "that", "me", "to", "what", "which", "it", "in",
    )
)  # fmt: skip


def plain(question: str, rng: random.Random) -> str:
    """`question` with or without a capital and a question mark."""
    text = question if rng.random() < 0.4 else question[:1].upper() + question[1:]
    ended = text[-1:] in "?.!"
    return text if ended or rng.random() < 0.4 else text + "?"


def varied(question: str, rng: random.Random) -> str:
    """`question` as all sorts of people type it; only for training."""
    text = question
    if rng.random() < 0.08:
        text = _drop_word(text, rng)
    if rng.random() < 0.08:
        text = _insert_word(text, rng)
    if rng.random() < 0.04:
        text = _slip(text, rng)
    if rng.random() < 0.18:
        text = rng.choice(_BEFORE) + text
    mark = rng.choices(("?", "", ".", " ?", "??", "!"), (55, 33, 6, 2, 1, 1))[0]
    if rng.random() < 0.13:
        tail = rng.choice(_AFTER)
        text = text + (mark + tail if "answer" in tail or rng.random() < 0.3 else tail + mark)
    else:
        text += mark
    return text[:1].upper() + text[1:] if rng.random() < 0.6 else text


def _drop_word(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    loose = [index for index, word in enumerate(words) if word in _DROPPABLE]
    if loose and len(words) > 2:
        del words[rng.choice(loose)]
    return " ".join(words)


def _insert_word(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    letters = rng.choices(string.ascii_lowercase, k=rng.randint(2, 8))
    words.insert(rng.randint(0, len(words)), "".join(letters))
    return " ".join(words)


def _slip(text: str, rng: random.Random) -> str:
    index = rng.randrange(len(text))
    return text[:index] + text[index + 1 :]
