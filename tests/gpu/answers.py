"""What the driver answers must stay what it answers: odd calls, and every lookup by name and version."""

import re

from report import Section
from world import ROOT, Machine


def answers(machine: Machine, section: Section, quick: bool) -> None:
    command = [machine.program("edge_cases"), "answers"]
    bare, limited = machine.run(command, seconds=40), machine.run(command, machine.slice("4GiB"), seconds=40)
    pairs = list(zip(bare.out.splitlines(), limited.out.splitlines()))
    differing = [f"{ours}, bare {drivers.split()[-1]}" for drivers, ours in pairs if drivers != ours]
    same = not differing and bare.out.count("\n") == limited.out.count("\n") and (bare.code, limited.code) == (0, 0)
    found = "; ".join(differing) or f"{len(pairs)} the same, status {bare.code} and {limited.code}"
    section.add("odd calls", found, "the driver's own answers", same, bare=bare.out, limited=limited.out)

    table = (ROOT / "src" / "driver" / "src" / "cuda" / "symbols.rs").read_text()
    rows = re.findall(r'row\("(\w+)", "(\w+)", (\d+),', table)
    names = sorted({name for row in rows for name in row[:2]})
    versions = sorted({int(since) for _, _, since in rows} | {1, 99990})
    command = [machine.program("get_proc_address"), *(str(version) for version in versions)]
    child = machine.start(command, machine.slice("4GiB"), seconds=60)
    child.tell("\n".join(names))
    done = child.finish().must()
    # Complaints begin with the same word as the count, which is a number alone.
    wrong = int(done.out.splitlines()[-1].split()[-1])
    text = f"{int(done.number('checked'))} asked, {int(done.number('found'))} found, {int(done.number('hooked'))} hooked, {wrong} wrong"
    section.add("cuGetProcAddress, every name, version and flag", text, "the driver's answer or the hook of its symbol",
                wrong == 0 and done.number("hooked") > 0, output=done.out)  # fmt: skip
