"""A machine of its own for a script: simulated GPUs, tenants in slices on them, and an agent that watches.

Everything lives in one temporary directory and ends with it; nothing of the real machine is looked at."""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120
MIB = 1 << 20


@dataclass
class Tenant:
    """A slice and the program in it, see tests/programs/tenant.c."""

    memory: str
    cores: str
    held_mib: int
    kernel_us: int
    pause_ms: int
    wanted_mib: int
    gpu: int = 0
    labels: dict = field(default_factory=dict)
    # After how long it may be put aside, as vcuda run takes it.
    idle_release: str = ""


class Machine:
    def __init__(self, gpus, build_first=True):
        self.gpus, self.build_first = gpus, build_first
        self.tenants, self.running, self.holding = {}, {}, set()

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="vcuda-node-")
        self.path = Path(self.directory.name)
        self.shares = self.path / "shares"
        self.shares.mkdir()
        (self.path / "users").mkdir()
        driver = self.build() if self.build_first else ROOT / "target/fake-driver/debug"
        self.program = self.path / "tenant"
        source = ROOT / "tests/programs/tenant.c"
        subprocess.run(["cc", "-O2", "-o", self.program, source, f"-L{driver}", "-lcuda"], check=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("LD_", "VCUDA_", "CUDA_"))}
        self.environment = clean | {
            "LD_LIBRARY_PATH": str(driver),
            "VCUDA_FAKE_GPUS": self.gpus,
            "VCUDA_FAKE_STATE": str(self.path / "state"),
            # Simulated GPUs of different machines are called the same, and don't take turns with each other.
            "VCUDA_ARBITER_FILE": str(self.path / "arbiter"),
            # What is copied does not matter.
            "VCUDA_FAKE_CONTENTS": "0",
            "VCUDA_LEASE_DIRECTORY": str(self.path),
        }
        return self

    def __exit__(self, *_):
        for share in list(self.running):
            self.kill_tenant(share)
        self.directory.cleanup()

    @staticmethod
    def build():
        """Builds what tenants need, for debugging; the directory of the simulated driver."""
        packages = [f"--package={name}" for name in ("vcuda-shim", "vcuda-cli", "vcuda-node")]
        subprocess.run(["cargo", "build", "--quiet", *packages], cwd=ROOT, check=True)
        driver = subprocess.run([ROOT / "scripts/fake-driver"], check=True, stdout=subprocess.PIPE, text=True)
        return Path(driver.stdout.strip())

    def add_tenant(self, share, tenant):
        """Makes the tenant's slice, with the labels it was granted with, and starts it."""
        self.tenants[share] = tenant
        (self.shares / share).mkdir()
        (self.shares / share / "share.json").write_text(json.dumps(tenant.labels))
        self.start_tenant(share)

    def start_tenant(self, share):
        tenant = self.tenants[share]
        numbers = (tenant.held_mib, tenant.kernel_us, tenant.pause_ms, tenant.wanted_mib)
        idle_release = ["--idle-release", tenant.idle_release] if tenant.idle_release else []
        command = [ROOT / "target/debug/vcuda", "run", "--memory", tenant.memory, "--cores", tenant.cores,
                   *idle_release, "--control-file", self.shares / share / "control", "--", self.program,
                   *map(str, numbers)]
        # In a group of its own, so that nothing of it is left.
        self.running[share] = subprocess.Popen(
            command, env=self.environment | {"CUDA_VISIBLE_DEVICES": str(tenant.gpu)}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, start_new_session=True)

    def wait_for_tenants(self):
        """Waits until those that were started hold what they hold."""
        for share, process in self.running.items():
            if share in self.holding:
                continue
            self.expect(share, "holding")
            self.holding.add(share)

    def ask_tenant(self, share):
        """Has one that works only when asked work once; how many seconds that took."""
        process, begin = self.running[share], time.monotonic()
        print("work", file=process.stdin, flush=True)
        self.expect(share, "worked")
        return time.monotonic() - begin

    def expect(self, share, word):
        """Waits until a tenant says so."""
        output = self.running[share].stdout
        if not select.select([output], [], [], PATIENCE_S)[0]:
            sys.exit(f"the tenant of {share} did not say {word!r} within {PATIENCE_S} s")
        if (said := output.readline()) != f"{word}\n":
            sys.exit(f"the tenant of {share} said {said!r} instead of {word!r}")

    def kill_tenant(self, share):
        process = self.running.pop(share)
        self.holding.discard(share)
        os.killpg(process.pid, 9)
        process.wait()
        process.stdin.close()
        process.stdout.close()

    def agent(self, *options, binary=ROOT / "target/debug/vcuda-node"):
        return Agent(self, binary, options)


class Agent:
    def __init__(self, machine, binary, options):
        self.machine, self.binary, self.options = machine, binary, options

    def __enter__(self):
        command = [self.binary, "--listen", "127.0.0.1:0", "--users-under", self.machine.path / "users",
                   "--directory", self.machine.shares, *self.options]
        self.process = subprocess.Popen(command, env=self.machine.environment, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if "serving http://" in line:
                self.address = line.split("http://")[1].strip().removesuffix("/metrics")
                return self
        sys.exit(f"{self.binary} ended with {self.process.wait()}")

    def __exit__(self, *_):
        self.process.terminate()
        code = self.process.wait(timeout=PATIENCE_S)
        self.process.stderr.close()
        if code != 0:
            sys.exit(f"{self.binary} ended with {code}")

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=PATIENCE_S) as answer:
            return answer.read().decode()

    def wait_for(self, line):
        """Waits until the metrics have this line."""
        deadline = time.monotonic() + PATIENCE_S
        while line not in (text := self.metrics()).splitlines():
            if time.monotonic() > deadline:
                sys.exit(f"the agent never said {line!r}; it says:\n{text}")
            time.sleep(0.1)


def populate(machine, pause_ms):
    """Five tenants on three GPUs, of which one always wants more time and one more memory, and a damaged slice.
    The last rests for `pause_ms` between its kernels."""

    def labels(namespace, pod):
        return {"namespace": namespace, "pod": pod, "container": "main"}

    machine.add_tenant("train-0", Tenant("24GiB", "50", 20480, 20000, 0, 0, 0, labels("vision", "train-0")))
    machine.add_tenant("train-1", Tenant("16GiB", "25", 9216, 5000, 25, 0, 0, labels("vision", "train-1")))
    machine.add_tenant("serve-0", Tenant("40GiB", "60", 30720, 3000, 10, 20480, 1, labels("language", "serve-0")))
    machine.add_tenant("notebook", Tenant("12GiB", "20", 4096, 40000, 1500, 0, 1, labels("language", "notebook")))
    machine.add_tenant("lab-0", Tenant("5GiB", "50", 3072, 2000, pause_ms, 0, 2, labels("language", "lab-0"), "500ms"))
    (machine.shares / "damaged").mkdir()
    (machine.shares / "damaged/control").write_text("no control file")
    machine.wait_for_tenants()


def crowd(machine, pause_ms):
    """One more, for which there is room only while another one is put aside: somebody must make room already."""
    labels = {"namespace": "language", "pod": "lab-1", "container": "main"}
    machine.add_tenant("lab-1", Tenant("5GiB", "50", 3072, 2000, pause_ms, 0, 2, labels, "500ms"))
    machine.wait_for_tenants()
