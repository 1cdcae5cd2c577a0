"""What must hold of the files in examples/monitoring and of what a real Prometheus makes of them.

Each check is a row: whether it holds, what it is, and a detail."""

import math
import re

import dashboard as boards
from prometheus import EXAMPLES, promtool

GIB = 1 << 30


def of_files():
    """What can be said without a scrape."""
    for what, arguments in [
        ("promtool check config", ["check", "config", "prometheus.yml"]),
        ("promtool check rules", ["check", "rules", "rules.yml"]),
        ("promtool test rules", ["test", "rules", "rules.test.yml"]),
    ]:
        good, said = promtool(*arguments)
        yield good, what, "" if good else said
    alerts = re.findall(r"- alert: (\w+)", (EXAMPLES / "rules.yml").read_text())
    tests = (EXAMPLES / "rules.test.yml").read_text()
    fired = set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n +- exp_labels", tests))
    missing = [alert for alert in alerts if alert not in fired]
    yield not missing and bool(alerts), f"each of {len(alerts)} alerts is seen to fire in a test", ", ".join(missing)

    dashboard = boards.load()
    names = [panel["id"] for panel in dashboard["panels"]]
    yield len(names) == len(set(names)), "dashboard: each panel has an id of its own", ""
    taken, overlaps = set(), []
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        if taken & cells or place["x"] + place["w"] > 24:
            overlaps.append(panel["title"])
        taken |= cells
    yield not overlaps, "dashboard: panels stand beside each other", ", ".join(overlaps)
    sources = {str(target["datasource"]) for panel in boards.panels(dashboard) for target in panel["targets"]}
    yield len(sources) == 1, "dashboard: all panels ask the data source that is chosen", ""


def of_scrape(agent):
    """What promtool says of the agent's metrics."""
    good, said = promtool("check", "metrics", given=agent.metrics())
    yield good and not said, "promtool check metrics", said


def of_prometheus(prometheus, agent):
    """What a Prometheus has of an agent that it scraped for some time."""
    targets = prometheus.ask("targets")["activeTargets"]
    trouble = [target["lastError"] or target["health"] for target in targets if target["health"] != "up"]
    yield len(targets) == 1 and not trouble, "the agent is scraped, as OpenMetrics", ", ".join(trouble)
    own = prometheus.get("/metrics")
    for kind in ("duplicate_timestamp", "out_of_order", "out_of_bounds"):
        yield f"scrapes_sample_{kind}_total 0\n" in own, f"no sample refused: {kind}", ""

    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    broken = [rule["name"] for rule in rules if rule["health"] != "ok"]
    yield bool(rules) and not broken, f"{len(rules)} rules are evaluated", ", ".join(broken)
    scraped = set(re.findall(r"^(vcuda_\w+)", agent.metrics(), re.MULTILINE))
    asked = set(re.findall(r"vcuda_\w+", " ".join(rule["query"] for rule in rules)))
    yield asked <= scraped, "rules ask for metrics that exist", ", ".join(asked - scraped)

    dashboard = boards.load()
    for name, selector, label in boards.variables(dashboard):
        series = prometheus.query(f"group by ({label}) ({boards.resolve(selector, dashboard)})")
        values = [metric.get(label, "") for metric, _ in series]
        yield any(values), f"dashboard: variable {name}", ", ".join(values)
    for panel in boards.panels(dashboard):
        empty = []
        for target in panel["targets"]:
            found = prometheus.query(boards.resolve(target["expr"], dashboard))
            if not any(math.isfinite(value) for _, value in found):
                empty.append(target["expr"])
        yield not empty, f"dashboard: {panel['title']}", "no data: " + "; ".join(empty) if empty else ""
    yield from numbers(prometheus)


def numbers(prometheus):
    """Numbers that are known, because the tenants were made so."""
    exact = {
        'vcuda_container_memory_limit_bytes{pod="train-0",container="main",namespace="vision"}': 24 * GIB,
        'vcuda_container_core_limit_ratio{pod="serve-0"}': 0.6,
        'sum(vcuda_device_shares)': 6,
        'sum(vcuda_device_memory_allocated_bytes)': (24 + 16 + 40 + 12 + 5 + 5) * GIB,
        'count(vcuda_device_healthy == 1)': 3,
        'vcuda_node_unreadable_files{reason="damaged"}': 1,
        'sum(vcuda_container_processes)': 6,
        'sum(vcuda_device_foreign_processes)': 0,
        'vcuda_node_idle_release_possible': 1,
        'vcuda_node_idle_release_failures_total': 0,
    }
    for query, expected in exact.items():
        found = prometheus.value(query)
        yield found == expected, query, f"{found:g}"
    ranges = {
        # What the tenant asked for, and its context.
        'vcuda_container_memory_used_bytes{pod="train-0"} / 2^30': (20.0, 21.5),
        'vcuda_container_memory_used_bytes{pod="serve-0"} / 2^30': (30.0, 31.5),
        # Always wants more time than its share, and gets that; how closely is not for a busy machine to say.
        'vcuda_container_core_utilization_ratio{pod="train-0"}': (0.2, 1.2),
        'vcuda_container_allocations_denied_total{pod="serve-0"}': (1, math.inf),
        'vcuda_container_kernel_launches_total{pod="train-1"}': (1, math.inf),
        'vcuda_node_reaped_processes_total': (1, math.inf),
        # Two that need the same memory in turn.
        'vcuda_node_put_aside_total{pod="lab-0"}': (1, math.inf),
        'vcuda_node_brought_back_total{pod="lab-1"}': (1, math.inf),
        'sum(max_over_time(vcuda_container_put_aside_processes{pod=~"lab-."}[10m]))': (1, 2),
        'time() - vcuda_container_last_kernel_timestamp_seconds{pod="train-0"}': (0, 15),
        # Both books agree on what the GPUs hold: the driver's, and the slices'.
        'sum(vcuda_device_memory_used_bytes) / sum(vcuda_container_memory_used_bytes)': (0.9, 1.1),
    }
    for query, (least, most) in ranges.items():
        found = prometheus.value(query)
        yield least <= found <= most, query, f"{found:.2f}"
    never_fell = prometheus.value('sum(resets(vcuda_container_kernel_launches_total[10m]))')
    yield never_fell == 0, "counters never fell, though a tenant was killed", ""
