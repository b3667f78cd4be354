"""No answer waits for a file of this machine: what is the same for all of them is read before."""

import builtins
import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest import mock

import httpx2
import pytest
from PIL import Image

from tests import pictures
from tests.doors.http.live import text_part, user
from tests.doors.ways import PICTURES, PROMPT, Caller
from vlserve import app
from vlserve.settings import EngineSettings, GrpcSettings, HttpSettings, Settings

pytestmark = pytest.mark.asyncio(loop_scope="session")
READING: Final = ((io, "open"), (builtins, "open"), (os, "open"), (os, "listdir"), (os, "scandir"))


@contextmanager
def reads() -> Iterator[list[Any]]:
    """What this process opens or lists while the context lasts."""
    found: list[Any] = []
    with ExitStack() as closing:
        for module, name in READING:
            real = getattr(module, name)

            def noted(*told: Any, _real: Any = real, **named: Any) -> Any:
                found.append(told[0] if told else None)
                return _real(*told, **named)

            closing.enter_context(mock.patch.object(module, name, noted))
        yield found


async def ask(caller: Caller, address: str, picture: bytes) -> None:
    """Each way with a picture, and a text alone, whole and in pieces."""
    for way in PICTURES.values():
        assert (await way(caller, picture)).text
    await caller.chat(text_part(PROMPT))
    body = {"messages": [user(text_part(PROMPT))], "stream": True}
    async with httpx2.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
        answer = await client.post("/v1/chat/completions", json=body)
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_an_answer_reads_no_file() -> None:
    settings = Settings(
        engine=EngineSettings(kind="echo"), grpc=GrpcSettings(port=0), http=HttpSettings(port=0)
    )
    picture = pictures.encoded(Image.fromarray(pictures.scene()), "PNG")
    async with (
        app.running(settings) as house,
        Caller(house.http_address, house.address) as caller,
    ):
        await ask(caller, house.http_address, picture)  # whatever is imported late
        with reads() as found:
            await ask(caller, house.http_address, picture)
    assert not found
