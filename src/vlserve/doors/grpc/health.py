"""grpc.health.v1.Health: whether the server, and each service of it, takes requests."""

from collections.abc import Iterable

import grpc
from grpc_health.v1 import health, health_pb2

from vlserve.doors.grpc.calls import Context, Handlers, errors_rendered, reader, understood
from vlserve.errors import Code, ServeError


class Health:
    """One status for the server, `""`, and for each service."""

    def __init__(self) -> None:
        self._watched = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in the stubs
        self._statuses: dict[str, health_pb2.HealthCheckResponse] = {}

    async def announce(self, services: Iterable[str], *, is_serving: bool) -> None:
        """What is said from now on of the server and of `services`."""
        kinds = health_pb2.HealthCheckResponse
        status = kinds.SERVING if is_serving else kinds.NOT_SERVING
        for name in ("", *services):
            self._statuses[name] = kinds(status=status)
            await self._watched.set(name, status)

    def handlers(self) -> Handlers:
        """The handler of each call by its name in the proto file."""
        check = reader(health_pb2.HealthCheckRequest)
        return {
            "Check": grpc.unary_unary_rpc_method_handler(
                self.check, check, health_pb2.HealthCheckResponse.SerializeToString
            ),
            "List": grpc.unary_unary_rpc_method_handler(
                self.list,
                reader(health_pb2.HealthListRequest),
                health_pb2.HealthListResponse.SerializeToString,
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(
                self.watch, check, health_pb2.HealthCheckResponse.SerializeToString
            ),
        }

    async def check(
        self, wire: health_pb2.HealthCheckRequest | None, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The status of one service."""
        async with errors_rendered(context):
            name = understood(wire).service
            if name not in self._statuses:
                raise ServeError(
                    Code.NOT_FOUND, "is no service of this server: List has all", field="service"
                )
            return self._statuses[name]
        raise AssertionError("the context above returns or raises")

    async def list(
        self, wire: health_pb2.HealthListRequest | None, context: Context
    ) -> health_pb2.HealthListResponse:
        """All statuses."""
        async with errors_rendered(context):
            understood(wire)
            return health_pb2.HealthListResponse(statuses=self._statuses)
        raise AssertionError("the context above returns or raises")

    async def watch(self, wire: health_pb2.HealthCheckRequest | None, context: Context) -> None:
        """The status of one service, and each change of it, until the caller leaves."""
        async with errors_rendered(context):
            await self._watched.Watch(understood(wire), context)
