"""Which recorded step runs, what it reads, and that padding rows change nothing (no GPU needed)."""

import copy
import math
from collections.abc import Callable

import pytest
import torch

from bench.gpu.decoder import PagedDecoder
from bench.gpu.model import TOY, make_config, make_model
from vlserve.engines.native.gpu.cuda_graphs import (
    CudaRecorder,
    DecodeGraphs,
    DecodeInputs,
    DecodeOutputs,
    DecodeRow,
    EagerRecorder,
    Recorded,
    bucket_of,
    buckets,
)
from vlserve.engines.native.gpu.kernels import PAGE_TOKENS, PLAIN, choose_kernels
from vlserve.engines.native.sampling.logits import NOT_FINITE, best_tokens

CPU = torch.device("cpu")
VOCAB_SIZE = 50
SUPPRESSED = (7, 11)


class FakeRecorder:
    """As a CUDA graph does: what a replay gives lies where the first run's outputs lay."""

    pins_memory = False

    def __init__(self) -> None:
        self.log: list[str] = []

    def record(self, run: Recorded) -> Recorded:
        outputs = run()
        self.log.append(f"record {len(outputs.greedy)}")

        def replay() -> DecodeOutputs:
            self.log.append(f"replay {len(outputs.greedy)}")
            again = run()
            outputs.logits.copy_(again.logits)
            outputs.greedy.copy_(again.greedy)
            return outputs

        return replay

    def mark_copied(self) -> None:
        self.log.append("copied")

    def wait_until_copied(self) -> None:
        self.log.append("wait")


def graphs(
    step: Callable[[DecodeInputs], torch.Tensor],
    recorder: FakeRecorder | EagerRecorder,
    *,
    max_rows: int = 6,
    num_positions: int = 1,
) -> DecodeGraphs:
    made = DecodeGraphs(
        step,
        recorder,
        max_rows=max_rows,
        max_pages=5,
        page_tokens=PAGE_TOKENS,
        num_positions=num_positions,
        suppressed=torch.tensor(SUPPRESSED, dtype=torch.long),
        device=CPU,
    )
    made.record()
    return made


def rows_of(num_rows: int, num_positions: int = 1) -> list[DecodeRow]:
    return [
        DecodeRow(
            token_id=10 + index,
            positions=tuple(range(index, index + num_positions)),
            pages=list(range(index, index + 1 + index % 3)),
            num_tokens=PAGE_TOKENS * (index % 3) + index + 1,
        )
        for index in range(num_rows)
    ]


def test_buckets() -> None:
    assert buckets(1) == (1,)
    assert buckets(32) == (1, 2, 4, 8, 16, 24, 32)
    assert buckets(40) == (1, 2, 4, 8, 16, 24, 32, 40)
    assert buckets(130) == (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 130)
    assert [bucket_of(n, (1, 2, 4, 6)) for n in range(1, 7)] == [1, 2, 4, 4, 6, 6]
    for num_rows in (0, 7):
        with pytest.raises(ValueError, match=f"{num_rows} rows"):
            bucket_of(num_rows, (1, 2, 4, 6))


@pytest.mark.parametrize("num_positions", [1, 3])
def test_a_step_reads_its_rows_and_padding(num_positions: int) -> None:
    read: list[DecodeInputs] = []

    def step(inputs: DecodeInputs) -> torch.Tensor:
        read.append(copy.deepcopy(inputs))
        return torch.zeros(len(inputs.token_ids), VOCAB_SIZE)

    made = graphs(step, FakeRecorder(), num_positions=num_positions)
    assert [len(inputs.token_ids) for inputs in read] == [6, 4, 2, 1]
    assert all((inputs.places == -1).all() and not inputs.lengths.any() for inputs in read)
    # A full step first: nothing of it may stay for the smaller one.
    for num_rows, bucket in ((6, 6), (3, 4), (1, 1)):
        rows = rows_of(num_rows, num_positions)
        made.replay(rows)
        inputs = read[-1]
        padding = [0] * (bucket - num_rows)
        assert inputs.token_ids.tolist() == [row.token_id for row in rows] + padding
        assert inputs.lengths.tolist() == [row.num_tokens for row in rows] + padding
        for number in range(num_positions):
            wanted = [row.positions[number] for row in rows]
            assert inputs.positions[number].tolist() == wanted + padding
        for index, row in enumerate(rows):
            assert inputs.page_table[index, : len(row.pages)].tolist() == row.pages
            place = int(inputs.places[index])
            assert place // PAGE_TOKENS == row.pages[-1]
            assert place % PAGE_TOKENS == (row.num_tokens - 1) % PAGE_TOKENS
        assert inputs.places[num_rows:].tolist() == [-1] * len(padding)


def test_the_largest_is_recorded_first_and_the_smallest_that_fits_is_replayed() -> None:
    recorder = FakeRecorder()
    made = graphs(lambda inputs: torch.zeros(len(inputs.token_ids), VOCAB_SIZE), recorder)
    assert recorder.log == ["record 6", "record 4", "record 2", "record 1"]
    recorder.log.clear()
    assert made.replay(rows_of(3)).logits.shape == (3, VOCAB_SIZE)
    # The host's buffers are written to when they have been read, and not before.
    assert recorder.log == ["wait", "copied", "replay 4"]


def test_too_many_rows_or_pages_are_refused() -> None:
    made = graphs(lambda inputs: torch.zeros(len(inputs.token_ids), VOCAB_SIZE), FakeRecorder())
    for num_rows in (0, 7):
        with pytest.raises(ValueError, match="rows"):
            made.replay(rows_of(num_rows))
    with pytest.raises(ValueError, match="shape"):
        made.replay([DecodeRow(1, (0,), list(range(6)), 170)])


def test_the_best_token_is_no_suppressed_one_and_no_nan() -> None:
    logits = torch.arange(12.0).view(3, 4)
    logits[1, 0], logits[2] = math.nan, -math.inf
    before = logits.clone()
    assert best_tokens(logits, torch.tensor([3])).tolist() == [2, NOT_FINITE, NOT_FINITE]
    assert best_tokens(logits, torch.tensor([], dtype=torch.long)).tolist()[0] == 3
    # The sampler has them as the model gave them.
    assert torch.equal(logits.nan_to_num(), before.nan_to_num())


def test_replayed_steps_equal_the_model() -> None:
    """Prompts of several lengths, then six steps with rows that leave and padding beside them."""
    config = make_config(TOY)
    model = make_model(config, CPU, torch.float32)
    plain = copy.deepcopy(model)
    decoder = PagedDecoder(model, PLAIN, num_pages=16)
    # Nobody's pages are poison.
    for tensor in (*decoder.keys, *decoder.values):
        tensor.fill_(math.nan)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 300, (n,), generator=generator) for n in (1, 31, 33, 64, 70)]
    pages = [[0], [3, 1], [2, 4], [9, 8, 7], [5, 6, 10]]
    compared, largest = 0, 0.0
    with torch.inference_mode():
        answers = [p.tolist() for p in prompts]
        for answer, held in zip(answers, pages, strict=True):
            embeddings = model.get_input_embeddings()(torch.tensor(answer))
            answer.append(int(decoder.prefill(embeddings, torch.tensor(held)).argmax()))
        made = graphs(decoder.step, FakeRecorder())
        for step in range(6):
            running = range(5 - step // 2)
            rows = [
                DecodeRow(answers[i][-1], (len(answers[i]) - 1,), pages[i], len(answers[i]))
                for i in running
            ]
            outputs = made.replay(rows)
            for i, logits in zip(running, outputs.logits, strict=True):
                wanted = plain(input_ids=torch.tensor([answers[i]])).logits[0, -1]
                largest = max(largest, float((logits - wanted).abs().max()))
                compared += 1
            allowed = outputs.logits.index_fill(1, torch.tensor(SUPPRESSED), -math.inf)
            assert torch.equal(outputs.greedy, allowed.argmax(dim=1))
            for i, token in zip(running, outputs.greedy.tolist(), strict=True):
                answers[i].append(token)
    print(f"logits compared {compared}, largest difference {largest:.1e}")
    assert largest < 1e-4


def test_a_step_never_waits_for_the_device() -> None:
    """Tensors of the meta device have no numbers to wait for: to read one fails."""
    meta = torch.device("meta")
    decoder = PagedDecoder(make_model(make_config(TOY), meta, torch.float32), PLAIN, num_pages=16)
    inputs = DecodeInputs(
        token_ids=torch.zeros(4, dtype=torch.long, device=meta),
        positions=torch.zeros(1, 4, dtype=torch.long, device=meta),
        page_table=torch.zeros(4, 5, dtype=torch.int32, device=meta),
        lengths=torch.zeros(4, dtype=torch.int32, device=meta),
        places=torch.zeros(4, dtype=torch.long, device=meta),
    )
    with torch.inference_mode():
        logits = decoder.step(inputs)
    assert logits.shape == (4, 320)
    # The control: both ways of reading a number.
    with pytest.raises(RuntimeError, match="meta"):
        logits[0, 0].item()
    with pytest.raises((RuntimeError, NotImplementedError), match="nonzero"):
        logits[logits > 0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_graph_equals_the_eager_step() -> None:
    device, config = torch.device("cuda"), make_config(TOY)
    text = config.text_config
    kernels = choose_kernels(
        device,
        torch.bfloat16,
        num_heads=text.num_attention_heads,
        num_kv_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
    )
    model = make_model(config, device, torch.bfloat16)
    with torch.inference_mode():
        outputs = []
        for recorder in (CudaRecorder(), EagerRecorder()):
            decoder = PagedDecoder(model, kernels, num_pages=16)
            made = DecodeGraphs(
                decoder.step,
                recorder,
                max_rows=6,
                max_pages=5,
                page_tokens=PAGE_TOKENS,
                num_positions=1,
                suppressed=torch.tensor([], dtype=torch.long, device=device),
                device=device,
            )
            made.record()
            given = [made.replay(rows_of(n)).logits.clone() for n in (6, 3, 1, 5)]
            outputs.append(given)
        assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
