"""How much may be fetched for one request, all its pictures together."""

from typing import Final

from vlserve.media.errors import Refused

_MIB: Final = 2**20


class Allowance:
    """So many bytes."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes
        self._num_left = num_bytes

    def take(self, num_bytes: int) -> None:
        """Raises Refused where there are not so many left."""
        self._num_left -= num_bytes
        if self._num_left < 0:
            mib = self._num_bytes // _MIB
            raise Refused(f"has, with what was fetched before it, more than {mib} MiB")
