"""ServeError <-> gRPC status: the code, our text, and the details that clients act on."""

from typing import Final

import grpc
import grpc.aio
from google.protobuf import duration_pb2
from google.protobuf.message import Message as WireMessage
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from vlserve.errors import Code, ServeError, invalid

STATUS: Final = {
    Code.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Code.CONTEXT_LENGTH_EXCEEDED: grpc.StatusCode.INVALID_ARGUMENT,
    Code.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Code.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.INTERNAL: grpc.StatusCode.INTERNAL,
}


_DOMAIN: Final = "vlserve"
# What gRPC itself says, with the code that else means that the server is full.
_TOO_LARGE: Final = "message larger than max"


def rendered(error: ServeError) -> grpc.Status:
    """The status of an error: BadRequest names the field at fault, RetryInfo the time to wait,
    ErrorInfo what the code does not say."""
    details: list[WireMessage] = []
    if STATUS[error.code] is grpc.StatusCode.INVALID_ARGUMENT and error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.code is Code.CONTEXT_LENGTH_EXCEEDED:  # which its status does not say
        details.append(error_details_pb2.ErrorInfo(reason=error.code.name, domain=_DOMAIN))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=STATUS[error.code].value[0], message=str(error))
    for detail in details:
        status.details.add().Pack(detail)
    return rpc_status.to_status(status)


def raised(error: grpc.aio.AioRpcError) -> ServeError:
    """The ServeError that a server answered with: its field and its time to wait as well."""
    codes = {status: code for code, status in STATUS.items()}
    codes[grpc.StatusCode.INVALID_ARGUMENT] = Code.INVALID_ARGUMENT  # of the two that have it
    code = codes.get(error.code())
    if code is None:
        return ServeError(Code.INTERNAL, f"the server answered {error.code().name}")
    message = error.details() or code.value
    if code is Code.OVERLOADED and _TOO_LARGE in message:
        return invalid("request", "the message is larger than the server or this client takes")
    field = retry_after_s = None
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # has what it needs
    for detail in status.details if status is not None else ():
        request, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(request):
            violation = request.field_violations[0]
            field, message = violation.field, violation.description
        elif detail.Unpack(info) and info.reason in Code.__members__:
            code = Code[info.reason]
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    return ServeError(code, message, field=field, retry_after_s=retry_after_s)
