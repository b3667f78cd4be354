"""The same seed asks the same; every picture is a fresh one unless told otherwise."""

from dataclasses import replace

from vlserve.bench.workload import Workload
from vlserve.media import picture as decoder
from vlserve.media.room import image
from vlserve.types import ChatRequest, Image

SEVERAL = Workload(image_sizes=((64, 48), (33, 7)), num_images=2, seed=3)


def pictures(request: ChatRequest) -> list[bytes]:
    return [ref.data for message in request.messages for ref in message.pictures()]


def decoded(request: ChatRequest) -> list[Image]:
    return [image(decoder.decode(data, 10_000)) for data in pictures(request)]


def test_a_seed_makes_the_same_requests() -> None:
    first = [SEVERAL.request(index) for index in range(20)]
    assert [replace(SEVERAL).request(index) for index in range(20)] == first
    other = replace(SEVERAL, seed=4)
    assert not any(other.request(index) == asked for index, asked in enumerate(first))
    print("20 requests made twice, 20 the same; another seed, none the same")


def test_every_picture_is_a_fresh_one() -> None:
    seen = {data for index in range(50) for data in pictures(SEVERAL.request(index))}
    assert len(seen) == 100
    same = replace(SEVERAL, is_same_picture=True)
    again = [pictures(same.request(index)) for index in range(50)]
    assert all(one == again[0] for one in again)
    texts = {same.request(index).messages[0].content[-1] for index in range(50)}
    assert len(texts) == 50


def test_pictures_have_the_sizes_that_were_asked_for() -> None:
    found = [
        (image.width, image.height) for i in range(20) for image in decoded(SEVERAL.request(i))
    ]
    assert set(found) == {(64, 48), (33, 7)}
    assert pictures(replace(SEVERAL, image_sizes=()).request(0)) == []


def test_lengths() -> None:
    request = replace(SEVERAL, prompt_words=5, max_tokens=9).request(0)
    text = request.messages[0].content[-1]
    assert isinstance(text, str)
    assert len(text.split()) == 5
    assert (request.sampling.max_tokens, request.sampling.min_tokens) == (9, 0)
    drawn = {
        replace(SEVERAL, least_tokens=3, max_tokens=9).request(i).sampling.max_tokens
        for i in range(100)
    }
    assert drawn == set(range(3, 10))
    exact = replace(SEVERAL, max_tokens=9, ignore_eos=True).request(0)
    assert (exact.sampling.max_tokens, exact.sampling.min_tokens) == (9, 9)
