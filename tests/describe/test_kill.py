"""The command is killed with SIGKILL. The long version is `make kills`, with the model."""

from pathlib import Path

import pytest

from bench.describe import broken, described, draw_pictures
from tests.doors.grpc.live import live
from tests.scripted import ScriptedEngine

NUM = 60
KILLS = 3
SEED = 4


async def test_three_kills_lose_nothing_and_do_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    names = draw_pictures(tmp_path / "pictures", NUM, SEED)
    outcomes, asked = [], []
    for num_kills in (0, KILLS):
        engine = ScriptedEngine(num_slots=4, step_s=0.015)
        async with live(engine) as house:
            out = tmp_path / f"{num_kills}.jsonl"
            outcomes.append(
                await described(
                    *(tmp_path / "pictures", names, out, house.door.address),
                    num_kills=num_kills,
                    seed=SEED,
                )
            )
        asked.append(len(engine.seen))
    whole, killed = outcomes
    with capsys.disabled():
        print(
            f"\n{NUM} pictures, killed at {killed.killed_at}: {killed.num_rows} rows, "
            f"{killed.num_twice} twice, {killed.num_lost} lost; {killed.seconds:.1f} s, "
            f"unbroken {whole.seconds:.1f} s; asked {asked[1]} and {asked[0]} times; seed {SEED}"
        )
    assert not broken(whole, whole, NUM, 0)
    assert not broken(whole, killed, NUM, KILLS)
    assert asked[0] == NUM
    assert asked[1] <= NUM + KILLS * 16, "only what was under way is asked again"
