"""A caller who hangs up is noticed, whatever else happens at that moment."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from vlserve.doors.http.streaming import CallerGone, unless_gone


async def test_who_hangs_up_as_the_first_piece_comes_is_noticed() -> None:
    moment = asyncio.Event()

    async def receive() -> MutableMapping[str, Any]:
        await moment.wait()
        return {"type": "http.disconnect"}

    async def work() -> str:
        await moment.wait()
        return "a piece"

    asking = asyncio.create_task(unless_gone(receive, work()))
    for _ in range(3):
        await asyncio.sleep(0)
    moment.set()
    with pytest.raises(CallerGone):
        await asking


async def test_who_stays_gets_what_was_made() -> None:
    async def receive() -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError("never")

    async def work() -> str:
        await asyncio.sleep(0)
        return "a piece"

    assert await unless_gone(receive, work()) == "a piece"
