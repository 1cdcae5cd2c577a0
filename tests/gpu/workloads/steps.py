"""Five PyTorch workloads by order from standard input: "NAME STEPS" runs so many steps and says how long they
took; with 0 steps it makes the workload ready and says what one step takes; with less than 0 it runs as many under
NVIDIA's own tracer and says what a step takes of the GPU; "NAME 4s" runs it for four seconds and says how many steps
a second were done. "end" ends it."""

import sys
import time
from typing import Callable

import torch
from torch import nn

DEVICE = "cuda"
Step = Callable[[], None]


def transformer() -> Step:
    layer = nn.TransformerEncoderLayer(1024, 16, 4096, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    words = torch.randn(8, 512, 1024, device=DEVICE)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            loss = model(words).float().square().mean()
        loss.backward()
        optimizer.step()

    return step


def matmul() -> Step:
    left = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    right = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    out = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=out)


def resnet50() -> Step:
    from torchvision.models import resnet50 as build

    model = build().to(DEVICE, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images = torch.randn(64, 3, 224, 224, device=DEVICE).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (64,), device=DEVICE)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step


def small_network() -> nn.Module:
    layers = [part for _ in range(20) for part in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(*layers).to(DEVICE)


def mlp() -> Step:
    """Kernels so short that launching them is all the work."""
    model = small_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs = torch.randn(8, 64, device=DEVICE)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(inputs).square().mean().backward()
        optimizer.step()

    return step


def graph_replay() -> Step:
    model = small_network()
    inputs = torch.randn(8, 64, device=DEVICE)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.no_grad():
        for _ in range(3):
            model(inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        model(inputs)
    return graph.replay


BUILDERS = {"transformer": transformer, "matmul": matmul, "resnet50": resnet50, "mlp": mlp, "graph_replay": graph_replay}


def run(step: Step, count: int) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


# Steps that are given to the GPU before the first of them is waited for.
AHEAD = 3
# Part of the time for which a program runs before it counts.
WARM_UP = 0.15


def steady(step: Step, seconds: float) -> float:
    """Steps a second, from the end of one step to the end of another, of a program that goes on for so long."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    waiting: list[torch.cuda.Event] = []
    first, last, count = 0.0, 0.0, 0
    while time.perf_counter() - start < seconds:
        step()
        waiting.append(torch.cuda.Event())
        waiting[-1].record()
        if len(waiting) < AHEAD:
            continue
        waiting.pop(0).synchronize()
        last = time.perf_counter()
        if first:
            count += 1
        elif last - start > WARM_UP * seconds:
            first = last
    torch.cuda.synchronize()
    return count / (last - first) if count else 0.0


# Between two kernels of one stream nothing else can run for so long.
HAND_OVER_US = 2.5


def traced(step: Step, count: int) -> float:
    """Seconds in which any kernel, copy or fill of a step runs, and between those that follow each other at once."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        run(step, count)
    kernels = [event.time_range for event in trace.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    busy, until = 0.0, float("-inf")
    for start, end in sorted((kernel.start, kernel.end) for kernel in kernels):
        begin = until if start - until < HAND_OVER_US else start
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return busy / 1e6 / count


def prepare(name: str) -> tuple[Step | None, str]:
    try:
        step = BUILDERS[name]()
    except ImportError as error:
        return None, f"missing {error.name}"
    run(step, 5)
    # Long enough to find the clocks' and the allocator's steady state.
    once = run(step, 3) / 3
    count = max(3, round(0.6 / once))
    return step, repr(run(step, count) / count)


def main() -> None:
    # What a trial run finds quickest may differ from process to process.
    torch.backends.cudnn.benchmark = False
    torch.zeros(1, device=DEVICE)
    print("ready", flush=True)
    ready: dict[str, Step] = {}
    for line in sys.stdin:
        name, count = line.split()
        if name == "end":
            break
        if count == "0":
            # One workload at a time is in memory.
            ready.clear()
            torch.cuda.empty_cache()
            step, text = prepare(name)
            if step:
                ready[name] = step
            print("step", text, flush=True)
        elif count.endswith("s"):
            print("rate", steady(ready[name], float(count[:-1])), flush=True)
        elif int(count) < 0:
            print("traced", traced(ready[name], -int(count)), flush=True)
        else:
            print("seconds", run(ready[name], int(count)), flush=True)


if __name__ == "__main__":
    main()
