"""What a conversation becomes before a model reads it. Knows no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]


class Features(Protocol):
    """What the vision tower made of one picture, as far as it matters here."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt that they replace."""

    @property
    def num_bytes(self) -> int:
        """Memory, bytes."""


@dataclass(slots=True, eq=False)
class PromptImage:
    """One picture of a prompt: before the vision tower `inputs`, after it `features`.

    `key` says which picture it is. `text` stands for it in the rendered conversation. `inputs`
    are keyword arguments of the model's `get_image_features`; the pixels among them are let go
    once they were seen. `num_tokens` of the prompt are those that the features replace.
    """

    key: str
    text: str = field(repr=False)
    inputs: Arrays = field(repr=False)
    features: Features | None = None
    num_tokens: int = 0


def _no_places() -> npt.NDArray[np.int64]:
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """Token ids, and the pictures whose features take the places of some of them.

    `num_image_tokens` counts the ids that stand for pictures, marks included. `places` are the
    indices of those that features replace, in the order of the features' rows. `positions`
    `i64[P, T]` are rotary positions, None where they are 0, 1, 2 and so on; P is 3 where they
    have a time, a height and a width, and `position_shift` is what lies between the index of a
    token of the answer and its position. Tokens of one of `blocks` (first and last + 1) see each
    other in both directions. For a forward pass that sees the pictures itself, `inputs` are theirs
    together, and there are no `images` and no `places`.
    """

    token_ids: tuple[int, ...]
    num_image_tokens: int = 0
    images: tuple[PromptImage, ...] = ()
    places: npt.NDArray[np.int64] = field(default_factory=_no_places, repr=False)
    positions: npt.NDArray[np.int64] | None = field(default=None, repr=False)
    position_shift: int = 0
    blocks: tuple[tuple[int, int], ...] = ()
    inputs: Arrays = field(default_factory=dict, repr=False)
