"""What a process that decodes has used, as the kernel counts it, and how it ends."""

import asyncio
import time
from pathlib import Path
from typing import Final

from tests import pictures
from vlserve.media.decoders import Decoders, Encoded
from vlserve.media.errors import Refused
from vlserve.media.wire import Bounds

_FORGET: Final = "5"  # what the kernel takes for: the most is what is there now
_END_S: Final = 2.0


def children(pid: int | None) -> list[int]:
    """The numbers of the processes that a process has started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(number) for number in text.split()]


class Watched:
    """The one process of a room. Its methods raise ProcessLookupError where it is gone."""

    def __init__(self, room: Decoders) -> None:
        (self.pid,) = children(room.pid)

    def forget(self) -> None:
        """Count the most memory from here on."""
        Path(f"/proc/{self.pid}/clear_refs").write_text(_FORGET)

    @property
    def peak_mib(self) -> float:
        """The most memory that was resident, MiB: libraries, and what it shares, with it."""
        for line in self._read("status").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise ProcessLookupError

    @property
    def processor_s(self) -> float:
        """The time that it had a processor for, s."""
        return int(self._read("schedstat").split()[0]) / 1e9

    async def is_gone(self) -> bool:
        """Whether it ends soon."""
        for _ in range(int(_END_S * 100)):
            if not self._is_there():
                return True
            await asyncio.sleep(0.01)
        return False

    def _is_there(self) -> bool:
        return Path(f"/proc/{self.pid}").exists()

    def _read(self, name: str) -> str:
        try:
            return Path(f"/proc/{self.pid}/{name}").read_text()
        except FileNotFoundError:
            raise ProcessLookupError from None


async def ended_late(what: Encoded, bounds: Bounds) -> tuple[str, float, bool]:
    """What is said of a file in a room of its own, after how many seconds, and whether the process
    was killed and a picture that comes after it is decoded all the same."""
    room = Decoders(1, bounds)
    try:
        small = Encoded(pictures.kinds()["png 1x1"], 1)
        await room.frames(small)
        watched = Watched(room)
        begin_s = time.monotonic()
        said = ""
        try:
            await room.frames(what)
        except Refused as refused:
            said = str(refused)
        taken_s = time.monotonic() - begin_s
        is_gone = await watched.is_gone()
        return said, taken_s, is_gone and len(await room.frames(small)) == 1
    finally:
        room.close()
