"""What `Server-Timing` says, on every call that answers."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from tests.doors.http.live import Answer, data_url, live, picture_part, text_part, user
from tests.scripted import ScriptedEngine
from tests.waiting import until
from vlserve.types import ChatRequest, Message, Role

pytestmark = pytest.mark.asyncio(loop_scope="session")
STEP_S = 0.05
WAIT_S = 0.4
UNTIL_FIRST = [
    *("queue", "fetch", "media-decode", "preprocess", "encode", "prefill"),
    "first-token",
]
HOLD = ChatRequest((Message(Role.USER, ("hold",)),))
CHAT: Any = {"messages": [user(picture_part(), text_part("one two three"))]}
RESPONSE: Any = {
    "input": [
        user(
            {"type": "input_image", "image_url": data_url(), "detail": "auto"},
            {"type": "input_text", "text": "one two three"},
        )
    ]
}
WHOLE = [
    ("/v1/chat/completions", CHAT),
    ("/v1/responses", RESPONSE),
    ("/process_image", {"image_data": data_url(), "prompt": "one two three"}),
]


def times_ms(answer: Answer) -> dict[str, float]:
    assert answer.status == 200, answer.body
    entries = [entry.split(";dur=") for entry in answer.headers["server-timing"].split(", ")]
    return {name: float(ms) for name, ms in entries}


async def after_a_wait(path: str, body: object) -> dict[str, float]:
    """The times of a call that had to wait for the only place."""
    async with live(ScriptedEngine(num_slots=1, step_s=STEP_S)) as house:
        await house.post(path, body)  # processes that decode start with the first picture
        async with aclosing(house.service.chat(HOLD)) as other:
            await anext(other)
            asking = asyncio.create_task(house.post(path, body))
            await until(lambda: house.engine.num_waiting == 1)
            await asyncio.sleep(WAIT_S)
        return times_ms(await asking)


@pytest.mark.parametrize(("path", "body"), WHOLE)
async def test_a_whole_answer_has_every_stage(path: str, body: object) -> None:
    times = await after_a_wait(path, body)
    print(times)
    assert list(times) == [*UNTIL_FIRST, "decode", "total"]
    first, total = times.pop("first-token"), times.pop("total")
    assert WAIT_S * 1000 <= times["queue"] < first < total
    assert times["media-decode"] > 0 == times["fetch"]
    assert times["prefill"] >= STEP_S * 1000
    assert times["decode"] >= 4 * STEP_S * 1000
    assert sum(times.values()) <= total + 0.05 * len(times)  # each is rounded


@pytest.mark.parametrize(("path", "body"), WHOLE[:2])
async def test_a_stream_begins_with_what_is_known_then(path: str, body: dict[str, Any]) -> None:
    times = await after_a_wait(path, {**body, "stream": True})
    assert list(times) == UNTIL_FIRST
    first = times.pop("first-token")
    assert WAIT_S * 1000 <= times["queue"] < first
    assert sum(times.values()) <= first + 0.05 * len(times)


async def test_of_several_answers_the_one_that_ends_last_is_told() -> None:
    """One place for two: the second waits for as long as the first is made."""
    async with live(ScriptedEngine(num_slots=1, step_s=STEP_S)) as house:
        times = times_ms(await house.post(WHOLE[0][0], {"messages": [user("a b c")], "n": 2}))
    assert times["queue"] >= 4 * STEP_S * 1000
    assert times["total"] >= times["queue"] + times["prefill"] + times["decode"] - 0.2


async def test_what_is_refused_or_fails_has_no_times() -> None:
    async with live() as house:
        for text, body in (("break", {}), ("hello", {"temperature": 9})):
            answer = await house.post(WHOLE[0][0], {"messages": [user(text)], **body})
            assert answer.status >= 400
            assert "server-timing" not in answer.headers
