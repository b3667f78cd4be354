"""The judge of this door is the stock tritonclient, in a process of its own."""

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from tests import pictures
from tests.doors.grpc.live import live
from tests.scripted import ScriptedEngine

ROOT = Path(__file__).parents[3]
# One event loop for all: grpc.aio holds on to the first one that it meets.
pytestmark = pytest.mark.asyncio(loop_scope="session")


# A picture of more than 5 MB, and what the engine is to see of it.
PIXELS = np.random.default_rng(5).integers(0, 256, (1300, 1300, 3), np.uint8)
DIGEST = hashlib.sha256(b"1300x1300:" + PIXELS.tobytes()).hexdigest()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def report(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Any]]:
    """What the client saw of one server, by case."""
    picture = tmp_path_factory.mktemp("stock") / "noise.png"
    data = pictures.encoded(Image.fromarray(PIXELS), "PNG")
    assert len(data) > 5_000_000
    picture.write_bytes(data)
    # Steps that take long enough for requests of one stream to meet.
    async with live(ScriptedEngine(step_s=0.02)) as house:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.doors.kserve.stock", house.door.address, picture),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, err.decode()
        assert house.service.num_inside == 0
    found = json.loads(out)
    print(f"tried {len(found)} cases of the stock client")
    yield found


async def test_it_is_live_and_ready_for_its_own_model(report: dict[str, Any]) -> None:
    names = ("live", "ready", "model ready", "version ready", "other ready")
    assert [report[name] for name in names] == [True, True, True, True, False]


async def test_metadata_and_config_say_the_same(report: dict[str, Any]) -> None:
    assert report["server"]["name"] == "vlserve"
    model, config = report["model"], report["config"]["config"]
    assert (model["name"], model["versions"]) == ("scripted", ["1"])
    kinds = {"BYTES": "TYPE_STRING", "BOOL": "TYPE_BOOL", "UINT32": "TYPE_UINT32"}
    for ours, theirs in (("inputs", "input"), ("outputs", "output")):
        described = [(each["name"], kinds[each["datatype"]], each["shape"]) for each in model[ours]]
        assert described == [
            (each["name"], each["data_type"], each["dims"]) for each in config[theirs]
        ]
    required = [each["name"] for each in config["input"] if not each.get("optional")]
    assert required == ["text_input"]
    assert {each["name"] for each in model["inputs"]} >= {"image", "stream", "sampling_parameters"}
    assert config["model_transaction_policy"]["decoupled"]


async def test_unary(report: dict[str, Any]) -> None:
    assert report["unary"] == {
        "id": "a",
        "text_output": ["hello you "],
        "finish_reason": ["stop"],
        "num_input_tokens": [12],
        "num_output_tokens": [2],
    }
    assert report["two outputs"] == {
        "id": "",
        "text_output": ["hello "],
        "num_input_tokens": [11],
    }
    assert report["parameters"]["text_output"] == ["hello "]


async def test_five_megabytes_by_base64_or_as_they_are(report: dict[str, Any]) -> None:
    assert report["base64"]["text_output"] == [f"{DIGEST} what is this "]
    assert report["raw, twice"]["text_output"] == [f"{DIGEST} {DIGEST} what is this "]


async def test_a_stream_has_the_same_text_in_pieces(report: dict[str, Any]) -> None:
    pieces = report["stream"]
    assert [piece["text_output"] for piece in pieces] == [["hello "], ["you "], [""]]
    assert [piece["finish_reason"] for piece in pieces] == [["None"], ["None"], ["stop"]]
    assert sum(piece["num_output_tokens"][0] for piece in pieces) == 2
    assert [piece.get("num_input_tokens") for piece in pieces] == [None, None, [12]]
    assert {piece["id"] for piece in pieces} == {"s"}
    (whole,) = report["a stream of one"]
    assert (whole["id"], whole["text_output"]) == ("w", ["hello you "])


async def test_several_requests_on_one_stream(report: dict[str, Any]) -> None:
    pieces = report["three at once"]
    for name in "pqr":
        its = [piece["text_output"][0] for piece in pieces if piece["id"] == name]
        assert "".join(its) == f"this is {name} "
    ids = [piece["id"] for piece in pieces]
    assert ids != sorted(ids)  # side by side, not one after the other
    first, *rest = report["asyncio"]
    assert first["text_output"] == ["hello you "]
    for name in "xy":
        its = [piece["text_output"][0] for piece in rest if piece["id"] == name]
        assert "".join(its) == f"from {name} "


async def test_an_error_in_a_stream_is_one_requests_own(report: dict[str, Any]) -> None:
    pieces = report["stream error"]
    failed = [piece for piece in pieces if "message" in piece]
    message = "sampling_parameters.temperature: must be between 0 and 2, not 9"
    assert failed == [{"status": None, "message": message}]
    assert "".join(piece["text_output"][0] for piece in pieces if "id" in piece) == "x "


async def test_perf_analyzer_finds_the_model_and_its_counts(report: dict[str, Any]) -> None:
    (model,) = report["repository"]["models"]
    assert (model["name"], model["version"], model["state"]) == ("scripted", "1", "READY")
    (stats,) = report["statistics"]["model_stats"]
    assert (stats["name"], stats["version"]) == ("scripted", "1")
    assert int(stats["last_inference"]) > 1_600_000_000_000
    times = stats["inference_stats"]
    num = int(stats["inference_count"])
    assert num == int(times["success"]["count"]) >= 10
    assert int(times["fail"]["count"]) >= 2
    assert int(times["compute_infer"]["count"]) == int(times["queue"]["count"]) == num
    spent = sum(
        int(times[name].get("ns", 0)) for name in ("queue", "compute_input", "compute_infer")
    )
    assert 0 < int(times["compute_infer"]["ns"]) <= spent <= int(times["success"]["ns"])


@pytest.mark.parametrize(
    ("case", "status", "begin"),
    [
        ("bad parameter", "INVALID_ARGUMENT", "sampling_parameters.temperature: "),
        ("unknown parameter", "INVALID_ARGUMENT", "sampling_parameters.best_of: "),
        ("unknown input", "INVALID_ARGUMENT", "video: "),
        ("unknown output", "INVALID_ARGUMENT", "embedding: "),
        ("unknown model", "NOT_FOUND", "model_name: "),
        ("unknown version", "NOT_FOUND", "model_version: "),
        ("no picture", "INVALID_ARGUMENT", "image[0]: "),
        ("too late", "DEADLINE_EXCEEDED", ""),
        ("their timeout", "DEADLINE_EXCEEDED", "not answered within"),
    ],
)
async def test_errors_are_statuses(
    report: dict[str, Any], case: str, status: str, begin: str
) -> None:
    assert report[case]["status"] == f"StatusCode.{status}"
    assert report[case]["message"].startswith(begin)
