"""The media room: what a request refers to -> Images, with nothing of it trusted.

Bytes come from `sources.py`, pixels from processes that may die of them (`decoders.py`).
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from vlserve.budget import Budget, Share
from vlserve.media.decoders import Decoders, Pixels
from vlserve.media.errors import Refused
from vlserve.media.sources import Source, Sources
from vlserve.media.together import together
from vlserve.media.wire import Bounds
from vlserve.settings import MIB, LimitSettings, MediaSettings
from vlserve.timings import Stage, Stopwatch
from vlserve.types import ChatRequest, Detail, Image, Upload

_MAX_WORKERS: Final = 4


@dataclass(frozen=True, slots=True)
class Pictures:
    """What a request refers to, decoded: of each ref its picture, or its frames in order, and the
    `share` of the budget of decoded pixels that all of them take."""

    images: list[tuple[Image, ...]]
    share: Share


class MediaRoom:
    """Loads what requests refer to, within a budget of decoded pixels. Starts nothing before it is
    asked to."""

    def __init__(self, settings: MediaSettings, limits: LimitSettings) -> None:
        num = settings.workers or min(_MAX_WORKERS, len(os.sched_getaffinity(0)))
        bounds = Bounds(settings.decode_mib * MIB, settings.decode_s, settings.decode_cpu_s)
        self._decoders = Decoders(num, bounds)
        self._sources = Sources(settings, limits)
        self.budget = Budget(limits.max_decoded_pixels)

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
        return await self._sources.upload(data, tenant, field, name=name, purpose=purpose)

    def uploaded(self, reference: str, tenant: str, field: str) -> Upload:
        """What is kept. Raises ServeError(NOT_FOUND) naming `field` where nothing is."""
        return self._sources.uploads.about(reference, tenant, field)

    def forget(self, reference: str, tenant: str, field: str) -> None:
        """Keep an upload no longer. Raises as `uploaded`."""
        self._sources.uploads.forget(reference, tenant, field)

    @asynccontextmanager
    async def decode(self, request: ChatRequest, watch: Stopwatch) -> AsyncIterator[Pictures]:
        """All that a request refers to, within the limits and its own bounds. First the bytes of
        all are found, then their headers are judged, then the request waits for its share of the
        budget, and then pixels are decoded. `watch` is told of each stage.

        Raises ServeError: INVALID_ARGUMENT naming the field of what cannot be had or is not taken,
        INTERNAL where no process could decode it.
        """
        watch.enter(Stage.MEDIA_DECODE)
        refs = [ref for message in request.messages for ref in message.pictures()]
        sources = await self._sources.find(refs, request.tenant, request.media_bounds)
        watch.was(Stage.FETCH, max((source.fetch_s for source in sources), default=0.0))
        try:
            num_pixels = sum(await together(map(self._num_pixels, sources)))
            watch.enter(Stage.QUEUE)
            async with self.budget.share(num_pixels) as share:
                watch.enter(Stage.MEDIA_DECODE)
                images = await together(map(self._images, sources))
                sources.clear()
                yield Pictures(images, share)
        finally:
            for source in sources:
                self._decoders.forget(source.encoded)

    async def _num_pixels(self, source: Source) -> int:
        """By the header alone."""
        try:
            return await self._decoders.num_pixels(source.encoded)
        except Refused as refused:
            raise source.bounds.refusal(source.field, refused) from None

    async def _images(self, source: Source) -> tuple[Image, ...]:
        try:
            frames = await self._decoders.frames(source.encoded)
        except Refused as refused:
            raise source.bounds.refusal(source.field, refused) from None
        return tuple([await asyncio.to_thread(image, frame, source.detail) for frame in frames])


def image(pixels: Pixels, detail: Detail = Detail.AUTO) -> Image:
    """An Image of uint8[height, width, 3] in sRGB, with its digest."""
    digest = hashlib.sha256(f"{pixels.shape[1]}x{pixels.shape[0]}:".encode())
    digest.update(pixels.data)
    return Image(pixels, digest.hexdigest(), detail)
