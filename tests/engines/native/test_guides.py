"""A guided answer is what its guide says, whatever the model would rather say."""

import asyncio
import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import vlserve.models
from tests.asked import request
from tests.engines.collect import Answer, answer, running
from tests.guides import large_guides, regex, schema
from tests.tiny_model import END, SPECIAL, write_tiny_model
from vlserve.engines.base import Engine
from vlserve.engines.native.text.matcher import GuideError, Matcher
from vlserve.errors import Code, ServeError
from vlserve.models.families import EMBEDDED
from vlserve.models.folder import model_folder
from vlserve.types import FinishReason, Guide, GuideKind, Request, SamplingParams

NUM_SCHEMAS = 200
NUM_SCHEMAS_EMBEDDED = 40
NUM_REGEXES = 100
COLOURS = Guide(GuideKind.CHOICE, choices=("red", "redder", 'a "blue"\n\tone/', "東京 😀", " x"))


def asked(i: int, guide: Guide | None, **sampling: object) -> Request:
    """Every other one drawn, and drawn hot."""
    drawn = {"temperature": 1.5, "seed": i} if i % 2 else {}
    chosen: dict[str, Any] = {"max_tokens": 400, "guide": guide} | drawn | sampling
    params = SamplingParams(**chosen)
    return request(random.Random(i), str(i), num_images=i % 2, sampling=params)


async def answers(engine: Engine, requests: Sequence[Request]) -> list[Answer]:
    return list(await asyncio.gather(*(answer(engine, each) for each in requests)))


def fits(text: str, wanted: object) -> bool:
    """What another library thinks of an answer."""
    try:
        jsonschema.validate(
            json.loads(text),
            wanted,
            cls=jsonschema.Draft202012Validator,
            format_checker=jsonschema.FormatChecker(),
        )
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


async def valid_json(
    engine: Engine, num_schemas: int, *, is_guided: bool = True, max_tokens: int = 400
) -> int:
    """How many answers fit their schemas; guided ones all end by themselves."""
    rng = random.Random(7)
    schemas = [schema(rng) for _ in range(num_schemas)]
    for each in schemas:
        jsonschema.Draft202012Validator.check_schema(each)
    guides = [Guide(GuideKind.JSON_SCHEMA, json.dumps(each)) for each in schemas]
    got = await answers(
        engine,
        [
            asked(i, guide if is_guided else None, max_tokens=max_tokens)
            for i, guide in enumerate(guides)
        ],
    )
    if is_guided:
        assert {each.finish_reason for each in got} == {FinishReason.STOP}
    return sum(fits(each.text, wanted) for each, wanted in zip(got, schemas, strict=True))


async def test_every_answer_fits_its_schema(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(tiny_folder, max_running=16) as engine:
        num_valid = await valid_json(engine, NUM_SCHEMAS)
        by_chance = await valid_json(engine, NUM_SCHEMAS, is_guided=False, max_tokens=60)
    with capsys.disabled():
        print(f"schemas: tried {NUM_SCHEMAS}, valid {num_valid}; unguided {by_chance}")
    assert num_valid == NUM_SCHEMAS
    assert by_chance == 0


@pytest.mark.skipif(
    not (Path(vlserve.models.__file__).parent / EMBEDDED).is_dir(),
    reason="the embedded model is not in this tree",
)
async def test_the_embedded_model_is_held_to_schemas_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with running(model_folder(EMBEDDED), max_running=16, cache_mib=256) as engine:
        num_valid = await valid_json(engine, NUM_SCHEMAS_EMBEDDED)
    with capsys.disabled():
        print(f"embedded, schemas: tried {NUM_SCHEMAS_EMBEDDED}, valid {num_valid}")
    assert num_valid == NUM_SCHEMAS_EMBEDDED


async def test_every_answer_matches_its_expression(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(8)
    patterns = [regex(rng) for _ in range(NUM_REGEXES)]
    guided = [asked(i, Guide(GuideKind.REGEX, each)) for i, each in enumerate(patterns)]
    free = [
        replace(each, sampling=replace(each.sampling, guide=None, max_tokens=60)) for each in guided
    ]
    async with running(tiny_folder, max_running=16) as engine:
        matching, by_chance = [
            sum(
                re.fullmatch(pattern, each.text) is not None
                for pattern, each in zip(patterns, await answers(engine, group), strict=True)
            )
            for group in (guided, free)
        ]
    with capsys.disabled():
        print(f"expressions: tried {NUM_REGEXES}, match {matching}; unguided {by_chance}")
    assert matching == NUM_REGEXES
    assert by_chance < NUM_REGEXES // 10


async def test_one_of_the_choices_to_the_character(tiny_folder: Path) -> None:
    requests = [asked(2 * i + 1, COLOURS) for i in range(40)]
    async with running(tiny_folder, max_running=8) as engine:
        said = {each.text for each in await answers(engine, requests)}
    assert said <= set(COLOURS.choices)
    assert len(said) > 2


async def test_an_object_and_nothing_after_it(tiny_folder: Path) -> None:
    """Of any length, so most are cut; what is whole is an object."""
    requests = [asked(2 * i + 1, Guide(GuideKind.JSON_OBJECT)) for i in range(20)]
    async with running(tiny_folder, max_running=8) as engine:
        got = await answers(engine, requests)
    whole = [each.text for each in got if each.finish_reason is FinishReason.STOP]
    assert whole
    assert all(isinstance(json.loads(text), dict) for text in whole)
    assert all(each.text.startswith("{") for each in got)


async def test_a_guide_that_is_finished_ends_the_answer_at_once(tiny_folder: Path) -> None:
    async with running(tiny_folder) as engine:
        got = await answer(engine, asked(0, Guide(GuideKind.REGEX, "[a-c]{3}")))
        may_end = await answer(engine, asked(0, Guide(GuideKind.REGEX, "a*"), max_tokens=5))
    assert got.finish_reason is FinishReason.STOP
    assert len(got.text) == 3
    assert set(may_end.text) <= {"a"}


@pytest.mark.parametrize("stops", [[2], [2, SPECIAL.index(END)], [SPECIAL.index(END)]])
async def test_any_stop_token_of_the_model_ends_where_the_grammar_may(
    stops: list[int], tmp_path: Path
) -> None:
    folder = write_tiny_model(tmp_path / "model", eos=stops)
    guide = Guide(GuideKind.REGEX, "a{2,400}")
    seen = set()
    async with running(folder, max_running=8) as engine:
        for stop in stops:
            eager = {"logit_bias": {stop: 100.0}}
            got = await answer(engine, asked(0, guide, **eager))
            assert got.text == "aa"
            assert got.finish_reason is FinishReason.STOP
            seen.add(got.token_ids[-1])
    assert seen == set(stops)


async def test_the_guide_wins_over_min_tokens_and_biases(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model", eos=[2])
    guide = Guide(GuideKind.REGEX, "(ab|cd)?")
    sampling = {"min_tokens": 50, "logit_bias": {2: -100.0} | dict.fromkeys(range(7, 12), 100.0)}
    async with running(folder) as engine:
        got = await answer(engine, asked(0, guide, **sampling))
        # The one token that may come is ruled out by the request itself: it comes all the same.
        only_end = await answer(engine, asked(0, Guide(GuideKind.REGEX, "x{0}"), min_tokens=9))
    assert got.text in {"ab", "cd"}
    assert (only_end.text, only_end.finish_reason) == ("", FinishReason.STOP)


async def test_guided_answers_are_the_same_in_company(tiny_folder: Path) -> None:
    rng = random.Random(9)
    requests = [
        asked(i, Guide(GuideKind.JSON_SCHEMA, json.dumps(schema(rng))) if i % 3 else None)
        for i in range(18)
    ]
    async with running(tiny_folder, max_running=6) as engine:
        alone = [(await answer(engine, each)).token_ids for each in requests]
        together = [each.token_ids for each in await answers(engine, requests)]
    assert together == alone


async def test_a_guide_that_fails_in_mid_answer_fails_alone(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [asked(i, COLOURS if i in {1, 3} else None, max_tokens=20) for i in range(5)]
    async with running(tiny_folder, max_running=5) as engine:
        alone = [(await answer(engine, each)).token_ids for each in requests]
        made: list[Matcher] = []
        fill, admitted = Matcher.fill, engine.intake.guides.matcher

        async def remembered(guide: Guide) -> Matcher:
            made.append(await admitted(guide))
            return made[-1]

        def breaks(matcher: Matcher, mask: object) -> None:
            if matcher is made[0]:
                raise GuideError("secret")
            fill(matcher, mask)  # type: ignore[arg-type]

        monkeypatch.setattr(engine.intake.guides, "matcher", remembered)
        monkeypatch.setattr(Matcher, "fill", breaks)
        tasks = [asyncio.create_task(answer(engine, each)) for each in requests]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert engine.load().num_free_slots == 5
    failed = [each for each in outcomes if isinstance(each, ServeError)]
    assert [each.code for each in failed] == [Code.INTERNAL]
    assert "secret" not in str(failed[0])
    kept = [(i, o.token_ids) for i, o in enumerate(outcomes) if isinstance(o, Answer)]
    assert kept == [(i, alone[i]) for i, _ in kept]
    assert len(kept) == 4


async def test_what_only_looks_too_expensive_is_answered(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guides = large_guides()
    async with running(tiny_folder) as engine:
        for i, guide in enumerate(guides.values()):
            await answer(engine, asked(2 * i + 1, guide, max_tokens=40))
    with capsys.disabled():
        print(f"large guides: tried {len(guides)}, answered {len(guides)}")
