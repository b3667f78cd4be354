"""Attention over pages, plain and by Triton, against a loop that takes one head of one row.

Triton's kernels run on the CUDA device, or without one in Triton's interpreter.
"""

import itertools
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from triton.runtime import interpreter

from vlserve.engines.native.gpu import kernels as paged
from vlserve.engines.native.gpu import triton_kernels
from vlserve.engines.native.gpu.kernels import PLAIN, TRITON, PagedKernels, choose_kernels

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PAGE_TOKENS = paged.PAGE_TOKENS
# Rounding of one product of numbers of about 1, in the dtype of what comes out.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
both_ways = pytest.mark.parametrize("kernels", [PLAIN, TRITON], ids=["plain", "triton"])


@pytest.fixture(autouse=True)
def bfloat16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter keeps bfloat16 as 16 bits of a whole number, and multiplies those; here it
    multiplies the numbers that they stand for. On a CUDA device there is no interpreter."""

    def meant(operand: Any) -> Any:
        if "bf16" not in str(operand.dtype):
            return operand.data
        return (operand.data.astype(np.uint32) << 16).view(np.float32)

    def dot(_: Any, left: Any, right: Any, added: Any, *_options: Any) -> Any:
        product = np.matmul(meant(left), meant(right), dtype=np.float32)
        return interpreter.TensorHandle(product + added.data, added.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)


class Case:
    """Rows of given lengths over pages in any order; what nobody owns is NaN."""

    def __init__(
        self,
        lengths: list[int],
        *,
        group: int = 4,
        num_kv_heads: int = 2,
        head_dim: int = 64,
        dtype: torch.dtype = torch.float32,
        max_pages: int = 0,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        num_pages = [-(-length // PAGE_TOKENS) for length in lengths]
        # Two pages more than are used, and a table wider than need be, that names no page there.
        order = (torch.randperm(sum(num_pages) + 2, generator=generator)).tolist()
        width = max([max_pages, *num_pages]) + 1
        shape = (len(order), num_kv_heads, PAGE_TOKENS, head_dim)
        pages = torch.full((2, *shape), math.nan)
        table = torch.full((len(lengths), width), 1_000_000)
        for row, (length, count) in enumerate(zip(lengths, num_pages, strict=True)):
            for index in range(count):
                page = order.pop()
                table[row, index] = page
                held = min(length - index * PAGE_TOKENS, PAGE_TOKENS)
                noise = torch.randn(2, num_kv_heads, held, head_dim, generator=generator)
                pages[:, page, :, :held] = noise
        self.query = torch.randn(len(lengths), group * num_kv_heads, head_dim, generator=generator)
        self.query = self.query.to(DEVICE, dtype)
        self.keys, self.values = pages.to(DEVICE, dtype).unbind()
        self.table = table.int().to(DEVICE)
        self.lengths = torch.tensor(lengths).int().to(DEVICE)
        self.scaling = head_dim**-0.5

    def attend(self, kernels: PagedKernels, window: int | None = None) -> torch.Tensor:
        return kernels.attend(
            self.query,
            self.keys,
            self.values,
            self.table,
            self.lengths,
            scaling=self.scaling,
            window=window,
        )

    def naive(self, window: int | None = None) -> torch.Tensor:
        """In float64, a row and a head at a time."""
        out = torch.zeros(self.query.shape, dtype=torch.float64)
        query, keys, values = (t.double().cpu() for t in (self.query, self.keys, self.values))
        group = query.shape[1] // keys.shape[1]
        for row, head in itertools.product(*map(range, query.shape[:2])):
            length = int(self.lengths[row])
            seen = range(max(0, length - window) if window else 0, length)
            places = [(int(self.table[row, t // PAGE_TOKENS]), t % PAGE_TOKENS) for t in seen]
            if not places:
                continue
            key = torch.stack([keys[page, head // group, offset] for page, offset in places])
            value = torch.stack([values[page, head // group, offset] for page, offset in places])
            weights = torch.softmax(key @ query[row, head] * self.scaling, dim=0)
            out[row, head] = weights @ value
        return out

    def check(self, kernels: PagedKernels, window: int | None = None) -> float:
        """The largest difference from the loop, within the dtype's rounding."""
        out = self.attend(kernels, window)
        assert out.shape == self.query.shape
        assert out.dtype == self.query.dtype
        difference = float((out.double().cpu() - self.naive(window)).abs().max())
        assert difference <= TOLERANCE[out.dtype]
        return difference


LENGTHS = [1, 0, 31, 32, 33, 64, 100, 0, 159]


@both_ways
@pytest.mark.parametrize("head_dim", [16, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("group", [1, 3, 4, 7, 17])
def test_equals_the_loop(kernels: PagedKernels, group: int, head_dim: int) -> None:
    Case([1, 70, 0], group=group, head_dim=head_dim).check(kernels)


@both_ways
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("window", [None, 1, 3, 40, 64, 1000])
def test_any_dtype_and_window(
    kernels: PagedKernels, dtype: torch.dtype, window: int | None
) -> None:
    difference = Case(LENGTHS, dtype=dtype).check(kernels, window)
    print(f"{kernels.name} {dtype} window {window}: largest difference {difference:.1e}")


def test_the_kernels_run_in_the_interpreter_where_there_is_no_device() -> None:
    """And not at all otherwise: their tests would pass for want of a kernel."""
    is_interpreted = isinstance(triton_kernels._attend_kernel, interpreter.InterpretedFunction)
    assert is_interpreted == (DEVICE.type == "cpu")


def _shared_out(case: Case, max_shares: int, num_programs: int) -> torch.Tensor:
    return triton_kernels.attend(
        case.query,
        case.keys,
        case.values,
        case.table,
        case.lengths,
        scaling=case.scaling,
        window=None,
        max_shares=max_shares,
        num_programs=num_programs,
    )


@pytest.mark.parametrize("max_shares", [1, 2, 16])
@pytest.mark.parametrize("num_programs", [1, 3, 64])
def test_shares_dealt_out_to_any_number_of_programs(max_shares: int, num_programs: int) -> None:
    case = Case([300, 0, 31, 159], head_dim=16, num_kv_heads=1)
    out = _shared_out(case, max_shares, num_programs)
    assert float((out.double().cpu() - case.naive()).abs().max()) <= TOLERANCE[torch.float32]
    # Who computes a share changes no bit of it.
    assert torch.equal(out, _shared_out(case, max_shares, num_programs + 1))


@pytest.mark.parametrize("window", [None, 300])
def test_a_row_has_the_same_bits_alone_and_in_company(window: int | None) -> None:
    case = Case([1300, 40, 0, *[70] * 17, 129], head_dim=16, num_kv_heads=1)
    together = case.attend(TRITON, window)
    # 21 rows are padded to 32, a few to 16.
    for rows in ([0], [1, 20], [20, 0, 2, 1]):
        few = Case([1])
        few.query, few.table, few.lengths = case.query[rows], case.table[rows], case.lengths[rows]
        few.keys, few.values, few.scaling = case.keys, case.values, case.scaling
        assert torch.equal(few.attend(TRITON, window), together[rows])


def test_shares_fill_the_device_however_few_rows_there_are() -> None:
    programs = triton_kernels.num_programs(132)
    for kv_heads, shares in ((1, 64), (4, 64), (8, 64), (16, 64), (32, 32), (64, 16)):
        assert triton_kernels.max_shares(kv_heads, 132) == shares
        assert kv_heads * shares * 2 > programs or shares == triton_kernels.MAX_SHARES


@both_ways
def test_poison_that_nobody_looks_at_changes_nothing(kernels: PagedKernels) -> None:
    poisoned, clean = Case(LENGTHS), Case(LENGTHS)
    assert clean.keys.isnan().any()
    clean.keys.nan_to_num_(0)
    clean.values.nan_to_num_(0)
    for window in (None, 40):
        out = poisoned.attend(kernels, window)
        assert torch.equal(out, clean.attend(kernels, window))
    # The control: what is looked at does change it.
    poisoned.keys[poisoned.table[2, 0], 0, 0] = math.nan
    assert poisoned.attend(kernels)[2].isnan().any()


@both_ways
def test_a_query_seen_in_another_order_of_dimensions(kernels: PagedKernels) -> None:
    """As the decoder gives it: heads first."""
    case = Case(LENGTHS)
    case.query = case.query.transpose(0, 1).contiguous().transpose(0, 1)
    assert not case.query.is_contiguous()
    case.check(kernels)


@both_ways
@pytest.mark.parametrize("places", [[5, -1, 64, 33, -1, 127], [-1, -1, -1], [-1, 0], []])
def test_tokens_go_to_their_places(kernels: PagedKernels, places: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    pages = torch.randn(2, 4, 3, PAGE_TOKENS, 16, generator=generator)
    # Heads first, as the decoder has them; nobody's rows are NaN.
    tokens = torch.randn(2, 3, len(places), 16, generator=generator).transpose(1, 2)
    wanted = pages.clone()
    for row, place in enumerate(places):
        if place < 0:
            tokens[:, row] = math.nan
        else:
            wanted[:, place // PAGE_TOKENS, :, place % PAGE_TOKENS] = tokens[:, row]
    keys, values = pages.to(DEVICE).unbind()
    key, value = tokens.to(DEVICE).unbind()
    kernels.write(key, value, keys, values, torch.tensor(places, dtype=torch.long, device=DEVICE))
    assert torch.equal(keys.cpu(), wanted[0])
    assert torch.equal(values.cpu(), wanted[1])


def test_without_triton_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vlserve.engines.native.gpu.triton_kernels", None)
    monkeypatch.delattr("vlserve.engines.native.gpu.triton_kernels")
    case = Case([1])
    with pytest.raises(RuntimeError, match="needs Triton"):
        case.attend(TRITON)
    with pytest.raises(RuntimeError, match="needs Triton"):
        TRITON.write(case.query, case.query, case.keys, case.values, case.lengths.long())


def test_an_engine_needs_no_triton_on_a_cpu() -> None:
    """Where it is installed no kernel is made, either."""
    asked = (
        "import sys, torch\n"
        "import vlserve.engines.native.engine\n"
        "from vlserve.engines.native.gpu import kernels\n"
        "heads = {'num_heads': 2, 'num_kv_heads': 1, 'head_dim': 16}\n"
        "chosen = kernels.choose_kernels(torch.device('cpu'), torch.float32, **heads)\n"
        "assert chosen is kernels.PLAIN\n"
        "assert 'vlserve.engines.native.gpu.triton_kernels' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", asked], check=True)


def test_a_head_that_the_kernel_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="head_dim 20"):
        Case([1], head_dim=20).attend(TRITON)


def test_the_plain_way_is_chosen_without_a_cuda_device() -> None:
    heads = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 64}
    assert choose_kernels(torch.device("cpu"), torch.float32, **heads) is PLAIN


def test_the_check_at_load_finds_wrong_numbers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = (DEVICE, torch.float32, 4, 2, 64)
    paged._check_triton(*arguments)
    right = triton_kernels.attend

    def wrong(*args: Any, **kwargs: Any) -> torch.Tensor:
        return right(*args, **kwargs) + 1e-3

    monkeypatch.setattr(triton_kernels, "attend", wrong)
    with pytest.raises(RuntimeError, match=r"off by 0\.001"):
        paged._check_triton(*arguments)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="no CUDA device")
def test_chosen_on_a_cuda_device_and_recorded_in_a_graph() -> None:
    heads = {"num_heads": 8, "num_kv_heads": 2, "head_dim": 64}
    kernels = choose_kernels(DEVICE, torch.bfloat16, **heads)
    assert kernels is TRITON
    case = Case(LENGTHS, dtype=torch.bfloat16)
    case.attend(kernels, 40)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = case.attend(kernels, 40)
    for lengths in (LENGTHS, [min(length, 5) for length in LENGTHS]):
        case.lengths.copy_(torch.tensor(lengths).int())
        graph.replay()
        assert torch.equal(out, case.attend(kernels, 40))
