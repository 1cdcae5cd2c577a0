"""Writes C signatures in Rust."""

import re

from .declarations import Header
from .library import Failure, Library


RUST_KEYWORDS = set(
    "as async await break const continue crate dyn else enum extern false fn for gen if impl in let loop match "
    "mod move mut pub ref return self static struct super trait true type unsafe use where while".split()
)

RUST_NUMBERS = {
    "char": "::core::ffi::c_char",
    "signed char": "i8",
    "unsigned char": "u8",
    "short": "i16",
    "unsigned short": "u16",
    "int": "i32",
    "unsigned": "u32",
    "unsigned int": "u32",
    "long": "::core::ffi::c_long",
    "unsigned long": "::core::ffi::c_ulong",
    "long long": "i64",
    "unsigned long long": "u64",
    "float": "f32",
    "double": "f64",
    "size_t": "usize",
    "int8_t": "i8",
    "uint8_t": "u8",
    "int16_t": "i16",
    "uint16_t": "u16",
    "int32_t": "i32",
    "uint32_t": "u32",
    "int64_t": "i64",
    "uint64_t": "u64",
}


def types_in_rust(library: Library) -> set[str]:
    """The types that the crate declares by hand, read from its sources."""
    names = set()
    for file in [library.folder / "types.rs", *sorted((library.folder / "types").glob("*.rs"))]:
        text = file.read_text()
        names |= set(re.findall(r"^\s*pub (?:struct|type|union) (\w+)", text, re.M))
        names |= set(re.findall(r"^    struct (\w+) \[", text, re.M))
        names |= set(re.findall(r"^    (\w+)\(\w+\);", text, re.M))
        names |= set(re.findall(r"^    (\w+): \w+ \{", text, re.M))
    return names


class Signatures:
    """Writes C signatures in Rust."""

    def __init__(self, library: Library, header: Header):
        self.library = library
        self.header = header
        self.known = types_in_rust(library)

    def base_type(self, name: str) -> tuple[str | None, str]:
        """(how Rust writes a value of this type, how it writes what a pointer to it points to)."""
        if name == "void":
            return None, "::core::ffi::c_void"
        if name == self.library.result:
            return (f"$crate::result::{self.library.rust_result}",) * 2
        if name in self.known:
            return (f"$crate::{self.library.name}::types::{name}",) * 2
        if name in RUST_NUMBERS:
            return (RUST_NUMBERS[name],) * 2
        if re.match(r"^enum ", name):
            return "u32", "u32"
        if re.match(r"^(struct|union) ", name):
            return None, "::core::ffi::c_void"
        meaning = self.header.typedefs.get(name)
        if meaning is None:
            raise Failure(f"type {name} is not declared by the headers")
        if meaning == "enum":
            return "u32", "u32"
        if meaning == "struct":
            return None, "::core::ffi::c_void"
        if meaning == "function":
            return ("*mut ::core::ffi::c_void",) * 2
        if "*" in meaning:
            return (self.pointer_type(meaning),) * 2
        return self.base_type(meaning)

    def pointer_type(self, text: str) -> str:
        """A C type, with its stars, in Rust."""
        words = re.findall(r"\w+|\*", text)
        stars = words.index("*") if "*" in words else len(words)
        constant = "const" in words[:stars]
        value, pointee = self.base_type(" ".join(w for w in words[:stars] if w not in ("const", "volatile")))
        if stars == len(words):
            if value is None:
                raise Failure(f"struct {text} is passed by value: declare it in the types of {self.library.name}")
            return value
        rust = pointee
        for word in words[stars:]:
            if word == "*":
                rust, constant = f"*{'const' if constant else 'mut'} {rust}", False
            elif word == "const":
                constant = True
        return rust

    def argument(self, text: str, index: int) -> tuple[str, str]:
        if "(" in text:
            match = re.search(r"\( ?\* ?(\w+) ?\)", text)
            return (match[1] if match else f"argument{index}"), "*mut ::core::ffi::c_void"
        text, arrays = re.subn(r"\[[^\]]*\]", "", text)
        words = re.findall(r"\w+|\*", text)
        declared = [word for word in words if word not in ("*", "const", "volatile")]
        named = len(declared) > 1 and words[-1] != "*" and " ".join(declared) not in RUST_NUMBERS
        name = words.pop() if named else f"argument{index}"
        rust = self.pointer_type(" ".join(words) + " *" * arrays)
        return (f"{name}_" if name in RUST_KEYWORDS else name), rust

    def write(self, name: str) -> str:
        result, arguments = self.header.functions[name]
        rust = []
        for index, text in enumerate(split_arguments(arguments)):
            rust.append("{}: {}".format(*self.argument(text, index)))
        returned = "*const ::core::ffi::c_char" if "*" in result else f"$crate::result::{self.library.rust_result}"
        return f"fn {name}({', '.join(rust)}) -> {returned}"


def split_arguments(text: str) -> list[str]:
    if text.strip() in ("", "void"):
        return []
    found, depth, start = [], 0, 0
    for position, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            found.append(text[start:position].strip())
            start = position + 1
    return [*found, text[start:].strip()]
