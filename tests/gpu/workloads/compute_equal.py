"""One of three PyTorch programs whose results must not depend on when the GPU gets to what: prints a digest of
all its final tensors.

usage: compute_equal.py streams | captures | compiled
"""

import hashlib
import os
import sys

os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"

import torch  # noqa: E402 (reads the variable when it starts)
from torch import nn  # noqa: E402

DEVICE = "cuda"


def tensor(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE)


def streams() -> list[torch.Tensor]:
    """Six streams that hand results to each other by events."""
    count, rounds = 6, 60
    lanes = [torch.cuda.Stream() for _ in range(count)]
    values = [tensor(768, 768) for _ in range(count)]
    weights = [tensor(768, 768) / 28 for _ in range(count)]
    torch.cuda.synchronize()
    host = torch.empty(768, 768, pin_memory=True)
    for turn in range(rounds):
        done = []
        for lane, value, weight in zip(lanes, values, weights):
            with torch.cuda.stream(lane):
                value.copy_(torch.tanh(value @ weight))
                done.append(lane.record_event())
        for number, lane in enumerate(lanes):
            other = (number + 1 + turn % (count - 1)) % count
            lane.wait_event(done[other])
            with torch.cuda.stream(lane):
                weights[number].mul_(0.99).add_(values[other], alpha=0.001)
                done[number] = lane.record_event()
        for lane in lanes:
            for event in done:
                lane.wait_event(event)
        with torch.cuda.stream(lanes[turn % count]):
            host.copy_(values[turn % count], non_blocking=True)
            values[turn % count].add_(host.to(DEVICE, non_blocking=True), alpha=0.01)
        lanes[turn % count].synchronize()
    torch.cuda.synchronize()
    return values + weights


def captures() -> list[torch.Tensor]:
    """Many graphs of different shapes, with a side stream inside, replayed in turns and captured again."""
    results = []
    for turn in range(40):
        size = 64 * (1 + turn % 8)
        value, weight, out = tensor(size, size), tensor(size, size) / size**0.5, tensor(size, size)
        side = torch.cuda.Stream()
        warm = torch.cuda.Stream()
        warm.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm):
            out.copy_(torch.relu(value @ weight))
        torch.cuda.current_stream().wait_stream(warm)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                half = torch.tanh(value @ weight)
            other = torch.relu(value @ weight.t())
            torch.cuda.current_stream().wait_stream(side)
            out.copy_(half + 0.5 * other)
            value.copy_(out * 0.9)
        for _ in range(20):
            graph.replay()
        torch.cuda.current_stream().synchronize()
        results += [out.clone(), value.clone()]
    return results


def compiled() -> list[torch.Tensor]:
    """Training compiled into CUDA graphs."""
    model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256), nn.LayerNorm(256)).to(DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    inputs = [tensor(128, 256) for _ in range(4)]

    def loss(batch: torch.Tensor) -> torch.Tensor:
        return (model(batch) - batch.roll(1, 0)).square().mean()

    quick = torch.compile(loss, mode="reduce-overhead")
    for turn in range(60):
        torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad(set_to_none=True)
        quick(inputs[turn % 4]).backward()
        optimizer.step()
    torch.cuda.synchronize()
    return [parameter.detach() for parameter in model.parameters()]


PROGRAMS = {"streams": streams, "captures": captures, "compiled": compiled}


def main() -> None:
    torch.manual_seed(7)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    name = sys.argv[1]
    if name == "compiled":
        try:
            import triton  # noqa: F401
        except ImportError as error:
            print(f"unsupported missing {error.name}")
            return
    results = PROGRAMS[name]()
    digest = hashlib.sha256()
    for result in results:
        digest.update(result.contiguous().cpu().numpy().tobytes())
    print(f"tensors {len(results)}")
    print(f"digest {digest.hexdigest()}")


if __name__ == "__main__":
    main()
