"""The relay that reads along what a server says to somebody's client."""

from typing import Any

import openai
import pytest

from bench.witness import Answered, witness
from tests.doors.http.live import data_url, live
from tests.scripted import MODEL

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_it_counts_what_the_server_said() -> None:
    async with live() as house, witness(house.http.address) as seen:
        url = f"http://{seen.address}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            content: Any = [
                {"type": "image_url", "image_url": {"url": data_url()}},
                {"type": "text", "text": "one two"},
            ]
            async with await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": content}],
                stream=True,
                stream_options={"include_usage": True},
            ) as chunks:
                text = "".join(
                    [c.choices[0].delta.content or "" async for c in chunks if c.choices]
                )
            async with await client.responses.create(
                model=MODEL, input="a b c", stream=True
            ) as events:
                kinds = [event.type async for event in events]
            assert seen.num_refused() == 0
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.create(model="other", messages=[])
    assert text.endswith("one two ")
    assert kinds[-1] == "response.completed"
    assert seen.answers() == [Answered(text, 13, 10, 3), Answered("a b c ", 13, 10, 3)]
    assert seen.num_refused() == 1
