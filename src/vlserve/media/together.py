"""Work for all pictures of a request at a time."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

Result = TypeVar("Result")


async def together(jobs: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
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
