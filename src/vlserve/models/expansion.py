"""What a processor makes of a rendered conversation: the text with the tokens of its pictures."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers.image_utils import ChannelDimension

from vlserve.errors import invalid
from vlserve.models.errors import ModelError
from vlserve.types import Image


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


def expand(
    processor: Any, rendered: str, images: Sequence[Image]
) -> tuple[str, dict[str, npt.NDArray[Any]]]:
    """`rendered` with each picture's mark as the tokens that its features take, and the inputs of
    the model's vision side.

    Raises ModelError when the processor's way with its tokenizer is not known, and
    ServeError(INVALID_ARGUMENT, field="messages") for a picture of a shape that it refuses.
    """
    if not images:
        return rendered, {}
    # A copy for this call alone: other threads use the same processor.
    recording = copy.copy(processor)
    recorder = _Recorder(processor.tokenizer)
    recording.tokenizer = recorder
    with shapes_refused():
        features = recording(
            text=[rendered],
            images=[[image.pixels for image in images]],
            # Said rather than guessed: a picture three pixels high looks like three channels.
            input_data_format=ChannelDimension.LAST,
            return_tensors="np",
        )
    if len(recorder.text) != 1:
        raise ModelError("the processor does not tokenize one text for one conversation")
    textual = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}
    return recorder.text[0], {k: np.asarray(v) for k, v in features.items() if k not in textual}
