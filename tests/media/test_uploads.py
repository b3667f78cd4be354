"""Uploads are kept within their bounds, for their time, each for the tenant who brought it."""

import pytest

from vlserve.errors import Code, ServeError
from vlserve.media.uploads import MAX_WORDS, UNKNOWN, Uploads


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def found(uploads: Uploads, reference: str, tenant: str) -> bytes | None:
    try:
        return uploads.find(reference, tenant, "there")
    except ServeError as refused:
        error = refused
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "there")
    assert error.message == UNKNOWN
    return None


def test_each_tenant_has_its_own() -> None:
    uploads = Uploads(100, 10, 60.0)
    uploads.keep("sha256:a", b"x", "one", "file")
    assert found(uploads, "sha256:a", "one") == b"x"
    assert found(uploads, "sha256:a", "two") is None
    assert found(uploads, "sha256:a", "") is None
    assert found(uploads, "sha256:b", "one") is None


def test_they_expire_by_the_time_of_their_upload() -> None:
    clock = Clock()
    uploads = Uploads(100, 10, 60.0, clock)
    uploads.keep("a", b"x", "one", "file")
    uploads.keep("b", b"y", "one", "file")
    clock.now_s = 59.9
    assert found(uploads, "a", "one") == b"x"  # which does not make it younger
    uploads.keep("b", b"y", "one", "file")  # which does
    clock.now_s = 60.0
    assert found(uploads, "a", "one") is None
    assert found(uploads, "b", "one") == b"y"
    clock.now_s = 119.9
    uploads.expire()
    assert (uploads.num, uploads.num_bytes) == (0, 0)


def test_who_holds_the_most_makes_room() -> None:
    uploads = Uploads(100, 4, 60.0)
    uploads.keep("small", bytes(10), "quiet", "file")
    for i in range(20):
        uploads.keep(f"{i}", bytes(30), "greedy", "file")
        assert uploads.num_bytes <= 100
        assert uploads.num <= 4
    assert found(uploads, "small", "quiet") is not None
    assert found(uploads, "19", "greedy") is not None
    assert found(uploads, "16", "greedy") is None
    for i in range(20):
        uploads.keep(f"{i}", b"x", "many", "file")
        assert uploads.num <= 4
    assert found(uploads, "small", "quiet") is not None
    print("uploads tried 41, never above 100 bytes and 4 files")


def test_the_same_twice_is_kept_once() -> None:
    uploads = Uploads(100, 4, 60.0)
    for _ in range(3):
        uploads.keep("a", bytes(60), "one", "file")
        assert (uploads.num, uploads.num_bytes) == (1, 60)


def test_what_is_larger_than_the_room_is_refused() -> None:
    uploads = Uploads(100, 4, 60.0)
    uploads.keep("a", bytes(100), "one", "file")
    with pytest.raises(ServeError) as refused:
        uploads.keep("b", bytes(101), "one", "file")
    assert (refused.value.code, refused.value.field) == (Code.INVALID_ARGUMENT, "file")
    assert found(uploads, "a", "one") is not None


def test_what_is_kept_is_told_and_forgotten() -> None:
    clock = Clock()
    uploads = Uploads(100, 4, 60.0, clock)
    kept = uploads.keep("a", b"xy", "one", "file", name="a.png", purpose="vision")
    assert (kept.reference, kept.num_bytes, kept.name, kept.purpose) == ("a", 2, "a.png", "vision")
    assert kept.expires_at == kept.created_at + 60
    assert uploads.about("a", "one", "there") == kept
    uploads.keep("b", b"z", "one", "file")
    for reference, tenant in (("a", "two"), ("a", ""), ("c", "one")):
        for ask in (uploads.about, uploads.forget):
            with pytest.raises(ServeError) as unknown:
                ask(reference, tenant, "there")
            assert (unknown.value.code, unknown.value.field) == (Code.NOT_FOUND, "there")
    uploads.forget("a", "one", "there")
    assert found(uploads, "a", "one") is None
    assert (uploads.num, uploads.num_bytes) == (1, 1)
    clock.now_s = 60.0
    with pytest.raises(ServeError, match="it may have expired"):
        uploads.about("b", "one", "there")


def test_words_beside_the_bytes_are_bounded() -> None:
    uploads = Uploads(100, 4, 60.0)
    uploads.keep("a", b"x", "one", "file", name="x" * MAX_WORDS)
    for words in ({"name": "x" * (MAX_WORDS + 1)}, {"purpose": "x" * (MAX_WORDS + 1)}):
        with pytest.raises(ServeError) as refused:
            uploads.keep("b", b"x", "one", "file", **words)
        assert (refused.value.code, refused.value.field) == (Code.INVALID_ARGUMENT, "file")
