"""What a conversation becomes before a model reads it. Knows no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """Token ids and what the processor made of the pictures.

    `num_image_tokens` counts the ids that stand for pictures, marks included. `image_inputs`
    holds the keyword arguments of the model's `get_image_features`, empty without pictures.
    """

    token_ids: tuple[int, ...]
    num_image_tokens: int = 0
    image_inputs: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict, repr=False)
