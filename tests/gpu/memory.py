"""Every allocation path against its quota, and what is charged against what the host counts."""

import json
from concurrent.futures import ThreadPoolExecutor

from report import Section
from world import MIB, Done, Failure, Machine, Slice

OUT_OF_MEMORY = 2
QUOTA_MIB = 2048
STEP_MIB = "64"
MOST_MIB = "3072"
# Paths that run at the same time.
PARALLEL = 4
# Their steps have no size of their own: what they take is read off the GPU, so they run alone.
ALONE = ("context", "stack_limit", "streams", "green_context")
# Refused only when memory is really in use, which merely uploaded graphs don't make it.
RECLAIMED = ("graph_upload",)
# What they took may stay with the primary context.
KEPT = ("green_context", "streams")


def charged_bytes(machine: Machine, within: Slice) -> int:
    """What the slice's control file says is in use of its GPU."""
    command = [str(machine.vcuda), "ps", "--json", "--control-file", str(within.control)]
    record = json.loads(machine.run(command, seconds=20).must().out)
    for one in record["slices"]:
        if one["control_file"] == str(within.control):
            return sum(device["used_bytes"] for device in one["devices"])
    raise Failure(f"vcuda ps doesn't show {within.control}")


def counted(machine: Machine) -> tuple[int, dict[int, int]]:
    """What the host's management library says is in use of the GPU, and by which process."""
    done = machine.run([machine.program("gpu_watch"), "once"], seconds=20).must()
    pairs = (line.split()[1:] for line in done.out.splitlines() if line.startswith("process "))
    return int(done.number("used")), {int(pid): int(count) for pid, count in pairs}


def got_mib(done: Done, again: bool = False) -> float:
    """What a run got, by what it asked for, or where steps have no size by what was taken."""
    if done.number("step_mib") >= 0.01:
        return done.number("again_mib" if again else "got_mib")
    each = done.number("taken_mib") / max(done.number("steps"), 1)
    return each * done.number("again_steps" if again else "steps")


def run_path(machine: Machine, name: str) -> dict:
    """Runs one path bare and in a slice of its own."""
    program = machine.program("memory_paths")
    bare = machine.run([program, name, STEP_MIB, MOST_MIB], seconds=60)
    within = machine.slice(f"{QUOTA_MIB}MiB")
    child = machine.start([program, name, STEP_MIB, MOST_MIB, "hold"], within, seconds=60)
    outcome = {"name": name, "bare": bare}
    try:
        child.wait_for("full")
        outcome["charged"] = charged_bytes(machine, within)
        outcome["host"] = counted(machine)[1].get(child.process.pid)
        child.tell()
        child.wait_for("empty")
        child.tell()
    except Failure:
        pass  # Unsupported, or failed: its output says which.
    outcome["limited"] = child.finish()
    return outcome


def judge_path(section: Section, outcome: dict) -> None:
    name, bare, limited = outcome["name"], outcome["bare"], outcome["limited"]
    if bare.code == 0 and bare.out.startswith("unsupported"):
        section.skip(name, f"the driver answers {bare.value('unsupported')}")
        return
    try:
        bare_mib = got_mib(bare.must())
        got, again = got_mib(limited.must()), got_mib(limited, again=True)
        refused, again_refused = int(limited.number("refused")), int(limited.number("again_refused"))
        step_mib = max(got / max(limited.number("steps"), 1), 1)
    except Failure as failure:
        section.add(name, str(failure), "runs", False)
        return
    charged_mib = outcome["charged"] / MIB
    found = f"bare {bare_mib:.0f} MiB; got {got:.0f} MiB, refused {refused}, again {again:.0f} MiB, charged {charged_mib:.0f}"
    if outcome["host"] is not None:
        found += f", host counts {outcome['host'] / MIB:.0f}"
    if name == "pinned_host":
        section.add(name, found, "not device memory: not charged", refused == 0 and limited.number("taken_mib") == 0)
        return
    if name in RECLAIMED:
        section.add(name, found, "never beyond the quota", charged_mib <= QUOTA_MIB)
        return
    reached = refused == OUT_OF_MEMORY and again_refused == OUT_OF_MEMORY
    # Streams take so little that they may never reach the quota.
    if name == "streams" and refused == 0:
        reached = True
    within_quota = charged_mib <= QUOTA_MIB
    if outcome["host"] is not None:
        within_quota = within_quota and outcome["host"] / MIB <= QUOTA_MIB
    ok = reached and within_quota and bare_mib > got and (name in KEPT or abs(again - got) <= step_mib + 2)
    # Managed memory is on no process, and shared memory's second process has a context of its own.
    if outcome["host"] is not None and name not in ("managed", "ipc"):
        ok = ok and abs(charged_mib - outcome["host"] / MIB) <= 32
    section.add(
        name, found, "refused with 2, got again", ok,
        bare_mib=bare_mib, got_mib=got, again_mib=again, refused=refused, charged_mib=charged_mib,
        host_mib=None if outcome["host"] is None else outcome["host"] / MIB,
    )  # fmt: skip


def paths(machine: Machine, section: Section, quick: bool) -> None:
    names = machine.run([machine.program("memory_paths"), "list"], seconds=20).must().out.split()
    machine.program("gpu_watch")
    together = [name for name in names if name not in ALONE]
    with ThreadPoolExecutor(PARALLEL) as pool:
        outcomes = {outcome["name"]: outcome for outcome in pool.map(lambda name: run_path(machine, name), together)}
    outcomes |= {name: run_path(machine, name) for name in names if name in ALONE}
    for name in names:
        judge_path(section, outcomes[name])


def accuracy(machine: Machine, section: Section, quick: bool) -> None:
    within = machine.slice("16GiB")
    child = machine.start(machine.python("mixed"), within, seconds=40)
    for stage in ("loaded", "trained", "emptied"):
        child.wait_for(stage)
        charged = charged_bytes(machine, within)
        host = counted(machine)[1].get(child.process.pid)
        if host is None:
            raise Failure("the host's management library does not list the process")
        child.tell()
        allowed = max(host * 0.01, 32 * MIB)
        section.add(
            stage, f"charged {charged / MIB:.1f} MiB, host counts {host / MIB:.1f} MiB",
            f"within {allowed / MIB:.0f} MiB", abs(charged - host) <= allowed,
            charged_bytes=charged, host_bytes=host,
        )  # fmt: skip
    done = child.finish().must()
    section.add("stderr of the program", f"{len(done.err.splitlines())} lines", "none of ours", "vcuda:" not in done.err)
