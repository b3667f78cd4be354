"""`vlserve bench`, run as a user runs it."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from bench.peer_servers.openai_door import Refused
from tests.bench.servers import Script, http_server
from tests.cli.test_cli import environment, vlserve
from tests.doors.grpc.live import live
from tests.scripted import ScriptedEngine
from vlserve.bench import command

QUICK = ("--image", "16x16", "--warmup", "0")
SPREAD = {"mean", "p50", "p90", "p95", "p99", "max"}
FIGURES = {
    "seconds": float, "sent": int, "answered": int, "errors": dict, "most_running": int,
    "prompt_tokens": int, "output_tokens": int, "output_tokens_per_s": float,
    "requests_per_s": float,
}  # fmt: skip
SERIES = ("ttft_s", "time_per_token_s", "longest_gap_s", "latency_s")
LINE = {
    "index", "arrived_s", "ttft_s", "latency_s", "time_per_token_s", "longest_gap_s",
    "prompt_tokens", "output_tokens", "finish_reason", "error", "message",
}  # fmt: skip


def check_report(held: dict[str, Any]) -> None:
    """The form of what `--json` writes."""
    assert held["version"] == 1
    assert set(held) == {
        "version", "date", "command", "vlserve", "endpoint", "workload", "load", "figures",
        "requests",
    }  # fmt: skip
    for name, kind in FIGURES.items():
        assert isinstance(held["figures"][name], kind), name
    for name in SERIES:
        assert set(held["figures"][name]) == SPREAD
    assert len(held["requests"]) == held["figures"]["sent"]
    assert all(set(line) == LINE for line in held["requests"])


def test_http_with_table_json_and_plot(tmp_path: Path) -> None:
    script = Script(num_tokens=4, first_s=0.05, step_s=0.02)
    with http_server(script) as server:
        done = vlserve(
            "bench", server.url, "--requests", "12", "--clients", "3", *QUICK,
            "--json", "r.json", "--plot", "r.svg", cwd=tmp_path,
        )  # fmt: skip
    assert "12 of 12 answered" in done.stdout
    assert "3 at a time at most" in done.stdout
    assert "time to first token" in done.stdout
    assert "FAILED" not in done.stdout
    held = json.loads((tmp_path / "r.json").read_text())
    check_report(held)
    assert held["figures"]["output_tokens"] == 48
    assert 0.05 <= held["figures"]["ttft_s"]["p50"] < 0.5
    assert held["load"]["clients"] == 3
    assert held["workload"]["image_sizes"] == [[16, 16]]
    drawn = (tmp_path / "r.svg").read_text()
    assert drawn.startswith("<?xml")
    assert "</svg>" in drawn


async def test_grpc_in_an_open_loop(tmp_path: Path) -> None:
    async with live(ScriptedEngine(step_s=0.005)) as house:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "vlserve", "bench", f"grpc://{house.door.address}",
            "--rate", "50", "--duration", "0.5", "--json", "r.json", *QUICK,
            cwd=tmp_path, env=environment(),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, complaint = await process.communicate()
    assert process.returncode == 0, complaint
    held = json.loads((tmp_path / "r.json").read_text())
    check_report(held)
    assert held["load"]["rate"] == 50.0
    assert 5 < held["figures"]["sent"] == len(house.engine.seen)
    assert b"tokens/s" in said


def test_a_run_with_errors_says_so_and_fails(tmp_path: Path) -> None:
    with http_server(Script(refusal=Refused(503, "out to lunch"))) as server:
        done = vlserve(
            "bench", server.url, "--requests", "5", *QUICK, "--json", "r.json", cwd=tmp_path, code=1
        )
        warm = vlserve("bench", server.url, "--image", "none", cwd=tmp_path, code=2)
    assert "FAILED: 5 of 5 requests" in done.stdout
    assert "5 x http 503: " in done.stdout
    assert "out to lunch" in done.stdout
    figures = json.loads((tmp_path / "r.json").read_text())["figures"]
    assert figures["errors"] == {"http 503": 5}
    assert figures["ttft_s"] is None
    assert warm.stderr.strip().startswith("error: warming up: http 503")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["127.0.0.1:1"], "no server that serves answers at grpc://127.0.0.1:1"),
        (["ftp://127.0.0.1:1"], "begin with grpc://"),
        (["grpc://127.0.0.1:1"], "no server that serves answers at grpc://127.0.0.1:1"),
        (["http://127.0.0.1:1"], "http://127.0.0.1:1/v1/models"),
        (["grpc://a:1", "--rate", "1", "--clients", "2"], "not both"),
        (["grpc://a:1", "--requests", "1", "--duration", "2"], "not both"),
        (["grpc://a:1", "--rate", "-1"], "--rate must be above 0"),
        (["grpc://a:1", "--rate", "nan"], "--rate must be above 0"),
        (["grpc://a:1", "--image", "big"], "write it as 640x480"),
        (["grpc://a:1", "--image", "none", "--image", "1x1"], "write it as 640x480"),
        (["grpc://a:1", "--image", "0x9"], "an edge has 1 to"),
        (["grpc://a:1", "--plot", "r.txt"], "ends with .svg"),
        (["grpc://a:1", "--plot", "none/r.svg"], "there is no folder none"),
        (["grpc://a:1", "--json", "none/r.json"], "there is no folder none"),
        (["grpc://a:1", "--json", "."], "cannot be written"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    refused = vlserve("bench", *arguments, cwd=tmp_path, code=2)
    assert said in refused.stderr.replace("\n", " ")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    needs = r"--plot needs matplotlib: pip install 'vlserve\[bench\]'"
    with pytest.raises(typer.BadParameter, match=needs):
        command.need("matplotlib", "--plot", is_wanted=True)
    command.need("matplotlib", "--plot", is_wanted=False)
