"""Qwen2.5-VL and Qwen3-VL: positions in three dimensions, and features for deeper layers."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from vlserve.models.base import ModelAdapter
from vlserve.models.features import ImageFeatures
from vlserve.models.prompt import Arrays, PromptImage


class QwenVL(ModelAdapter):
    """`Qwen2_5_VLForConditionalGeneration`, `Qwen3VLForConditionalGeneration`, and processors."""

    def positions(
        self, token_ids: Sequence[int], images: Sequence[PromptImage]
    ) -> npt.NDArray[np.int64] | None:
        """`i64[3, T]`: time, height and width."""
        if not images:
            return None
        ids = torch.tensor([list(token_ids)])
        grids = [torch.from_numpy(image.inputs["image_grid_thw"]) for image in images]
        positions, _ = self.model.model.get_rope_index(
            ids,
            mm_token_type_ids=(ids == self.image_id).int(),
            image_grid_thw=torch.cat(grids),
        )
        found: npt.NDArray[np.int64] = positions[:, 0].numpy()
        return found

    def encode(self, inputs: Arrays) -> ImageFeatures:
        """With the features that deeper layers add, where the model has them."""
        output = self.model.model.get_image_features(**self._tensors(inputs), return_dict=True)
        layers = getattr(output, "deepstack_features", None) or ()
        return ImageFeatures.of(output.pooler_output, layers)
