"""Where programs run: bare, preloaded without a limit, or inside a slice; on the GPU or the simulated one.

Every child has a time limit and a process group of its own, so that nothing outlives this program.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = ROOT / "tests" / "programs"
WORKLOADS = Path(__file__).resolve().parent / "workloads"
MIB = 1 << 20
GIB = 1 << 30
# Variables that would change what is measured.
FOREIGN = ("VCUDA_", "LD_PRELOAD", "CUDA_DEVICE_", "HAMI_")


class Failure(Exception):
    """A section can't go on; the text says why."""


@dataclass
class Done:
    """A finished child."""

    command: str
    code: int
    out: str
    err: str
    seconds: float
    timed_out: bool = False

    def value(self, key: str) -> str:
        """What follows `key` on its line."""
        for line in self.out.splitlines():
            if line == key or line.startswith(key + " "):
                return line[len(key) + 1 :]
        raise Failure(f"{self.command}: no line '{key} ...' (status {self.code}): {self.tail()}")

    def number(self, key: str) -> float:
        return float(self.value(key).split()[0])

    def must(self) -> "Done":
        """This, if the child ended well."""
        if self.timed_out:
            raise Failure(f"{self.command}: stopped after {self.seconds:.0f} s: {self.tail()}")
        if self.code != 0:
            raise Failure(f"{self.command}: status {self.code}: {self.tail()}")
        return self

    def tail(self) -> str:
        lines = (self.out + self.err).strip().splitlines()
        return " | ".join(lines[-4:])[-600:]


@dataclass
class Child:
    """A running child that is talked to line by line."""

    process: subprocess.Popen
    command: str
    deadline: float
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    timed_out: bool = False

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.arrived = threading.Condition()
        self.closed = False
        self.next_line = 0
        self.readers = [
            threading.Thread(target=self._read_out, daemon=True),
            threading.Thread(target=self._read_err, daemon=True),
        ]
        for reader in self.readers:
            reader.start()

    def _read_out(self) -> None:
        for line in self.process.stdout:
            with self.arrived:
                self.out.append(line)
                self.arrived.notify_all()
        with self.arrived:
            self.closed = True
            self.arrived.notify_all()

    def _read_err(self) -> None:
        for line in self.process.stderr:
            self.err.append(line)

    def wait_for(self, key: str) -> str:
        """Waits for the next line that begins with `key`; gives what follows it."""
        with self.arrived:
            while True:
                while self.next_line < len(self.out):
                    line = self.out[self.next_line].rstrip("\n")
                    self.next_line += 1
                    if line == key or line.startswith(key + " "):
                        return line[len(key) + 1 :]
                left = self.deadline - time.monotonic()
                if self.closed or left <= 0:
                    break
                self.arrived.wait(left)
        self.timed_out = not self.closed
        done = self.finish(kill=True)
        why = "ended" if not self.timed_out else "took too long"
        raise Failure(f"{self.command}: {why} before '{key}': {done.tail()}")

    def tell(self, text: str = "") -> None:
        try:
            self.process.stdin.write(text + "\n")
            self.process.stdin.flush()
        except OSError:
            pass  # It has ended; whoever waits for it will say so.

    def kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def finish(self, kill: bool = False) -> Done:
        """Closes its input and waits for its end."""
        if kill:
            self.kill()
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            self.process.wait(max(0.1, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.timed_out = True
            self.kill()
            self.process.wait()
        for reader in self.readers:
            reader.join(5)
        seconds = time.monotonic() - self.started
        return Done(self.command, self.process.returncode, "".join(self.out), "".join(self.err), seconds, self.timed_out)


class Slice:
    """A container: a control file and limits. Without any the library is preloaded and limits nothing."""

    def __init__(self, machine: "Machine", limit: str | None, cores: float | None = None):
        self.machine = machine
        self.limit = limit
        self.cores = cores
        self.control = Path(tempfile.mkdtemp(prefix="slice-", dir=machine.scratch)) / "control"

    def environment(self) -> dict[str, str]:
        environment = self.machine.environment()
        environment["LD_PRELOAD"] = str(self.machine.library)
        environment["VCUDA_CONTROL_FILE"] = str(self.control)
        if self.limit:
            environment["VCUDA_MEMORY_LIMIT"] = self.limit
        if self.cores is not None:
            environment["VCUDA_CORE_LIMIT"] = f"{self.cores:g}"
        return environment


class Machine:
    """The GPU, real or simulated, the built library, and compiled test programs."""

    def __init__(self, simulated: bool, null: bool, library: Path, vcuda: Path, scratch: Path):
        self.simulated = simulated
        self.null = null
        self.library = library
        self.vcuda = vcuda
        self.scratch = scratch
        self.driver = self._stage_driver() if simulated else None
        self.headers, self.link = self._headers()
        self.running: list[Child] = []
        # What the simulated driver is told beside what it always is.
        self.simulation: dict[str, str] = {}

    def _stage_driver(self) -> str:
        command = [str(ROOT / "scripts" / "fake-driver"), "--release"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        if done.returncode != 0:
            raise Failure(f"scripts/fake-driver: {done.stderr[-600:]}")
        return done.stdout.strip().splitlines()[-1]

    def _headers(self) -> tuple[str, list[str]]:
        if self.simulated:
            command = [str(ROOT / "scripts" / "gen-driver-table"), "--headers-only"]
            headers = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout.strip()
            link = [f"-L{self.driver}", "-l:libcuda.so.1", "-l:libnvidia-ml.so.1", "-Wl,--allow-shlib-undefined"]
            return headers, link
        cuda = os.environ.get("CUDA_HOME", "/usr/local/cuda")
        return f"{cuda}/include", [f"-L{cuda}/lib64/stubs", "-lcuda", "-lnvidia-ml"]

    def environment(self) -> dict[str, str]:
        """The bare environment."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        if self.simulated:
            environment["LD_LIBRARY_PATH"] = self.driver
            environment["VCUDA_FAKE_STATE"] = str(self.scratch / "machine")
            environment["VCUDA_FAKE_GPUS"] = "H200"
            # Simulated GPUs of different machines are called the same, and don't take turns with each other.
            environment["VCUDA_ARBITER_FILE"] = str(self.scratch / "arbiter")
            if self.null:
                environment["VCUDA_FAKE_NULL"] = "1"
            environment.update(self.simulation)
        environment["PYTHONUNBUFFERED"] = "1"
        return environment

    def slice(self, limit: str | None, cores: float | None = None) -> Slice:
        return Slice(self, limit, cores)

    def program(self, name: str) -> str:
        """Compiles a test program."""
        source = PROGRAMS / f"{name}.c"
        sources = [source] if source.exists() else sorted((PROGRAMS / name).glob("*.c"))
        target = self.scratch / name
        if not target.exists():
            command = ["cc", "-std=c11", "-D_GNU_SOURCE", "-O2", f"-I{self.headers}", "-o", str(target)]
            command += [str(source) for source in sources] + self.link + ["-ldl", "-pthread"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            if done.returncode != 0:
                raise Failure(f"cannot compile {name}: {done.stderr[-600:]}")
        return str(target)

    def start(self, command: list[str], within: Slice | None = None, seconds: float = 60, **variables: str) -> Child:
        """Starts a child, bare or within a slice."""
        environment = within.environment() if within else self.environment()
        environment.update(variables)
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,
        )
        child = Child(process, Path(command[0]).name + " " + " ".join(command[1:]), time.monotonic() + seconds)
        self.running.append(child)
        return child

    def run(self, command: list[str], within: Slice | None = None, seconds: float = 60, **variables: str) -> Done:
        return self.start(command, within, seconds, **variables).finish()

    def python(self, workload: str, *arguments: str) -> list[str]:
        return [sys.executable, str(WORKLOADS / f"{workload}.py"), *arguments]

    def end_all(self) -> None:
        """Ends whatever a failed section left running."""
        for child in self.running:
            if child.process.poll() is None:
                child.finish(kill=True)
        self.running.clear()
