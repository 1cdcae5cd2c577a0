"""Trains by order from standard input: "steps N" makes so many and says "losses" and every loss as the bits of a float;
"hold GIB" takes that much and fills it, "check" says "sum" and a checksum of it; "end" ends it. Everything is
deterministic: two runs with the same orders say the same."""

import os
import struct
import sys

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from torch import nn

torch.manual_seed(11)
torch.use_deterministic_algorithms(True)
model = nn.Sequential(nn.Linear(512, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 10)).to("cuda")
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
inputs = torch.randn(64, 256, 512, generator=torch.Generator().manual_seed(5)).to("cuda")
labels = torch.randint(0, 10, (64, 256), generator=torch.Generator().manual_seed(6)).to("cuda")
held: list[torch.Tensor] = []
step = 0


def bits(value: float) -> str:
    return struct.pack("<f", value).hex()


def train(count: int) -> None:
    global step
    losses = []
    for _ in range(count):
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(inputs[step % 64]), labels[step % 64])
        loss.backward()
        optimizer.step()
        losses.append(bits(loss.item()))
        step += 1
    print("losses", *losses, flush=True)


def hold(gib: float) -> None:
    generator = torch.Generator("cuda").manual_seed(7)
    for _ in range(int(gib * 4)):
        held.append(torch.randint(-(2**62), 2**62, (1 << 25,), generator=generator, device="cuda"))
    torch.cuda.synchronize()
    print("held", sum(part.numel() * 8 for part in held), flush=True)


print("ready", os.getpid(), flush=True)
for line in sys.stdin:
    order, _, number = line.strip().partition(" ")
    if order == "steps":
        train(int(number))
    elif order == "hold":
        hold(float(number))
    elif order == "check":
        # Wraps around the same way each time.
        print("sum", sum(int(part.sum().item()) for part in held), flush=True)
    else:
        break
print("peak", torch.cuda.max_memory_allocated(), flush=True)
