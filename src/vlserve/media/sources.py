"""What a request refers to -> its encoded bytes, with nothing of them trusted.

They come as they were sent, out of a `data:` URL, from an earlier upload, or, where that is
switched on, from the web.
"""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vlserve.errors import NO_DATA, invalid
from vlserve.media import data_url, uploads
from vlserve.media.allowance import Allowance
from vlserve.media.bounds import MediaLimits, media_limits
from vlserve.media.decoders import Encoded
from vlserve.media.errors import Refused, too_many_bytes
from vlserve.media.together import together
from vlserve.media.uploads import Uploads
from vlserve.settings import MIB, LimitSettings, MediaSettings
from vlserve.types import Detail, ImageRef, MediaBounds, Upload, VideoRef

if TYPE_CHECKING:
    from vlserve.media.fetch import Fetcher

_WEB: Final = ("http://", "https://")
_LONGEST_SCHEME: Final = 16  # characters, of one that is named


@dataclass(frozen=True, slots=True)
class Source:
    """A picture or video whose bytes are here, and the caller's `field` for it. To fetch it took
    `fetch_s`, 0 where it was not fetched."""

    encoded: Encoded
    field: str
    detail: Detail
    bounds: MediaLimits
    fetch_s: float = 0.0


class Sources:
    """Finds the bytes of what requests refer to."""

    def __init__(self, settings: MediaSettings, limits: LimitSettings) -> None:
        self._limits = limits
        self.uploads = Uploads(
            settings.uploads_mib * MIB, settings.max_uploads, settings.keep_uploads_s
        )
        self._fetcher = _fetcher(settings) if settings.fetch_urls else None

    async def upload(
        self, data: bytes, tenant: str, field: str, *, name: str = "", purpose: str = ""
    ) -> Upload:
        """Keep `data` for a time, to be asked about by its reference.

        Raises ServeError(INVALID_ARGUMENT) naming `field` for nothing, or for more than is kept.
        """
        if not data:
            raise invalid(field, NO_DATA)
        digest = await asyncio.to_thread(hashlib.sha256, data)
        reference = f"{uploads.SCHEME}{digest.hexdigest()}"
        return self.uploads.keep(reference, data, tenant, field, name=name, purpose=purpose)

    async def find(
        self, refs: Sequence[ImageRef | VideoRef], tenant: str, wanted: MediaBounds
    ) -> list[Source]:
        """The encoded bytes of all, within the limits and what is `wanted`. They are fetched
        together: the longest fetch is how long all took.

        Raises ServeError(INVALID_ARGUMENT) naming the field of what cannot be had.
        """
        # What is fetched for a request is as much as what could have come in its message.
        allowance = Allowance(self._limits.max_message_mib * MIB)
        bounds = media_limits(wanted, self._limits)
        return await together(self._source(ref, tenant, bounds, allowance) for ref in refs)

    async def _source(
        self, ref: ImageRef | VideoRef, tenant: str, bounds: MediaLimits, allowance: Allowance
    ) -> Source:
        begin_s = time.monotonic()
        try:
            data = await self._data(ref, tenant, bounds.max_image_bytes, allowance)
            if len(data) > bounds.max_image_bytes:
                raise too_many_bytes(len(data), bounds.max_image_bytes)
        except Refused as refused:
            raise bounds.refusal(ref.field, refused) from None
        fetch_s = time.monotonic() - begin_s if _scheme(ref).startswith(_WEB) else 0.0
        if not data:
            raise invalid(ref.field, NO_DATA)
        max_frames, detail = 0, Detail.LOW
        if isinstance(ref, VideoRef):
            max_frames = bounds.num_frames(ref)
        else:
            detail = ref.detail
        encoded = Encoded(data, bounds.max_image_pixels, max_frames, tenant)
        return Source(encoded, ref.field, detail, bounds, fetch_s)

    async def _data(
        self, ref: ImageRef | VideoRef, tenant: str, max_bytes: int, allowance: Allowance
    ) -> bytes:
        """What it refers to. What is not here yet is not taken beyond `max_bytes`."""
        if not ref.url:
            return ref.data
        scheme = _scheme(ref)
        if scheme.startswith(data_url.SCHEME):
            return await data_url.decode(ref.url, max_bytes)
        if scheme.startswith(uploads.SCHEME):
            return self.uploads.find(ref.url, tenant, ref.field)
        if not scheme.startswith(_WEB):
            name, colon, _ = ref.url[:_LONGEST_SCHEME].partition(":")
            what = f"has the scheme '{name}'" if colon and name.isalpha() else "has no scheme"
            raise Refused(f"{what}: must be a data:, sha256:, http: or https: URL")
        if self._fetcher is None:
            message = "is a URL, and fetching is switched off here: send a data: URL"
            raise Refused(message, "media.fetch_urls")
        return await self._fetcher.fetch(ref.url, allowance, max_bytes)


def _scheme(ref: ImageRef | VideoRef) -> str:
    """The beginning of its URL, which may be long."""
    return ref.url[: len("https://")].lower()


def _fetcher(settings: MediaSettings) -> "Fetcher | None":
    if not settings.fetch_urls:
        return None
    # It takes a while to import, and most servers fetch nothing.
    from vlserve.media.fetch import Fetcher  # noqa: PLC0415

    hosts = (host.strip().lower() for host in settings.fetch_hosts.split(","))
    return Fetcher(settings.fetch_s, settings.fetch_mib * MIB, frozenset(filter(None, hosts)))
