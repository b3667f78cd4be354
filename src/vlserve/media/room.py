"""The media room: what a request refers to -> encoded bytes -> Images, with nothing of it trusted.

Bytes come as they were sent, out of a `data:` URL, from an earlier upload, or, where that is
switched on, from the web. Pixels come out of processes that may die of them.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from vlserve.errors import invalid
from vlserve.media import data_url, uploads
from vlserve.media.allowance import Allowance
from vlserve.media.bounds import Allowed, allowed
from vlserve.media.decoders import Decoders, Encoded, Pixels
from vlserve.media.errors import Refused, too_many_bytes
from vlserve.media.uploads import Uploads
from vlserve.media.wire import Bounds
from vlserve.settings import MIB, LimitSettings, MediaSettings
from vlserve.types import Detail, Image, ImageRef, MediaBounds, Upload, VideoRef

if TYPE_CHECKING:
    from vlserve.media.fetch import Fetcher

_WEB: Final = ("http://", "https://")
_MAX_WORKERS: Final = 4
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Source:
    """A picture or video whose bytes are here, and the caller's `field` for it. To fetch it took
    `fetch_s`, 0 where it was not fetched."""

    encoded: Encoded
    field: str
    detail: Detail
    fetch_s: float = 0.0


class MediaRoom:
    """Loads what requests refer to. Starts nothing before it is asked to."""

    def __init__(self, settings: MediaSettings, limits: LimitSettings) -> None:
        self._limits = limits
        num = settings.workers or min(_MAX_WORKERS, len(os.sched_getaffinity(0)))
        bounds = Bounds(settings.decode_mib * MIB, settings.decode_s, settings.decode_cpu_s)
        self._decoders = Decoders(num, bounds)
        self._uploads = Uploads(
            settings.uploads_mib * MIB, settings.max_uploads, settings.keep_uploads_s
        )
        self._fetcher = _fetcher(settings) if settings.fetch_urls else None

    def start(self) -> None:
        """Start the processes that decode, so that the first picture does not wait for them.
        Without it they start with the first."""
        self._decoders.start()

    def close(self) -> None:
        """End all processes, also those that decode."""
        self._decoders.close()

    async def upload(
        self, data: bytes, tenant: str, field: str, *, name: str = "", purpose: str = ""
    ) -> Upload:
        """Keep `data` for a time, to be asked about by its reference.

        Raises ServeError(INVALID_ARGUMENT) naming `field` for nothing, or for more than is kept.
        """
        if not data:
            raise invalid(field, "holds no data")
        digest = await asyncio.to_thread(hashlib.sha256, data)
        reference = f"{uploads.SCHEME}{digest.hexdigest()}"
        return self._uploads.keep(reference, data, tenant, field, name=name, purpose=purpose)

    def uploaded(self, reference: str, tenant: str, field: str) -> Upload:
        """What is kept. Raises ServeError(NOT_FOUND) naming `field` where nothing is."""
        return self._uploads.about(reference, tenant, field)

    def forget(self, reference: str, tenant: str, field: str) -> None:
        """Keep an upload no longer. Raises as `uploaded`."""
        self._uploads.forget(reference, tenant, field)

    async def sources(
        self, refs: Sequence[ImageRef | VideoRef], tenant: str, wanted: MediaBounds
    ) -> list[Source]:
        """The encoded bytes of all, within the limits and what is `wanted`. They are fetched
        together: the longest fetch is how long all took.

        Raises ServeError(INVALID_ARGUMENT) naming the field of what cannot be had.
        """
        # What is fetched for a request is as much as what could have come in its message.
        allowance = Allowance(self._limits.max_message_mib * MIB)
        bounds = allowed(wanted, self._limits)
        return await _all(self._source(ref, tenant, bounds, allowance) for ref in refs)

    async def num_pixels(self, sources: Sequence[Source]) -> int:
        """The pixels of all pictures and frames, by their headers. Raises as `images` does."""
        return sum(await _all(map(self._size, sources)))

    async def images(self, sources: Sequence[Source]) -> list[tuple[Image, ...]]:
        """Of each source its picture, or its frames in order.

        Raises ServeError: INVALID_ARGUMENT naming the field of what is not taken, INTERNAL where
        no process could decode it.
        """
        return await _all(map(self._images, sources))

    async def _source(
        self, ref: ImageRef | VideoRef, tenant: str, bounds: Allowed, allowance: Allowance
    ) -> Source:
        begin_s = time.monotonic()
        try:
            data = await self._data(ref, tenant, bounds.max_image_bytes, allowance)
            if len(data) > bounds.max_image_bytes:
                raise too_many_bytes(bounds.max_image_bytes)
        except Refused as refused:
            raise invalid(ref.field, str(refused)) from None
        fetch_s = time.monotonic() - begin_s if _scheme(ref).startswith(_WEB) else 0.0
        if not data:
            raise invalid(ref.field, "holds no data")
        max_frames, detail = 0, Detail.LOW
        if isinstance(ref, VideoRef):
            max_frames = ref.num_frames(bounds.max_video_frames)
        else:
            detail = ref.detail
        encoded = Encoded(data, bounds.max_image_pixels, max_frames, tenant)
        return Source(encoded, ref.field, detail, fetch_s)

    async def _data(
        self, ref: ImageRef | VideoRef, tenant: str, max_bytes: int, allowance: Allowance
    ) -> bytes:
        """What it refers to. What is not here yet is not taken beyond `max_bytes`."""
        if not ref.url:
            return ref.data
        scheme = _scheme(ref)
        if scheme.startswith(data_url.SCHEME):
            return await data_url.decoded(ref.url, max_bytes)
        if scheme.startswith(uploads.SCHEME):
            return self._uploads.find(ref.url, tenant, ref.field)
        if not scheme.startswith(_WEB):
            raise Refused("must be a data:, sha256:, http: or https: URL")
        if self._fetcher is None:
            raise Refused("is a URL, and fetching is switched off here (media.fetch_urls)")
        return await self._fetcher.fetched(ref.url, allowance, max_bytes)

    async def _size(self, source: Source) -> int:
        try:
            return await self._decoders.num_pixels(source.encoded)
        except Refused as refused:
            raise invalid(source.field, str(refused)) from None

    async def _images(self, source: Source) -> tuple[Image, ...]:
        try:
            frames = await self._decoders.frames(source.encoded)
        except Refused as refused:
            raise invalid(source.field, str(refused)) from None
        return tuple([await asyncio.to_thread(image, frame, source.detail) for frame in frames])


def _scheme(ref: ImageRef | VideoRef) -> str:
    """The beginning of its URL, which may be long."""
    return ref.url[: len("https://")].lower()


def image(pixels: Pixels, detail: Detail = Detail.AUTO) -> Image:
    """An Image of uint8[height, width, 3] in sRGB, with its digest."""
    digest = hashlib.sha256(f"{pixels.shape[1]}x{pixels.shape[0]}:".encode())
    digest.update(pixels.data)
    return Image(pixels, digest.hexdigest(), detail)


def _fetcher(settings: MediaSettings) -> "Fetcher | None":
    if not settings.fetch_urls:
        return None
    # It takes a while to import, and most servers fetch nothing.
    from vlserve.media.fetch import Fetcher  # noqa: PLC0415

    hosts = (host.strip().lower() for host in settings.fetch_hosts.split(","))
    return Fetcher(settings.fetch_s, settings.fetch_mib * MIB, frozenset(filter(None, hosts)))


async def _all(jobs: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """The results, in order. When one fails nobody waits for the rest of them."""
    tasks = [asyncio.create_task(job) for job in jobs]
    if not tasks:
        return []  # without going round the loop
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
