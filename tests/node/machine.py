"""A machine of its own for a script: simulated GPUs, tenants in slices on them, and an agent that watches.

Everything lives in one temporary directory and ends with it; nothing of the real machine is looked at."""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120


def build():
    """What tenants need, built for debugging; the directory of the simulated driver."""
    packages = ["vcuda-shim", "vcuda-cli", "vcuda-node"]
    subprocess.run(["cargo", "build", "--quiet", *(f"--package={name}" for name in packages)], cwd=ROOT, check=True)
    driver = subprocess.run([ROOT / "scripts/fake-driver"], check=True, capture_output=True, text=True)
    return Path(driver.stdout.strip())


class Machine:
    def __init__(self, gpus="2xH100"):
        self.gpus = gpus

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="vcuda-node-")
        self.path = Path(self.directory.name)
        self.shares = self.path / "shares"
        self.shares.mkdir()
        (self.path / "users").mkdir()
        self.driver = build()
        self.program = self.path / "tenant"
        source = ROOT / "tests/programs/tenant.c"
        subprocess.run(["cc", "-O2", "-o", self.program, source, f"-L{self.driver}", "-lcuda"], check=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("LD_", "VCUDA_", "CUDA_"))}
        self.environment = clean | {
            "LD_LIBRARY_PATH": str(self.driver),
            "VCUDA_FAKE_GPUS": self.gpus,
            "VCUDA_FAKE_STATE": str(self.path / "state"),
        }
        self.tenants = {}
        return self

    def __exit__(self, *_):
        for name in list(self.tenants):
            self.kill_tenant(name)
        self.directory.cleanup()

    def start_tenant(self, share, labels, *, memory, cores, held_mib, kernel_us, pause_ms, wanted_mib, gpu=0):
        """Starts a tenant in the slice of `share`, which is made if there is none."""
        slice_directory = self.shares / share
        if not slice_directory.exists():
            slice_directory.mkdir()
            (slice_directory / "share.json").write_text(json.dumps(labels))
        command = [ROOT / "target/debug/vcuda", "run", "--memory", memory, "--cores", cores,
                   "--control-file", slice_directory / "control", "--",
                   self.program, *map(str, (held_mib, kernel_us, pause_ms, wanted_mib))]
        # In a group of its own, so that nothing of it is left.
        self.tenants[share] = subprocess.Popen(
            command, env=self.environment | {"CUDA_VISIBLE_DEVICES": str(gpu)}, stdout=subprocess.PIPE, text=True,
            start_new_session=True)

    def wait_for_tenants(self):
        for share, process in self.tenants.items():
            if process.stdout.readline() != "holding\n":
                sys.exit(f"the tenant of {share} ended with {process.wait()}")

    def kill_tenant(self, share):
        process = self.tenants.pop(share)
        os.killpg(process.pid, 9)
        process.wait()
        process.stdout.close()

    def agent(self, binary=ROOT / "target/debug/vcuda-node", *options):
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
