"""The KV cache counted in pages, and the prefix cache over them. Imports no torch."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from vlserve.models.prompt import Prompt

# Tokens in a page. Prefill attention runs in blocks of as many rows, so that logits do not depend
# on how the prompt was chunked or how much of it the prefix cache held.
PAGE = 32


def round_up(num_tokens: int, multiple: int = PAGE) -> int:
    """`num_tokens` rounded up to a multiple of `multiple`."""
    return -(-num_tokens // multiple) * multiple


def num_pages(num_tokens: int) -> int:
    """The number of pages that hold `num_tokens` tokens."""
    return -(-num_tokens // PAGE)


def page_digests(prompt: Prompt, tenant: str) -> tuple[bytes, ...]:
    """The SHA-256 of each full page of a prompt, over all that its keys and values depend on.

    Digests form a chain: each covers the pages before it. A picture enters with its key in the
    pages that hold its tokens. The tenant starts the chain, so tenants never share a page.
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
        # Tokens of a page inside a bidirectional span attend to the whole span.
        page.update(repr([b for b in prompt.blocks if b[0] < start + PAGE < b[1]]).encode())
        link = page.digest()
        digests.append(link)
    return tuple(digests)


def _image_of_place(prompt: Prompt) -> list[int]:
    counts = [0 if i.features is None else i.features.num_tokens for i in prompt.images]
    return [image for image, count in enumerate(counts) for _ in range(count)]


class Pages:
    """Allocates pages, counts their references, and finds cached pages by digest.

    A cached page without references stays until it is the least recently used one and a page is
    needed: then it is evicted and `on_evict(page)` is called.
    """

    def __init__(self, num_pages: int, on_evict: Callable[[int], None] = lambda page: None) -> None:
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))
        self._references = [0] * num_pages
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._page_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}
        self._on_evict = on_evict

    @property
    def num_free(self) -> int:
        """Pages that can be allocated: empty ones, and cached ones without references."""
        return len(self._free) + len(self._idle)

    @property
    def num_cached_pages(self) -> int:
        """Pages that `find` can find."""
        return len(self._page_of)

    def allocate(self, count: int) -> list[int]:
        """Allocate pages, each with one reference. Raises IndexError when fewer are free."""
        if count > self.num_free:
            raise IndexError(f"{count} pages needed, {self.num_free} free")
        return [self._allocate_one() for _ in range(count)]

    def acquire(self, pages: Iterable[int]) -> None:
        """Add a reference to each page."""
        for page in pages:
            self._idle.pop(page, None)
            self._references[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """Drop a reference of each page. Raises ValueError for a page without references."""
        # In reverse order, so that the end of a cached prefix is evicted before its start.
        for page in reversed(pages):
            if not self._references[page]:
                raise ValueError(f"page {page} is free already")
            self._references[page] -= 1
            if self._references[page]:
                continue
            if page in self._digest_of:
                self._idle[page] = None
            else:
                self._free.append(page)

    def find(self, digests: Iterable[bytes]) -> list[int]:
        """The pages of the longest cached prefix, marked most recently used."""
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

    def has(self, digest: bytes) -> bool:
        """Whether a page with this digest is cached."""
        return digest in self._page_of

    def publish(self, digest: bytes, page: int) -> None:
        """Add a page to the prefix cache. The caller holds a reference. Of two pages with equal
        digests the first stays."""
        if digest not in self._page_of:
            self._page_of[digest] = page
            self._digest_of[page] = digest

    def _allocate_one(self) -> int:
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._idle.popitem(last=False)
            del self._page_of[self._digest_of.pop(page)]
            self._on_evict(page)
        self._references[page] = 1
        return page
