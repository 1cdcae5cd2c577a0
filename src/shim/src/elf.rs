//! Finds the C library's own `dlsym` and `dlvsym` by reading its symbol table in memory.
//!
//! This library exports both names, so no lookup *by the loader* can be trusted to pass over it (or over
//! another preloaded library that does the same), whatever version is asked for. The objects of the
//! process and their tables are public ABI (`dl_iterate_phdr(3)`, gABI, the GNU hash section).
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};

/// The files that define `dlsym`: glibc from 2.34 on, and before that.
const C_LIBRARY_FILES: [&[u8]; 2] = [b"libc.so.6", b"libdl.so.2"];

const DT_NULL: i64 = 0;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_GNU_HASH: i64 = 0x6fff_fef5;

#[repr(C)]
struct Dynamic {
    tag: i64,
    value: u64,
}

struct Search<'a> {
    name: &'a CStr,
    found: usize,
}

/// Address of the C library's function `name`, or 0.
pub fn c_library_function(name: &CStr) -> usize {
    let mut search = Search { name, found: 0 };
    // SAFETY: the callback takes exactly the pointer given here and does not keep it.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    search.found
}

unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, search: *mut c_void) -> c_int {
    // SAFETY: the loader passes a valid description, and `search` is the caller's own variable.
    let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
    if info.dlpi_name.is_null() {
        return 0;
    }
    // SAFETY: a non-null object name is a C string.
    let path = unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes();
    let file = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    if !C_LIBRARY_FILES.contains(&file) {
        return 0;
    }
    // SAFETY: `info` describes a loaded object, whose headers and dynamic section stay mapped.
    search.found = unsafe { find_in_object(info, search.name) };
    c_int::from(search.found != 0)
}

/// # Safety
/// `info` must describe a loaded object.
unsafe fn find_in_object(info: &libc::dl_phdr_info, name: &CStr) -> usize {
    let base = info.dlpi_addr as usize;
    // SAFETY: the loader gives as many headers as it says.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let Some(dynamic) = headers.iter().find(|header| header.p_type == libc::PT_DYNAMIC) else { return 0 };
    let mut entry = base.wrapping_add(dynamic.p_vaddr as usize) as *const Dynamic;
    let (mut strings, mut symbols, mut hash) = (0usize, 0usize, 0usize);
    loop {
        // SAFETY: the dynamic section ends with a null entry, which stops the walk.
        let Dynamic { tag, value } = unsafe { entry.read() };
        // glibc stores these addresses relocated; other loaders may leave them relative to the base.
        let address =
            if (value as usize) < base { base.wrapping_add(value as usize) } else { value as usize };
        match tag {
            DT_NULL => break,
            DT_STRTAB => strings = address,
            DT_SYMTAB => symbols = address,
            DT_GNU_HASH => hash = address,
            _ => {}
        }
        // SAFETY: not the last entry, so there is a next one.
        entry = unsafe { entry.add(1) };
    }
    if strings == 0 || symbols == 0 || hash == 0 {
        return 0;
    }
    // SAFETY: the three tables belong to the loaded object.
    unsafe { find_by_gnu_hash(base, strings, symbols as *const libc::Elf64_Sym, hash as *const u32, name) }
}

/// # Safety
/// The tables must be those of one loaded object at `base`.
unsafe fn find_by_gnu_hash(
    base: usize,
    strings: usize,
    symbols: *const libc::Elf64_Sym,
    table: *const u32,
    name: &CStr,
) -> usize {
    let wanted = name
        .to_bytes()
        .iter()
        .fold(5381u32, |hash, &byte| hash.wrapping_mul(33).wrapping_add(u32::from(byte)));
    // SAFETY: a GNU hash section is four header words, the 64-bit bloom filter, one word per bucket, and
    // one word per symbol from `first_symbol` on, whose lowest bit ends a chain.
    unsafe {
        let (buckets, first_symbol, bloom_words) = (table.read(), table.add(1).read(), table.add(2).read());
        if buckets == 0 {
            return 0;
        }
        let bucket_table = table.add(4 + bloom_words as usize * 2);
        let chains = bucket_table.add(buckets as usize);
        let mut index = bucket_table.add((wanted % buckets) as usize).read();
        while index >= first_symbol && index != 0 {
            let hash = chains.add((index - first_symbol) as usize).read();
            let symbol = &*symbols.add(index as usize);
            let defined = symbol.st_shndx != 0 && symbol.st_value != 0;
            if hash | 1 == wanted | 1 && defined {
                let symbol_name = CStr::from_ptr((strings + symbol.st_name as usize) as *const _);
                if symbol_name == name {
                    return base + symbol.st_value as usize;
                }
            }
            if hash & 1 == 1 {
                break;
            }
            index += 1;
        }
    }
    0
}
