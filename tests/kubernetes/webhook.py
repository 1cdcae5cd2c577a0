"""The webhook over TLS, asked as an API server asks it, and an API server for the claim templates that it makes. Each row:
whether it is so, what, and a detail."""

import base64
import copy
import http.server
import json
import os
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request

import manifests
import yaml
from machine import ROOT, Machine
from manifests import EXAMPLES
from policy import Policy, evaluate

NAME = "vcuda-webhook.vcuda-system.svc"
PATIENCE_S = 60


class ApiServer:
    """Takes claim templates, each name once."""

    def __init__(self):
        self.templates, self.denied = {}, False
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                namespace = self.path.split("?")[0].removeprefix("/apis/resource.k8s.io/v1/namespaces/").split("/")
                key = (namespace[0], given["metadata"]["name"])
                code = 403 if server.denied else 409 if key in server.templates else 201
                if code == 201 and namespace[1:] == ["resourceclaimtemplates"]:
                    server.templates[key] = given
                status = {"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "message": "no",
                          "reason": "Forbidden" if server.denied else "AlreadyExists"}
                body = json.dumps(given if code == 201 else status).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def kubeconfig(self, path):
        path.write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{self.server.server_port}"}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}]}))
        return path


def make_certificate(directory):
    directory.mkdir(exist_ok=True)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}",
                    "-addext", f"subjectAltName=DNS:{NAME},IP:127.0.0.1", "-keyout", directory / "tls.key",
                    "-out", directory / "tls.crt"], check=True, stderr=subprocess.DEVNULL)
    # A new file's time is another's, however coarse the clock.
    os.utime(directory / "tls.crt", (time.time(), time.time() + len(list(directory.iterdir()))))


class Webhook:
    def __init__(self, work, api):
        self.certificates = work / "certificates"
        make_certificate(self.certificates)
        command = [ROOT / "target/debug/vcuda-node", "--webhook", "127.0.0.1:0", "--webhook-certificates", self.certificates,
                   "--webhook-cores", "25", "--kubeconfig", api.kubeconfig(work / "kubeconfig")]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if "https://" in line:
                self.address = line.split("https://")[1].split("/")[0].strip()
                break
        else:
            raise SystemExit(f"the webhook ended with {self.process.wait()}")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def post(self, body, path="/convert", certificate=None):
        context = ssl.create_default_context(cafile=certificate or self.certificates / "tls.crt")
        request = urllib.request.Request(f"https://{self.address}{path}", body and json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE_S, context=context) as answer:
            return answer.read()

    def review(self, pod, namespace="team-a", dry_run=False):
        """The pod as it is admitted, or why it is not."""
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"}, "operation": "CREATE", "namespace": namespace,
            "userInfo": {"username": "someone"}, "object": pod, "oldObject": None, "dryRun": dry_run, "options": {}}}
        answer = json.loads(self.post(review))
        response = answer["response"]
        assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
        assert response["uid"] == review["request"]["uid"]
        if not response["allowed"]:
            return None, response["status"]["message"]
        if "patch" not in response:
            return pod, ""
        assert response["patchType"] == "JSONPatch"
        return patched(pod, json.loads(base64.b64decode(response["patch"], validate=True))), ""


def patched(pod, patch):
    """A JSON patch of members that are added or replaced, which is all that there is here."""
    pod = copy.deepcopy(pod)
    for change in patch:
        *way, last = change["path"].split("/")[1:]
        place = pod
        for step in way:
            place = place[int(step) if isinstance(place, list) else step]
        assert change["op"] == "add" or last in place, change
        place[last] = change["value"]
    return pod


def checks(build_first):
    with Machine(gpus="1xH100", build_first=build_first) as machine:
        api = ApiServer()
        webhook = Webhook(machine.path, api)
        try:
            yield from conversions(webhook, api)
            yield from trouble(webhook, api)
        finally:
            webhook.process.terminate()
            code = webhook.process.wait(timeout=PATIENCE_S)
        yield code == 0, "the webhook ends when it is told to", str(code)


def conversions(webhook, api):
    before = manifests.read(EXAMPLES / "pods/hami.yaml")[0]
    configuration, = (one for one in manifests.built(EXAMPLES / "webhook")[0] if one["kind"] == "MutatingWebhookConfiguration")
    condition, = configuration["webhooks"][0]["matchConditions"]
    policy = Policy(manifests.built(EXAMPLES / "deploy")[0], "pods.vcuda.dev")

    def is_asked(pod):
        return evaluate(condition["expression"], object=pod)

    plain = manifests.read(EXAMPLES / "pods/claim.yaml")[1]
    yield is_asked(before) and not is_asked(plain), "the API server asks about such pods, and about no others", ""
    dry, _ = webhook.review(before, dry_run=True)
    yield dry["spec"].get("resourceClaims") and not api.templates, "a dry run makes nothing", ""
    after, said = webhook.review(before)
    mistake = manifests.mistake(after)
    yield not mistake and not said, "HAMi's pod becomes one that Kubernetes knows", mistake or said
    resources = after["spec"]["containers"][0]["resources"]
    claim = after["spec"]["resourceClaims"][0]
    good = resources == {"claims": [{"name": claim["name"]}]} and not is_asked(after)
    yield good, "with a claim in the place of its limits", json.dumps(resources)
    template = api.templates.get(("team-a", claim["resourceClaimTemplateName"]))
    mistake = manifests.mistake(template) if template else "it was not made"
    capacity = template and template["spec"]["spec"]["devices"]["requests"][0]["exactly"]["capacity"]["requests"]
    good = not mistake and capacity == {"memory": "3000Mi", "cores": "30"}
    yield good, "and its template", mistake or f"{claim['resourceClaimTemplateName']}: {json.dumps(capacity)}"
    again, said = webhook.review(before)
    yield again == after and not said and len(api.templates) == 1, "the same again is the same", said
    yield not policy.refusals("pods", "CREATE", after), "the policy for pods admits it", ""
    privileged = copy.deepcopy(before)
    privileged["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    refused = policy.refusals("pods", "CREATE", webhook.review(privileged)[0])
    yield len(refused) == 1, "and refuses it if it is privileged", "; ".join(refused)
    two = copy.deepcopy(before)
    two["spec"]["containers"][0]["resources"]["limits"] = {"nvidia.com/gpu": 2, "nvidia.com/gpumem": 1000}
    after, _ = webhook.review(two, namespace="team-b")
    name = after["spec"]["resourceClaims"][0]["resourceClaimTemplateName"]
    template = api.templates[("team-b", name)]
    mistake = manifests.mistake(template)
    constraints = template["spec"]["spec"]["devices"]["constraints"]
    good = name == "vcuda-2-1000mi-25" and constraints[0]["distinctAttribute"] == "gpu.vcuda.dev/uuid" and not mistake
    yield good, "two GPUs are two different ones, with the administrator's cores", mistake or name
    yield webhook.review(plain)[0] == plain, "other pods are left", ""


def trouble(webhook, api):
    pod = manifests.read(EXAMPLES / "pods/hami.yaml")[0]
    half = copy.deepcopy(pod)
    half["spec"]["containers"][0]["resources"]["limits"] = {"nvidia.com/gpumem-percentage": 50}
    after, said = webhook.review(half)
    yield after is None and "write nvidia.com/gpumem, in MiB" in said, "refuses what a claim can't say", said
    api.denied = True
    after, said = webhook.review(pod, namespace="team-c")
    yield after is None and "can't be made in team-c" in said, "refuses a pod whose template can't be made", said
    api.denied = False
    for what, body, path, expected in [("no review", {"a": 1}, "/convert", 400), ("another place", {"a": 1}, "/x", 404)]:
        try:
            webhook.post(body, path)
            yield False, f"{what}: {expected}", "it was answered"
        except urllib.error.HTTPError as error:
            yield error.code == expected, f"{what}: {expected}", error.read().decode().strip()
    yield webhook.post(None, "/healthz") == b"well\n", "answers a probe", ""
    older = webhook.certificates.parent / "older.crt"
    older.write_bytes((webhook.certificates / "tls.crt").read_bytes())
    make_certificate(webhook.certificates)
    yield webhook.post(None, "/healthz") == b"well\n", "shows a certificate that was renewed", ""
    try:
        webhook.post(None, "/healthz", certificate=older)
        yield False, "and not the older one", "it did"
    except urllib.error.URLError as error:
        yield "CERTIFICATE_VERIFY_FAILED" in str(error), "and not the older one", ""
    (webhook.certificates / "tls.crt").write_text("half")
    time.sleep(0.01)
    kept = subprocess.run(["openssl", "s_client", "-connect", webhook.address], input=b"", stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, timeout=PATIENCE_S)
    yield b"BEGIN CERTIFICATE" in kept.stdout, "keeps the one it has while files are half-written", ""
