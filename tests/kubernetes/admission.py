"""Requests that the admission policies must admit or refuse, and why. Each row: whether it is so, what, and a detail."""

import copy

from policy import Policy, identifiers

CLAIM = {"name": "gpu", "resourceClaimTemplateName": "slice"}
CONTAINER = {"name": "main", "image": "train", "resources": {"claims": [{"name": "gpu"}]}}
FIELDS_OF_VARIABLES = {"containers", "capabilities", "keptOnNode", "keptInContainer", "badCapabilities", "badHostPaths",
                       "badMounts", "userNode", "slice"}


def pod(**spec):
    """A pod with a claim, and what is different in this one."""
    return {"metadata": {"name": "train", "namespace": "team-a"},
            "spec": {"containers": [CONTAINER], "resourceClaims": [CLAIM]} | copy.deepcopy(spec)}


def container(**fields):
    return [CONTAINER | fields]


def with_limits(limits, **fields):
    return {"metadata": {"name": "train"}, "spec": {"containers": [
        {"name": "main", "image": "train", "resources": {"limits": limits}} | fields]}}


def host_path(path):
    return pod(volumes=[{"name": "tmp", "emptyDir": {}}, {"name": "host", "hostPath": {"path": path}}])


def mounted(path):
    return pod(containers=container(volumeMounts=[{"name": "data", "mountPath": "/data"},
                                                  {"name": "data", "mountPath": path}]))


def adding(*names):
    return pod(containers=container(securityContext={"capabilities": {"add": list(names), "drop": ["NET_RAW"]}}))


PRIVILEGED = {"securityContext": {"privileged": True}}
PRIVILEGED_WORDS = "must have no privileged container"

ADMITTED = {
    "a pod with a claim": pod(),
    "an extended resource": with_limits({"vcuda.dev/vgpu": "1"}),
    "a careful security context": pod(containers=container(
        securityContext={"privileged": False, "capabilities": {"add": ["NET_BIND_SERVICE", "CHOWN"]}})),
    "volumes of a node that are none of our business": host_path("/data/imagenet"),
    "a directory whose name only begins like one of ours": host_path("/var/lib/vcuda-data"),
    "the node's time zone": host_path("/etc/localtime"),
    "volumes beside our files": mounted("/etc/vcudas"),
    "a privileged pod without a share": with_limits({"cpu": "1"}, **PRIVILEGED),
    "a privileged pod without any resources": {"spec": {"hostPID": True, "containers": [{"name": "main"} | PRIVILEGED]}},
    "another vendor's whole GPU": with_limits({"nvidia.com/gpu": "1"}, **PRIVILEGED),
    "hostNetwork": pod(hostNetwork=True, hostPID=False),
}

REFUSED = {
    "a privileged container": (pod(containers=container(**PRIVILEGED)), PRIVILEGED_WORDS),
    "with an extended resource": (with_limits({"vcuda.dev/vgpu": "1"}, **PRIVILEGED), PRIVILEGED_WORDS),
    "with slices": (with_limits({"vcuda.dev/slice": "2"}, **PRIVILEGED), PRIVILEGED_WORDS),
    "with the class as a resource": (
        with_limits({"deviceclass.resource.kubernetes.io/gpu.vcuda.dev": "1"}, **PRIVILEGED), PRIVILEGED_WORDS),
    "an init container that has the share": (
        {"spec": {"containers": [{"name": "main"} | PRIVILEGED], "initContainers": [
            {"name": "first", "resources": {"limits": {"vcuda.dev/vgpu": "1"}}}]}}, PRIVILEGED_WORDS),
    "a privileged init container": (pod(initContainers=[{"name": "first"} | PRIVILEGED]), PRIVILEGED_WORDS),
    "a privileged container beside it": (pod(containers=[CONTAINER, {"name": "side"} | PRIVILEGED]), PRIVILEGED_WORDS),
    "hostPID": (pod(hostPID=True), "neither hostPID nor hostIPC"),
    "hostIPC": (pod(hostIPC=True), "neither hostPID nor hostIPC"),
    "SYS_ADMIN": (adding("CHOWN", "SYS_ADMIN"), "add the capability SYS_ADMIN:"),
    "CAP_SYS_ADMIN": (adding("CAP_SYS_ADMIN"), "add the capability SYS_ADMIN:"),
    "capabilities in small letters": (adding("sys_ptrace", "all"), "add the capability ALL, SYS_PTRACE:"),
} | {
    f"the capability {name}": (adding(name), f"add the capability {name}:")
    for name in ("ALL", "SYS_MODULE", "SYS_PTRACE", "SYS_RAWIO", "DAC_READ_SEARCH", "BPF")
} | {
    f"the node's {path}": (host_path(path), f"the node's {shown} as a volume")
    for path, shown in {
        "/": "/", "/var": "/var/", "/var/lib/": "/var/lib/", "/var/lib/vcuda": "/var/lib/vcuda/",
        "//var/./lib//vcuda/shares": "/var/lib/vcuda/shares/", "/run/vcuda/shares": "/run/vcuda/shares/",
        "/run/cdi": "/run/cdi/", "/var/run": "/var/run/",
        "/etc/ld.so.preload": "/etc/ld.so.preload/", "/proc/1/root": "/proc/1/root/",
        "/var/lib/kubelet/device-plugins": "/var/lib/kubelet/device-plugins/",
        "/run/containerd/containerd.sock": "/run/containerd/containerd.sock/", "/run/docker.sock": "/run/docker.sock/",
    }.items()
} | {
    f"a mount at {path}": (mounted(path), f"must not mount anything at {shown}:")
    for path, shown in {
        "/etc/ld.so.preload": "/etc/ld.so.preload/", "/etc//vcuda/": "/etc/vcuda/",
        "/etc/vcuda/shares.d/x.json": "/etc/vcuda/", "/run/vcuda": "/run/vcuda/", "/usr/local/vcuda": "/usr/local/vcuda/",
    }.items()
}

OUR_AGENT = "system:serviceaccount:vcuda-system:vcuda-node"


def user(name=OUR_AGENT, node="n1"):
    extra = {"authentication.kubernetes.io/node-name": [node]} if node else {}
    return {"username": name} | ({"extra": extra} if extra else {})


def slice_of(node, driver="gpu.vcuda.dev"):
    return {"spec": {"driver": driver} | ({"nodeName": node} if node else {})}


SLICES = [
    ("its own node's slices", "CREATE", dict(new=slice_of("n1"), user=user()), None),
    ("its own node's slices, removed", "DELETE", dict(old=slice_of("n1"), user=user()), None),
    ("another driver's agent", "CREATE", dict(new=slice_of("n2", "other"), user=user("someone")), None),
    ("another node's slices", "CREATE", dict(new=slice_of("n2"), user=user()), 'node "n1" may not touch slices of node "n2"'),
    ("another node's slices, removed", "DELETE", dict(old=slice_of("n2"), user=user()), 'slices of node "n2"'),
    ("slices of no node", "CREATE", dict(new=slice_of(None), user=user()), 'slices of node ""'),
    ("from nowhere", "UPDATE", dict(new=slice_of(None), user=user(node=None)), 'the agent of node ""'),
    ("another driver's slices", "UPDATE", dict(new=slice_of("n1", "other"), user=user()), 'slices of driver "other"'),
]


def compared(what, refusals, expected):
    if expected is None:
        return not refusals, f"admitted: {what}", "; ".join(refusals)
    good = len(refusals) == 1 and expected in refusals[0] and not refusals[0].startswith("failed")
    return good, f"refused: {what}", "" if good else f"expected {expected!r}, got {refusals}"


def checks(objects, field_names):
    """All rows, for the policies among these objects. `field_names` are those that Kubernetes knows."""
    pods, slices = Policy(objects, "pods.vcuda.dev"), Policy(objects, "node-slices.vcuda.dev")
    for name, policy in (("pods", pods), ("slices", slices)):
        unknown = set.union(*map(identifiers, policy.expressions())) - field_names - FIELDS_OF_VARIABLES
        yield not unknown, f"the policy of {name} reads fields that exist", ", ".join(unknown)
    for what, given in ADMITTED.items():
        yield compared(what, pods.refusals("pods", "CREATE", given), None)
    for what, (given, expected) in REFUSED.items():
        yield compared(what, pods.refusals("pods", "CREATE", given), expected)
    debugged = pod(ephemeralContainers=[{"name": "debug"} | PRIVILEGED])
    yield compared("a privileged debugging container", pods.refusals("pods/ephemeralcontainers", "UPDATE", debugged),
                   PRIVILEGED_WORDS)
    violating = pod(hostPID=True)
    yield compared("a change of an older pod, such as of its finalizers", pods.refusals("pods", "UPDATE", violating), None)
    yield compared("what is in a namespace of its own", pods.refusals(
        "pods", "CREATE", violating, namespace_labels={"vcuda.dev/pods": "unchecked"}), None)
    yield compared("a namespace labelled otherwise", pods.refusals(
        "pods", "CREATE", violating, namespace_labels={"vcuda.dev/pods": "checked"}), "neither hostPID nor hostIPC")
    every = pod(hostPID=True, containers=container(
        securityContext={"privileged": True, "capabilities": {"add": ["ALL"]}},
        volumeMounts=[{"name": "x", "mountPath": "/run/vcuda"}]), volumes=[{"name": "x", "hostPath": {"path": "/"}}])
    told = pods.refusals("pods", "CREATE", every)
    yield len(told) == 5, "each mistake of a pod is told", "; ".join(told) if len(told) != 5 else ""
    for what, operation, given, expected in SLICES:
        yield compared(what, slices.refusals("resourceslices", operation, **given), expected)
