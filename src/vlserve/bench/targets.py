"""Who is asked: the one promise that every kind of endpoint is measured through."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from vlserve.types import ChatRequest, Chunk


class Target(Protocol):
    """An endpoint that streams answers.

    The last Chunk of an answer, and only it, has the usage that the server counted. Raises
    AskFailed where there is no answer, or no whole one.
    """

    def ask(self, request: ChatRequest) -> AsyncGenerator[Chunk]:
        """The answer to one request, piece by piece."""


@dataclass
class AskFailed(Exception):  # noqa: N818  it is a request that failed, not a program
    """A request without its whole answer: a `kind` to count by, and what the server said."""

    kind: str
    message: str
