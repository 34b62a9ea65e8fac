"""A hundred trainings: one jitted program beside a PyTorch loop.

A perceptron 784-256-256-10 takes 390 steps of Adam (1e-3) on batches of 128, a hundred times, from ten
techniques and ten seeds. The inputs are scikit-learn's digits enlarged to 28×28. PyTorch trains one after
the other, with fused Adam, on one thread or on all, whichever is faster; both start from the same weights.
They take turns, PyTorch before and after each call of the program, so that a busy machine disturbs both.
The program's compilation is told apart, since it is the same for any number of runs. `pip install -e
'.[benchmark]'` installs PyTorch. The ratio depends on the processor: two cores of an AMD EPYC gave 0.28, of
another 0.52, of an Intel Xeon with AVX-512 0.53 and 0.57. On the second EPYC the matrix products alone, 155
MFLOP a step at the 60 GFLOP/s a core that XLA and PyTorch both reach there, take 0.37 of the loop.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from experiments._data import Data, digits
from experiments._networks import MLP, initialize, plan, stack
from experiments._numbers import table
from experiments._results import Claim, Track
from experiments._training import program
from experiments.ten_techniques import TECHNIQUES

LIMIT = 0.4  # of the time of the loop
BATCH, RATE = 128, 1e-3


def processor() -> str:
    """Its name, where the system tells."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def enlarged() -> Data:
    """The digits at 28×28."""

    def enlarge(x: jax.Array) -> jax.Array:
        return jax.image.resize(x.reshape(-1, 8, 8), (len(x), 28, 28), "linear").reshape(-1, 784)

    data = digits()
    return data._replace(x=enlarge(data.x), x_test=enlarge(data.x_test))


class Loop:
    """The PyTorch side: the same trainings, one after the other."""

    def __init__(self, data: Data) -> None:
        import torch

        self.torch = torch
        self.x, self.y, self.x_test, self.y_test = (torch.from_numpy(np.array(each)) for each in data)
        self.y, self.y_test = self.y.long(), self.y_test.long()

    def model(self, params: dict[str, Any]) -> Any:
        """The perceptron with these weights."""
        torch, layers = self.torch, []
        for layer in params.values():
            linear = torch.nn.Linear(*layer["kernel"].shape)
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(np.array(layer["kernel"].T)))
                linear.bias.copy_(torch.from_numpy(np.array(layer["bias"])))
            layers += [linear, torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1])

    def about(self) -> dict[str, Any]:
        """Version and threads."""
        return {"torch": self.torch.__version__, "torch_threads": self.torch.get_num_threads()}

    def choose_threads(self, params: dict[str, Any]) -> None:
        """One thread or all, whichever is faster here: on a busy machine several wait for one another."""
        self.train(params, 5)  # loads what PyTorch loads late
        took = {}
        for threads in sorted({1, self.torch.get_num_threads()}):
            self.torch.set_num_threads(threads)
            took[threads] = seconds(self.train, params, 40)[0][0]
        self.torch.set_num_threads(min(took, key=took.__getitem__))

    def train(self, params: dict[str, Any], steps: int) -> float:
        """Test accuracy after training."""
        torch, model = self.torch, self.model(params)
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
        for _ in range(steps):
            rows = torch.randint(len(self.x), (BATCH,))
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(model(self.x[rows]), self.y[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            return float((model(self.x_test).argmax(-1) == self.y_test).float().mean())


def seconds(function: Any, *args: Any) -> tuple[np.ndarray, Any]:
    """Wall and processor time of a call, and what it returns."""
    start = np.array([time.perf_counter(), time.process_time()])
    found = jax.block_until_ready(function(*args))
    return np.array([time.perf_counter(), time.process_time()]) - start, found


def run(track: Track, *, small: bool = False) -> dict[str, Any]:
    """Times of both, in rounds, and accuracies."""
    seeds, steps, rounds = (1, 10, 1) if small else (10, 390, 1)
    data, model = enlarged(), MLP(2, 256)
    keys = jax.random.split(jax.random.key(0), seeds)
    params = stack([initialize(model, plan(init), keys, 784) for init in TECHNIQUES.values()])
    runs = seeds * len(TECHNIQUES)
    args = params, jax.random.split(jax.random.key(1), runs), data
    jitted = program(model.apply, optax.adam(RATE), steps=steps, batch=BATCH)
    compiling, compiled = seconds(lambda: jitted.lower(*args).compile())
    members = [jax.tree.map(lambda leaf, i=i: leaf[i], params["params"]) for i in range(runs)]
    loop = Loop(data)
    loop.choose_threads(members[0])
    of_loop, of_program, accuracy = [], [], {}
    for _ in track(list(range(rounds))):
        halves = members[: runs // 2], members[runs // 2 :]
        before, first = seconds(lambda half=halves[0]: [loop.train(each, steps) for each in half])
        once, trained = seconds(lambda: compiled(*args))
        after, second = seconds(lambda half=halves[1]: [loop.train(each, steps) for each in half])
        of_loop.append(before + after)
        of_program.append(once)
        accuracy = {"loop": first + second, "program": np.asarray(trained.accuracy)}
    times = {"compilation": compiling, "loop": of_loop, "program": of_program}
    facts = {"load": os.getloadavg()[0], "processor": processor(), **loop.about()}
    return {"runs": runs, "seconds": times, "accuracy": accuracy, **facts}


def ratios(data: dict[str, Any]) -> np.ndarray:
    """Time of the program, compilation included, over that of the loop: [rounds, wall and processor]."""
    times = {name: np.asarray(each) for name, each in data["seconds"].items()}
    return (times["program"] + times["compilation"]) / times["loop"]


def claims(data: dict[str, Any]) -> list[Claim]:
    """The ratio of times, and that both train alike."""
    wall, processor = np.median(ratios(data), axis=0)
    means = {name: 100 * float(np.mean(each)) for name, each in data["accuracy"].items()}
    return [
        Claim.of(
            f"{data['runs']} runs as one jitted program take at most {LIMIT} of the time of a sequential "
            "PyTorch loop.",
            f"{wall:.2f} of its time and {processor:.2f} of its processor time, with "
            f"{data['seconds']['compilation'][0]:.1f} s of compilation counted in (PyTorch "
            f"{data['torch']}, threads: "
            f"{data['torch_threads']}; {data.get('processor', 'processor unknown')}; load average of the "
            f"machine {data['load']:.1f}). It counts by both times, for on a busy machine a program with "
            "more threads gains wall time. Both train alike: "
            "mean accuracy "
            f"{means['program']:.1f} and {means['loop']:.1f} %.",
            [wall <= LIMIT, processor <= LIMIT],
        )
    ]


def tables(data: dict[str, Any]) -> Iterator[str]:
    """Times by round."""
    times, compiling = data["seconds"], data["seconds"]["compilation"]
    rows = [
        [
            f"{times['program'][i][k]:.1f} + {compiling[k]:.1f}",
            f"{times['loop'][i][k]:.1f}",
            f"{ratio[k]:.2f}",
            kind,
        ]
        for i, ratio in enumerate(ratios(data))
        for k, kind in enumerate(("wall", "processor"))
    ]
    yield table(["program + compilation, s", "PyTorch loop, s", "ratio", "time"], rows)


def draw(data: dict[str, Any], figure: Any) -> None:
    """Times, and accuracies run by run."""
    left, right = figure.subplots(1, 2)
    times = data["seconds"]
    program, loop = (float(np.median(np.asarray(times[name])[:, 0])) for name in ("program", "loop"))
    left.barh(["program"], program, color="tab:blue")
    left.barh(["program"], times["compilation"][0], left=program, color="tab:orange", label="compilation")
    left.barh(["PyTorch loop"], loop, color="0.6")
    left.axvline(LIMIT * loop, color="black", ls="--", label=f"{LIMIT} of the loop")
    left.set(xlabel="seconds")
    left.legend()
    right.plot(*(100 * np.asarray(data["accuracy"][name]) for name in ("loop", "program")), "o", alpha=0.5)
    right.set(xlabel="test accuracy by PyTorch, %", ylabel="by the program, %")
