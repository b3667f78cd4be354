"""One resumable training run: schedule, optimiser, checkpoint and log of a set of parameters."""

import json
import math
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from training.muon import Muon

# Where each optimiser keeps what it must remember of a parameter, and our name for it in a file.
_REMEMBERED = {"exp_avg": "mean", "exp_avg_sq": "square", "momentum": "momentum"}


@dataclass(frozen=True)
class Schedule:
    """Warm up, hold, then a half cosine to zero over the last `decay` share of `steps`."""

    steps: int
    rate: float
    warmup: int = 100
    decay: float = 0.5

    def rate_at(self, step: int) -> float:
        """The learning rate of one step."""
        start = self.steps * (1 - self.decay)
        factor = 1.0
        if step > start:
            factor = 0.5 * (1 + math.cos(math.pi * (step - start) / (self.steps - start)))
        return self.rate * factor * min(1.0, (step + 1) / self.warmup)


def _is_hidden(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and ("layers." in name or "modality" in name)


class Run:
    """Trains `parameters`, keeping weights, moments and a log in `folder`.

    Muon trains the matrices of the hidden layers and AdamW the rest.

    Those also in `slow` learn at `slow_share` of the scheduled rate; those that need no gradient
    are only kept.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        parameters: dict[str, nn.Parameter],
        schedule: Schedule,
        *,
        slow: Collection[str] = (),
        slow_share: float = 1.0,
    ) -> None:
        self.name, self.folder, self.schedule = name, folder, schedule
        self._parameters = parameters
        trained = {name: p for name, p in parameters.items() if p.requires_grad}
        matrices: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for share, chosen in ((1.0, trained.keys() - slow), (slow_share, trained.keys() & slow)):
            hidden = [name for name in sorted(chosen) if _is_hidden(name, trained[name])]
            rest = sorted(chosen.difference(hidden))
            matrices.append({"params": [trained[name] for name in hidden], "share": share})
            others.append({"params": [trained[name] for name in rest], "share": share})
        adamw = torch.optim.AdamW(
            [group for group in others if group["params"]],
            lr=schedule.rate,
            betas=(0.9, 0.98),
            weight_decay=0.01,
        )
        muon = Muon([group for group in matrices if group["params"]], schedule.rate)
        self._optimizers: list[torch.optim.Optimizer] = [adamw, muon]
        self._trained = trained
        self._started = time.perf_counter()
        self._seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def weights_file(self) -> Path:
        """Where the newest weights and moments are."""
        return self.folder / "latest.safetensors"

    def steps(self, save_every: int = 200) -> Iterator[int]:
        """The numbers of the steps to do, after those already done; saves now and then."""
        first = self._resume()
        bar = tqdm(
            range(first, self.schedule.steps),
            desc=self.name,
            initial=first,
            total=self.schedule.steps,
            mininterval=5,
        )
        for step in bar:
            yield step
            if (step + 1) % save_every == 0 or step + 1 == self.schedule.steps:
                self.save(step + 1)

    def update(self, step: int, loss: torch.Tensor) -> None:
        """Backward, clip at norm 1, and one optimiser step at the scheduled rate."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained.values(), 1.0)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["share"] * self.schedule.rate_at(step)
            optimizer.step()

    def log(self, step: int, **values: float) -> None:
        """Append one line to log.jsonl."""
        seconds = self._seconds + time.perf_counter() - self._started
        line = {"step": step, "seconds": round(seconds, 1), **values}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def save(self, step: int) -> None:
        """Write weights and moments, whole or not at all."""
        tensors = {name: p.detach() for name, p in self._parameters.items()}
        for name, parameter in self._trained.items():
            for optimizer in self._optimizers:
                for key, value in optimizer.state.get(parameter, {}).items():
                    if key in _REMEMBERED:
                        tensors[f"{_REMEMBERED[key]}:{name}"] = value
        seconds = self._seconds + time.perf_counter() - self._started
        metadata = {"step": str(step), "seconds": str(seconds)}
        metadata["schedule"] = json.dumps(asdict(self.schedule))
        temporary = self.weights_file.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata)
        temporary.replace(self.weights_file)

    def _resume(self) -> int:
        if not self.weights_file.exists():
            return 0
        with safe_open(self.weights_file, "pt") as file:
            metadata = file.metadata()
            step = int(metadata["step"])
            self._seconds = float(metadata["seconds"])
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(file.get_tensor(name))
                kept = set(file.keys())
                for name, parameter in self._trained.items():
                    state = {
                        key: file.get_tensor(f"{kind}:{name}")
                        for key, kind in _REMEMBERED.items()
                        if f"{kind}:{name}" in kept
                    }
                    adamw, muon = self._optimizers
                    if "momentum" in state:
                        muon.state[parameter] = state
                    else:
                        adamw.state[parameter] = {"step": torch.tensor(float(step)), **state}
        return step


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a file written by `Run.save`, without the moments."""
    return {name: tensor for name, tensor in load_file(path).items() if ":" not in name}
