"""The driver as a process before a kubelet in Python: registration, claims, deaths, restarts, and what is missing."""

import random
import subprocess
import time

from dra_kubelet import Later, claim
from driver_node import SLICES, Node, result
from encrypted import Encrypted

KILLS = 40
HEALTHY, UNHEALTHY = 1, 2


def checks(build_first):
    """Each check: whether it is as it should be, what it is, and more about it."""
    assert not build_first, "scripts/check-kubernetes builds what is needed"
    for check in (life, absences, faults, encrypted, two_agents, deaths):
        yield from check()


def life():
    with Node() as node:
        node.kubelet.start()
        agent = node.agent()
        driver = node.kubelet.meet()
        info = driver.info
        yield (info.type == "DRAPlugin" and info.name == "gpu.vcuda.dev" and list(info.supported_versions) == ["v1.DRAPlugin"],
               "kubelet registers the driver, though it calls a socket's path", info.name)
        agent.wait_for_log("kubelet has registered gpu.vcuda.dev")
        devices = node.devices()
        attributes = devices[0]["attributes"]
        yield (len(devices) == 2 and attributes["cudaComputeCapability"] == {"version": "9.0.0"},
               "the GPUs are published", attributes["productName"]["string"])
        names = [device["name"] for device in devices]
        yield driver.health() == dict.fromkeys(names, HEALTHY), "kubelet is told that they are healthy", ""

        node.put_claim("train", "uid-1", result(names[0], "12Gi", "30", 1), result(names[1], "1Gi", "5", 2, "other"))
        answer = driver.prepare(claim("train", "uid-1"), claim("none", "uid-2"))
        ids = [list(device.cdi_device_ids) for device in answer["uid-1"].devices]
        uuid = attributes["uuid"]["string"]
        yield (ids[0] == [f"nvidia.com/gpu={uuid}", "vcuda.dev/share=claim-uid-1-0"] and len(ids) == 2,
               "a claim is prepared", " ".join(ids[0]))
        yield "no such claim" in answer["uid-2"].error, "another one beside it is refused", answer["uid-2"].error
        again = driver.prepare(claim("train", "uid-1"))["uid-1"]
        yield again == answer["uid-1"], "and prepared again to the same", ""
        names_of = {"claim-uid-1-0", "claim-uid-1-1"}
        yield node.shares() == (names_of, names_of, set()), "its shares are there and shown to container runtimes", ""

        # Kubelet deletes the slices of its node when it starts; then it finds the same sockets.
        node.ask("DELETE", SLICES)
        yield len(node.devices()) == 2, "slices that kubelet deletes are published again", ""
        driver.close()
        driver = node.kubelet.meet()
        yield driver.prepare(claim("train", "uid-1"))["uid-1"] == again, "a kubelet that was started anew is answered", ""
        errors = driver.unprepare(claim("train", "uid-1"), claim("none", "uid-2"))
        yield (errors == {"uid-1": "", "uid-2": ""} and node.shares() == (set(), set(), set()),
               "claims are unprepared, with nothing left", "")

        # The sockets' directory is emptied by somebody.
        for socket in node.kubelet.sockets():
            socket.unlink()
        driver.close()
        driver = node.kubelet.meet()
        yield driver.unprepare(claim("train", "uid-1"))["uid-1"] == "", "sockets that are removed are made anew", ""
        driver.close()
        code = agent.end()
        left = list(node.kubelet.directory.rglob("*.sock"))
        yield code == 0 and not left, "it ends when it is told to, and takes its sockets along", ""


def absences():
    with Node() as node:
        agent = node.agent()
        agent.wait_for_log("plugins_registry is missing: kubelet makes it when it starts")
        node.kubelet.start()
        node.kubelet.meet().close()
        yield True, "without kubelet's directory it says so, and goes on when there is one", ""
        agent.kill()
        yield len(node.kubelet.sockets()) == 1, "killed, it leaves a socket", ""
        agent = node.agent()
        driver = node.kubelet.meet()
        yield len(node.kubelet.sockets()) == 1, "which the next one removes", ""
        devices = node.devices()
        driver.close()
        agent.end()

        lost = node.path / "lost"
        agent = node.agent(environment=node.environment | {"VCUDA_FAKE_LOST": str(lost)})
        driver = node.kubelet.meet()
        node.wait_for(lambda: len(node.devices()) == 2, "both GPUs")
        lost.write_text("0\n")
        tainted = node.wait_for(lambda: node.devices()[0].get("taints"), "a taint")
        yield (tainted[0]["key"] == "gpu.vcuda.dev/unhealthy" and "taints" not in node.devices()[1],
               "a GPU that is lost has a taint", tainted[0]["effect"])
        node.put_claim("train", "uid-1", result(devices[0]["name"], "1Gi", "5", 1))
        error = driver.prepare(claim("train", "uid-1"))["uid-1"].error
        yield "does not work: the driver says of GPU 0" in error, "and is not given to anybody", error
        yield driver.health()[devices[0]["name"]] == UNHEALTHY, "which kubelet is told", ""
        lost.write_text("")
        node.wait_for(lambda: "taints" not in node.devices()[0], "no taint")
        yield True, "until it answers again", ""
        driver.close()
        agent.end()

        nothing = {name: value for name, value in node.environment.items() if name != "LD_LIBRARY_PATH"}
        agent = node.agent(environment=nothing)
        driver = node.kubelet.meet()
        node.wait_for(lambda: not node.slices()[0]["spec"].get("devices"), "an empty slice")
        node.put_claim("train", "uid-1", result(devices[0]["name"], "1Gi", "5", 1))
        error = driver.prepare(claim("train", "uid-1"))["uid-1"].error
        yield "libnvidia-ml.so.1, can't be used" in error, "without NVIDIA's library nothing is offered or given", error
        driver.close()


def faults():
    with Node() as node:
        node.kubelet.start()
        agent = node.agent()
        driver = node.kubelet.meet()
        names = [device["name"] for device in node.devices()]
        agent.wait_for_log("faults of 2 GPUs are heard of")
        node.befall("--xid", "0=43")
        agent.wait_for_log("XID 43, the GPU stopped processing; that is no fault of the GPU")
        node.befall("--xid", "1=48")
        begun = time.monotonic()
        tainted = node.wait_for(lambda: node.devices()[1].get("taints"), "a taint")
        took = time.monotonic() - begun
        yield tainted[0]["value"] == "xid-48", "a GPU with a critical XID has a taint that names it", f"after {took:.2f} s"
        yield "taints" not in node.devices()[0], "an XID that is a program's doing changes nothing", ""
        yield driver.health() == {names[0]: HEALTHY, names[1]: UNHEALTHY}, "kubelet is told", ""
        node.put_claim("train", "uid-1", result(names[1], "1Gi", "5", 1))
        error = driver.prepare(claim("train", "uid-1"))["uid-1"].error
        yield "XID 48, a double-bit ECC error" in error and "--declare-well GPU-" in error, "nobody is given it", error
        note = node.wait_for(lambda: faults_told(node), "an event")
        yield note.startswith(names[1].replace("gpu-", "GPU-") + " is not given to pods: XID 48"), "the node has an event", note
        driver.close()
        agent.kill()
        agent = node.agent()
        driver = node.kubelet.meet()
        health = node.wait_for(driver.health, "the GPUs' health")
        yield health == {names[0]: HEALTHY, names[1]: UNHEALTHY}, "nor by the next agent", ""
        subprocess.run([node.binary, "--shares", node.path / "shares", "--declare-well", "all"], check=True,
                       stdout=subprocess.DEVNULL)
        node.wait_for(lambda: "taints" not in node.devices()[1], "no taint")
        node.wait_for(lambda: not driver.prepare(claim("train", "uid-1"))["uid-1"].error, "the claim is prepared")
        yield True, "until an admin declares it well", ""
        driver.close()


def faults_told(node):
    events = node.ask("GET", "/apis/events.k8s.io/v1/events")["items"]
    notes = [event["note"] for event in events if event["reason"] == "GpuUnhealthy" and event["regarding"]["name"] == "n1"]
    return notes[0] if notes else None


def encrypted():
    with Node() as node:
        node.kubelet.start()
        way = Encrypted(node)
        agent = node.agent("--kubeconfig", way.kubeconfig)
        driver = node.kubelet.meet()
        devices = node.devices()
        node.put_claim("train", "uid-1", result(devices[0]["name"], "1Gi", "5", 1))
        error = driver.prepare(claim("train", "uid-1"))["uid-1"].error
        yield not error and way.count > 0, "the server is reached over TLS with the cluster's own authority", error
        driver.close()
        agent.end()
        # Another authority's server is not believed.
        other = node.path / "other"
        other.write_text(way.kubeconfig.read_text().replace("authority-data", "authority-was"))
        agent = node.agent("--kubeconfig", other)
        driver = node.kubelet.meet()
        error = driver.prepare(claim("train", "uid-1"))["uid-1"].error
        yield "certificate" in error, "another authority's server is not believed", error
        driver.close()


def two_agents():
    with Node() as node:
        node.kubelet.start()
        old = node.agent("--kubernetes-instance", "old")
        first = node.kubelet.meet()
        devices = node.devices()
        node.put_claim("train", "uid-1", result(devices[0]["name"], "1Gi", "5", 1))
        answer = first.prepare(claim("train", "uid-1"))["uid-1"]
        new = node.agent("--kubernetes-instance", "new")
        second = node.kubelet.meet(known=node.kubelet.registry.glob("*-old-reg.sock"))
        yield second.info.endpoint != first.info.endpoint, "one agent can replace another without a pause", ""
        yield second.prepare(claim("train", "uid-1"))["uid-1"] == answer, "what the old one prepared, the new one knows", ""
        third = node.agent("--kubernetes-instance", "new")
        third.wait_for_log("each instance needs a --kubernetes-instance of its own")
        yield True, "two of the same name are told apart", ""
        third.kill()
        first.close()
        old.end()
        node.ask("DELETE", SLICES)
        yield len(node.devices()) == 2, "the new one publishes once the old one has ended", ""
        yield second.unprepare(claim("train", "uid-1"))["uid-1"] == "", "and unprepares what the old one prepared", ""
        second.close()
        yield new.end() == 0 and node.shares()[0] == set(), "nothing is left", ""


def deaths():
    """The process is killed at a random moment of a call, again and again."""
    choose = random.Random(1)
    with Node() as node:
        node.kubelet.start()
        agent = node.agent()
        driver = node.kubelet.meet()
        devices = [device["name"] for device in node.devices()]
        claims = {f"uid-{number}": claim(f"c{number}", f"uid-{number}") for number in range(6)}
        for number, (uid, one) in enumerate(claims.items()):
            parts = [result(devices[(number + part) % 2], "2Gi", "9", number * 10 + part, f"r{part}")
                     for part in range(number % 3 + 1)]
            node.put_claim(one.name, uid, *parts)
        expected = {uid: {f"claim-{uid}-{part}" for part in range(number % 3 + 1)} for number, uid in enumerate(claims)}
        # How long calls take, so that deaths are spread over them.
        begun = time.monotonic()
        for uid, one in claims.items():
            driver.prepare(one)
            driver.unprepare(one)
        span = (time.monotonic() - begun) / len(claims) / 2 * 1.5

        prepared, wrong, unanswered = set(), [], 0
        for kills in range(1, KILLS + 1):
            uid = choose.choice(list(claims))
            is_prepared = uid in prepared

            def call(driver, uid=uid, is_prepared=is_prepared):
                answer = (driver.unprepare if is_prepared else driver.prepare)(claims[uid])[uid]
                return (answer if is_prepared else answer.error,)

            later = Later(lambda call=call, driver=driver: call(driver))
            time.sleep(choose.random() * span)
            agent.kill()
            answer = later.wait()
            unanswered += answer is None
            driver.close()
            agent = node.agent()
            driver = node.kubelet.meet()
            # Kubelet asks until it is answered.
            [error] = answer or call(driver)
            if error:
                wrong.append(error)
            prepared ^= {uid}
            agent.wait_for_log("all shares have been looked through")
            names = set().union(*(expected[uid] for uid in prepared))
            if (found := node.shares()) != (names, names, set()):
                wrong.append(f"after {kills} deaths: {found}, not {names}")
        for uid in prepared:
            driver.unprepare(claims[uid])
        yield (not wrong and unanswered >= KILLS // 10, f"{KILLS} times killed, it lost, left and doubled no share",
               f"{unanswered} calls were under way" + "".join(f"; {what}" for what in wrong[:3]))
        yield node.shares() == (set(), set(), set()), "and nothing is left in the end", ""
        driver.close()
