"""grpc.reflection, v1 and v1alpha: the services of this server and the files that describe them."""

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from vlserve.doors.grpc.calls import Context, Handlers, errors_rendered, reader, understood

_ALPHA_PACKAGE: Final = reflection_pb2.DESCRIPTOR.package
_PACKAGE: Final = "grpc.reflection.v1"
_ALPHA: Final = reflection.SERVICE_NAME
_V1: Final = _ALPHA.replace(_ALPHA_PACKAGE, _PACKAGE)


def services(names: Iterable[str]) -> dict[str, Handlers]:
    """The handlers of both versions by their full names; they tell of `names` and themselves.

    The two differ in their package alone, so one set of messages reads and writes both.
    """
    known = descriptor_pool.Default()
    pool = descriptor_pool.DescriptorPool()
    for name in (*names, _ALPHA):
        _add(pool, known.FindServiceByName(name).file)
    _add(pool, error_details_pb2.DESCRIPTOR)  # what the details of a status are
    pool.AddSerializedFile(_v1_file().SerializeToString())
    servicer: Any = reflection.aio.ReflectionServicer(  # type: ignore[attr-defined]  # not in the stubs
        (*names, _ALPHA, _V1), pool=pool
    )

    async def info(
        wires: AsyncIterator[reflection_pb2.ServerReflectionRequest | None], context: Context
    ) -> None:
        async with errors_rendered(context):
            asked = (understood(wire) async for wire in wires)
            async for answer in servicer.ServerReflectionInfo(asked, context):
                await context.write(answer)

    handler = grpc.stream_stream_rpc_method_handler(
        info,
        reader(reflection_pb2.ServerReflectionRequest),
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return {name: {"ServerReflectionInfo": handler} for name in (_ALPHA, _V1)}


def _add(pool: descriptor_pool.DescriptorPool, file: FileDescriptor) -> None:
    """A file, after those that it imports."""
    for each in file.dependencies:
        _add(pool, each)
    pool.AddSerializedFile(file.serialized_pb)


def _v1_file() -> descriptor_pb2.FileDescriptorProto:
    """What describes v1: v1alpha by its other name."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = "grpc/reflection/v1/reflection.proto", _PACKAGE

    def renamed(name: str) -> str:
        return name.replace(f".{_ALPHA_PACKAGE}.", f".{_PACKAGE}.")

    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = renamed(field.type_name)
    for service in file.service:
        for method in service.method:
            method.input_type = renamed(method.input_type)
            method.output_type = renamed(method.output_type)
    return file
