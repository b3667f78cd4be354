"""How much may be fetched for one request, all its pictures together."""

from vlserve.media.errors import Refused
from vlserve.settings import MIB


class Allowance:
    """So many bytes."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes
        self._num_left = num_bytes

    def take(self, num_bytes: int) -> None:
        """Raises Refused where there are not so many left."""
        self._num_left -= num_bytes
        if self._num_left < 0:
            mib = self._num_bytes // MIB
            raise Refused(
                f"has, with what was fetched before it, more than {mib} MiB"
                "; ask about less in one request",
                "limits.max_message_mib",
            )
