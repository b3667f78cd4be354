"""What the calls of every gRPC service share: messages read, errors rendered, readers hurried."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
from google.protobuf import unknown_fields
from google.protobuf.message import DecodeError, Message

from vlserve import request_ids
from vlserve.doors.grpc.status import rendered
from vlserve.doors.grpc.wire_cost import MAX_FIELDS, is_costly
from vlserve.errors import Code, ServeError, failed, invalid
from vlserve.service.service import Service
from vlserve.settings import LimitSettings

# What a slow reader gets on top of the time that an answer may take.
READ_GRACE_S: Final = 5.0
_KEY_CHARACTERS: Final = 64
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
        raise invalid(
            "request", f"is not a message of this call, or has more than {MAX_FIELDS} fields"
        )
    return wire


def refuse_unknown(wire: Message) -> None:
    """Raises ServeError(INVALID_ARGUMENT) where a field, at any depth, is not in this server's
    proto file, naming the message that holds it.

    Nothing is dropped in silence: what a newer client asks for is done or refused.
    """
    for path, message in _messages(wire, ""):
        unknown = unknown_fields.UnknownFieldSet(message)
        if len(unknown):
            number = unknown[0].field_number
            raise invalid(path or "request", f"field number {number} is not known")


def _messages(wire: Message, path: str) -> Iterator[tuple[str, Message]]:
    """A message and all those in it, with their paths. No other field is looked at: a look at
    bytes is a copy of them."""
    yield path, wire
    begin = f"{path}." if path else ""
    for field in wire.DESCRIPTOR.fields:
        if field.message_type is None:
            continue
        value = getattr(wire, field.name)
        if isinstance(value, Message):
            inner = {field.name: value} if wire.HasField(field.name) else {}
        elif isinstance(value, Mapping):
            inner = {f"{field.name}.{str(key)[:_KEY_CHARACTERS]}": value[key] for key in value}
        else:
            inner = {f"{field.name}[{i}]": each for i, each in enumerate(value)}
        for name, each in inner.items():
            if isinstance(each, Message):  # a map may hold numbers
                yield from _messages(each, f"{begin}{name}")


def worded(error: Exception) -> ServeError:
    """What the caller is told of an error."""
    if isinstance(error, ServeError):
        return error
    _LOG.error("request %s failed", request_ids.current(), exc_info=error)
    return failed()


@contextmanager
def counted(service: Service, wire: Message | None) -> Iterator[None]:
    """What was read counts among all that is here and not answered yet. Raises
    ServeError(OVERLOADED) where that is too much. gRPC has it in memory by then."""
    with service.body() as claim:
        claim.grow(0 if wire is None else wire.ByteSize())
        yield


@asynccontextmanager
async def errors_rendered(context: Context) -> AsyncIterator[None]:
    """Ends the call with the status of what is raised inside. Its trailing metadata has the id of
    the request: the caller's own, or a new one."""
    offered = dict(context.invocation_metadata() or ()).get(request_ids.HEADER)
    name = (request_ids.HEADER, request_ids.begin(offered if isinstance(offered, str) else None))
    context.set_trailing_metadata((name,))
    try:
        yield
        return
    except Exception as raised:
        error = worded(raised)
    status = rendered(error)
    await context.abort(status.code, status.details, (*status.trailing_metadata, name))


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
