"""Gemma 3: the tokens of one picture see each other in both directions."""

import numpy as np
import numpy.typing as npt

from vlserve.models.base import ModelAdapter


class Gemma3(ModelAdapter):
    """`Gemma3ForConditionalGeneration` and its processor."""

    def blocks(self, places: npt.NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
        """A block for each picture: its tokens lie together."""
        runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
        return tuple((int(run[0]), int(run[-1]) + 1) for run in runs if len(run))
