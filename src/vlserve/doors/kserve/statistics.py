"""What this service has answered since it started, as Triton counts it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from vlserve.doors.kserve.convert import VERSION
from vlserve.doors.kserve.pb import inference_pb2 as pb
from vlserve.timings import Timings


class Statistics:
    """Counts and times of all requests of this service."""

    def __init__(self) -> None:
        self._stats = pb.InferStatistics()
        self._last_ms = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """One request: failed where anything is raised inside or its caller leaves."""
        begin_ns = time.monotonic_ns()
        self._last_ms = time.time_ns() // 1_000_000
        ended = self._stats.fail
        try:
            yield
            ended = self._stats.success
        finally:
            _add(ended, time.monotonic_ns() - begin_ns)

    def stages(self, timings: Timings) -> None:
        """Where the time of a request that was answered went."""
        stats = self._stats
        inputs_s = timings.fetch_s + timings.media_decode_s + timings.preprocess_s
        _add(stats.queue, round(timings.queue_s * 1e9))
        _add(stats.compute_input, round(inputs_s * 1e9))
        _add(
            stats.compute_infer,
            round((timings.encode_s + timings.prefill_s + timings.decode_s) * 1e9),
        )
        _add(stats.compute_output, 0)

    def of(self, model: str) -> pb.ModelStatistics:
        """All of it."""
        num = self._stats.success.count
        return pb.ModelStatistics(
            name=model,
            version=VERSION,
            last_inference=self._last_ms,
            inference_count=num,
            execution_count=num,
            inference_stats=self._stats,
        )


def _add(duration: pb.StatisticDuration, num_ns: int) -> None:
    duration.count += 1
    duration.ns += num_ns
