"""The engine's process dies under a whole house: callers, health, and who must hear of it.

The long version is `make faults`, against a server and the model.
"""

import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from bench.faults import Crowd, drawn_requests, table, trials, worker_of
from vlserve import app, launch
from vlserve.engines.supervisor import Supervisor
from vlserve.settings import EngineSettings, GrpcSettings, HttpSettings, Settings

pytestmark = pytest.mark.asyncio(loop_scope="session")
ROOT = Path(__file__).parents[2]
SEED = 1
BLOWS = [signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL]


async def test_three_kills_and_a_freeze_under_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}")
    slow = partial(Supervisor, module="tests.engines.troubled")
    monkeypatch.setattr(launch, "Supervisor", slow)
    settings = Settings(
        grpc=GrpcSettings(port=0),
        http=HttpSettings(port=0),
        engine=EngineSettings(kind="echo", max_running=8),
    )
    async with app.running(settings) as house:
        requests = drawn_requests(SEED, 8)
        async with Crowd(house.address, requests, SEED) as crowd:
            done = await trials(crowd, lambda: worker_of(os.getpid()), BLOWS)
    with capsys.disabled():
        Console(file=sys.stdout, width=160).print(table(done))
        print(f"tried {len(done)}, held {sum(not t.broken for t in done)}, seed {SEED}")
    assert not [trial.broken for trial in done if trial.broken]
