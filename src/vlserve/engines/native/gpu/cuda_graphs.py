"""The decode step recorded once for each of a few batch sizes, and replayed.

What the host does for a step of 32 layers takes longer than what the device does. A CUDA graph
leaves one launch of it. It replays the same kernels on the same addresses, so a step reads its
input from buffers that stay where they are, and a batch is padded to the next recorded size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from vlserve.engines.native.sampling.logits import best_tokens

# Rows for which a step is recorded: dense where a padding row costs a large share.
SMALL_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
BUCKET_STEP = 32
# Runs of a step before it is recorded: kernels are compiled and libraries set up by then.
NUM_WARM_UPS = 2
NOBODY = -1


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """The newest token of one sequence.

    `positions` are its P rotary positions. It is the last of `num_tokens` tokens to look at, which
    lie in `pages`, its own place included.
    """

    token_id: int
    positions: tuple[int, ...]
    pages: Sequence[int]
    num_tokens: int


@dataclass(frozen=True, slots=True)
class DecodeInputs:
    """What a step over B rows reads: `token_ids` `i64[B]`, `positions` `i64[P, B]`, `page_table`
    `i32[B, max_pages]`, `lengths` `i32[B]` tokens to look at and `places` `i64[B]` to write to.

    A padding row has length 0 and place -1.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    page_table: torch.Tensor
    lengths: torch.Tensor
    places: torch.Tensor

    @property
    def all(self) -> tuple[torch.Tensor, ...]:
        """The tensors in the order of the fields."""
        return self.token_ids, self.positions, self.page_table, self.lengths, self.places

    def first(self, num_rows: int) -> "DecodeInputs":
        """Views of the first rows."""
        return DecodeInputs(
            self.token_ids[:num_rows],
            self.positions[:, :num_rows],
            self.page_table[:num_rows],
            self.lengths[:num_rows],
            self.places[:num_rows],
        )

    def narrow(self, max_pages: int) -> "DecodeInputs":
        """With the first columns of the page table only."""
        return replace(self, page_table=self.page_table[:, :max_pages])


@dataclass(frozen=True, slots=True)
class DecodeOutputs:
    """`logits` `[B, vocab_size]` and the `best_tokens` of them, `greedy` `i64[B]`. Views of buffers
    that the next replay of the same size writes over."""

    logits: torch.Tensor
    greedy: torch.Tensor

    def first(self, num_rows: int) -> "DecodeOutputs":
        """Views of the first rows."""
        return DecodeOutputs(self.logits[:num_rows], self.greedy[:num_rows])


Recorded = Callable[[], DecodeOutputs]


class Recorder(Protocol):
    """Where steps are recorded."""

    pins_memory: bool

    def record(self, run: Recorded) -> Recorded:
        """`run` recorded: the result does the same again on the same buffers."""

    def mark_copied(self) -> None:
        """Called when the copies of a step's inputs are under way."""

    def wait_until_copied(self) -> None:
        """Returns when the copies that were last marked have read the host's memory."""


class CudaRecorder:
    """CUDA graphs that share one pool of memory: they are never replayed at the same time."""

    pins_memory = True

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._copied: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def record(self, run: Recorded) -> Recorded:
        """Warm up on a side stream, as recording asks for, then record."""
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(NUM_WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile: only what this one does is recorded.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = run()

        def replay() -> DecodeOutputs:
            graph.replay()
            return outputs

        return replay

    def mark_copied(self) -> None:
        """An event on the stream that copies."""
        self._copied.record()

    def wait_until_copied(self) -> None:
        """Long past where the last step's tokens have been read."""
        self._copied.synchronize()


class EagerRecorder:
    """Records nothing and runs the step each time: for a CPU, and to compare with."""

    pins_memory = False

    def record(self, run: Recorded) -> Recorded:
        """`run` itself."""
        return run

    def mark_copied(self) -> None:
        """A copy on the CPU is over when it returns."""

    def wait_until_copied(self) -> None:
        """A copy on the CPU is over when it returns."""


class DecodeGraphs:
    """Runs `step` over up to `max_rows` rows, recorded once for each bucket by `record`.

    `step` turns DecodeInputs of B rows into logits `[B, vocab_size]`; it must not read a number
    back from the device, and padding rows must not change the others. `suppressed` `i64[S]` are
    the tokens that are never the best. Used by one thread.
    """

    def __init__(
        self,
        step: Callable[[DecodeInputs], torch.Tensor],
        recorder: Recorder,
        *,
        max_rows: int,
        max_pages: int,
        page_tokens: int,
        num_positions: int,
        suppressed: torch.Tensor,
        device: torch.device,
    ) -> None:
        self._suppressed = suppressed
        self.buckets = buckets(max_rows)
        self._step = step
        self._recorder = recorder
        self._page_tokens = page_tokens
        # Read by graphs, in one place for good; and what a step's numbers are put into on the host.
        self._inputs = padding_rows(self.buckets[-1], max_pages, num_positions, device)
        host = padding_rows(self.buckets[-1], max_pages, num_positions, torch.device("cpu"))
        if recorder.pins_memory:
            host = DecodeInputs(*(tensor.pin_memory() for tensor in host.all))
        self._staging = host
        self._arrays = [tensor.numpy() for tensor in host.all]
        self._recorded: dict[int, Recorded] = {}

    def record(self) -> None:
        """Record a step for every bucket; takes seconds.

        The largest first: the others find room in the memory that it took.
        """
        for bucket in reversed(self.buckets):
            self._recorded[bucket] = self._recorder.record(self._run(bucket))

    def replay(self, rows: Sequence[DecodeRow]) -> DecodeOutputs:
        """The step of `rows`, under way on the device: nothing is waited for.

        Raises ValueError for no rows, more than `max_rows`, or more pages than `max_pages`.
        """
        bucket = bucket_of(len(rows), self.buckets)
        self._recorder.wait_until_copied()
        self._fill(rows, bucket)
        for target, source in zip(self._inputs.all, self._staging.all, strict=True):
            # Whole rows: only what is contiguous is copied without the host waiting.
            is_table = target is self._inputs.page_table
            stop = bucket if is_table else None
            target[:stop].copy_(source[:stop], non_blocking=True)
        self._recorder.mark_copied()
        return self._recorded[bucket]().first(len(rows))

    def _fill(self, rows: Sequence[DecodeRow], bucket: int) -> None:
        """By column: a call an element would take longer than the copies."""
        token_ids, positions, page_table, lengths, places = self._arrays
        num_rows = len(rows)
        token_ids[:num_rows] = [row.token_id for row in rows]
        positions[:, :num_rows] = np.array([row.positions for row in rows]).T
        lengths[:num_rows] = [row.num_tokens for row in rows]
        places[:num_rows] = [self._place(row) for row in rows]
        for index, row in enumerate(rows):
            page_table[index, : len(row.pages)] = row.pages
        token_ids[num_rows:bucket] = 0
        positions[:, num_rows:bucket] = 0
        lengths[num_rows:bucket] = 0
        places[num_rows:bucket] = NOBODY

    def _place(self, row: DecodeRow) -> int:
        page, offset = divmod(row.num_tokens - 1, self._page_tokens)
        return row.pages[page] * self._page_tokens + offset

    def _run(self, bucket: int) -> Recorded:
        inputs = self._inputs.first(bucket)

        def run() -> DecodeOutputs:
            logits = self._step(inputs)
            return DecodeOutputs(logits, best_tokens(logits, self._suppressed))

        return run


def buckets(max_rows: int) -> tuple[int, ...]:
    """The numbers of rows for which a step is recorded; the last is `max_rows`."""
    sizes = (*SMALL_BUCKETS, *range(SMALL_BUCKETS[-1] + BUCKET_STEP, max_rows, BUCKET_STEP))
    return (*(size for size in sizes if size < max_rows), max_rows)


def bucket_of(num_rows: int, sizes: Sequence[int]) -> int:
    """The smallest of `sizes` that holds `num_rows`.

    Raises ValueError when there are no rows, or more than the largest holds.
    """
    if not 1 <= num_rows <= sizes[-1]:
        raise ValueError(f"{num_rows} rows: 1 to {sizes[-1]} can be run")
    return next(size for size in sizes if size >= num_rows)


def padding_rows(
    num_rows: int, max_pages: int, num_positions: int, device: torch.device
) -> DecodeInputs:
    """Inputs that hold padding rows only."""
    return DecodeInputs(
        token_ids=torch.zeros(num_rows, dtype=torch.long, device=device),
        positions=torch.zeros(num_positions, num_rows, dtype=torch.long, device=device),
        page_table=torch.zeros(num_rows, max_pages, dtype=torch.int32, device=device),
        lengths=torch.zeros(num_rows, dtype=torch.int32, device=device),
        places=torch.full((num_rows,), NOBODY, dtype=torch.long, device=device),
    )
