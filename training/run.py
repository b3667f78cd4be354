"""One resumable training run: schedule, optimiser, checkpoint and log of a set of parameters."""

import json
import math
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm


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


class Run:
    """Trains `parameters`, keeping weights, moments and a log in `folder`.

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
        groups = []
        for is_slow in (False, True):
            for is_matrix in (False, True):
                chosen = [
                    p
                    for n, p in trained.items()
                    if (n in slow, p.ndim >= 2) == (is_slow, is_matrix)
                ]
                share = slow_share if is_slow else 1.0
                decay = 0.02 if is_matrix else 0.0
                groups.append({"params": chosen, "weight_decay": decay, "share": share})
        groups = [group for group in groups if group["params"]]
        self._optimiser = torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.98))
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
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained.values(), 1.0)
        for group in self._optimiser.param_groups:
            group["lr"] = group["share"] * self.schedule.rate_at(step)
        self._optimiser.step()

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
            state = self._optimiser.state[parameter]
            tensors[f"mean:{name}"] = state["exp_avg"]
            tensors[f"square:{name}"] = state["exp_avg_sq"]
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
                for name, parameter in self._trained.items():
                    self._optimiser.state[parameter] = {
                        "step": torch.tensor(float(step)),
                        "exp_avg": file.get_tensor(f"mean:{name}"),
                        "exp_avg_sq": file.get_tensor(f"square:{name}"),
                    }
        return step


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a file written by `Run.save`, without the moments."""
    return {name: tensor for name, tensor in load_file(path).items() if ":" not in name}
