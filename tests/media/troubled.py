"""The worker with a decoder that does what a picture tells it to: what a broken one may do."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from vlserve.media import picture, worker
from vlserve.media.errors import Refused
from vlserve.media.reader import Data

_decode = picture.decode
_num_pixels = picture.num_pixels


def _spin(_: bytes) -> None:
    while True:
        pass


def _be_deaf(rest: bytes) -> None:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    time.sleep(float(rest))


def _raise(_: bytes) -> None:
    raise KeyError("a fault of ours")


def _connect(port: bytes) -> None:
    socket.create_connection(("127.0.0.1", int(port)), 1).close()


EVILS: dict[bytes, Callable[[bytes], object]] = {
    b"sleep": lambda rest: time.sleep(float(rest)),
    b"deaf": _be_deaf,
    b"frozen": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    b"spin": _spin,
    b"hog": lambda rest: bytearray(int(rest) << 20),
    b"die": lambda rest: os.kill(os.getpid(), int(rest)),
    b"exit": lambda rest: os._exit(int(rest)),
    b"raise": _raise,
    b"open": lambda rest: Path(rest.decode()).read_bytes(),
    b"connect": _connect,
}


def num_pixels(data: Data, max_pixels: int) -> int:
    """As ever, of the picture that a slow one ends with."""
    what, _, rest = data[:].partition(b" ")
    return _num_pixels(rest.partition(b" ")[2] if what == b"slow" else data, max_pixels)


def decode(data: bytes, max_pixels: int) -> picture.Pixels:
    """As a picture in the text `data` says, or as ever. "slow" is followed by seconds and a good
    picture."""
    what, _, rest = data.partition(b" ")
    if what == b"slow":
        seconds, _, good = rest.partition(b" ")
        time.sleep(float(seconds))
        return _decode(good, max_pixels)
    if (evil := EVILS.get(what)) is None:
        return _decode(data, max_pixels)
    evil(rest)
    raise Refused("has done it")


if __name__ == "__main__":
    picture.decode = decode
    picture.num_pixels = num_pixels
    if os.environ.get("UNCONFINED"):  # the control
        worker.open_files = lambda num: None
    worker.main()
