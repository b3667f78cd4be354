"""The whole engine on a CUDA device: tokens are `generate`'s, a replay is the eager step."""

from pathlib import Path

import pytest
import torch

from tests.engines.collect import paged_runner_of, running
from tests.engines.native.trial import crowded, empty_memory, requests, shortened
from tests.families import FAMILIES, write_family
from tests.oracle import Oracle
from vlserve.engines.native.gpu.cuda_graphs import CudaRecorder, DecodeOutputs, EagerRecorder
from vlserve.engines.native.gpu.runner import PagedRunner
from vlserve.engines.native.scheduling.sequence import Sequence

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(autouse=True)
def whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions in float32, as they are on a CPU, and not in TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("family", FAMILIES)
async def test_tokens_are_generates(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a crowd, prompts in pieces; then short of room. The oracle is the same model on a CPU."""
    folder = write_family(family, tmp_path / "model")
    asked = requests(family, 18)
    oracle = Oracle(folder)
    wanted = [oracle.answer(each.messages, each.sampling) for each in asked]
    async with running(folder, max_running=5, cache_mib=64, device="cuda") as engine:
        assert engine.info.is_batched
        runner = paged_runner_of(engine)
        assert isinstance(runner._graphs._recorder, CudaRecorder)
        together = await crowded(engine, asked)
        short = shortened(empty_memory(engine))
        squeezed = await crowded(engine, asked)
    equal = [
        sum(a.token_ids == w for a, w in zip(answers, wanted, strict=True))
        for answers in (together, squeezed)
    ]
    with capsys.disabled():
        print(f"{family}: tried 18, equal {equal}, preempted {short.num_preempted}")
    assert equal == [18, 18]


async def test_a_replay_is_the_eager_step(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = 0
    replayed = PagedRunner._decode

    def both(runner: PagedRunner, decodes: tuple[Sequence, ...]) -> DecodeOutputs:
        nonlocal compared
        graphs = runner._graphs
        first = replayed(runner, decodes).logits.clone()
        runner._graphs = runner._record(EagerRecorder())
        second = replayed(runner, decodes)
        runner._graphs = graphs
        assert torch.equal(first, second.logits)
        compared += len(first)
        return second

    async with running(tiny_folder, max_running=5, cache_mib=64, device="cuda") as engine:
        monkeypatch.setattr(PagedRunner, "_decode", both)
        await crowded(engine, requests("replay", 8))
    assert compared > 50
