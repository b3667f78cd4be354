"""Asks about several pictures at once over gRPC, with asyncio: each picture is a call of its own,
and the server answers all of them in one batch. Prints each answer when it is complete."""

import argparse
import asyncio
import sys
from pathlib import Path

import grpc
import vision_pb2 as pb
import vision_pb2_grpc


async def answer(stub: vision_pb2_grpc.VisionServiceStub, image: bytes, prompt: str) -> str:
    """The whole answer, of which the pieces come one by one."""
    parts = [pb.Part(image=image), pb.Part(text=prompt)]
    request = pb.VisionRequest(messages=[pb.Message(role=pb.ROLE_USER, parts=parts)])
    return "".join([piece.text async for piece in stub.ChatStream(request, timeout=60)])


async def ask(server: str, images: list[bytes], prompt: str) -> None:
    """Ask about every picture."""
    async with grpc.aio.insecure_channel(server) as channel:
        stub = vision_pb2_grpc.VisionServiceStub(channel)
        for text in await asyncio.gather(*(answer(stub, image, prompt) for image in images)):
            print(text)


def main() -> None:
    """Read the pictures and ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt", nargs="?", default="Describe the image")
    parser.add_argument("--image", type=Path, action="append", required=True, dest="images")
    parser.add_argument("--server", default="localhost:50051")
    options = parser.parse_args()
    images = [path.read_bytes() for path in options.images]
    try:
        asyncio.run(ask(options.server, images, options.prompt))
    except grpc.aio.AioRpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")


if __name__ == "__main__":
    main()
