"""The measurement of a GPU, tried with a toy model on whatever device is here."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.gpu.engine import Load, measure_engine
from bench.gpu.model import IDEFICS2_8B, TOY, make_config, make_model, num_parameters
from bench.gpu.peers import LMDEPLOY_TEXT, TRANSFORMERS, VLLM_PICTURES, VLLM_TEXT, run_peers
from bench.gpu.report import Report
from bench.gpu.roofline import decode_bytes, image_flops
from bench.gpu.side_by_side import side_by_side
from tests.house.test_docs import ROOT

# A GPU machine has PyTorch and Transformers; what else vlserve stands on may be missing there.
NOT_THERE = ("grpc", "pydantic", "rich", "typer", "matplotlib")


def test_the_model_is_idefics2_8b() -> None:
    config = make_config(IDEFICS2_8B)
    assert num_parameters(config) == 8_402_768_112
    counted = decode_bytes(config.text_config, torch.bfloat16)
    assert counted.weights == 14_221_344_768
    assert counted.per_token == 128 * 1024
    # Patches of a whole picture, and of its quarters.
    assert image_flops(config, [4900]) == pytest.approx(8.10e12, rel=1e-3)
    assert image_flops(config, [1225] * 4 + [4900]) == pytest.approx(14.2e12, rel=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_parameter_has_the_dtype(dtype: torch.dtype) -> None:
    model = make_model(make_config(TOY), torch.device("cpu"), dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert torch.get_default_dtype() == torch.float32


def test_a_run_writes_every_section(tmp_path: Path) -> None:
    hidden = f"import sys; sys.modules |= dict.fromkeys({NOT_THERE}); "
    started = time.monotonic()
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            hidden + "import bench.gpu.__main__ as bench; bench.main()",
            *("--toy", str(tmp_path / "out")),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert {"device", "driver", "torch", "transformers", "triton"} <= report["facts"].keys()
    decode = ["recording", "decode at 400 tokens", "64 steps in a row"]
    sections = ["device", "model", *decode, "pictures", "first token", "engine", "run"]
    assert set(sections) <= report["sections"].keys()
    page = (tmp_path / "out" / "gpu.md").read_text()
    for section in sections:
        assert section in result.stdout
        assert f"## {section}" in page
    print(f"toy run in {time.monotonic() - started:.1f} s")


def test_the_engine_is_measured_where_it_can_run(tmp_path: Path) -> None:
    model = make_model(make_config(TOY), torch.device("cpu"), torch.float32)
    report = Report(tmp_path, {})
    measure_engine(model, report, Load(requests=1, max_tokens=4))
    sections = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert sections["engine"][0]["is_batched"]
    rows = sections["through the engine"]
    assert [row["clients"] for row in rows] == [1, 8, 32, 64] * 2
    rows += sections["prompt tokens in a step"]
    assert [row["at_most"] for row in rows[8:]] == [512, 2048] * 2
    assert all(row["requests"] == row["clients"] for row in rows)
    for row in rows:
        assert row["first_token_p50_ms"] <= row["first_token_p95_ms"]
        assert row["tokens_per_s"] > 0


def test_what_is_measured_is_on_disk_at_once(tmp_path: Path) -> None:
    report = Report(tmp_path, {"device": "none"})
    report.add("first", figure=1.5)
    assert json.loads((tmp_path / "gpu.json").read_text())["sections"] == {
        "first": [{"figure": 1.5}]
    }
    assert "| 1.5 |" in (tmp_path / "gpu.md").read_text()


def test_peers_are_run_by_path_and_their_troubles_said(tmp_path: Path) -> None:
    peers = tmp_path / "peers"
    (peers / "site").mkdir(parents=True)
    (peers / "lm").mkdir()
    (peers / "mkckpt.py").write_text("print('made')")
    (peers / "bench_hf.py").write_text("import sys\nprint('{\"step_ms\": 1}')\nsys.exit('broken')")
    (peers / "bench_vllm.py").write_text(
        "import sys, time\n"
        'print(\'{"kind": "%s"}\' % sys.argv[1], flush=True)\n'
        "time.sleep(60 * (sys.argv[1] == 'vlm'))"
    )
    report = Report(tmp_path / "out", {}, name="peers")
    run_peers(peers, report, time.monotonic() + 6)
    sections = json.loads((tmp_path / "out" / "peers.json").read_text())["sections"]
    assert [(row["peer"], row["result"]) for row in sections["peers"]] == [
        (VLLM_TEXT, '{"kind": "text"}'),
        (TRANSFORMERS, '{"step_ms": 1}'),
        (VLLM_PICTURES, '{"kind": "vlm"}'),
    ]
    broken, missing, cut = sections["troubles"]
    assert broken["peer"] == TRANSFORMERS
    assert broken["trouble"].startswith("exit 1: broken")
    assert missing == {"peer": LMDEPLOY_TEXT, "trouble": "not there: bench_lmdeploy.py"}
    assert cut["peer"] == VLLM_PICTURES
    assert cut["trouble"].startswith("cut after")


FACTS = {
    "device": "a card",
    "driver": "1",
    "torch": "2.11.0",
    "cuda": "13.0",
    "transformers": "5.17.0",
    "triton": "3.6.0",
    "date": "today",
}


def test_two_runs_make_one_table() -> None:
    """Rows as the two runs write them."""
    steps = [
        {"way": way, "batch": batch, "step_ms": ms, "floor_ms": 4.0}
        for way, ms in (("graph, triton", 5.0), ("eager, triton", 20.0), ("graph, plain", 9.0))
        for batch in (1, 64)
    ]
    engine = {"prompt": "picture of 980 x 980", "clients": 8, "tokens_per_s": 700.0}
    own = {
        "facts": FACTS,
        "sections": {
            "decode at 400 tokens": steps,
            "pictures": [{"way": "whole", "ms": 11.0}],
            "through the engine": [engine | {"first_token_p50_ms": 80.0}],
        },
    }
    printed = [
        (VLLM_TEXT, {"startup_s": 90.0}),
        (VLLM_TEXT, {"kind": "text", "B": 64, "step_ms": 8.0, "decode_tok_s": 8000.0}),
        (TRANSFORMERS, {"peer": "hf", "vision_tiles": 5, "ms": 60.0}),
        (TRANSFORMERS, {"peer": "hf", "B": 1, "step_ms": 25.0}),
        (VLLM_PICTURES, {"B": 8, "first_token_s": 0.2, "step_ms": 6.0, "e2e_tok_s_145": 900.0}),
    ]
    rows = [{"peer": name, "result": json.dumps(figures)} for name, figures in printed]
    troubles = [{"peer": LMDEPLOY_TEXT, "trouble": "exit 1: no such\nlibrary"}]
    peers = {"facts": FACTS, "sections": {"peers": rows, "troubles": troubles}}
    page = side_by_side(own, peers).splitlines()
    for line in (
        "- device: a card",
        "| the roofline of a copy | 4 |  |  | 4 |",
        "| vlserve, graph, triton | 5 |  |  | 5 |",
        "| vlserve, graph, triton | 200 |  |  | 12,800 |",
        "| vlserve, eager, triton | 20 |  |  | 20 |",
        "| vLLM, text decoder |  |  |  | 8 |",
        "| vLLM, text decoder |  |  |  | 8,000 |",
        "| Transformers | 40 |  |  |  |",
        "| vlserve, whole | 11 |",
        "| Transformers, tiles of the whole size: 5 | 60 |",
        "| vlserve, first token, ms (median) |  | 80 |  |  |",
        "| vLLM, with pictures, first token, ms (all of them) |  | 200 |  |  |",
        "- LMDeploy, text decoder: exit 1: no such library",
    ):
        assert line in page, line
    assert not any("graph, plain" in line for line in page)


def test_runs_of_two_machines_make_no_table() -> None:
    own = {"facts": FACTS, "sections": {}}
    other = {"facts": FACTS | {"device": "another"}, "sections": {}}
    with pytest.raises(ValueError, match=r"device is a card in gpu\.json and another in peers"):
        side_by_side(own, other)


def test_the_script_of_a_gpu_session_makes_the_table(tmp_path: Path) -> None:
    for name in ("gpu", "peers"):
        report = {"facts": FACTS, "sections": {}}
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    run = [str(ROOT / "bench" / "gpu" / "run.sh")]
    made = subprocess.run(
        [*run, "table", str(tmp_path)],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert "- nothing" in (tmp_path / "side-by-side.md").read_text()
    wrong = subprocess.run(
        [*run, "all", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert "unknown part 'all'" in wrong.stderr
