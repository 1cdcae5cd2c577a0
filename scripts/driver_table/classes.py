"""What the preloaded library does with each function, as classify.toml says."""

import fnmatch
import tomllib
from dataclasses import dataclass

from .library import CLASSIFY, Danger, Failure, Library, relative, split_name


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


def danger(library: Library, name: str) -> Danger | None:
    """What there is to fear of a function most."""
    found = [danger for danger in library.dangers if danger.is_in(name)]
    return min(found, key=lambda danger: danger.may_be_watched, default=None)


def forbidden(feared: Danger | None) -> tuple[str, ...]:
    """The classes that a function may not have without a reason of its own."""
    if feared is None:
        return ()
    return ("pass",) if feared.may_be_watched else ("pass", "watch")


def warning(library: Library, name: str) -> str:
    """What to say behind the name of a function that nobody has classified yet."""
    feared = danger(library, name)
    return f" ({feared.fear}: may not be {' or '.join(forbidden(feared))})" if feared else ""


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
        feared = danger(library, name)
        if not matches:
            complaints.append(f"  {name}: not classified{warning(library, name)}")
            continue
        kinds = matches[min(matches)]
        if len(kinds) > 1:
            complaints.append(f"  {name}: classified as {' and as '.join(sorted(kinds))}")
            continue
        chosen[name] = kinds.pop()
        if chosen[name] in forbidden(feared):
            if not any(allowed in (name, base) for allowed in classes.allowed_pass):
                complaints.append(
                    f"  {name}: {feared.fear}, so it may not be {chosen[name]} unless allowed_pass gives a reason"
                )
    for pattern in dict.fromkeys(pattern for pattern, _ in classes.rules):
        if pattern not in used:
            complaints.append(f"  {pattern}: matches no function")
    for allowed in classes.allowed_pass:
        left = [name for name in names if allowed in (name, split_name(name)[0])]
        if not any(chosen.get(name) in forbidden(danger(library, name)) for name in left):
            complaints.append(f"  {allowed}: in allowed_pass, but nothing of that name is left to the driver")
    if complaints:
        raise Failure(f"{relative(CLASSIFY)}, {library.name}:\n" + "\n".join(complaints))
    return chosen
