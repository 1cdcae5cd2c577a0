"""Kubelet, as far as device plugins know it: its socket, its calls, and its record of what it gave to whom.

gRPC's own implementation, which has nothing in common with the agent's; and like old kubelets it sends a socket's path as
the name of whom it calls."""

import contextlib
import json
import os
import queue
import threading
from concurrent import futures

from messages import load

PATIENCE_S = 60
MESSAGES, SERVICES = load("deviceplugin")
POD_MESSAGES, POD_SERVICES = load("podresources")
NAMESPACE = "team-a"
import grpc  # noqa: E402


class Kubelet:
    """One life of kubelet, in a directory that outlives it."""

    def __init__(self, directory, pods):
        self.directory, self.pods = directory, pods
        self.registered, self.lists = queue.Queue(), queue.Queue()
        self.plugin = self.channel = self.pod_resources = None

    def __enter__(self):
        self.directory.mkdir(parents=True, exist_ok=True)
        # As kubelet does when it starts: everything but its record.
        for path in self.directory.iterdir():
            if path.name != "kubelet_internal_checkpoint":
                path.unlink()
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        SERVICES.add_RegistrationServicer_to_server(self, self.server)
        self.server.add_insecure_port(f"unix:{self.directory / 'kubelet.sock'}")
        self.server.start()
        return self

    def serve_pod_resources(self):
        """Says from now on who has what, as kubelet does on another socket."""
        directory = self.directory.parent / "pod-resources"
        directory.mkdir(exist_ok=True)
        self.pod_resources = grpc.server(futures.ThreadPoolExecutor(2))
        POD_SERVICES.add_PodResourcesListerServicer_to_server(self, self.pod_resources)
        self.pod_resources.add_insecure_port(f"unix:{directory / 'kubelet.sock'}")
        self.pod_resources.start()

    def List(self, request, context):
        answer = POD_MESSAGES.ListPodResourcesResponse()
        pods = {}
        for (name, container), ids in list(self.pods.items()):
            if name not in pods:
                pods[name] = answer.pod_resources.add(name=name, namespace=NAMESPACE)
            # Init containers are left out, and each device is by itself.
            if container != "init":
                devices = [{"resource_name": "vcuda.dev/slice", "device_ids": [one]} for one in ids]
                pods[name].containers.add(name=container, devices=devices)
        return answer

    def __exit__(self, *_):
        if self.pod_resources:
            self.pod_resources.stop(None).wait()
        if self.channel:
            self.channel.close()
        self.server.stop(None).wait()

    def Register(self, request, context):
        self.registered.put(request)
        return MESSAGES.Empty()

    def meet(self):
        """Waits until a plugin registers, and begins to listen to it."""
        request = self.registered.get(timeout=PATIENCE_S)
        if self.channel:
            self.channel.close()
        self.channel = grpc.insecure_channel(f"unix:{self.directory / request.endpoint}")
        self.plugin = SERVICES.DevicePluginStub(self.channel)
        self.options = self.plugin.GetDevicePluginOptions(MESSAGES.Empty(), timeout=PATIENCE_S)
        self.lists = lists = queue.Queue()
        stream = self.plugin.ListAndWatch(MESSAGES.Empty())

        def listen():
            with contextlib.suppress(grpc.RpcError):
                for answer in stream:
                    lists.put({device.ID: device.health for device in answer.devices})
            lists.put(None)

        threading.Thread(target=listen, daemon=True).start()
        return request

    def devices(self):
        """The next list; None if the plugin has ended it."""
        return self.lists.get(timeout=PATIENCE_S)

    def prefer(self, available, required, size):
        request = MESSAGES.PreferredAllocationRequest(container_requests=[
            {"available_device_ids": available, "must_include_device_ids": required, "allocation_size": size}])
        answer = self.plugin.GetPreferredAllocation(request, timeout=PATIENCE_S)
        return list(answer.container_responses[0].device_ids)

    def allocate(self, pod, container, ids):
        """Asks, and writes down what was answered, as kubelet does. Its error is the plugin's."""
        request = MESSAGES.AllocateRequest(container_requests=[{"device_ids": ids}])
        answer = self.plugin.Allocate(request, timeout=PATIENCE_S).container_responses[0]
        self.pods[pod, container] = ids
        self.write_record()
        return answer

    def forget(self, *pods):
        """Pods have ended; kubelet notices."""
        for key in [key for key in self.pods if key[0] in pods]:
            del self.pods[key]
        self.write_record()

    def write_record(self):
        entries = [{"PodUID": pod, "ContainerName": container, "ResourceName": "vcuda.dev/slice",
                    "DeviceIDs": {"-1": ids}, "AllocResp": ""} for (pod, container), ids in self.pods.items()]
        record = {"Data": {"PodDeviceEntries": entries or None, "RegisteredDevices": {}}, "Checksum": 1}
        unfinished = self.directory / ".record"
        unfinished.write_text(json.dumps(record))
        os.rename(unfinished, self.directory / "kubelet_internal_checkpoint")
