"""The device plugin before a kubelet in Python, with kubelet restarted and the agent killed; and a program run with exactly
what the plugin answered. Each row: whether it is so, what, and a detail."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import grpc
from kubelet import NAMESPACE, PATIENCE_S, Kubelet
from machine import ROOT, Machine

RESOURCE = "vcuda.dev/slice"
KILLS = 40
# Mounts what kubelet would have a runtime mount, on an empty /etc, /run and /usr/local of the container's own.
CONTAINER = r"""set -e
for directory in /usr/local /etc /run; do mount -t tmpfs none $directory; done
while read -r from to mode; do
    mkdir -p "${to%/*}"; touch "$to"; mount --bind "$from" "$to"
    if [ "$mode" = ro ]; then mount -o remount,bind,ro "$to"; fi
done <<EOF
$MOUNTS
EOF
unset MOUNTS
exec "$@" """


class Node:
    """An agent with the device plugin, and what it has on disk."""

    def __init__(self, machine):
        self.machine = machine
        self.kubelet_directory = machine.path / "kubelet"
        self.device_plugins = self.kubelet_directory / "device-plugins"
        self.shares, self.cdi = machine.path / "vcuda/shares", machine.path / "cdi"
        self.device_plugins.mkdir(parents=True)
        self.process = None

    def start(self):
        command = [ROOT / "target/debug/vcuda-node", "--listen", "127.0.0.1:0", "--users-under", self.machine.path / "users",
                   "--kubernetes-slices", "4", "--kubernetes-slices-kept", "2s", "--kubelet-directory", self.kubelet_directory,
                   "--shares", self.shares, "--cdi", self.cdi, "--library", ROOT / "target/debug/libvcuda.so"]
        self.log = open(self.machine.path / "agent.log", "a")
        self.process = subprocess.Popen(command, env=self.machine.environment, stderr=self.log)
        self.log.close()

    def kill(self, by=signal.SIGKILL):
        self.process.send_signal(by)
        return self.process.wait(timeout=PATIENCE_S)

    def names(self):
        """The shares that are whole, and what is wrong with what is visible."""
        found, wrong = set(), []
        for directory in self.shares.iterdir() if self.shares.exists() else []:
            if directory.name.startswith(".") or not directory.is_dir():
                continue
            found.add(directory.name)
            wrong += [f"{directory.name} lacks {name}" for name in ("limits.json", "control", "share.json")
                      if not (directory / name).exists()]
        for path in self.cdi.glob("*.json") if self.cdi.exists() else []:
            spec = json.loads(path.read_text())
            for mount in (mount for one in spec["devices"] for mount in one["containerEdits"]["mounts"]):
                if not os.path.exists(mount["hostPath"]):
                    wrong.append(f"{path.name} mounts {mount['hostPath']}, which is not there")
        return found, wrong

    def container(self):
        """Variables of a container in which NVIDIA's runtime has put the first GPU alone."""
        return self.machine.environment | {"VCUDA_FAKE_GPUS": "1xH100", "VCUDA_FAKE_STATE": str(self.machine.path / "one")}

    def run(self, answer, *command):
        """A program in a container with what the plugin answered to an old kubelet; what it prints."""
        mounts = "\n".join(f"{mount.host_path} {mount.container_path} {'ro' if mount.read_only else 'rw'}"
                           for mount in answer.mounts)
        environment = self.container() | dict(answer.envs) | {"MOUNTS": mounts}
        done = subprocess.run(["unshare", "-m", "sh", "-c", CONTAINER, "sh", *command], env=environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE_S)
        return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line), done.stderr

    def said(self, words):
        """How many lines of its log have these words."""
        return sum(words in line for line in (self.machine.path / "agent.log").read_text().splitlines())

    def labelled(self):
        """Pod and container of each share, as its metrics have them; those of shares that are nobody's yet are empty."""
        log = (self.machine.path / "agent.log").read_text()
        address = log.rsplit("serving ", 1)[1].split()[0]
        with urllib.request.urlopen(address, timeout=PATIENCE_S) as answer:
            lines = answer.read().decode().splitlines()
        found = {}
        for line in (line for line in lines if line.startswith("vcuda_container_processes{")):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            found[labels["share"]] = (labels["namespace"], labels["pod"], labels["container"])
        return found

    def eventually(self, condition):
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def checks(build_first):
    with Machine(gpus="2xH100", build_first=build_first) as machine:
        totals = machine.path / "totals"
        subprocess.run(["cc", "-O2", "-o", totals, ROOT / "tests/kubernetes/totals.c",
                        f"-L{machine.environment['LD_LIBRARY_PATH']}", "-lcuda"], check=True)
        node, pods = Node(machine), {}
        node.start()
        try:
            yield from conversation(node, pods, totals)
            yield from whose(node, pods, totals)
            yield from faults(node, pods)
            yield from restarts(node, pods)
            yield from kills(node, pods)
        except Exception:
            print((machine.path / "agent.log").read_text(), file=sys.stderr)
            raise
        finally:
            node.kill(signal.SIGTERM)


def conversation(node, pods, program):
    """One life of kubelet, which begins after the agent."""
    with Kubelet(node.device_plugins, pods) as kubelet:
        request = kubelet.meet()
        good = (request.version, request.resource_name) == ("v1beta1", RESOURCE) and "/" not in request.endpoint
        yield good, "registers as kubelet wants it", f"{request.resource_name} at {request.endpoint}"
        good = kubelet.options.get_preferred_allocation_available and not kubelet.options.pre_start_required
        yield good, "asks for GetPreferredAllocation", ""
        listed = kubelet.devices()
        gpus = sorted({name.split("::")[0] for name in listed})
        expected = {f"{gpu}::{number}" for gpu in gpus for number in range(4)}
        good = len(gpus) == 2 and set(listed) == expected and set(listed.values()) == {"Healthy"}
        yield good, "lists four slices of each of two GPUs", f"{len(listed)} slices"

        first, second = gpus
        free = [name for name in sorted(listed) if name not in (f"{first}::0", f"{first}::3")]
        chosen = kubelet.prefer(free, [], 2)
        yield chosen == [f"{first}::1", f"{first}::2"], "packs a container's slices", ", ".join(chosen)

        answer = kubelet.allocate("a", "main", chosen)
        names = [device.name for device in answer.cdi_devices]
        good = names[0] == f"nvidia.com/gpu={first}" and len(names) == 2 and names[1].startswith("vcuda.dev/share=slices-")
        yield good, "answers CDI devices", ", ".join(names)
        yield dict(answer.envs) == {"NVIDIA_VISIBLE_DEVICES": first}, "answers the variable of NVIDIA's runtime", ""
        told, complaints = node.run(answer, program)
        totals = [int(told[f"device_{index}_total"]) for index in range(int(told.get("count", 0)))]
        good = totals == [40 << 30] and not complaints
        yield good, "a program with these mounts has half of that GPU", f"{totals} {complaints}".strip()
        kept = [f"{name}={text}" for name, text in node.container().items() if name.startswith(("LD_", "VCUDA_FAKE_"))]
        told, _ = node.run(answer, "env", "-i", *kept, program)
        again = told.get("device_0_total", "")
        yield [again] == [str(total) for total in totals], "also in an empty environment", again
        for what, ids, words in [
            ("slices of two GPUs", [f"{first}::0", f"{second}::0"], "are on 2 GPUs"),
            ("a slice that is not there", [f"{first}::4"], "has 4 slices only"),
            ("no slice at all", ["x"], '"x" is no slice'),
        ]:
            try:
                kubelet.allocate("b", "main", ids)
                yield False, f"refuses {what}", "it was given"
            except grpc.RpcError as error:
                yield words in error.details(), f"refuses {what}", error.details()


def whose(node, pods, program):
    """Metrics of slices have the labels of whose they are, as soon as kubelet says so, and without it nothing else fails."""
    with Kubelet(node.device_plugins, pods) as kubelet:
        kubelet.meet()
        name = next(iter(node.names()[0]))
        good = node.eventually(lambda: node.labelled().get(name) == ("", "", ""))
        good = good and node.eventually(lambda: node.said("no labels of pods for now") == 1)
        yield good, "while kubelet does not say whose slices are, that is told once", ""
        kubelet.serve_pod_resources()
        good = node.eventually(lambda: node.labelled().get(name) == (NAMESPACE, "a", "main"))
        yield good, "metrics of a share have its pod, once kubelet says whose it is", str(node.labelled().get(name))
        free = [one for one in sorted(kubelet.devices()) if one not in pods["a", "main"]]
        answer = kubelet.allocate("d", "second", free[:1])
        other = answer.cdi_devices[1].name.split("=")[1]
        begun = time.monotonic()
        # Metrics are of shares that something of CUDA has run in.
        node.run(answer, program)
        good = node.eventually(lambda: node.labelled().get(other) == (NAMESPACE, "d", "second"))
        yield good, "also of one that is given later", f"after {time.monotonic() - begun:.1f} s"
        kubelet.forget("d")
        good = node.eventually(lambda: node.labelled() == {name: (NAMESPACE, "a", "main")})
        good = good and node.names()[0] == {name} and node.said("no labels of pods for now") == 1
        yield good, "and when its pod has ended it is gone, and the other as it was", str(node.labelled())


def faults(node, pods):
    """A GPU gets a fault while kubelet listens, and is declared well."""
    fake_state = ROOT / "target/fake-driver/debug/vcuda-fake-state"

    def befall(*words):
        subprocess.run([fake_state, *words], env=node.machine.environment, check=True)

    with Kubelet(node.device_plugins, pods) as kubelet:
        kubelet.meet()
        gpus = sorted({name.split("::")[0] for name in kubelet.devices()})
        good = node.eventually(lambda: node.said("faults of 2 GPUs are heard of"))
        yield good, "hears of faults of both GPUs", ""
        befall("--xid", "1=13")
        befall("--xid", "1=94")
        begun = time.monotonic()
        listed = kubelet.devices()
        took = time.monotonic() - begun
        ill = {name for name, health in listed.items() if health == "Unhealthy"}
        good = ill == {f"{gpus[1]}::{number}" for number in range(4)}
        yield good, "slices of a GPU with a critical XID are unhealthy", f"after {took:.2f} s"
        try:
            kubelet.allocate("ill", "main", [f"{gpus[1]}::0"])
            yield False, "and are not given", "one was given"
        except grpc.RpcError as error:
            yield "XID 94, an ECC error that was contained" in error.details(), "and are not given", error.details()
        command = [ROOT / "target/debug/vcuda-node", "--shares", node.shares, "--declare-well", gpus[1]]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        good = set(kubelet.devices().values()) == {"Healthy"} and said.startswith(f"{gpus[1]} is well: it had XID 94")
        yield good, "until an admin declares it well", said.strip()


def restarts(node, pods):
    """Further lives of kubelet, and of the agent."""
    before = node.names()[0]
    with Kubelet(node.device_plugins, pods) as kubelet:
        begun = time.monotonic()
        kubelet.meet()
        took = time.monotonic() - begun
        yield len(kubelet.devices()) == 8 and took < 10, "registers anew when kubelet starts anew", f"after {took:.1f} s"
        node.kill()
        yield kubelet.devices() is None, "kubelet sees the agent end", ""
        node.start()
        kubelet.meet()
        good = len(kubelet.devices()) == 8 and node.names() == (before, [])
        yield good, "a killed agent comes back with the shares that there were", ", ".join(node.names()[0])
        code = node.kill(signal.SIGTERM)
        left = [path.name for path in node.device_plugins.glob("vcuda-*")]
        yield code == 0 and not left, "an agent that ends takes its socket with it", ", ".join(left)
        for path in node.cdi.iterdir():
            path.unlink()
        node.start()
        kubelet.meet()
        yield node.names() == (before, []) and len(list(node.cdi.iterdir())) == len(before), \
            "CDI files are there again after the machine's restart", ""
        init = kubelet.allocate("c", "init", [name for name in kubelet.devices() if name.startswith(first_gpu(pods))][:1])
        kubelet.forget("a")
        good = node.eventually(lambda: not before & node.names()[0])
        yield good, "the share of a pod that kubelet has forgotten goes", ", ".join(node.names()[0])
        name = init.cdi_devices[1].name.split("=")[1]
        yield node.names()[0] == {name}, "and no other", ""
        kubelet.forget("c")


def first_gpu(pods):
    return next(iter(pods.values()))[0].split("::")[0]


def kills(node, pods):
    """The agent is killed at random moments while it is asked; nothing is lost, left over or half-made."""
    chance = random.Random(6)
    wrong, answered, refused, slowest = [], 0, 0, 0.0
    with Kubelet(node.device_plugins, pods) as kubelet:
        kubelet.meet()
        every = sorted(kubelet.devices())
        for round_number in range(KILLS):
            given = {name for ids in pods.values() for name in ids}
            free = [name for name in every if name not in given]
            if len(free) < 3:
                kubelet.forget(*chance.sample(sorted({pod for pod, _ in pods}), len(pods) // 2 + 1))
                continue
            # Of one GPU, which one container's slices are of.
            ids = [name for name in free if name.split("::")[0] == free[0].split("::")[0]]
            ids = chance.sample(ids, chance.randint(1, len(ids)))
            killer = threading.Timer(chance.choice((0, 0.004, 0.02)) * chance.random(), node.kill)
            killer.start()
            begun = time.monotonic()
            try:
                name = kubelet.allocate(f"pod-{round_number}", "main", ids).cdi_devices[1].name.split("=")[1]
                slowest = max(slowest, time.monotonic() - begun)
                answered += 1
            except grpc.RpcError:
                name = None
                refused += 1
            killer.join()
            names, broken = node.names()
            wrong += broken + ([f"{name} was answered and is not there"] if name and name not in names else [])
            node.start()
            kubelet.meet()
            kubelet.devices()
        given = {name for ids in pods.values() for name in ids}
        for name in every:
            if name not in given:
                kubelet.allocate(f"last-{name}", "main", [name])
        held = len(pods)
        good = not wrong and answered > 0 and refused > 0 and slowest < 1
        yield good, f"killed {KILLS} times while it is asked: all is whole", \
            f"{answered} answered in {slowest * 1000:.0f} ms at most, {refused} not; {'; '.join(wrong)}".strip("; ")
        good = node.eventually(lambda: len(node.names()[0]) == held)
        yield good, "what kubelet knows is kept, and nothing else", f"{len(node.names()[0])} shares of {held} containers"
        kubelet.forget(*{pod for pod, _ in pods})
        good = node.eventually(lambda: node.names() == (set(), []))
        left = [path.name for path in node.shares.iterdir() if path.is_dir()] + [path.name for path in node.cdi.iterdir()]
        yield good and not left, "nothing is left of pods that are gone", ", ".join(left)
