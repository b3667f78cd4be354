"""The vision tower, on a thread of its own: whoever is being answered does not wait for it."""

import threading
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext

import torch

from vlserve.engines.native.scheduling.fair import FairQueue
from vlserve.engines.native.vision.image_cache import ImageCache
from vlserve.models.base import ModelAdapter
from vlserve.models.prompt import PromptImage

# Of the arrays that a processor makes of a picture, those this small are kept with its features:
# they say where the features lie.
FEW_BYTES = 4096
Job = tuple[str, PromptImage, "Future[None]"]


class Encoder:
    """Sees one picture after the other, tenants in turn.

    What a picture costs is the number of its pixels for the tower. On a CPU it takes
    `num_threads`: threads of two that share a core wait for each other. On a GPU it works on a
    stream of its own beside the steps, and what it hands over is there: a step that had to wait
    for it would keep everyone waiting.
    """

    def __init__(self, adapter: ModelAdapter, cache: ImageCache, num_threads: int) -> None:
        self._adapter = adapter
        self._cache = cache
        self._num_threads = num_threads
        self._queue: FairQueue[Job] = FairQueue()
        self._news = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="vlserve-encode", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def submit(self, tenant: str, image: PromptImage) -> "Future[None]":
        """Give `image` its features; who cancels the future before its turn spares the work."""
        future: Future[None] = Future()
        with self._news:
            if self._is_closed:
                future.cancel()
                return future
            self._queue.put(tenant, (tenant, image, future))
            self._news.notify()
        return future

    def close(self) -> None:
        """Cancel what waits and end after what is being seen."""
        with self._news:
            self._is_closed = True
            while self._queue:
                self._queue.pop()[2].cancel()
            self._news.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        torch.set_num_threads(self._num_threads)
        with torch.inference_mode(), _own_stream(self._adapter.model.device):
            while (job := self._next()) is not None:
                self._do(*job)
                del job  # nothing here keeps a picture while the next one is waited for

    def _do(self, tenant: str, image: PromptImage, future: "Future[None]") -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            self._see(tenant, image)
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    def _next(self) -> Job | None:
        with self._news:
            while not self._queue and not self._is_closed:
                self._news.wait()
            if self._is_closed:
                return None
            job = self._queue.pop()
            pixels = max((array.size for array in job[1].inputs.values()), default=0)
            self._queue.charge(job[0], pixels)
            self._queue.forget(set())
            return job

    def _see(self, tenant: str, image: PromptImage) -> None:
        # Another request may have brought the same picture meanwhile.
        seen = self._cache.get(tenant, image.key)
        if seen is not None:
            image.features, image.inputs = seen.features, seen.inputs
            return
        features = self._adapter.encode(image.inputs)
        if features.rows.is_cuda:
            torch.cuda.current_stream().synchronize()
        image.features = features
        small = {name: a for name, a in image.inputs.items() if a.nbytes <= FEW_BYTES}
        image.inputs = small
        self._cache.put(tenant, image)


def _own_stream(device: torch.device) -> AbstractContextManager[object]:
    """This thread's work on a stream that waits for no other's, on a GPU."""
    if device.type != "cuda":
        return nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
