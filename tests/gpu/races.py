"""Many processes at once, watched from outside the slice, and processes killed at random."""

from memory import charged_bytes, counted
from report import Section
from world import GIB, MIB, Done, Machine, Slice

QUOTA_BYTES = 6 * GIB

def unattributed_bytes(machine: Machine) -> int:
    """What the driver takes of the device for one process beyond what it puts down to it."""
    before, _ = counted(machine)
    child = machine.start([machine.program("memory_paths"), "linear", "64", "256", "hold"], seconds=60)
    child.wait_for("full")
    used, by_process = counted(machine)
    child.finish(kill=True)
    return max(0, used - before - by_process.get(child.process.pid, 0))


def watched(machine: Machine, within: Slice, arguments: list[str], seconds: float) -> tuple[Done, Done]:
    """A race inside the slice, and what the management library saw of it from outside."""
    watcher = machine.start([machine.program("gpu_watch")], seconds=seconds)
    watcher.wait_for("watching")
    race = machine.run([machine.program("alloc_race"), *arguments], within, seconds=seconds)
    watcher.tell()
    return race.must(), watcher.finish().must()


def judge(section: Section, race: Done, watch: Done, processes: int, each: int) -> None:
    got, refused, errors = (int(race.number(key)) for key in ("got", "refused", "errors"))
    section.add("allocations", f"{got} got, {refused} refused, {errors} other errors", "refusals, no errors",
                got > 0 and refused > 0 and errors == 0, got=got, refused=refused, errors=errors)  # fmt: skip
    device = int(watch.number("peak_used_bytes")) - int(watch.number("first_used_bytes"))
    most = QUOTA_BYTES + processes * (each + MIB)
    section.add("peak of the device, from outside", f"{device / MIB:.0f} MiB above the start",
                f"at most {QUOTA_BYTES // MIB} MiB and {processes} x {each / MIB + 1:.0f} of the driver's own", device <= most,
                device_bytes=device, driver_bytes_each=each)  # fmt: skip
    # Read one process after the other, while memory goes from one to the next: a sum of different instants.
    total = int(watch.number("peak_process_bytes")) - int(watch.number("first_process_bytes"))
    section.add("peak of the sum over its processes", f"{total / MIB:.0f} MiB", sum_bytes=total)
    section.add("watched", f"{watch.number('rate_hz'):.0f} times a second, longest gap {watch.number('longest_gap_ms'):.1f} ms")


def race(machine: Machine, section: Section, quick: bool) -> None:
    seconds = 6 if quick else 30
    bare_race = machine.run([machine.program("alloc_race"), "8", "3", "most_mib=512"], seconds=40).must()
    section.add("bare, for comparison", f"{int(bare_race.number('got'))} got, {int(bare_race.number('refused'))} refused")
    each = unattributed_bytes(machine)
    done, watch = watched(machine, machine.slice(f"{QUOTA_BYTES}"), ["8", str(seconds), "most_mib=512"], seconds + 25)
    judge(section, done, watch, 8, each)
    section.add("processes that failed", f"{int(done.number('failed_processes'))}", "0", done.number("failed_processes") == 0)


def whole_quota_mib(machine: Machine, within: Slice) -> float:
    command = [machine.program("memory_paths"), "linear", "16", "16384"]
    return machine.run(command, within, seconds=40).must().number("got_mib")


def kills(machine: Machine, section: Section, quick: bool) -> None:
    count, seconds = (30, 6) if quick else (200, 40)
    within = machine.slice(f"{QUOTA_BYTES}")
    arguments = ["8", str(seconds), "most_mib=512", f"kills={count}"]
    each = unattributed_bytes(machine)
    done, watch = watched(machine, within, arguments, seconds + 25)
    section.add("killed with SIGKILL", f"{int(done.number('kills'))}, {int(done.number('started'))} processes got to work",
                f"{count}", done.number("kills") == count)  # fmt: skip
    # A killed process may still be on its way out when the next one starts.
    judge(section, done, watch, 16, each)
    left, fresh = whole_quota_mib(machine, within), whole_quota_mib(machine, machine.slice(f"{QUOTA_BYTES}"))
    section.add("one process gets afterwards", f"{left:.0f} MiB, in a fresh slice {fresh:.0f} MiB", "the same", left == fresh)
    charged = charged_bytes(machine, within)
    section.add("charged when all are gone", f"{charged / MIB:.0f} MiB", "what the last one left, free when needed")
