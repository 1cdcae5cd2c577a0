"""The files in examples/kubernetes as kustomize makes objects of them, and what Kubernetes 1.36 says of their shape."""

import json
import subprocess
from pathlib import Path

import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples/kubernetes"
KUSTOMIZE = ROOT / "target/tools/kubernetes/usr/bin/kustomize"
VERSION = "1.36"
# Kinds of others, whose shapes are not Kubernetes' own; what they ask for is tried otherwise.
FOREIGN = {"Certificate", "Issuer", "ServiceMonitor", "ScaledObject"}


def built(directory):
    """The objects of a kustomization, and what kustomize has to complain about."""
    done = subprocess.run([KUSTOMIZE, "build", directory], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return list(yaml.safe_load_all(done.stdout)) if done.returncode == 0 else [], done.stderr.strip()


def read(path):
    return [one for one in yaml.safe_load_all(path.read_text()) if one is not None]


def mistake(one):
    """What is wrong with an object's shape; unknown fields are."""
    if one["kind"] in FOREIGN:
        return ""
    try:
        used = kubernetes_validate.validate(one, VERSION, strict=True)
        return "" if used == VERSION else f"validated for {used}"
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return f"{one['kind']} {one['metadata']['name']}: {error.message}"


def schemas():
    """Kubernetes' own schemas, by name."""
    package = Path(kubernetes_validate.__file__).parent / f"kubernetes-json-schema/v{VERSION}.0-local-strict"
    return json.loads((package / "_definitions.json").read_text())["$defs"]


def field_names():
    """The names of all fields that Kubernetes knows."""
    return {name for schema in schemas().values() for name in schema.get("properties", {})}
