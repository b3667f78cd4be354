"""Several answers to one request are several requests to the engine."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace

from vlserve.engines.base import Begun
from vlserve.types import (
    MAX_SEED,
    ChatRequest,
    Chunk,
    Image,
    ImageRef,
    Message,
    Request,
    VideoRef,
)


def with_images(
    messages: tuple[Message[ImageRef | VideoRef], ...], images: list[tuple[Image, ...]]
) -> tuple[Message[Image], ...]:
    """The messages with `images` in place of what stands for them, a video's frames in a row."""
    of_ref = iter(images)
    return tuple(
        Message(
            message.role,
            tuple(
                piece
                for part in message.content
                for piece in ((part,) if isinstance(part, str) else next(of_ref))
            ),
        )
        for message in messages
    )


def single_answers(request: ChatRequest, messages: tuple[Message[Image], ...]) -> Iterator[Request]:
    """The requests for each of the answers, which share the pictures."""
    sampling = request.sampling
    name, seed = uuid.uuid4().hex, sampling.seed
    if sampling.n == 1:
        yield Request(name, messages, sampling, request.tenant)
        return
    for i in range(sampling.n):
        its_seed = None if seed is None else (seed + i) % (MAX_SEED + 1)
        its_own = replace(sampling, n=1, seed=its_seed)
        yield Request(f"{name}-{i}", messages, its_own, request.tenant)


async def merge(answers: Sequence[AsyncGenerator[Chunk | Begun]]) -> AsyncGenerator[Chunk]:
    """The chunks of all answers as they come. One that fails ends all, with its error."""
    chunks: asyncio.Queue[Chunk | Exception] = asyncio.Queue()
    # One place for each, for an answer that nobody reads waits, as it does alone. One place for
    # all would go to whoever comes at the right moment, and to the same one again and again.
    places = [asyncio.Semaphore() for _ in answers]

    async def read(index: int, answer: AsyncGenerator[Chunk | Begun]) -> None:
        try:
            async with aclosing(answer):
                async for chunk in answer:
                    if isinstance(chunk, Begun):
                        continue
                    await places[index].acquire()
                    chunks.put_nowait(replace(chunk, index=index))
        except Exception as error:
            chunks.put_nowait(error)

    readers = [asyncio.create_task(read(i, answer)) for i, answer in enumerate(answers)]
    try:
        num_left = len(readers)
        while num_left:
            chunk = await chunks.get()
            if isinstance(chunk, Exception):
                raise chunk
            num_left -= chunk.finish_reason is not None
            places[chunk.index].release()
            yield chunk
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)
