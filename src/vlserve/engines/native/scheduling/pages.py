"""The memory of keys and values, counted in pages, and which of them hold known beginnings of
prompts. Knows no torch."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from vlserve.models.prompt import Prompt

# Tokens in a page. Attention over a prompt runs in blocks of as many rows, so that its numbers do
# not depend on where a prompt was cut or how much of it was known.
PAGE = 32


def round_up(num_tokens: int, multiple: int = PAGE) -> int:
    """The next multiple."""
    return -(-num_tokens // multiple) * multiple


def num_pages(num_tokens: int) -> int:
    """Pages that so many tokens take."""
    return -(-num_tokens // PAGE)


def page_digests(prompt: Prompt, tenant: str) -> tuple[bytes, ...]:
    """A digest for each full page of a prompt, of all that its keys and values depend on.

    A chain: each page's covers the pages before it. Pictures enter with the digest of their
    pixels, in the page where their tokens are; tenants never share a page.
    """
    ids = np.array(prompt.token_ids, np.int64)
    of_place = _image_of_place(prompt)
    link = hashlib.sha256(tenant.encode()).digest()
    digests = []
    for start in range(0, len(ids) - PAGE + 1, PAGE):
        page = hashlib.sha256(link)
        page.update(ids[start : start + PAGE].tobytes())
        first, last = np.searchsorted(prompt.places, (start, start + PAGE))
        for image in dict.fromkeys(of_place[first:last]):
            page.update(prompt.images[image].key.encode())
        # A page inside a block has seen the whole of it.
        page.update(repr([b for b in prompt.blocks if b[0] < start + PAGE < b[1]]).encode())
        link = page.digest()
        digests.append(link)
    return tuple(digests)


def _image_of_place(prompt: Prompt) -> list[int]:
    counts = [0 if i.features is None else i.features.num_tokens for i in prompt.images]
    return [image for image, count in enumerate(counts) for _ in range(count)]


class Pages:
    """Hands out pages and finds those whose contents are known.

    A page is held by those who use it. One that nobody holds any more but whose contents are
    known stays, until it is the least recently used and room is wanted: then `forget(page)`.
    """

    def __init__(self, num_pages: int, forget: Callable[[int], None] = lambda page: None) -> None:
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))
        self._holders = [0] * num_pages
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._page_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}
        self._forget = forget

    @property
    def num_free(self) -> int:
        """How many can be taken: empty ones, and known ones that nobody holds."""
        return len(self._free) + len(self._idle)

    @property
    def num_known(self) -> int:
        """Pages whose contents can be found."""
        return len(self._page_of)

    def take(self, count: int) -> list[int]:
        """Pages that are now held once. Raises IndexError where there are not so many."""
        if count > self.num_free:
            raise IndexError(f"{count} pages wanted, {self.num_free} free")
        return [self._take_one() for _ in range(count)]

    def hold(self, pages: Iterable[int]) -> None:
        """One more holder for each."""
        for page in pages:
            self._idle.pop(page, None)
            self._holders[page] += 1

    def let_go(self, pages: Sequence[int]) -> None:
        """One holder less for each. Raises ValueError for a page that nobody holds."""
        # The last first: of a known beginning the end is given up before its start.
        for page in reversed(pages):
            if not self._holders[page]:
                raise ValueError(f"page {page} is free already")
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            if page in self._digest_of:
                self._idle[page] = None
            else:
                self._free.append(page)

    def find(self, digests: Iterable[bytes]) -> list[int]:
        """The pages of the longest known beginning, each now the most recently used."""
        found: list[int] = []
        for digest in digests:
            page = self._page_of.get(digest)
            if page is None:
                break
            found.append(page)
        for page in reversed(found):
            if page in self._idle:
                self._idle.move_to_end(page)
        return found

    def knows(self, digest: bytes) -> bool:
        """Whether there is such a page."""
        return digest in self._page_of

    def publish(self, digest: bytes, page: int) -> None:
        """Make the contents of a page findable. The caller holds it. One of two equals wins."""
        if digest not in self._page_of:
            self._page_of[digest] = page
            self._digest_of[page] = digest

    def _take_one(self) -> int:
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._idle.popitem(last=False)
            del self._page_of[self._digest_of.pop(page)]
            self._forget(page)
        self._holders[page] = 1
        return page
