"""The doors are measured: everything in small."""

import json
import subprocess
import sys
from pathlib import Path

from bench.door_load import NUM_PIECES, PROMPT
from vlserve.engines.catalog import make_engine
from vlserve.settings import EngineSettings, ModelSettings
from vlserve.types import Chunk, Message, Request, Role

ROOT = Path(__file__).parents[2]


def test_every_way_in_is_measured_beside_a_bare_server(tmp_path: Path) -> None:
    out = tmp_path / "doors.json"
    options = ("--requests", "70", "--pictures", "1", "--rounds", "1", "--out", str(out))
    result = subprocess.run(
        [sys.executable, "-m", "bench.doors", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    facts = json.loads(out.read_text())
    assert facts["picture_bytes"] > 5_000_000
    cells = {(each["way"], each["server"], each["clients"]): each for each in facts["cells"]}
    for server in ("bare grpc.aio", "vlserve gRPC"):
        for way, clients in (("unary", 1), ("unary", 64), ("stream", 1), ("stream", 64)):
            assert cells[f"gRPC {way}", server, clients]["p50_ms"] > 0
        assert cells["5 MB as bytes", server, 1]["p50_ms"] > 0
    has_http = any(server == "vlserve HTTP" for _, server, _ in cells)
    assert has_http != ("HTTP and SSE are left out" in result.stderr)


async def test_the_bare_servers_answer_with_as_many_pieces() -> None:
    engine = make_engine(ModelSettings(), EngineSettings(kind="echo"))
    await engine.start()
    asked = Request("r", (Message(Role.USER, (PROMPT,)),))
    pieces = [c async for c in engine.generate(asked) if isinstance(c, Chunk) and c.text]
    assert len(pieces) == NUM_PIECES
