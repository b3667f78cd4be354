"""What was uploaded once to be asked about often: bytes by their digest, each tenant its own."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from vlserve.errors import ServeError, invalid

SCHEME: Final = "sha256:"


class Uploads:
    """At most `max_bytes` and `max_num` files, each for `keep_s` after it was last uploaded.

    Where room is wanted, the tenant who holds the most of it loses what it uploaded first. A
    reference is of use to the tenant who uploaded it alone: to others it is one that never was.
    """

    def __init__(
        self,
        max_bytes: int,
        max_num: int,
        keep_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_num = max_num
        self._keep_s = keep_s
        self._now = now
        # Of each tenant, in the order of their uploads: when each ends, and its bytes.
        self._kept: dict[str, OrderedDict[str, tuple[float, bytes]]] = {}
        self._num_bytes: dict[str, int] = {}

    @property
    def num_bytes(self) -> int:
        """The bytes that are kept."""
        return sum(self._num_bytes.values())

    @property
    def num(self) -> int:
        """The files that are kept."""
        return sum(map(len, self._kept.values()))

    def keep(self, reference: str, data: bytes, tenant: str, field: str) -> None:
        """Keep `data` under its `reference`. Raises ServeError(INVALID_ARGUMENT) naming `field`
        for what is larger than there is room."""
        if len(data) > self._max_bytes:
            raise invalid(field, f"has more than {self._max_bytes} bytes")
        self.expire()
        self._drop(tenant, reference)
        while self.num_bytes + len(data) > self._max_bytes:
            self._drop_first(max(self._kept, key=lambda each: self._num_bytes[each]))
        while self.num >= self._max_num:
            self._drop_first(max(self._kept, key=lambda each: len(self._kept[each])))
        ends_s = self._now() + self._keep_s
        self._kept.setdefault(tenant, OrderedDict())[reference] = (ends_s, data)
        self._num_bytes[tenant] = self._num_bytes.get(tenant, 0) + len(data)

    def find(self, reference: str, tenant: str, field: str) -> bytes:
        """The bytes. Raises ServeError(INVALID_ARGUMENT) naming `field` where there are none."""
        self.expire()
        kept = self._kept.get(tenant)
        if kept is None or reference not in kept:
            raise _unknown(field)
        return kept[reference][1]

    def expire(self) -> None:
        """Let go of what has been kept for its time."""
        now = self._now()
        for tenant, kept in list(self._kept.items()):
            for reference, (ends_s, _) in list(kept.items()):
                if ends_s > now:
                    break  # those after it were uploaded later
                self._drop(tenant, reference)

    def _drop_first(self, tenant: str) -> None:
        self._drop(tenant, next(iter(self._kept[tenant])))

    def _drop(self, tenant: str, reference: str) -> None:
        kept = self._kept.get(tenant, OrderedDict())
        if reference in kept:
            self._num_bytes[tenant] -= len(kept.pop(reference)[1])
        if not kept:
            self._kept.pop(tenant, None)
            self._num_bytes.pop(tenant, None)


def _unknown(field: str) -> ServeError:
    return invalid(field, "is a reference that is not known here: it may have expired")
