"""What the decoder reads of pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vlserve.models.prompt import PromptImage


@dataclass(frozen=True, slots=True, eq=False)
class ImageFeatures:
    """Of one picture.

    `rows` `[N, hidden_size]`, one for each of its tokens; `deepstack` one `[N, hidden_size]` for
    each of the first layers, which add them once more (Qwen3-VL).
    """

    rows: torch.Tensor
    deepstack: tuple[torch.Tensor, ...] = ()

    @classmethod
    def of(
        cls,
        pooled: torch.Tensor | Sequence[torch.Tensor],
        deepstack: Sequence[torch.Tensor | Sequence[torch.Tensor]] = (),
    ) -> "ImageFeatures":
        """From what a model's `get_image_features` gives: whole or in parts, by Transformers'
        version and the family."""
        return cls(_whole(pooled), tuple(map(_whole, deepstack)))

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt that they replace."""
        return len(self.rows)

    @property
    def num_bytes(self) -> int:
        """Memory, bytes."""
        return sum(each.nbytes for each in (self.rows, *self.deepstack))


def _whole(parts: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    whole = parts if isinstance(parts, torch.Tensor) else torch.cat(list(parts))
    return whole.reshape(-1, whole.shape[-1])


def image_features(image: PromptImage) -> ImageFeatures:
    """The features of a picture, to be read on the current stream. Raises RuntimeError where the
    tower has not seen it."""
    features = image.features
    if not isinstance(features, ImageFeatures):
        raise RuntimeError("a picture has not been seen yet")
    if features.rows.is_cuda:
        # The tower has a stream of its own, and would have their memory again while this reads.
        for tensor in (features.rows, *features.deepstack):
            tensor.record_stream(torch.cuda.current_stream())
    return features
