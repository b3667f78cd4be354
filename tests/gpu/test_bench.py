"""The measurement of a GPU, tried with a toy model on whatever device is here."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.gpu.engine import Load, measure_engine
from bench.gpu.model import IDEFICS2_8B, TOY, make_config, make_model, num_parameters
from bench.gpu.peers import run_peers
from bench.gpu.report import Report
from bench.gpu.roofline import decode_bytes, image_flops
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
            *("--toy", str(tmp_path / "out"), "--peers", str(tmp_path)),
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
    sections = ["device", "model", *decode, "pictures", "first token", "engine", "peers", "run"]
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
    report = Report(tmp_path / "out", {})
    run_peers(peers, report, time.monotonic() + 3)
    said = [
        (row["peer"], row["result"])
        for row in json.loads((tmp_path / "out" / "gpu.json").read_text())["sections"]["peers"]
    ]
    assert said[0] == ("transformers", '{"step_ms": 1}')
    assert said[1][1].startswith("exit 1: broken")
    assert said[2] == ("vLLM, text decoder", '{"kind": "text"}')
    assert said[3] == ("vLLM, with pictures", '{"kind": "vlm"}')
    assert said[4][1].startswith("cut after")
    assert said[5] == ("LMDeploy, text decoder", "not there: bench_lmdeploy.py")
