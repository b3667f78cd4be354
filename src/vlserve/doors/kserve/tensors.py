"""The tensors that go in and come out, named as Triton's vLLM backend names them."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vlserve.doors.kserve.pb import inference_pb2 as pb
from vlserve.errors import invalid, quoted

ANY: Final = -1
_NO_PARAMETER: Final = "is no parameter of this tensor, which has none: shared memory is not served"
_LENGTH: Final = struct.Struct("<I")
_NAME_CHARACTERS: Final = 64
_SHOWN_SIZES: Final = 4
_CONTENTS: Final = {"BYTES": "bytes_contents", "BOOL": "bool_contents"}

Element = bytes | bool | int


@dataclass(frozen=True, slots=True)
class Tensor:
    """One of one dimension, of `size` elements or of ANY number. `datatype` is the protocol's:
    BYTES, BOOL or UINT32."""

    name: str
    datatype: str
    size: int = 1
    is_optional: bool = True


INPUTS: Final = (
    Tensor("text_input", "BYTES", is_optional=False),
    Tensor("image", "BYTES", ANY),
    Tensor("stream", "BOOL"),
    Tensor("sampling_parameters", "BYTES"),
    Tensor("exclude_input_in_output", "BOOL"),
    Tensor("return_finish_reason", "BOOL"),
    Tensor("return_num_input_tokens", "BOOL"),
    Tensor("return_num_output_tokens", "BOOL"),
    Tensor("return_logprobs", "BOOL"),
)
OUTPUTS: Final = (
    Tensor("text_output", "BYTES", ANY),
    Tensor("finish_reason", "BYTES", ANY),
    Tensor("num_input_tokens", "UINT32"),
    Tensor("num_output_tokens", "UINT32", ANY),
    Tensor("logprobs", "BYTES", ANY),
)
_INPUT_OF: Final = {tensor.name: tensor for tensor in INPUTS}
_OUTPUT_OF: Final = {tensor.name: tensor for tensor in OUTPUTS}


def shown_name(name: str) -> str:
    """A name of the caller's as an error may hold it: any text, and as long as they like."""
    return name[:_NAME_CHARACTERS].encode(errors="replace").decode()


def read(wire: pb.ModelInferRequest, max_images: int) -> dict[str, list[Element]]:
    """The elements of each input by its name.

    Raises ServeError(INVALID_ARGUMENT) naming the input that is unknown, twice there, left out,
    or not as INPUTS has it.
    """
    raws = wire.raw_input_contents
    if raws and len(raws) != len(wire.inputs):
        raise invalid(
            "raw_input_contents",
            f"must hold one for each input, {len(wire.inputs)}, not {len(raws)}",
        )
    found: dict[str, list[Element]] = {}
    for i, sent in enumerate(wire.inputs):
        tensor = _INPUT_OF.get(sent.name)
        if tensor is None:
            raise invalid(
                shown_name(sent.name) or f"inputs[{i}].name",
                "is no input: ModelMetadata has all",
            )
        if sent.name in found:
            raise invalid(sent.name, "is there twice")
        count = _count(sent, tensor, max_images)
        if raws:
            if sent.HasField("contents"):
                raise invalid(sent.name, "has contents beside raw_input_contents")
            found[sent.name] = _unpacked(raws[i], tensor, count)
        else:
            found[sent.name] = _contents(sent, tensor, count)
    for tensor in INPUTS:
        if not tensor.is_optional and tensor.name not in found:
            raise invalid(tensor.name, "is required")
    return found


def requested(wire: pb.ModelInferRequest) -> set[str]:
    """The names of the outputs that are asked for, which are all where none is named.

    Raises ServeError(INVALID_ARGUMENT) naming the one that is unknown, or a parameter of it.
    """
    for i, sent in enumerate(wire.outputs):
        if sent.name not in _OUTPUT_OF:
            raise invalid(
                shown_name(sent.name) or f"outputs[{i}].name",
                "is no output: ModelMetadata has all",
            )
        _refuse_parameters(sent)
    return {sent.name for sent in wire.outputs} or set(_OUTPUT_OF)


def write(response: pb.ModelInferResponse, name: str, elements: Sequence[Element]) -> None:
    """Put an output into a response."""
    tensor = _OUTPUT_OF[name]
    response.outputs.add(name=name, datatype=tensor.datatype, shape=[len(elements)])
    packed = bytearray()
    for element in elements:
        if isinstance(element, bytes):
            packed += _LENGTH.pack(len(element)) + element
        else:
            packed += _LENGTH.pack(element)  # little-endian and four bytes, as UINT32 is
    response.raw_output_contents.append(bytes(packed))


def _count(sent: pb.ModelInferRequest.InferInputTensor, tensor: Tensor, max_images: int) -> int:
    """How many elements it says that it has."""
    name = tensor.name
    _refuse_parameters(sent)
    if sent.datatype != tensor.datatype:
        raise invalid(name, f"must be of type {tensor.datatype}, not {quoted(sent.datatype)}")
    shape = list(sent.shape)
    if tensor.size != ANY:
        if shape != [tensor.size]:
            raise invalid(name, f"must have the shape [{tensor.size}], not {_shape(shape)}")
    elif len(shape) != 1 or shape[0] < 0:
        raise invalid(name, f"must have one dimension, not the shape {_shape(shape)}")
    elif shape[0] > max_images:
        most = f"a request may hold at most {max_images} (limits.max_images)"
        raise invalid(name, f"is {shape[0]} pictures; {most}")
    return int(shape[0])


def _shape(shape: list[int]) -> str:
    more = ", ..." if len(shape) > _SHOWN_SIZES else ""
    return f"[{', '.join(map(str, shape[:_SHOWN_SIZES]))}{more}]"


def _refuse_parameters(
    sent: pb.ModelInferRequest.InferInputTensor | pb.ModelInferRequest.InferRequestedOutputTensor,
) -> None:
    for parameter in sent.parameters:
        raise invalid(
            f"{sent.name}.{shown_name(parameter)}",
            _NO_PARAMETER,
        )


def _unpacked(raw: bytes, tensor: Tensor, count: int) -> list[Element]:
    if tensor.datatype == "BOOL":
        if len(raw) != count:
            raise invalid(tensor.name, f"has {len(raw)} bytes, its shape says {count}")
        return [byte != 0 for byte in raw]
    elements: list[Element] = []
    at = 0
    for _ in range(count):
        begin = at + _LENGTH.size
        at = begin + _LENGTH.unpack_from(raw, at)[0] if begin <= len(raw) else begin
        if at > len(raw):
            raise invalid(tensor.name, f"ends before the {count} elements that its shape says")
        elements.append(raw[begin:at])
    if at != len(raw):
        raise invalid(
            tensor.name, f"has {len(raw) - at} bytes after the {count} elements that its shape says"
        )
    return elements


def _contents(
    sent: pb.ModelInferRequest.InferInputTensor, tensor: Tensor, count: int
) -> list[Element]:
    wanted = _CONTENTS[tensor.datatype]
    for descriptor, _ in sent.contents.ListFields():
        if descriptor.name != wanted:
            raise invalid(
                f"{tensor.name}.contents", f"must be in {wanted}, not in {descriptor.name}"
            )
    elements = list(getattr(sent.contents, wanted))
    if len(elements) != count:
        raise invalid(tensor.name, f"has {len(elements)} elements, its shape says {count}")
    return elements
