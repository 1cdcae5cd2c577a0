"""The queries that pods are scaled by, asked of a real Prometheus that scrapes a real agent which watches simulated
tenants. Each row: whether the answer is right, what was asked, and the answer."""

import re
import time

import manifests
from machine import Machine, Tenant
from manifests import EXAMPLES
from prometheus import Prometheus

METRIC = "vcuda_container_core_utilization_ratio"
SECONDS = 15


def labels(pod):
    return {"namespace": "default", "pod": pod, "container": "main"}


def adapter_rule():
    rules = manifests.read(EXAMPLES / "scaling/prometheus-adapter.yaml")[0]["rules"]
    assert len(rules) == 1
    return rules[0]


def adapter_query(rule, pods):
    """The query that prometheus-adapter makes of its rule for some pods."""
    query = rule["metricsQuery"]
    matchers = f'namespace="default",pod=~"{"|".join(pods)}"'
    for name, text in {"Series": METRIC, "LabelMatchers": matchers, "GroupBy": "pod"}.items():
        query = query.replace(f"<<.{name}>>", text)
    assert "<<" not in query, query
    return query


def checks(build_first):
    rule = adapter_rule()
    autoscaler = manifests.read(EXAMPLES / "scaling/horizontal-pod-autoscaler.yaml")[0]["spec"]
    trigger = manifests.read(EXAMPLES / "scaling/keda.yaml")[0]["spec"]["triggers"][0]["metadata"]
    asked = autoscaler["metrics"][0]["pods"]["metric"]["name"]
    yield asked == rule["name"]["as"], "the autoscaler asks for what the adapter offers", asked
    target = autoscaler["metrics"][0]["pods"]["target"]["averageValue"]
    yield target == "600m" and trigger["threshold"] == "0.6", "autoscaler and KEDA aim at the same", target
    with Machine(gpus="1xH100", build_first=build_first) as machine:
        # One that always wants more than its share, and one that wants nothing.
        machine.add_tenant("infer-a", Tenant("8GiB", "25", 1024, 2000, 0, 0, 0, labels("infer-a")))
        machine.add_tenant("infer-b", Tenant("8GiB", "25", 1024, 2000, 600000, 0, 0, labels("infer-b")))
        machine.add_tenant("other", Tenant("8GiB", "25", 1024, 2000, 0, 0, 0, labels("other")))
        machine.wait_for_tenants()
        with machine.agent() as agent, Prometheus(machine.path, agent.address) as prometheus:
            time.sleep(SECONDS)
            series = prometheus.query(rule["seriesQuery"])
            seen = {metric["pod"] for metric, _ in series}
            yield seen == {"infer-a", "infer-b", "other"}, "prometheus-adapter: its series", ", ".join(sorted(seen))
            overridden = set(rule["resources"]["overrides"])
            yield all(overridden <= set(metric) for metric, _ in series), "prometheus-adapter: its labels", ""
            values = {metric["pod"]: value for metric, value in prometheus.query(adapter_query(rule, ["infer-a", "infer-b"]))}
            shown = ", ".join(f"{pod} {value:.2f}" for pod, value in sorted(values.items()))
            busy, idle = values.get("infer-a", -1), values.get("infer-b", -1)
            # How much of its share a pod gets is for a busy machine to say; that it works is not.
            yield 0.2 <= busy <= 1.3 and 0 <= idle < 0.15, "prometheus-adapter: a busy pod and an idle one", shown
            found = prometheus.value(trigger["query"])
            good = abs(found - (busy + idle)) < 0.2 and re.search(METRIC, trigger["query"])
            yield bool(good), "KEDA: the sum of both, and of no others", f"{found:.2f}"
