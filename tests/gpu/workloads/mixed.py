"""A mixed PyTorch workload that stops three times to be counted: loaded, trained, and emptied."""

import gc
import sys

import torch
from torch import nn


def stop(name: str) -> None:
    torch.cuda.synchronize()
    print(name, flush=True)
    sys.stdin.readline()


def train_convolutions() -> nn.Module:
    network = nn.Sequential(
        nn.Conv2d(3, 64, 7, stride=2), nn.ReLU(), nn.Conv2d(64, 256, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10),
    ).cuda()  # fmt: skip
    images = torch.randn(32, 3, 224, 224, device="cuda")
    for _ in range(5):
        network(images).square().mean().backward()
    return network


def train_attention() -> nn.Module:
    layer = nn.TransformerEncoderLayer(512, 8, batch_first=True, device="cuda", dtype=torch.bfloat16)
    words = torch.randn(16, 256, 512, device="cuda", dtype=torch.bfloat16)
    for _ in range(5):
        layer(words).square().mean().backward()
    return layer


def main() -> None:
    first = torch.ones(1000, device="cuda")
    stop("loaded")
    matrix = torch.randn(4096, 4096, device="cuda")
    product = matrix @ matrix
    kept = [train_convolutions(), train_attention(), torch.linalg.inv(matrix[:1024, :1024]), torch.fft.fft2(matrix), product]
    small = [torch.empty(1000 + i, device="cuda") for i in range(2000)]
    stop("trained")
    del kept, small, product, matrix, first
    gc.collect()
    torch.cuda.empty_cache()
    stop("emptied")


if __name__ == "__main__":
    main()
