"""A client that pings each 10 s, idle for three minutes and through a call of one minute:
python -m tests.doors.grpc.pings (four minutes)."""

import asyncio
import time

import grpc.aio

from tests.doors.grpc.http2_frames import watched
from tests.doors.grpc.live import live
from tests.scripted import ScriptedEngine
from vlserve.doors.grpc.pb import vision_pb2 as pb

IDLE_S = 180
STEP_S = 20.0  # three of them to the end of an answer of two words
OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


async def main() -> None:
    async with (
        live(ScriptedEngine(step_s=STEP_S)) as house,
        watched(house.door.address) as (address, wire),
        grpc.aio.insecure_channel(address, options=OPTIONS) as channel,
    ):
        list_models = channel.unary_unary(
            "/vision.VisionService/ListModels",
            pb.ListModelsRequest.SerializeToString,
            pb.ListModelsResponse.FromString,
        )
        chat = channel.unary_unary(
            "/vision.VisionService/Chat",
            pb.VisionRequest.SerializeToString,
            pb.VisionResponse.FromString,
        )
        await list_models(pb.ListModelsRequest())
        await asyncio.sleep(IDLE_S)
        await list_models(pb.ListModelsRequest())
        idle = wire.num_pings
        begin_s = time.monotonic()
        answer = await chat(pb.VisionRequest(prompt="hello you"))
        took_s = time.monotonic() - begin_s
        assert answer.text == "hello you "
    print(
        f"idle {IDLE_S} s: {idle} pings; a call of {took_s:.0f} s: {wire.num_pings - idle} pings,"
        f" answered; {wire.num_connections} connection, {len(wire.goaways)} GOAWAY {wire.goaways}"
    )


if __name__ == "__main__":
    asyncio.run(main())
