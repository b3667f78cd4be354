"""How far one answer has followed its grammar."""

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher


class GuideError(Exception):
    """A grammar cannot be followed any further."""


class Matcher:
    """How far one answer has followed its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def is_finished(self) -> bool:
        """Whether nothing can follow any more."""
        return self._matcher.is_stopped()

    def fill(self, mask: npt.NDArray[np.int32]) -> None:
        """Set the bits of the tokens that may come next in `i32[ceil(size / 32)]`, contiguous;
        stop tokens where the answer may end. Raises GuideError."""
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        self._raise_error()

    def advance(self, token_id: int) -> None:
        """Take the next token. Raises GuideError for one that may not come."""
        self._matcher.consume_token(token_id)
        self._raise_error()

    def _raise_error(self) -> None:
        if self._matcher.is_error():
            raise GuideError(self._matcher.get_error())
