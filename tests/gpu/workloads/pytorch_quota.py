"""What PyTorch sees of its slice, what happens when it asks for more, and whether it goes on afterwards."""

import gc

import torch

MIB = 1 << 20


def take_all() -> tuple[int, Exception | None]:
    """Allocates until refused; gives what it got in MiB, and the refusal."""
    held, refusal = [], None
    while len(held) < 2000:
        try:
            held.append(torch.empty(32 * MIB, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError as error:
            refusal = error
            break
    return len(held) * 32, refusal


def train() -> list[float]:
    """Fits a small network; gives the losses."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(256, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 1)).cuda()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    inputs = torch.randn(2048, 256, device="cuda")
    wanted = inputs[:, :8].sum(dim=1, keepdim=True)
    losses = []
    for _ in range(100):
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.mse_loss(network(inputs), wanted)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    free, total = torch.cuda.mem_get_info()
    print("mem_get_info_total", total)
    print("mem_get_info_free", free)
    print("properties_total", torch.cuda.get_device_properties(0).total_memory)
    got, refusal = take_all()
    print("got_mib", got)
    print("refused_with", type(refusal).__name__)
    print("message", str(refusal).replace("\n", " "))
    refusal = None
    gc.collect()
    torch.cuda.empty_cache()
    again, refusal = take_all()
    print("again_mib", again)
    refusal = None
    gc.collect()
    torch.cuda.empty_cache()
    losses = train()
    print("loss", f"{losses[0]:.4f} to {losses[-1]:.4f}")
    print("loss_falls", losses[-1] < 0.9 * losses[0])


if __name__ == "__main__":
    main()
