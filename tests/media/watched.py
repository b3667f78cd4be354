"""What a process that decodes has used, as the kernel counts it."""

from pathlib import Path

from vlserve.media.decoders import Decoders

_FORGET = "5"  # what the kernel takes for: the most is what is there now


class Watched:
    """The one process of a room. Its methods raise ProcessLookupError where it is gone."""

    def __init__(self, room: Decoders) -> None:
        children = Path(f"/proc/{room.pid}/task/{room.pid}/children").read_text().split()
        (self.pid,) = map(int, children)

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

    def _read(self, name: str) -> str:
        try:
            return Path(f"/proc/{self.pid}/{name}").read_text()
        except FileNotFoundError:
            raise ProcessLookupError from None
