"""What the preloaded library does with each function, as classify.toml says."""

import fnmatch
import tomllib
from dataclasses import dataclass

from .library import CLASSIFY, Failure, Library, relative, split_name


@dataclass
class Classes:
    """What classify.toml says about one library."""

    rules: list[tuple[str, str]]  # (pattern, class)
    allowed_pass: dict[str, str]
    exported_only: list[str]
    exported_data: list[str]


def read_classes(library: Library) -> Classes:
    with CLASSIFY.open("rb") as file:
        document = tomllib.load(file)[library.name]
    rules = []
    for group in document["group"]:
        if group["class"] not in ("hook", "pass", "watch", "deny"):
            raise Failure(f"{CLASSIFY}: class {group['class']!r} is none of hook, pass, watch, deny")
        if not group.get("reason"):
            raise Failure(f"{CLASSIFY}: the group that starts with {group['symbols'][0]} gives no reason")
        rules += [(pattern, group["class"]) for pattern in group["symbols"]]
    return Classes(
        rules,
        document.get("allowed_pass", {}),
        document.get("exported_only", {}).get("functions", []),
        document.get("exported_only", {}).get("data", []),
    )


def danger(library: Library, name: str) -> str | None:
    return next((danger.fear for danger in library.dangers if danger.is_in(name)), None)


def classify(library: Library, classes: Classes, names: list[str]) -> dict[str, str]:
    """The class of each name. An exact name beats a base name, a base name beats a pattern."""
    chosen, complaints, used = {}, [], set()
    for name in names:
        base = split_name(name)[0]
        matches: dict[int, set[str]] = {}
        for pattern, kind in classes.rules:
            if pattern == name:
                rank = 0
            elif pattern == base:
                rank = 1
            elif fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(base, pattern):
                rank = 2
            else:
                continue
            used.add(pattern)
            matches.setdefault(rank, set()).add(kind)
        fear = danger(library, name)
        if not matches:
            hint = f" ({fear}: may not be pass)" if fear else ""
            complaints.append(f"  {name}: not classified{hint}")
            continue
        kinds = matches[min(matches)]
        if len(kinds) > 1:
            complaints.append(f"  {name}: classified as {' and as '.join(sorted(kinds))}")
            continue
        chosen[name] = kinds.pop()
        if chosen[name] == "pass" and fear:
            if not any(allowed in (name, base) for allowed in classes.allowed_pass):
                complaints.append(f"  {name}: {fear}, so it may not be pass unless allowed_pass gives a reason")
    for pattern in dict.fromkeys(pattern for pattern, _ in classes.rules):
        if pattern not in used:
            complaints.append(f"  {pattern}: matches no function")
    for allowed in classes.allowed_pass:
        if not any(allowed in (name, split_name(name)[0]) and chosen.get(name) == "pass" for name in names):
            complaints.append(f"  {allowed}: in allowed_pass, but nothing of that name is pass")
    if complaints:
        raise Failure(f"{relative(CLASSIFY)}, {library.name}:\n" + "\n".join(complaints))
    return chosen
