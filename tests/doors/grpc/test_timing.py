"""Timings over a real channel: typed, where they are new and nowhere else."""

from collections.abc import Iterator

import pytest

from tests.doors.grpc.live import live, png
from tests.scripted import ScriptedEngine
from tests.timed import check
from vlserve.doors.grpc.pb import vision_pb2 as pb
from vlserve.timings import Stage, Timings
from vlserve.types import Chunk, Request

pytestmark = pytest.mark.asyncio(loop_scope="session")
STEP_S = 0.05
ASKED = pb.VisionRequest(image=png(), prompt="one two three")


def read(wire: pb.VisionResponse) -> Timings | None:
    if not wire.HasField("timings"):
        return None
    timings = Timings(**{field.name: value for field, value in wire.timings.ListFields()})
    check(timings)
    return timings


async def test_a_whole_answer_has_them() -> None:
    async with live(ScriptedEngine(step_s=STEP_S)) as house:
        timings = read(await house.client.chat(ASKED))
    assert timings is not None
    print(timings)
    assert timings.media_decode_s > 0 == timings.fetch_s
    assert timings.prefill_s >= STEP_S
    assert timings.decode_s >= 4 * STEP_S
    assert timings.total_s >= timings.first_token_s + timings.decode_s


class WordsInHalves(ScriptedEngine):
    """Its first token is the half of a character: no text yet."""

    def _answer(self, request: Request) -> Iterator[Chunk]:
        yield Chunk("", (0,))
        yield from super()._answer(request)


@pytest.mark.parametrize("engine", [ScriptedEngine, WordsInHalves])
async def test_a_stream_has_them_with_the_first_token_and_the_last_piece(
    engine: type[ScriptedEngine],
) -> None:
    async with live(engine(step_s=STEP_S)) as house:
        told = [read(piece) async for piece in house.client.chat_stream(ASKED)]
    first, *between, last = told
    assert between
    assert not any(between)
    assert first is not None
    assert last is not None
    assert (first.decode_s, first.total_s) == pytest.approx((0, first.first_token_s), abs=0.01)
    assert last.first_token_s == first.first_token_s
    assert all(last.of(stage) >= first.of(stage) for stage in Stage)
    assert last.decode_s >= (len(told) - 1) * STEP_S


async def test_of_several_answers_in_one_message_the_last_to_end_is_told() -> None:
    async with live(ScriptedEngine(num_slots=1, step_s=STEP_S)) as house:
        sampling = pb.Sampling(n=2)
        whole = await house.client.chat(pb.VisionRequest(prompt="a b c", sampling=sampling))
        pieces = house.client.chat_stream(pb.VisionRequest(prompt="a b c", sampling=sampling))
        lasts = [piece async for piece in pieces if piece.finish_reason]
    timings = read(whole)
    assert timings is not None
    assert timings.queue_s >= 4 * STEP_S
    assert [other.HasField("timings") for other in whole.others] == [False]
    of_each = [read(piece) for piece in lasts]
    waits_s = sorted(each.queue_s for each in of_each if each)
    assert len(waits_s) == 2
    assert waits_s[0] < STEP_S < 4 * STEP_S <= waits_s[1]
