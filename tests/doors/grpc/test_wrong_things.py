"""Every call of every service, asked wrongly: statuses of ours, and nothing of the inside."""

import random
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from tests.doors.grpc.live import live

REFLECTION: Final = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
OURS: Final = ("vision.VisionService", "inference.GRPCInferenceService", "grpc.health.v1.Health")
# Of a client that still sends when its call has ended: no server said it.
OF_THE_CLIENT: Final = "Internal error from Core"
# A class, a module, a path, an address, a trace.
INSIDE: Final = re.compile(
    r"<class|Error\b|Exception|Traceback|0x[0-9a-f]{4}|\w/\w+\.py|google\.protobuf|_pb2|NoneType"
    r"|not implemented|Unexpected"
)
ASKED: Final = reflection_pb2.ServerReflectionRequest


async def reflected(
    channel: grpc.aio.Channel, service: str, *asked: reflection_pb2.ServerReflectionRequest
) -> list[reflection_pb2.ServerReflectionResponse]:
    call = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        ASKED.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    return [answer async for answer in call(iter(asked))]


async def services(channel: grpc.aio.Channel, version: str) -> dict[str, list[str]]:
    """Each service that is told of, and its calls as its file describes them."""
    (listed,) = await reflected(channel, version, ASKED(list_services=""))
    found = {}
    for service in listed.list_services_response.service:
        (told,) = await reflected(channel, version, ASKED(file_containing_symbol=service.name))
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(data)
            for data in told.file_descriptor_response.file_descriptor_proto
        ]
        (calls,) = (
            [method.name for method in each.method]
            for file in files
            for each in file.service
            if f"{file.package}.{each.name}" == service.name
        )
        found[service.name] = calls
    return found


@pytest.mark.parametrize("version", REFLECTION)
async def test_reflection_tells_of_every_service_in_both_versions(version: str) -> None:
    async with live() as house, grpc.aio.insecure_channel(house.door.address) as channel:
        found = await services(channel, version)
        (detail,) = await reflected(
            channel, version, ASKED(file_containing_symbol="google.rpc.BadRequest")
        )
    assert sorted(found) == sorted(
        (
            "vision.VisionService",
            "inference.GRPCInferenceService",
            "grpc.health.v1.Health",
            *REFLECTION,
        )
    )
    assert found["grpc.health.v1.Health"] == ["Check", "List", "Watch"]
    assert detail.HasField("file_descriptor_response")


async def test_health_lists_the_server_and_its_services() -> None:
    statuses = health_pb2.HealthCheckResponse
    names = {"", "vision.VisionService", "inference.GRPCInferenceService"}
    async with (
        live(is_open=False) as house,
        grpc.aio.insecure_channel(house.door.address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        for is_serving, status in ((False, statuses.NOT_SERVING), (True, statuses.SERVING)):
            await house.door.announce(is_serving=is_serving)
            listed = await stub.List(health_pb2.HealthListRequest())
            assert {name: each.status for name, each in listed.statuses.items()} == dict.fromkeys(
                names, status
            )


def wrong_bytes() -> list[bytes]:
    """What is no message, or a strange one; empty, which is a message, too."""
    rng = random.Random(3)
    return [
        b"",
        b"\x12\x05cut",
        b"\x0a\x04nope",
        b"\x0a\x02\xff\xfe",
        b"\x98\x06\x01",
        b"\x0b" * 100,
        b"\x32\x06\x0a\x04nope",
        b"\x2a\x03\x0a\x01x",
        "\x0a\x05größe".encode(),
        *(rng.randbytes(rng.randint(1, 80)) for _ in range(20)),
    ]


async def ended(channel: grpc.aio.Channel, path: str, sent: Sequence[bytes]) -> tuple[str, str]:
    """The status of a call that sends any number of messages, and its text."""

    async def messages() -> AsyncIterator[bytes]:
        for each in sent:
            yield each

    call: Any = channel.stream_stream(path, None, None)(messages(), timeout=0.5)
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


async def test_no_status_says_anything_of_the_inside() -> None:
    seen: dict[str, int] = {}
    async with live() as house, grpc.aio.insecure_channel(house.door.address) as channel:
        found = await services(channel, REFLECTION[0])
        found["no.such.Service"] = ["Call"]
        for service, calls in found.items():
            for call in (*calls, "NoSuchCall"):
                wrong = wrong_bytes()
                for sent in ([], [b"", b""], wrong, *([each] for each in wrong)):
                    code, text = await ended(channel, f"/{service}/{call}", sent)
                    if text == OF_THE_CLIENT:
                        continue
                    assert not INSIDE.search(text), (service, call, sent, text)
                    assert code not in ("UNKNOWN", "INTERNAL"), (service, call, sent, text)
                    seen[code] = seen.get(code, 0) + 1
    print(f"wrong calls by their status: {seen}")
    assert {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"} <= set(seen)
