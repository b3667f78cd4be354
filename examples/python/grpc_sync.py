"""Asks a vlserve server about a picture over gRPC and prints the answer as it comes."""

import argparse
import sys
from pathlib import Path

import grpc
import vision_pb2
import vision_pb2_grpc


def main() -> None:
    """Ask once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt", nargs="?", default="Describe the image")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--server", default="localhost:50051")
    options = parser.parse_args()

    request = vision_pb2.VisionRequest(image=options.image.read_bytes(), prompt=options.prompt)
    with grpc.insecure_channel(options.server) as channel:
        stub = vision_pb2_grpc.VisionServiceStub(channel)
        try:
            for piece in stub.ChatStream(request, timeout=60):
                print(piece.text, end="", flush=True)
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")
    print()


if __name__ == "__main__":
    main()
