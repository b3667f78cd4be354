"""What the decoders say. They know no request: who asked them names the field."""


class Refused(Exception):  # noqa: N818  not a fault of ours: the caller's picture is none
    """What came is not taken. The text is ours and safe to show to any caller.

    `bound` is what it is beyond, where it is beyond any: a field of MediaBounds, or a
    setting's name.
    """

    def __init__(self, text: str, bound: str = "") -> None:
        super().__init__(text)
        self.bound = bound


def too_many_bytes(num_bytes: int, max_bytes: int) -> Refused:
    """Of a picture or a video, as it is encoded."""
    return Refused(f"has {num_bytes} bytes; send at most {max_bytes}", "max_image_bytes")


def too_many_pixels(width: int, height: int, max_pixels: int, what: str = "has") -> Refused:
    """Of a picture, or of a video's frames, by what its header says."""
    num = width * height
    message = f"{what} {width} x {height} = {num} pixels; scale it to at most {max_pixels}"
    return Refused(message, "max_image_pixels")
