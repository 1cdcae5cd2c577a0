"""The example dashboard: its panels, and their queries as Grafana would send them."""

import json
import re
from pathlib import Path

DASHBOARD = Path(__file__).resolve().parents[2] / "examples/monitoring/dashboard.json"
# Grafana's own variable, at least four scrapes long.
RATE_INTERVAL = "5s"


def load():
    return json.loads(DASHBOARD.read_text())


def panels(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def variables(dashboard):
    """Query variables, with the metric and label that their values are taken from."""
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()
            yield variable["name"], selector, label


def resolve(query, dashboard):
    """The query with all variables set to "All"."""
    query = query.replace("$__rate_interval", RATE_INTERVAL)
    for variable in dashboard["templating"]["list"]:
        query = query.replace(f"${variable['name']}", variable.get("allValue", ""))
    if "$" in query:
        raise ValueError(f"an unknown variable in {query}")
    return query
