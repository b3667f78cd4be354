"""Waiting for what is meant, not for a clock."""

import asyncio
from collections.abc import Callable

# Many times what anything here takes, on a machine whose cores many others want as well: who
# waits this long has found a fault. What a caller was promised sooner is measured by its test.
AT_MOST_S = 30.0


async def until(is_so: Callable[[], object], within_s: float = AT_MOST_S) -> None:
    """Returns once `is_so()`; fails where it does not become so in time."""
    async with asyncio.timeout(within_s):
        while not is_so():
            await asyncio.sleep(0.002)
