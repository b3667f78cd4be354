"""What makes a message take long to read, counted before it is.

A picture is read as fast as memory is copied. Many fields are not: 60 MiB of empty ones take
seconds, in which nobody else is served, and twenty times their size of memory.
"""

from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

MAX_FIELDS: Final = 2**16  # far more than a request of all parts and parameters has
# Below, however many fields there are, they are read in a few milliseconds.
_SMALL_BYTES: Final = 64 * 1024


def is_costly(data: bytes, kind: type[Message]) -> bool:
    """Whether bytes that should be a message of that kind hold more than MAX_FIELDS fields, those
    of the messages in it and the numbers of lists among them, or a group. Bytes that are none are
    not."""
    if len(data) <= _SMALL_BYTES:
        return False
    try:
        fields: Any = kind.DESCRIPTOR
        return _num_fields(memoryview(data), fields, MAX_FIELDS) > MAX_FIELDS
    except (IndexError, ValueError):
        return False  # what is no message is found out at the same place


def _num_fields(data: memoryview, kind: Descriptor, most: int) -> int:
    """Counted until there are more than `most`."""
    num = at = 0
    while at < len(data) and num <= most:
        tag, at = _varint(data, at)
        num += 1
        match tag & 7:  # how it is written
            case 0:  # varint
                _, at = _varint(data, at)
            case 1:  # 64 bits
                at += 8
            case 2:  # with its length
                length, begin = _varint(data, at)
                at = begin + length
                field = kind.fields_by_number.get(tag >> 3)
                if field is not None:
                    num += _num_inside(data[begin:at], field, most - num)
            case 5:  # 32 bits
                at += 4
            case _:  # a group, which no message here has, and which is read all the same
                return most + 1
    return num


def _num_inside(data: memoryview, field: FieldDescriptor, most: int) -> int:
    if field.message_type is not None:
        return _num_fields(data, field.message_type, most)
    is_one = field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    return 0 if is_one else len(data)  # numbers of a list, each of a byte or more


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("a number of more than ten bytes")
