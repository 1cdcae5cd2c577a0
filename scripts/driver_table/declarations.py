"""What the headers declare: functions, types, and the CUDA version each function came with."""

import re
from dataclasses import dataclass
from pathlib import Path

from .headers import preprocess
from .library import Failure, Library, split_name


def statements(text: str) -> list[str]:
    """The text cut at the semicolons outside braces, on one line each."""
    found, depth, start = [], 0, 0
    for position, letter in enumerate(text):
        if letter == "{":
            depth += 1
        elif letter == "}":
            depth -= 1
        elif letter == ";" and depth == 0:
            found.append(" ".join(text[start:position].split()))
            start = position + 1
    return found


@dataclass
class Header:
    """What the headers of one library declare."""

    functions: dict[str, tuple[str, str]]  # name: (result, arguments), as in C
    typedefs: dict[str, str]  # name: what it stands for, as in C; `enum`, `struct`, `function` for those


def read_header(library: Library, include: Path) -> Header:
    functions, typedefs = {}, {}
    result = re.escape(library.result)
    function = re.compile(rf"^(?:extern )?({result}|const char ?\*) ?({library.prefix}[A-Z]\w*) ?\((.*)\)$")
    for statement in statements(preprocess(include, library.includes, library.defines)):
        statement = re.sub(r"__attribute__ ?\(\(.*?\)\) ?", "", statement)
        statement = re.sub(r'^extern "C" ?', "", statement)
        if match := function.match(statement):
            functions[match[2]] = (match[1], match[3])
        elif statement.startswith("typedef "):
            read_typedef(statement.removeprefix("typedef "), typedefs)
    return Header(functions, typedefs)


def read_typedef(text: str, typedefs: dict[str, str]) -> None:
    if match := re.match(r"^(enum|struct|union)\b[^{]*\{.*\}([^{}]*)$", text):
        for name in match[2].split(","):
            if name.strip().isidentifier():
                typedefs[name.strip()] = "enum" if match[1] == "enum" else "struct"
    elif match := re.match(r"^.*\( ?\*? ?(\w+) ?\) ?\(.*\)$", text):
        typedefs[match[1]] = "function"
    elif match := re.match(r"^(struct|union) \w+ (\w+)$", text):
        typedefs[match[2]] = "struct"
    elif match := re.match(r"^\w[\w ]* (\w+)\(.*\)$", text):
        typedefs[match[1]] = "struct"  # a function, not a pointer to one: like a struct, used by address only
    elif match := re.match(r"^(.*?[\s*])(\w+)$", text):
        typedefs[match[2]] = match[1].strip()


def since_versions(library: Library, include: Path, names: list[str]) -> dict[str, int]:
    """The first CUDA version of each ABI symbol.

    The headers name function pointer types by base name and first version. Within one base name and stream
    variant, ABI versions and first versions both ascend, so they pair up in order.
    """
    if not library.typedef_includes:
        return dict.fromkeys(names, 0)
    text = preprocess(include, library.typedef_includes, library.defines)
    versions: dict[tuple[str, str], set[int]] = {}
    for base, version, variant in re.findall(r"\bPFN_(\w+?)_v(\d+)(_ptsz|_ptds)?\)", text):
        versions.setdefault((base, variant), set()).add(int(version))
    symbols: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for name in names:
        base, abi, variant = split_name(name)
        symbols.setdefault((base, variant), []).append((abi, name))
    since = {}
    for key, family in symbols.items():
        known = sorted(versions.pop(key, ()))
        if len(known) != len(family):
            raise Failure(
                f"{key[0]}{key[1]}: the headers declare {len(family)} ABI versions "
                f"({', '.join(name for _, name in sorted(family))}) but {len(known)} first versions ({known})"
            )
        since |= {name: version for (_, name), version in zip(sorted(family), known)}
    if versions:
        raise Failure(f"pointer types without a function: {sorted(versions)}")
    return since
