"""What the decoders say. They know no request: who asked them names the field."""


class Refused(Exception):  # noqa: N818  not a fault of ours: the caller's picture is none
    """What came is not taken. The text is ours and safe to show to any caller."""
