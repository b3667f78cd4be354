"""The client of the first system, word for word, with stubs made by its own command."""

import asyncio
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import pictures
from tests.doors.grpc.live import live
from vlserve.doors.grpc.pb import vision_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="session")
PROTO = Path(__file__).parents[3] / "proto" / "vision.proto"
FIRST_PROTO = """syntax = "proto3";

package vision;

service VisionService {
  rpc Chat (VisionRequest) returns (VisionResponse);
}

message VisionRequest {
  bytes image = 1;
  string prompt = 2;
}

message VisionResponse {
  string text = 1;
}
"""
MAKE_STUBS = "python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. vision.proto"
CLIENT = """import grpc
import vision_pb2, vision_pb2_grpc

with open("image.jpg", "rb") as f:
    img = f.read()

channel = grpc.insecure_channel("localhost:50051")
stub = vision_pb2_grpc.VisionServiceStub(channel)

response = stub.Chat(
    vision_pb2.VisionRequest(
        image=img,
        prompt="Describe the image"
    )
)

print(response.text)
"""


async def run(folder: Path, *command: str) -> str:
    """What a command prints. It must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.mark.parametrize("proto", [FIRST_PROTO, PROTO.read_text()], ids=["its own", "ours"])
async def test_it_runs_unchanged(tmp_path: Path, proto: str) -> None:
    picture = pictures.encoded(Image.fromarray(pictures.scene((640, 480))), "JPEG", quality=95)
    (tmp_path / "image.jpg").write_bytes(picture)
    (tmp_path / "vision.proto").write_text(proto)
    await run(tmp_path, sys.executable, *shlex.split(MAKE_STUBS)[1:])
    async with live() as house:
        port = house.door.address.rsplit(":", 1)[1]
        printed = await run(tmp_path, sys.executable, "-c", CLIENT.replace("50051", port))
    digest = pictures.digest(picture)
    assert printed == f"{digest} Describe the image \n"


async def test_a_five_megabyte_photo_is_answered() -> None:
    noise = np.random.default_rng(5).integers(0, 256, (1300, 1300, 3), np.uint8)
    data = pictures.encoded(Image.fromarray(noise), "PNG")
    assert len(data) > 5_000_000
    async with live() as house:
        answer = await house.client.chat(pb.VisionRequest(image=data, prompt="p"))
    assert answer.text == f"{pictures.digest(data)} p "


async def test_stubs_of_our_file_and_the_package_live_in_one_process(tmp_path: Path) -> None:
    """Both register vision.proto with the same content, which protobuf takes for one file."""
    (tmp_path / "vision.proto").write_text(PROTO.read_text())
    await run(tmp_path, sys.executable, *shlex.split(MAKE_STUBS)[1:])
    both = "import vision_pb2; from vlserve.doors.grpc.pb import vision_pb2 as ours; " + (
        "assert ours.VisionRequest.DESCRIPTOR is vision_pb2.VisionRequest.DESCRIPTOR"
    )
    await run(tmp_path, sys.executable, "-c", both)
