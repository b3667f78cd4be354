"""Callers leave in every phase, at every door.

The whole matrix three times takes minutes, so each phase is tried once at gRPC, once at OpenAI and
once at REST or KServe, unary and stream in turns; `make disconnects` tries every cell 20 times.
"""

from pathlib import Path

import pytest
from rich.console import Console

from tests.faults.callers import Door
from tests.faults.disconnects import Drawn, table, tried
from tests.faults.held import Phase
from tests.faults.leaving import DEAF, TRIED, WALLED, Cell

pytestmark = pytest.mark.asyncio(loop_scope="session")
SEED = 1


def drawn(cell: Cell) -> bool:
    """Half of the cells: each phase at each door, and each kind in turns."""
    is_odd = bool(list(Phase).index(cell.phase) % 2)
    is_one = is_odd if cell.door is Door.GRPC else not is_odd
    return cell.is_stream is is_one


async def test_callers_leave_in_every_phase(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = list(filter(drawn, TRIED))
    assert {cell.phase for cell in cells} == set(Phase)
    assert {cell.door for cell in cells} == set(Door)
    deaf = [cell for cell in DEAF if drawn(cell) and cell.phase in {Phase.FETCH, Phase.QUEUED}]
    walled = [cell for cell in WALLED if drawn(cell) and cell.phase is Phase.STEP]
    outcome = await tried(Drawn(cells, deaf, walled), SEED, tiny_folder, tmp_path)
    with capsys.disabled():
        console = Console(width=140)
        console.print(table(outcome.done, "protected"))
        console.print(table(outcome.doors, "deaf doors"))
        console.print(table(outcome.wall, "deaf wall"))
        print(f"tried {len(cells)}, held {outcome.num_held}, seed {SEED}")
    assert not [trial for trial in outcome.done if trial.broken]
    assert outcome.num_unfailed == 0
