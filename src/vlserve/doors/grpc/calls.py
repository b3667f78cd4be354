"""What the calls of every gRPC service share: messages read, errors rendered, readers hurried."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
from google.protobuf import unknown_fields
from google.protobuf.message import DecodeError, Message

from vlserve.doors.grpc.status import rendered
from vlserve.doors.grpc.wire_cost import is_costly
from vlserve.errors import Code, ServeError, invalid
from vlserve.service.service import Service
from vlserve.settings import LimitSettings

# What a slow reader gets on top of the time that an answer may take.
READ_GRACE_S: Final = 5.0
_LOG: Final = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Handlers = dict[str, "grpc.RpcMethodHandler[Any, Any]"]
Wire = TypeVar("Wire", bound=Message)


def reader(kind: type[Wire]) -> Callable[[bytes], Wire | None]:
    """What reads messages of that kind, None from bytes that are none or would take long: what was
    raised there would not be ours to word."""

    def read(data: bytes) -> Wire | None:
        if is_costly(data, kind):
            return None
        try:
            return kind.FromString(data)
        except DecodeError:
            return None

    return read


def understood(wire: Wire | None) -> Wire:
    """What was read. Raises ServeError(INVALID_ARGUMENT) where it was no message."""
    if wire is None:
        raise invalid("request", "is not a message of this call, or has too many fields")
    return wire


def refuse_unknown(wire: Message, path: str) -> None:
    """Raises ServeError(INVALID_ARGUMENT) where a field is not in this server's proto file.

    Nothing is dropped in silence: what a newer client asks for is done or refused.
    """
    unknown = unknown_fields.UnknownFieldSet(wire)
    if len(unknown):
        raise invalid(path, f"field number {unknown[0].field_number} is not known")


def worded(error: Exception, callers_field: Callable[[str], str] = str) -> ServeError:
    """What the caller is told of an error, the field at fault by the name that they gave it."""
    if isinstance(error, ServeError):
        if error.field is not None:
            error.field = callers_field(error.field)
        return error
    _LOG.error("a request failed", exc_info=error)
    return ServeError(Code.INTERNAL, "the server failed to answer this request")


@contextmanager
def counted(service: Service, wire: Message | None) -> Iterator[None]:
    """What was read counts among all that is here and not answered yet. Raises
    ServeError(OVERLOADED) where that is too much. gRPC has it in memory by then."""
    with service.body() as claim:
        claim.grow(0 if wire is None else wire.ByteSize())
        yield


@asynccontextmanager
async def errors_rendered(
    context: Context, callers_field: Callable[[str], str] = str
) -> AsyncIterator[None]:
    """Ends the call with the status of what is raised inside."""
    try:
        yield
        return
    except Exception as raised:
        error = worded(raised, callers_field)
    status = rendered(error)
    await context.abort(status.code, status.details, status.trailing_metadata)


@asynccontextmanager
async def read_in_time(limits: LimitSettings) -> AsyncIterator[None]:
    """Raises ServeError(DEADLINE_EXCEEDED) out of what takes longer than an answer may: by then
    its reader is the cause."""
    try:
        async with asyncio.timeout(limits.timeout_s + READ_GRACE_S) as patience:
            yield
    except TimeoutError:
        if patience.expired():
            message = "the answer was not read in time"
            raise ServeError(Code.DEADLINE_EXCEEDED, message) from None
        raise
