"""PyTorch, nvidia-smi, CuPy, JAX and numba, unchanged, inside a slice."""

import csv
import io

from memory import charged_bytes
from report import Section
from world import GIB, MIB, Done, Machine


def quiet(section: Section, what: str, done: Done) -> None:
    ours = [line for line in done.err.splitlines() if line.startswith("vcuda:")]
    section.add(f"{what}: our lines on stderr", f"{len(ours)} {' '.join(ours)[:80]}", "0", not ours)


def pytorch(machine: Machine, section: Section, quick: bool) -> None:
    limit = 4 * GIB
    done = machine.run(machine.python("pytorch_quota"), machine.slice("4GiB"), seconds=55)
    done.must()
    for key in ("mem_get_info_total", "properties_total"):
        section.add(key.replace("_", " "), f"{int(done.number(key)) / GIB:.2f} GiB", "4.00 GiB", done.number(key) == limit)
    section.add("refused with", done.value("refused_with"), "OutOfMemoryError", done.value("refused_with") == "OutOfMemoryError")
    got, again = done.number("got_mib"), done.number("again_mib")
    section.add("tensors until refused", f"{got:.0f} MiB, again {again:.0f} MiB", "more than 3000 MiB, the same again",
                got > 3000 and abs(again - got) <= 64)  # fmt: skip
    section.add("training afterwards", f"loss {done.value('loss')}", "falls", done.value("loss_falls") == "True")
    section.add("its message", done.value("message")[:90])
    quiet(section, "pytorch", done)


def table(machine: Machine, query: str, within) -> list[list[str]]:
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    text = machine.run(command, within, seconds=30).must().out
    return [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if row]


def nvidia_smi(machine: Machine, section: Section, quick: bool) -> None:
    within = machine.slice("4GiB")
    idle = table(machine, "--query-gpu=memory.total,memory.used", within)[0]
    section.add("empty slice", f"total {idle[0]} MiB, used {idle[1]} MiB", "total 4096, used 0", idle == ["4096", "0"])
    child = machine.start([machine.program("memory_paths"), "linear", "64", "1024", "hold"], within, seconds=60)
    child.wait_for("full")
    charged_mib = charged_bytes(machine, within) / MIB
    total, used = table(machine, "--query-gpu=memory.total,memory.used", within)[0]
    section.add("memory", f"total {total} MiB, used {used} MiB", f"4096 and {charged_mib:.0f}",
                total == "4096" and abs(float(used) - charged_mib) <= 1)  # fmt: skip
    listed = table(machine, "--query-compute-apps=pid,used_memory", within)
    mine = [row for row in listed if row[0] == str(child.process.pid)]
    section.add("its process", f"{listed}", f"{child.process.pid} with {charged_mib:.0f} MiB, nobody else",
                len(listed) == 1 and len(mine) == 1 and abs(float(mine[0][1]) - charged_mib) <= 1)  # fmt: skip
    plain, bare = machine.run(["nvidia-smi"], within, seconds=30), machine.run(["nvidia-smi"], seconds=30)
    section.add("plain nvidia-smi", f"status {plain.code}, {len(plain.err)} bytes on stderr; bare status {bare.code}",
                "status 0, silent", plain.code == 0 and not plain.err)  # fmt: skip
    section.add("its time", f"{plain.seconds:.2f} s, bare {bare.seconds:.2f} s")
    child.tell()
    child.tell()
    child.finish()


def frameworks(machine: Machine, section: Section, quick: bool) -> None:
    limit = "8GiB"
    runs = [
        ("CuPy", "cupy_work", {}),
        ("JAX, preallocating", "jax_work", {}),
        ("JAX, not preallocating", "jax_work", {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}),
        ("numba", "numba_work", {}),
    ]
    for name, workload, variables in runs:
        done = machine.run(machine.python(workload), machine.slice(limit), seconds=60, **variables)
        if done.code == 77:
            section.skip(name, done.out.strip())
            continue
        if (done.code != 0 or done.timed_out) and machine.run(machine.python(workload), seconds=60, **variables).code != 0:
            section.skip(name, f"fails without the library as well: {done.tail()[-100:]}")
            continue
        if done.code != 0 or done.timed_out:
            section.add(name, f"status {done.code}: {done.tail()}", "right numbers", False)
            continue
        section.add(name, done.value("result"), "right numbers", done.value("right") == "True")
        total = int(done.number("total"))
        section.add(f"{name}: memory it sees", f"{total / GIB:.2f} GiB", "at most 8 GiB", 0 < total <= 8 * GIB)
        section.add(f"{name}: too much", done.value("too_much"), "refused", done.value("too_much").startswith("refused"))
        quiet(section, name, done)
