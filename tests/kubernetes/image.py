"""The image of examples/kubernetes, built by Podman on a base of this machine's own C library, and run once. Each row:
whether it is so, what, and a detail.

As root, in a store of its own; nothing is fetched and nothing is left."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import manifests
from machine import ROOT, Machine

CONTAINERFILE = ROOT / "examples/kubernetes/image/Containerfile"
FILES = {"vcuda-node": "usr/bin/vcuda-node", "vcuda": "usr/bin/vcuda", "libvcuda.so": "usr/lib/vcuda/libvcuda.so"}
PATIENCE_S = 300


class Podman:
    """Podman with a store of its own. Kept from what this machine's limits on containers might be."""

    def __init__(self, work):
        self.work = work
        (work / "containers.conf").write_text(
            '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\nnetns = "none"\nlog_driver = "k8s-file"\n'
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n')
        self.environment = os.environ | {"CONTAINERS_CONF": str(work / "containers.conf"),
                                         "PATH": f"{os.environ['PATH']}:/usr/sbin"}

    def __call__(self, *arguments):
        """Whether it went well, and what it said."""
        command = ["podman", "--root", self.work / "store", "--runroot", self.work / "run", "--runtime", "runc", *arguments]
        done = subprocess.run(list(map(str, command)), env=self.environment, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=PATIENCE_S)
        return done.returncode == 0, done.stdout.strip()


def base(directory, programs):
    """An archive of what these programs need of the system: the loader, and libraries."""
    root = directory / "base"
    root.mkdir()
    for library in {path for program in programs for path in re.findall(
            r"(/\S+) \(0x", subprocess.run(["ldd", program], check=True, stdout=subprocess.PIPE, text=True).stdout)}:
        place = root / library.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)
    # Mounts of the runtime's own need them.
    for name in ("etc", "proc", "sys", "dev", "tmp"):
        (root / name).mkdir(exist_ok=True)
    archive = directory / "base.tar"
    subprocess.run(["tar", "--create", f"--file={archive}", "--owner=0", "--group=0", f"--directory={root}", "."], check=True)
    return archive


def checks(build_first):
    if build_first:
        Machine.build()
    built = ROOT / "target/debug"
    with tempfile.TemporaryDirectory(prefix="vcuda-image-") as name:
        work = Path(name)
        podman, context = Podman(work), work / "context"
        context.mkdir()
        for file in FILES:
            shutil.copy(built / file, context / file)
        good, said = podman("import", "--quiet", base(work, [built / file for file in FILES]), "base")
        yield good, "a base of files", "" if good else said
        good, said = podman("build", "--quiet", "--build-arg", "BASE=localhost/base", "--file", CONTAINERFILE,
                            "--tag", "vcuda-node:test", context)
        yield good, "podman build", "" if good else said
        good, said = podman("run", "--rm", "--network=none", "vcuda-node:test", "--version")
        yield good and re.fullmatch(r"vcuda-node \d+\.\d+\.\d+", said), "vcuda-node --version in it", said
        good, said = podman("run", "--rm", "--network=none", "--entrypoint=/usr/bin/vcuda", "vcuda-node:test", "--version")
        yield good and re.fullmatch(r"vcuda \d+\.\d+\.\d+", said), "vcuda --version in it", said
        made, container = podman("create", "--network=none", "vcuda-node:test")
        for file, place in FILES.items():
            copied, said = podman("cp", f"{container}:/{place}", work / "copied")
            same = made and copied and (work / "copied").read_bytes() == (built / file).read_bytes()
            yield same, f"/{place} is the one that was built", "" if same else said
        yield from agent_finds_it(manifests.read(manifests.EXAMPLES / "deploy/agent.yaml")[0])
        podman("rm", "--all", "--force")
        podman("rmi", "--all", "--force")


def agent_finds_it(agent):
    environment = {one["name"]: one.get("value") for one in agent["spec"]["template"]["spec"]["containers"][0]["env"]}
    place = environment["VCUDA_NODE_LIBRARY_FROM"]
    yield place == f"/{FILES['libvcuda.so']}", "the manifest names the library where it is", place
