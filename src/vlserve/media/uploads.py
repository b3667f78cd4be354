"""What was uploaded once to be asked about often: bytes by their digest, each tenant its own."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vlserve.errors import Code, ServeError, invalid
from vlserve.types import Upload

SCHEME: Final = "sha256:"
UNKNOWN: Final = (
    "is a reference that is not known here: it may have expired (media.keep_uploads_s)"
    "; upload it again"
)
# What a name or a purpose may take, beside the bytes that are counted.
MAX_WORDS: Final = 255


@dataclass(frozen=True, slots=True)
class _Kept:
    """`ends_s` is of the store's own clock, which no one sets."""

    ends_s: float
    upload: Upload
    data: bytes


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
        # Of each tenant, in the order of their uploads.
        self._kept: dict[str, OrderedDict[str, _Kept]] = {}
        self._num_bytes: dict[str, int] = {}

    @property
    def num_bytes(self) -> int:
        """The bytes that are kept."""
        return sum(self._num_bytes.values())

    @property
    def num(self) -> int:
        """The files that are kept."""
        return sum(map(len, self._kept.values()))

    def keep(
        self,
        reference: str,
        data: bytes,
        tenant: str,
        field: str,
        *,
        name: str = "",
        purpose: str = "",
    ) -> Upload:
        """Keep `data` under its `reference`. Raises ServeError(INVALID_ARGUMENT) naming `field`
        for what is larger than there is room, and for a longer name or purpose than MAX_WORDS."""
        if len(data) > self._max_bytes:
            message = (
                f"has {len(data)} bytes; at most {self._max_bytes} are kept (media.uploads_mib)"
            )
            raise invalid(field, message)
        for what, words in (("name", name), ("purpose", purpose)):
            if len(words) > MAX_WORDS:
                message = f"has a {what} of {len(words)} characters; at most {MAX_WORDS} are kept"
                raise invalid(field, message)
        self.expire()
        self._drop(tenant, reference)
        while self.num_bytes + len(data) > self._max_bytes:
            self._drop_first(max(self._kept, key=lambda each: self._num_bytes[each]))
        while self.num >= self._max_num:
            self._drop_first(max(self._kept, key=lambda each: len(self._kept[each])))
        created_at = int(time.time())
        ends_at = created_at + int(self._keep_s)
        upload = Upload(reference, len(data), name, purpose, created_at, ends_at)
        kept = self._kept.setdefault(tenant, OrderedDict())
        kept[reference] = _Kept(self._now() + self._keep_s, upload, data)
        self._num_bytes[tenant] = self._num_bytes.get(tenant, 0) + len(data)
        return upload

    def find(self, reference: str, tenant: str, field: str) -> bytes:
        """The bytes. Raises ServeError(INVALID_ARGUMENT) naming `field` where there are none."""
        kept = self._found(reference, tenant)
        if kept is None:
            raise invalid(field, UNKNOWN)
        return kept.data

    def about(self, reference: str, tenant: str, field: str) -> Upload:
        """What is kept under it. Raises ServeError(NOT_FOUND) naming `field` where nothing is."""
        kept = self._found(reference, tenant)
        if kept is None:
            raise ServeError(Code.NOT_FOUND, UNKNOWN, field=field)
        return kept.upload

    def forget(self, reference: str, tenant: str, field: str) -> None:
        """Keep it no longer. Raises as `about`."""
        self.about(reference, tenant, field)
        self._drop(tenant, reference)

    def expire(self) -> None:
        """Let go of what has been kept for its time."""
        now = self._now()
        for tenant, kept in list(self._kept.items()):
            for reference, each in list(kept.items()):
                if each.ends_s > now:
                    break  # those after it were uploaded later
                self._drop(tenant, reference)

    def _found(self, reference: str, tenant: str) -> _Kept | None:
        self.expire()
        return self._kept.get(tenant, OrderedDict()).get(reference)

    def _drop_first(self, tenant: str) -> None:
        self._drop(tenant, next(iter(self._kept[tenant])))

    def _drop(self, tenant: str, reference: str) -> None:
        kept = self._kept.get(tenant, OrderedDict())
        if reference in kept:
            self._num_bytes[tenant] -= len(kept.pop(reference).data)
        if not kept:
            self._kept.pop(tenant, None)
            self._num_bytes.pop(tenant, None)
