"""What the decoders say. They know no request: who asked them names the field."""


class Refused(Exception):  # noqa: N818  not a fault of ours: the caller's picture is none
    """What came is not taken. The text is ours and safe to show to any caller."""


def too_many_bytes(max_bytes: int) -> Refused:
    """Of a picture or a video that is larger, as it is encoded."""
    return Refused(f"has more than {max_bytes} bytes")
