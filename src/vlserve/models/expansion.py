"""What a processor makes of pictures: the tokens that stand for them, and the tower's inputs."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from transformers.image_utils import ChannelDimension

from vlserve.errors import invalid
from vlserve.models.errors import ModelError
from vlserve.models.prompt import PromptImage
from vlserve.types import Image

# What processors return beside the vision side's inputs.
TEXTUAL = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}


class _Recorder:
    """Stands for a processor's tokenizer in one call, and keeps the text that it was given."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.text: list[str] = []

    def __call__(self, text: list[str], **options: Any) -> Any:
        self.text = list(text)
        return self._tokenizer(text, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


@contextmanager
def shapes_refused() -> Iterator[None]:
    """What a processor that has worked at its loading raises is about this caller's pictures: a
    side of no length once it is scaled, sides too unlike each other."""
    try:
        yield
    except (ValueError, ZeroDivisionError) as error:
        raise invalid("messages", "the model takes no picture of this shape") from error


def image_mark(processor: Any) -> str:
    """What a chat template writes for a picture, for the processor to replace."""
    # Gemma's templates write the token before a picture, not the one that stands for it.
    mark: str = getattr(processor, "boi_token", None) or processor.image_token
    return mark


def expand(processor: Any, pictures: Sequence[Image]) -> PromptImage:
    """Pictures as the processor has them, without words.

    Raises ModelError when the processor's way with its tokenizer is not known, and
    ServeError(INVALID_ARGUMENT, field="messages") for a picture of a shape that it refuses.
    """
    # A copy for this call alone: other threads use the same processor.
    recording = copy.copy(processor)
    recorder = _Recorder(processor.tokenizer)
    recording.tokenizer = recorder
    with shapes_refused():
        features = recording(
            text=[image_mark(processor) * len(pictures)],
            images=[[picture.pixels for picture in pictures]],
            # Said rather than guessed: a picture three pixels high looks like three channels.
            input_data_format=ChannelDimension.LAST,
            return_tensors="np",
        )
    if len(recorder.text) != 1:
        raise ModelError("the processor does not tokenize one text for one conversation")
    inputs = {name: np.asarray(v) for name, v in features.items() if name not in TEXTUAL}
    return PromptImage(pictures[0].key, recorder.text[0], inputs)
