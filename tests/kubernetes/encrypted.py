"""The way to the API server as clusters have it: encrypted, with an authority of the cluster's own."""

import base64
import contextlib
import json
import socket
import ssl
import subprocess
import threading
from urllib.parse import urlsplit


class Encrypted:
    """Takes encrypted connections and passes them on to the server of a node; `kubeconfig` leads here."""

    def __init__(self, node):
        self.path = node.path / "tls"
        self.path.mkdir()
        self.target = urlsplit(node.url)
        self.make_certificates()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path / "server.pem", self.path / "server.key")
        self.listener = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self.count = 0
        threading.Thread(target=self.accept, daemon=True).start()
        authority = base64.b64encode((self.path / "authority.pem").read_bytes()).decode()
        server = f"https://127.0.0.1:{self.listener.getsockname()[1]}"
        self.kubeconfig = self.path / "kubeconfig"
        self.kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority-data": authority}}],
            "users": [{"name": "u", "user": {"token": "secret"}}]}))

    def make_certificates(self):
        def run(*words):
            subprocess.run(["openssl", *words], cwd=self.path, check=True, capture_output=True)

        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        run("req", "-x509", *key, "-keyout", "authority.key", "-out", "authority.pem", "-subj", "/CN=authority")
        run("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=kubernetes")
        (self.path / "names").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        run("x509", "-req", "-in", "server.csr", "-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial",
            "-extfile", "names", "-days", "2", "-out", "server.pem")

    def accept(self):
        while True:
            with contextlib.suppress(OSError):
                if self.listener.fileno() < 0:
                    return
                near, _ = self.listener.accept()
                self.count += 1
                far = socket.create_connection((self.target.hostname, self.target.port))
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self.pass_on, args=(source, sink), daemon=True).start()

    @staticmethod
    def pass_on(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
