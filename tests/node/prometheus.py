"""Debian's Prometheus, scraping one agent every second by the example's own configuration."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples/monitoring"
PROGRAMS = ROOT / "target/tools/prometheus/usr/bin"
PATIENCE_S = 60


def promtool(*arguments, given=None):
    """Runs promtool beside the examples; whether it is content, and what it says."""
    done = subprocess.run([PROGRAMS / "promtool", *arguments], cwd=EXAMPLES, input=given, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode == 0, done.stdout.strip()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Prometheus:
    def __init__(self, directory, target):
        self.directory, self.target = directory / "prometheus", target

    def __enter__(self):
        self.directory.mkdir()
        configuration = (EXAMPLES / "prometheus.yml").read_text()
        changes = {"15s": "1s", "127.0.0.1:9478": self.target, "rules.yml": str(EXAMPLES / "rules.yml")}
        for example, here in changes.items():
            if example not in configuration:
                sys.exit(f"examples/monitoring/prometheus.yml has no {example}")
            configuration = configuration.replace(example, here)
        configuration = configuration.replace("scrape_interval: 1s", "scrape_interval: 1s\n  evaluation_interval: 1s")
        (self.directory / "prometheus.yml").write_text(configuration)
        self.address = f"127.0.0.1:{free_port()}"
        self.log = open(self.directory / "log", "w")
        self.process = subprocess.Popen(
            [PROGRAMS / "prometheus", f"--config.file={self.directory / 'prometheus.yml'}",
             f"--storage.tsdb.path={self.directory / 'data'}", f"--web.listen-address={self.address}"],
            stdout=self.log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + PATIENCE_S
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"prometheus does not start:\n{(self.directory / 'log').read_text()}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=PATIENCE_S)
        self.log.close()

    def is_ready(self):
        try:
            return bool(self.get("/-/ready"))
        except OSError:
            return False

    def get(self, path, **parameters):
        url = f"http://{self.address}{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return answer.read().decode()

    def ask(self, path, **parameters):
        """What the API answers; a query that is wrong ends the script with what is wrong."""
        try:
            return json.loads(self.get(f"/api/v1/{path}", **parameters))["data"]
        except urllib.error.HTTPError as error:
            sys.exit(f"prometheus: {path} {parameters}: {error.read().decode()}")

    def query(self, query):
        """Labels and value of each series now."""
        return [(one["metric"], float(one["value"][1])) for one in self.ask("query", query=query)["result"]]

    def value(self, query):
        """The value of a query that must have one series."""
        found = self.query(query)
        if len(found) != 1:
            sys.exit(f"prometheus: {query}: {len(found)} series instead of one")
        return found[0][1]

    def query_range(self, query, start, end, step):
        """Labels and (time, value) pairs of each series."""
        found = self.ask("query_range", query=query, start=start, end=end, step=step)["result"]
        return [(one["metric"], [(at, float(value)) for at, value in one["values"]]) for one in found]
