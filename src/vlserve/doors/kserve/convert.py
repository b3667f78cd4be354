"""From ModelInferRequest to the nouns. What is not understood is refused by name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vlserve.doors.grpc.calls import refuse_unknown
from vlserve.doors.kserve import sampling
from vlserve.doors.kserve.pb import inference_pb2 as pb
from vlserve.doors.kserve.sampling import Given
from vlserve.doors.kserve.tensors import Element, read, requested, shown_name
from vlserve.errors import Code, ServeError, invalid, quoted
from vlserve.settings import LimitSettings
from vlserve.types import ChatRequest, ImageRef, Message, Role, VideoRef
from vlserve.words import shown

VERSION: Final = "1"
# The first bytes of a picture that is written in base64. Those of a file are no such text in any
# format that is decoded here: each has another byte among them.
_BASE64_BEGIN: Final = re.compile(rb"[A-Za-z0-9+/_=\r\n-]{1,24}")
_BEGIN_BYTES: Final = 24
_NAMES: Final = {"messages": "text_input", "messages[0]": "text_input", "model": "model_name"}


@dataclass(frozen=True, slots=True)
class InferCall:
    """A request: what goes to the service, and how its answer is to look.

    `outputs` are the names of the tensors that come back, `prefix` stands before each answer.
    `timeout_s` is the caller's own bound, None where there is none. `names` are what the caller
    calls our fields.
    """

    chat: ChatRequest
    is_stream: bool
    outputs: frozenset[str]
    prefix: str
    timeout_s: float | None
    names: Mapping[str, str]


def infer_call(wire: pb.ModelInferRequest, limits: LimitSettings) -> InferCall:
    """What the caller asks for.

    Raises ServeError: NOT_FOUND for another version of the model, INVALID_ARGUMENT naming the
    tensor or the parameter at fault.
    """
    refuse_unknown(wire)
    check_version(wire.model_version)
    inputs = read(wire, limits.max_images)
    timeout_s, given = _parameters(wire)
    for text in _texts(inputs, "sampling_parameters"):
        given |= sampling.written(text.encode())
    is_stream = _flag(inputs, "stream", default=False)
    is_answer_alone = _flag(inputs, "exclude_input_in_output", default=True)
    if is_stream and not is_answer_alone:
        raise invalid("exclude_input_in_output", "must be true where stream is")
    (question,) = _texts(inputs, "text_input")
    content: list[str | ImageRef | VideoRef] = [
        _picture(data, i) for i, data in enumerate(inputs.get("image", ()))
    ]
    if question:
        content.append(question)
    return InferCall(
        ChatRequest(
            (Message(Role.USER, tuple(content)),),
            sampling.sampling(given, limits),
            wire.model_name,
            media_bounds=sampling.media_bounds(given),
            left_to_model=sampling.left_to_model(given),
        ),
        is_stream,
        frozenset(
            name
            for name in requested(wire)
            if _flag(inputs, f"return_{name}", default=name != "logprobs" or bool(wire.outputs))
        ),
        "" if is_answer_alone else question,
        timeout_s,
        _NAMES | sampling.names(given),
    )


def check_version(version: str) -> None:
    """Raises ServeError(NOT_FOUND) for one that is not served."""
    if version not in ("", VERSION):
        raise ServeError(
            Code.NOT_FOUND, f"is {quoted(version)}: only {VERSION} is served", field="model_version"
        )


def _parameters(wire: pb.ModelInferRequest) -> tuple[float | None, dict[str, Given]]:
    """The time that the caller gives, s, and the sampling parameters."""
    timeout_s, given = None, {}
    for name, parameter in wire.parameters.items():
        path = f"parameters.{shown_name(name)}"
        kind = parameter.WhichOneof("parameter_choice")
        value = getattr(parameter, kind) if kind else None
        match name:
            case "timeout":
                microseconds = parameter.int64_param
                if kind != "int64_param" or microseconds < 0:
                    raise invalid(
                        path,
                        f"must be a whole number of microseconds, at least 0, not {shown(value)}",
                    )
                timeout_s = microseconds / 1e6 or None
            case "triton_enable_empty_final_response":
                # The last piece says that it is the last: no empty one need follow it.
                if kind != "bool_param":
                    raise invalid(path, f"must be true or false, not {shown(value)}")
            case _:
                given[name] = Given(value, path)
    return timeout_s, given


def _texts(inputs: Mapping[str, list[Element]], name: str) -> list[str]:
    try:
        return [element.decode() for element in inputs.get(name, ()) if isinstance(element, bytes)]
    except UnicodeDecodeError:
        raise invalid(name, "is not UTF-8") from None


def _flag(inputs: Mapping[str, list[Element]], name: str, *, default: bool) -> bool:
    return bool(inputs[name][0]) if name in inputs else default


def _picture(data: Element, index: int) -> ImageRef:
    assert isinstance(data, bytes)  # noqa: S101  the tensor's type is BYTES
    field = f"image[{index}]"
    begin = data[:_BEGIN_BYTES]
    if _BASE64_BEGIN.fullmatch(begin) and data.isascii():
        return ImageRef(url=f"data:;base64,{data.decode('ascii')}", field=field)
    return ImageRef(data, field)
