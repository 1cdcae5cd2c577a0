"""Kubelet, as far as drivers for dynamic resource allocation know it: it finds their sockets, asks who they are, and has
claims prepared and unprepared.

gRPC's own implementation, which has nothing in common with the agent's; and like kubelet it sends a socket's path as the
name of whom it calls where it asks who is there."""

import contextlib
import threading
import time
from pathlib import Path

from messages import load

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30
dra, dra_services = load("dra")
health, health_services = load("drahealth")
registration, registration_services = load("pluginregistration")
import grpc  # noqa: E402


class Driver:
    """A driver that has registered."""

    def __init__(self, socket):
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            stub = registration_services.RegistrationStub(channel)
            self.info = stub.GetInfo(registration.InfoRequest(), timeout=PATIENCE_S)
            status = registration.RegistrationStatus(plugin_registered=True)
            stub.NotifyRegistrationStatus(status, timeout=PATIENCE_S)
        self.channel = grpc.insecure_channel(f"unix:{self.info.endpoint}")
        self.stub = dra_services.DRAPluginStub(self.channel)

    def close(self):
        self.channel.close()

    def prepare(self, *claims):
        """By UID: devices, or an error."""
        request = dra.NodePrepareResourcesRequest(claims=claims)
        return dict(self.stub.NodePrepareResources(request, timeout=PATIENCE_S).claims)

    def unprepare(self, *claims):
        """By UID: an error, if there is one."""
        request = dra.NodeUnprepareResourcesRequest(claims=claims)
        answers = self.stub.NodeUnprepareResources(request, timeout=PATIENCE_S).claims
        return {uid: answer.error for uid, answer in answers.items()}

    def health(self):
        """The first word on all devices."""
        stub = health_services.DRAResourceHealthStub(self.channel)
        stream = stub.NodeWatchResources(health.NodeWatchResourcesRequest(), timeout=PATIENCE_S)
        answer = next(stream)
        stream.cancel()
        return {device.device.device_name: device.health for device in answer.devices}


class Kubelet:
    """Kubelet's directories and what it finds in them."""

    def __init__(self, directory):
        self.directory = directory
        self.registry = directory / "plugins_registry"

    def start(self):
        self.registry.mkdir(parents=True, exist_ok=True)

    def sockets(self):
        return set(self.registry.glob("*-reg.sock"))

    def meet(self, known=()):
        """The next driver that wants to be registered, beside those whose sockets are `known`."""
        known, deadline = set(known), time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for socket in self.sockets() - known:
                # One that was killed may have left it; whoever comes next removes it.
                with contextlib.suppress(grpc.RpcError):
                    return Driver(socket)
            time.sleep(0.01)
        raise TimeoutError("no driver has come")


def claim(name, uid):
    return dra.Claim(namespace="team-a", name=name, uid=uid)


class Later:
    """A call that goes on while something else happens: what it answered, or that nobody did."""

    def __init__(self, call):
        self.answer = None
        self.thread = threading.Thread(target=self.run, args=(call,), daemon=True)
        self.thread.start()

    def run(self, call):
        with contextlib.suppress(grpc.RpcError):
            self.answer = call()

    def wait(self):
        self.thread.join(PATIENCE_S * 2)
        assert not self.thread.is_alive(), "a call did not end"
        return self.answer
