"""What must hold of the files in examples/kubernetes by themselves. Each row: whether it does, what, and a detail."""

import copy
import re

import admission
import manifests
from manifests import EXAMPLES, ROOT

CLASS = "gpu.vcuda.dev"
AGENT = ROOT / "src/node/src"
# Changes that must be noticed, or nothing here proves anything.
BROKEN = [
    ("a claim without a class", "ResourceClaimTemplate", ("spec", "spec", "devices", "requests", 0, "exactly"),
     lambda exactly: exactly.pop("deviceClassName"), "deviceClassName"),
    ("an unknown field", "DaemonSet", ("spec", "template", "spec"),
     lambda spec: spec.update(hostPid=True), "hostPid"),
    ("a validation without an expression", "ValidatingAdmissionPolicy", ("spec", "validations", 0),
     lambda validation: validation.pop("expression"), "expression"),
]


def checks():
    everything = []
    kustomizations = sorted(path.parent for path in EXAMPLES.rglob("kustomization.yaml"))
    yield len(kustomizations) > 1, f"{len(kustomizations)} kustomizations", ""
    of_kustomization = {}
    for directory in kustomizations:
        objects, complaints = manifests.built(directory)
        of_kustomization[directory.name] = objects
        everything += objects
        yield bool(objects) and not complaints, f"kustomize build {directory.relative_to(EXAMPLES)}", complaints
    in_kustomizations = {path for directory in kustomizations for path in directory.rglob("*.yaml")}
    for path in sorted(set(EXAMPLES.rglob("*.yaml")) - in_kustomizations):
        if all("kind" in one for one in manifests.read(path)):
            everything += manifests.read(path)
    mistakes = [text for text in map(manifests.mistake, everything) if text]
    yield not mistakes, f"{len(everything)} objects as Kubernetes {manifests.VERSION} knows them", "; ".join(mistakes)
    for what, kind, place, change, word in BROKEN:
        changed = copy.deepcopy(next(one for one in everything if one["kind"] == kind))
        part = changed
        for step in place:
            part = part[step]
        change(part)
        yield word in manifests.mistake(changed), f"noticed: {what}", manifests.mistake(changed)[:80]

    deploy = of_kustomization["deploy"]
    yield from agreements(everything, deploy)
    yield from admission.checks(deploy, manifests.field_names())


def agreements(everything, deploy):
    """What one file says of another."""
    classes = {one["metadata"]["name"]: one["spec"].get("extendedResourceName")
               for one in everything if one["kind"] == "DeviceClass"}
    yield classes == {CLASS: "vcuda.dev/vgpu"}, "one device class, also as an extended resource", str(classes)
    templates = {one["metadata"]["name"]: one for one in everything if one["kind"] == "ResourceClaimTemplate"}
    named = {request["exactly"]["deviceClassName"] for one in templates.values()
             for request in one["spec"]["spec"]["devices"]["requests"]}
    yield named == {CLASS}, "claims name that class", ", ".join(named)
    pods = [(one, one["spec"]) for one in everything if one["kind"] == "Pod"]
    pods += [(one, one["spec"]["template"]["spec"]) for one in everything if one["kind"] == "Deployment"]
    policy = admission.Policy(deploy, "pods.vcuda.dev")
    for one, spec in pods:
        name = f"{one['kind']} {one['metadata']['name']}"
        claims = {claim["name"] for claim in spec.get("resourceClaims", [])}
        used = {claim["name"] for container in spec["containers"]
                for claim in container.get("resources", {}).get("claims", [])}
        known = {claim["resourceClaimTemplateName"] for claim in spec.get("resourceClaims", [])} <= set(templates)
        refusals = policy.refusals("pods", "CREATE", {"metadata": one["metadata"], "spec": spec})
        yield claims == used and known, f"{name}: its claims are there and used", str(claims ^ used or "")
        yield not refusals, f"{name}: admitted", "; ".join(refusals)

    known = {name for path in AGENT.rglob("options.rs") for name in re.findall(r'env = "(VCUDA_\w+)"', path.read_text())}
    for one in (one for one in everything if one["kind"] == "DaemonSet"):
        pod = one["spec"]["template"]["spec"]
        asked = {entry["name"] for entry in pod["containers"][0]["env"] if entry["name"].startswith("VCUDA_")}
        yield asked <= known and len(asked) > 4, "the agent knows its options", ", ".join(asked - known)
        mounted = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        same = all(mounted[volume["name"]] == volume["hostPath"]["path"] for volume in pod["volumes"])
        # Kubelet answers there, and the agent has nothing to write.
        asked = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["mountPath"].endswith("/pod-resources")]
        plugin = "VCUDA_NODE_KUBERNETES_SLICES" in {entry["name"] for entry in pod["containers"][0]["env"]}
        good = len(asked) == plugin and all(mount.get("readOnly") for mount in asked)
        yield good, "kubelet's pod-resources are mounted where they are asked for, read-only", f"{len(asked)} mounts"
        # CDI files and answers to kubelet name the node's paths.
        yield same and len(mounted) == len(pod["volumes"]), "directories have the node's own paths", ", ".join(mounted.values())
    accounts = {(one["metadata"].get("namespace"), one["metadata"]["name"])
                for one in everything if one["kind"] == "ServiceAccount"}
    roles = {one["metadata"]["name"] for one in everything if one["kind"] == "ClusterRole"}
    for binding in (one for one in everything if one["kind"] == "ClusterRoleBinding"):
        subjects = {(subject["namespace"], subject["name"]) for subject in binding["subjects"]}
        good = subjects <= accounts and binding["roleRef"]["name"] in roles
        yield good, f"{binding['metadata']['name']}: bound to an account and a role that are there", ""
    targets = {(one["kind"], one["metadata"]["name"]) for one in everything}
    for one in everything:
        if one["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"):
            target = one["spec"]["scaleTargetRef"]
            yield (target.get("kind", "Deployment"), target["name"]) in targets, f"{one['kind']}: scales what is there", ""
        if one["kind"] == "ServiceMonitor":
            labels = one["spec"]["selector"]["matchLabels"].items()
            services = [service for service in everything if service["kind"] == "Service" and
                        labels <= service["metadata"].get("labels", {}).items()]
            ports = {port["name"] for service in services for port in service["spec"]["ports"]}
            asked = {endpoint["port"] for endpoint in one["spec"]["endpoints"]}
            honoured = all(endpoint["honorLabels"] for endpoint in one["spec"]["endpoints"])
            yield len(services) == 1 and asked <= ports and honoured, "ServiceMonitor: finds a service and keeps labels", ""
        if one["kind"] == "Service" and "selector" in one["spec"]:
            selector = one["spec"]["selector"].items()
            pods = [template["spec"]["template"] for template in everything if template["kind"] in ("DaemonSet", "Deployment")
                    and selector <= template["spec"]["template"]["metadata"]["labels"].items()]
            ports = {port["name"] for pod in pods for container in pod["spec"]["containers"]
                     for port in container.get("ports", [])}
            wanted = {port["targetPort"] for port in one["spec"]["ports"]}
            yield bool(pods) and wanted <= ports, f"Service {one['metadata']['name']}: finds pods with its ports", ""
