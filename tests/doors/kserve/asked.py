"""Requests as a client of the Open Inference Protocol writes them, raw or by contents."""

import json
import struct
from typing import Any

import grpc.aio

from vlserve.doors.kserve.pb import inference_pb2 as pb

SERVICE = "inference.GRPCInferenceService"


def packed(*elements: bytes) -> bytes:
    """A raw BYTES tensor."""
    return b"".join(struct.pack("<I", len(each)) + each for each in elements)


def asked(
    text: str | bytes = "hello you",
    *,
    images: tuple[bytes, ...] = (),
    sampling: Any = None,
    flags: dict[str, bool] | None = None,
    **fields: Any,
) -> pb.ModelInferRequest:
    """A request with raw contents. `fields` are those of the message."""
    wire = pb.ModelInferRequest(**fields)
    data = text if isinstance(text, bytes) else text.encode()
    add(wire, "text_input", "BYTES", packed(data))
    if images:
        add(wire, "image", "BYTES", packed(*images), len(images))
    if sampling is not None:
        add(wire, "sampling_parameters", "BYTES", packed(json.dumps(sampling).encode()))
    for name, value in (flags or {}).items():
        add(wire, name, "BOOL", bytes([value]))
    return wire


def add(wire: pb.ModelInferRequest, name: str, datatype: str, raw: bytes, size: int = 1) -> None:
    """One input more."""
    wire.inputs.add(name=name, datatype=datatype, shape=[size])
    wire.raw_input_contents.append(raw)


def outputs(response: pb.ModelInferResponse) -> dict[str, list[Any]]:
    """The elements of each output by its name."""
    found: dict[str, list[Any]] = {}
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        (size,) = tensor.shape
        if tensor.datatype == "UINT32":
            found[tensor.name] = list(struct.unpack(f"<{size}I", raw))
        else:
            found[tensor.name], at = [], 0
            for _ in range(size):
                (length,) = struct.unpack_from("<I", raw, at)
                found[tensor.name].append(raw[at + 4 : at + 4 + length].decode())
                at += 4 + length
            assert at == len(raw)
    return found


class InferenceClient:
    """The calls that tests make."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(
            address, options=(("grpc.max_send_message_length", -1),)
        )
        self.infer: grpc.aio.UnaryUnaryMultiCallable[pb.ModelInferRequest, pb.ModelInferResponse]
        self.infer = self.channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelInferResponse.FromString,
        )
        self.stream: grpc.aio.StreamStreamMultiCallable[
            pb.ModelInferRequest, pb.ModelStreamInferResponse
        ]
        self.stream = self.channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelStreamInferResponse.FromString,
        )

    async def __aenter__(self) -> "InferenceClient":
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.channel.close(None)

    async def pieces(self, *wires: pb.ModelInferRequest) -> list[pb.ModelStreamInferResponse]:
        """All that comes for requests on one stream."""
        return [piece async for piece in self.stream(iter(wires))]
