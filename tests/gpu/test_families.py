"""Tokens are `generate`'s where the decode step is recorded as a CUDA graph; no GPU is needed."""

import math
from pathlib import Path

import pytest
import torch

from tests.engines.graph_tape import TapeRecorder
from tests.gpu.families import NAMES, tried, write
from vlserve.engines.native.gpu.cuda_graphs import DecodeOutputs


@pytest.mark.parametrize("name", NAMES)
async def test_tokens_are_generates(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = await tried(name, write(name, tmp_path / "model"), count=12)
    with capsys.disabled():
        print(trial)
    assert trial.is_passed


def outputs(logits: torch.Tensor) -> DecodeOutputs:
    return DecodeOutputs(logits, logits.argmax(dim=-1))


def test_the_tape_replays_what_was_computed_and_no_python() -> None:
    numbers, python = torch.ones(2, 3), [0]

    def step() -> DecodeOutputs:
        python[0] += 1
        return outputs((numbers.t() * 2).t() + python[0])

    replay = TapeRecorder().record(step)
    made = python[0]
    numbers.fill_(5)
    # The last number that Python gave is part of the graph.
    assert replay().logits.tolist() == [[10.0 + made] * 3] * 2
    assert python[0] == made


def test_the_tape_poisons_what_a_step_left_for_another() -> None:
    recorder, kept = TapeRecorder(), {}

    def first() -> DecodeOutputs:
        kept["sum"] = torch.ones(2, 3) + 1
        return outputs(kept["sum"] * 2)

    recorder.record(first)
    second = recorder.record(lambda: outputs(kept["sum"] * 3))
    assert math.isnan(second().logits[0, 0])


@pytest.mark.parametrize(
    "waits",
    [
        lambda numbers: numbers * numbers.sum().item(),
        lambda numbers: numbers[numbers > 0].unsqueeze(0),
        lambda numbers: numbers * torch.tensor(3.0),
    ],
    ids=["item", "mask", "constant of the host"],
)
def test_the_tape_refuses_what_waits_for_the_device(waits: object) -> None:
    assert callable(waits)
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        TapeRecorder().record(lambda: outputs(waits(torch.ones(2, 3))))
