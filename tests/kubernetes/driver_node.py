"""A node for the driver: simulated GPUs, kubelet's directories, an API server, and agents that are started and killed."""

import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from dra_kubelet import ROOT, Kubelet

PATIENCE_S = 60
SLICES = "/apis/resource.k8s.io/v1/resourceslices"


class Node:
    """Everything in one temporary directory, and gone with it."""

    def __init__(self, gpus="2xH100", binary=ROOT / "target/debug/vcuda-node"):
        self.gpus, self.binary, self.agents = gpus, binary, []

    def __enter__(self):
        # Sockets' paths must be short.
        self.directory = tempfile.TemporaryDirectory(prefix="vcuda-")
        self.path = Path(self.directory.name)
        (self.path / "libvcuda.so").write_text("the library")
        self.kubelet = Kubelet(self.path / "kubelet")
        server = ROOT / "target/debug/vcuda-fake-cluster"
        self.server = subprocess.Popen([server, self.path], stdout=subprocess.PIPE, text=True)
        self.url = self.server.stdout.readline().strip()
        self.put("/api/v1/nodes/n1", {"metadata": {"uid": "node-uid"}})
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("LD_", "VCUDA_", "CUDA_"))}
        self.environment = clean | {
            "LD_LIBRARY_PATH": str(ROOT / "target/fake-driver/debug"),
            "VCUDA_FAKE_GPUS": self.gpus,
            "VCUDA_FAKE_STATE": str(self.path / "state"),
            # Options that agents have unless they are given others.
            "VCUDA_NODE_KUBECONFIG": str(self.path / "kubeconfig"),
            "VCUDA_NODE_LOG": "debug",
        }
        return self

    def __exit__(self, *_):
        for agent in list(self.agents):
            agent.kill()
        self.server.kill()
        self.server.wait()
        self.server.stdout.close()
        self.directory.cleanup()

    def ask(self, method, path, value=None):
        request = urllib.request.Request(self.url + path, method=method, data=json.dumps(value).encode())
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def put(self, path, value):
        return self.ask("PUT", path, value)

    def put_claim(self, name, uid, *results):
        consumer = {"resource": "pods", "name": f"{name}-pod", "uid": f"{uid}-pod"}
        self.put(f"/apis/resource.k8s.io/v1/namespaces/team-a/resourceclaims/{name}", {
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"name": name, "namespace": "team-a", "uid": uid}, "spec": {"devices": {}},
            "status": {"allocation": {"devices": {"results": results}}, "reservedFor": [consumer]}})

    def delete_claim(self, name):
        self.ask("DELETE", f"/apis/resource.k8s.io/v1/namespaces/team-a/resourceclaims/{name}")

    def slices(self):
        return self.ask("GET", SLICES)["items"]

    def devices(self):
        """The devices of this node's slice, once there is one."""
        slices = self.wait_for(self.slices, "a slice")
        return slices[0]["spec"]["devices"]

    def agent(self, *options, environment=None):
        agent = Agent(self, options, environment or self.environment)
        self.agents.append(agent)
        return agent

    def befall(self, *words):
        """Lets something happen to a simulated GPU, see vcuda-fake-state --help."""
        subprocess.run([ROOT / "target/fake-driver/debug/vcuda-fake-state", *words], env=self.environment, check=True)

    def shares(self):
        """The names of whole shares, of CDI files and of hidden remains."""
        shares = self.path / "shares"
        names = {path.name for path in shares.iterdir() if path.is_dir()} if shares.is_dir() else set()
        cdi = self.path / "cdi"
        shown = {path.name for path in cdi.iterdir()} if cdi.is_dir() else set()
        hidden = {name for name in names if name.startswith(".")} | {name for name in shown if name.startswith(".")}
        return names - hidden, {name.removeprefix("vcuda-").removesuffix(".json") for name in shown - hidden}, hidden

    @staticmethod
    def wait_for(what, name):
        """The first answer of `what` that is something."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := what()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited for {name} in vain")
            time.sleep(0.02)
        return found


class Agent:
    """A process of vcuda-node, the driver of node n1."""

    def __init__(self, node, options, environment):
        self.node, self.log_path = node, node.path / f"log-{time.monotonic_ns()}"
        command = [node.binary, "--listen", "127.0.0.1:0", "--users-under", node.path / "users", "--idle-release", "off",
                   "--shares", node.path / "shares", "--kubernetes-node", "n1",
                   "--kubelet-directory", node.kubelet.directory, "--cdi", node.path / "cdi",
                   "--library", node.path / "libvcuda.so", *options]
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(command, env=environment, stderr=log)

    def log(self):
        return self.log_path.read_text()

    def wait_for_log(self, text):
        self.node.wait_for(lambda: text in self.log(), f"{text!r} in the agent's log:\n{self.log()}")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.node.agents.remove(self)

    def end(self):
        """Its exit code."""
        self.process.terminate()
        code = self.process.wait(timeout=PATIENCE_S)
        self.node.agents.remove(self)
        return code

    def peak_mib(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise ValueError(f"no VmHWM of process {self.process.pid}")


def result(device, memory, cores, share, request="gpu"):
    """What a request was given."""
    return {"request": request, "driver": "gpu.vcuda.dev", "pool": "n1", "device": device,
            "shareID": f"00000000-0000-4000-8000-{share:012x}", "consumedCapacity": {"memory": memory, "cores": cores}}
