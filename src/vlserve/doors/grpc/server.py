"""The gRPC door: VisionService, health, reflection, and whatever service is added, on one port."""

from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health

from vlserve.doors.grpc import reflection
from vlserve.doors.grpc.calls import Handlers
from vlserve.doors.grpc.health import Health
from vlserve.doors.grpc.vision import SERVICE, VisionServicer
from vlserve.service.service import Service
from vlserve.settings import MIB, GrpcSettings, LimitSettings

# For the last bytes of calls that have ended; health watchers would stay for ever.
_CLOSE_GRACE_S: Final = 1.0
# gRPC takes an option that it does not know without a word: the effect of each is tested.
CHANNEL: Final = (
    ("grpc.so_reuseport", 0),  # a second server on the same port is an error, not a lottery
    ("grpc.keepalive_time_ms", 60_000),  # finds dead clients, whose work then stops
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),  # clients may ping as often as they like, idle or not
)


class GrpcDoor:
    """Listens from `start` to `stop`. Health says SERVING from `announce(True)` on."""

    def __init__(self, service: Service, limits: LimitSettings, settings: GrpcSettings) -> None:
        self._settings = settings
        bound = limits.max_message_mib * MIB
        self._server = grpc.aio.server(
            options=(*CHANNEL, ("grpc.max_receive_message_length", bound))
        )
        self._health = Health()
        self._names: list[str] = []
        self._is_serving = False
        self._port = 0
        self.add(SERVICE, VisionServicer(service, limits).handlers())

    def add(self, name: str, handlers: Handlers) -> None:
        """Answer for one more service, by its full name; before the start."""
        self._names.append(name)
        self._answer_for(name, handlers)

    def _answer_for(self, name: str, handlers: Handlers) -> None:
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(name, handlers),)
        )

    @property
    def address(self) -> str:
        """`host:port`, with the port that was really taken."""
        return self._settings.address(self._port)

    @property
    def is_serving(self) -> bool:
        """What was announced last."""
        return self._is_serving

    async def start(self) -> None:
        """Listen, NOT_SERVING yet. Raises OSError where the address cannot be had."""
        self._answer_for(health.SERVICE_NAME, self._health.handlers())
        for name, handlers in reflection.services((*self._names, health.SERVICE_NAME)).items():
            self._answer_for(name, handlers)
        self._port = self._settings.port
        try:
            self._port = self._server.add_insecure_port(self.address)
        except RuntimeError:
            raise OSError(f"cannot listen on {self.address}: is it in use?") from None
        await self.announce(is_serving=False)
        await self._server.start()

    async def announce(self, *, is_serving: bool) -> None:
        """What health says from now on, of the server and of each service."""
        self._is_serving = is_serving
        await self._health.announce(self._names, is_serving=is_serving)

    async def stop(self) -> None:
        """Close the connections. Calls that still run are cut off after a second."""
        await self._server.stop(_CLOSE_GRACE_S)
