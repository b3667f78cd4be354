"""The process that makes those which decode, with a decoder that holds a picture which says so."""

from tests.faults.held import Phase, held
from vlserve.media import picture, worker

_decode = picture.decode


def decode(data: bytes, max_pixels: int) -> picture.Pixels:
    """As ever, once the gate is open."""
    hold = held(data)
    if hold is not None and hold.phase is Phase.DECODE:
        hold.wait()
    return _decode(data, max_pixels)


if __name__ == "__main__":
    picture.decode = decode
    worker.main()
