"""A peer's server as a process of ours: started, waited for, asked once, ended."""

import asyncio
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

import openai

from bench.peer_list import Peer
from vlserve.bench.run import Limit, Run
from vlserve.bench.workload import Workload

START_S: Final = 180.0
END_S: Final = 5.0
_POLL_S: Final = 0.25


class NotReady(Exception):  # noqa: N818  it says what a peer is
    """A server that ended, or did not answer in time. The text ends with its last words."""


class Running:
    """A peer's server with so many threads. Ended by `stop`."""

    def __init__(self, peer: Peer, folder: Path, threads: int) -> None:
        self.peer = peer
        self.folder = folder
        self.threads = threads
        self.port = _free_port()
        count = str(threads)
        environment = os.environ | {  # noqa: TID251  a peer's, not a setting of ours
            "OMP_NUM_THREADS": count,
            "MKL_NUM_THREADS": count,
            "RAYON_NUM_THREADS": count,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  as long as the process
        self._process = subprocess.Popen(  # noqa: S603  the peer's own command
            peer.command(folder, self.port, threads),
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )

    async def ready(self, workload: Workload) -> None:
        """Returns once it has answered a request. Raises NotReady."""
        until = time.monotonic() + START_S
        said = "nothing listens"
        while time.monotonic() < until and self._process.poll() is None:
            try:
                async with self.peer.connect(self.port, self.folder) as target:
                    [outcome] = await Run(target, workload).closed_loop(1, Limit(num_requests=1))
            except (OSError, openai.APIError) as error:
                said = str(error)
            else:
                if outcome.error is None:
                    return
                said = f"{outcome.error}: {outcome.message}"
            await asyncio.sleep(_POLL_S)
        raise NotReady(f"{said}\n{self._last_words()}")

    def stop(self) -> None:
        """End it and whatever it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                break
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()
        self._log.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        return self._log.read()[-2000:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
