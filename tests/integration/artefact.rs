//! The built library: what it exports, what it needs, and that it does nothing when it is loaded.

use object::elf;
use object::read::elf::{Dyn, ElfFile64, FileHeader};
use object::{Object, ObjectSection, ObjectSymbol};
use std::collections::BTreeSet;
use std::fs;
use vcuda_driver::table::{Class, Symbol};
use vcuda_driver::{cuda, nvml};
use vcuda_tests::artefacts;

fn library() -> Vec<u8> {
    fs::read(&artefacts().library).expect("libvcuda.so")
}

fn exports(bytes: &[u8]) -> BTreeSet<String> {
    let file = object::File::parse(bytes).expect("an ELF file");
    let defined = file.dynamic_symbols().filter(|symbol| symbol.is_definition() && symbol.is_global());
    defined.map(|symbol| symbol.name().expect("a name").to_owned()).collect()
}

fn hooked() -> impl Iterator<Item = &'static Symbol> {
    let all = cuda::symbols::SYMBOLS.iter().chain(nvml::symbols::SYMBOLS);
    all.filter(|symbol| matches!(symbol.class, Class::Hook | Class::Deny))
}

#[test]
fn it_exports_what_it_hooks_and_nothing_else() {
    let mut expected: BTreeSet<String> = hooked().map(|symbol| symbol.name.to_owned()).collect();
    expected.extend(["dlsym", "dlvsym"].map(str::to_owned));
    let found = exports(&library());
    let unexpected: Vec<_> = found.difference(&expected).collect();
    let missing: Vec<_> = expected.difference(&found).collect();
    assert!(unexpected.is_empty() && missing.is_empty(), "unexpected: {unexpected:?}; missing: {missing:?}");
}

#[test]
fn it_needs_the_c_library_only() {
    let bytes = library();
    let file = ElfFile64::<object::LittleEndian>::parse(&*bytes).expect("an ELF file");
    let endian = file.endian();
    let header = file.elf_header();
    let sections = header.sections(endian, &*bytes).expect("sections");
    let (entries, strings) =
        sections.dynamic(endian, &*bytes).expect("a dynamic section").expect("a dynamic section");
    let strings = sections.strings(endian, &*bytes, strings).expect("its strings");
    let needed: Vec<String> = entries
        .iter()
        .filter(|entry| entry.d_tag(endian) == elf::DT_NEEDED)
        .map(|entry| String::from_utf8_lossy(entry.string(endian, strings).expect("a name")).into_owned())
        .collect();
    // A missing one of these would stop every program of the container. The release drops libgcc_s.
    let allowed = ["libc.so.6", "libdl.so.2", "libpthread.so.0", "libgcc_s.so.1", "ld-linux-x86-64.so.2"];
    for name in &needed {
        assert!(allowed.contains(&name.as_str()), "needs {name}");
    }
    assert!(needed.iter().any(|name| name == "libc.so.6"));
}

#[test]
fn nothing_of_it_runs_when_it_is_loaded() {
    let bytes = library();
    let file = object::File::parse(&*bytes).expect("an ELF file");
    let entries = |name: &str| file.section_by_name(name).map_or(0, |section| section.size() / 8);
    // One entry is the C toolchain's (frame_dummy), one Rust's own for the program's arguments.
    assert!(entries(".init_array") <= 2, "{} start functions", entries(".init_array"));
    assert!(entries(".fini_array") <= 1, "{} end functions", entries(".fini_array"));
}

#[test]
fn it_stays_loaded() {
    let bytes = library();
    let file = ElfFile64::<object::LittleEndian>::parse(&*bytes).expect("an ELF file");
    let endian = file.endian();
    let sections = file.elf_header().sections(endian, &*bytes).expect("sections");
    let (entries, _) =
        sections.dynamic(endian, &*bytes).expect("a dynamic section").expect("a dynamic section");
    let flags = entries.iter().find(|entry| entry.d_tag(endian) == elf::DT_FLAGS_1);
    let flags = flags.expect("flags").d_val(endian);
    assert_ne!(flags & elf::DF_1_NODELETE.0, 0, "unloading it would leave hooks dangling");
}
