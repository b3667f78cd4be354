"""Idefics2: a SigLIP tower, a perceiver and Mistral."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.image_utils import ChannelDimension

from vlserve.models.base import ModelAdapter
from vlserve.models.chat import Special
from vlserve.models.expansion import shapes_refused
from vlserve.models.features import ImageFeatures
from vlserve.models.idefics_tiles import encode_tiles, true_tiles
from vlserve.models.prompt import Arrays, PromptImage
from vlserve.types import Image


class Idefics2(ModelAdapter):
    """`Idefics2ForConditionalGeneration` and its processor."""

    def __init__(self, model: Any, processor: Any) -> None:
        self._image = Special(processor.image_token)
        super().__init__(model, processor)

    def prompt_image(self, picture: Image) -> PromptImage:
        """The tower's inputs, and a mark for each tile of theirs."""
        inputs = self.joint_inputs([picture])
        return PromptImage(picture.key, self._image.text * inputs["pixel_values"].shape[1], inputs)

    def joint_inputs(self, pictures: Sequence[Image]) -> Arrays:
        """As its image processor has them, padded to the same size."""
        # Said rather than guessed: a picture three pixels high looks like three channels.
        with shapes_refused():
            features = self.processor_for(pictures).image_processor(
                [[picture.pixels for picture in pictures]],
                input_data_format=ChannelDimension.LAST,
                return_tensors="np",
            )
        return {name: np.asarray(value) for name, value in features.items()}

    def encode(self, inputs: Arrays) -> ImageFeatures:
        """On a GPU at the tiles' true size; on a CPU as the model does, to the same bits."""
        is_padded = "pixel_attention_mask" in inputs
        if is_padded and self.model.device.type == "cuda":
            return self.encode_tiles(inputs)
        return super().encode(inputs)

    def encode_tiles(self, inputs: Arrays) -> ImageFeatures:
        """As `encode`, at the tiles' true size: the same numbers but for rounding."""
        pixels, mask = (
            torch.from_numpy(inputs[name]) for name in ("pixel_values", "pixel_attention_mask")
        )
        return ImageFeatures.of(encode_tiles(self.model, true_tiles(pixels, mask)))

    def token_ids(self, pieces: Sequence[Special | str]) -> list[int]:
        """The ids that `Idefics2Processor` makes of the same conversation."""
        token_ids: list[int] = []
        for piece in pieces:
            if piece == self._image:
                self._append_tile(token_ids)
            elif isinstance(piece, Special):
                token_ids.append(self.chat.token_id(piece.text))
            else:
                token_ids += self.chat.encode(self._after_mark(token_ids, piece))
        return token_ids

    def num_image_tokens(self, token_ids: Sequence[int]) -> int:
        """Features and the marks around them."""
        return sum(i in (self.image_id, self._mark) for i in token_ids)

    @property
    def _mark(self) -> int:
        return self.chat.token_id(self.processor.fake_image_token)

    def _processed(self, text: str, images: list[Image]) -> list[int]:
        # The tokens of a picture do not depend on it, and this processor takes no arrays.
        del images
        return list(self.processor(text=text)["input_ids"][0])

    def _append_tile(self, token_ids: list[int]) -> None:
        # Neighbours share a mark, tiles of a picture and pictures alike.
        if not token_ids or token_ids[-1] != self._mark:
            token_ids.append(self._mark)
        token_ids += [self.image_id] * self.processor.image_seq_len
        token_ids.append(self._mark)

    def _after_mark(self, token_ids: list[int], text: str) -> str:
        # The processor keeps words that follow a picture at a word boundary.
        follows_mark = bool(token_ids) and token_ids[-1] == self._mark
        return f" {text}" if follows_mark and not text[0].isspace() and text[0] != "<" else text
