"""Results: one row for each thing that was looked at, written as JSON and as a Markdown table."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Row:
    """One figure and what it was expected to be."""

    what: str
    found: str
    expected: str = ""
    # "kept", "missed", "skipped", or "" for a figure without a target.
    verdict: str = ""
    figures: dict = field(default_factory=dict)


@dataclass
class Section:
    name: str
    title: str
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0
    error: str = ""

    def add(self, what: str, found: str, expected: str = "", ok: bool | None = None, **figures) -> None:
        verdict = "" if ok is None else "kept" if ok else "missed"
        self.rows.append(Row(what, found, expected, verdict, figures))

    def skip(self, what: str, why: str) -> None:
        self.rows.append(Row(what, f"skipped: {why}", verdict="skipped"))

    @property
    def failed(self) -> bool:
        return bool(self.error) or any(row.verdict == "missed" for row in self.rows)


def markdown(where: dict, sections: list[Section]) -> str:
    lines = [f"Measured on {where['gpu']}, driver {where['driver']}, {where['date']}.", ""]
    for section in sections:
        lines += [f"### {section.title}", ""]
        if section.rows:
            lines += ["| | found | expected | |", "| --- | --- | --- | --- |"]
            lines += [f"| {row.what} | {row.found} | {row.expected} | {row.verdict} |" for row in section.rows]
            lines.append("")
        if section.error:
            lines += [f"**stopped:** {section.error}", ""]
    return "\n".join(lines)


def write(folder: Path, where: dict, sections: list[Section], name: str = "gpu-memory") -> None:
    """Writes both forms; called after every section, so that what there is survives."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"where": where, "sections": [asdict(section) for section in sections]}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1))
    (folder / f"{name}.md").write_text(markdown(where, sections))
