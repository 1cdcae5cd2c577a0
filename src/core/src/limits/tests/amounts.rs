//! Amounts of memory: how they are written, and what is told of those that are mistakes.

use super::*;

#[test]
fn amounts_in_every_unit() {
    let table = [
        ("1", 1),
        ("1B", 1),
        ("4096", 4096),
        ("1K", 1 << 10),
        ("1k", 1 << 10),
        ("1KiB", 1 << 10),
        ("1KB", 1000),
        ("1M", 1 << 20),
        ("1mib", 1 << 20),
        ("1MB", 1_000_000),
        ("4G", 4 * GIB),
        ("4g", 4 * GIB),
        ("4GiB", 4 * GIB),
        (" 4 GiB ", 4 * GIB),
        ("4GB", 4_000_000_000),
        ("1T", 1 << 40),
        ("1TiB", 1 << 40),
        ("1TB", 1_000_000_000_000),
        ("1.5GiB", 3 * GIB / 2),
        (".5G", GIB / 2),
        ("2.G", 2 * GIB),
        ("0.1K", 102),
        ("1.50000000000000000000000000G", 3 * GIB / 2),
        ("0000000000000000000000000000000000000000000004G", 4 * GIB),
        ("18446744073709551615", u64::MAX),
    ];
    for (text, bytes) in table {
        assert_eq!(Amount::parse("x", text), Ok(Amount::Bytes(bytes)), "{text}");
    }
}

#[test]
fn shares_of_the_gpu() {
    assert_eq!(Amount::parse("x", "50%").unwrap().of(80 * GIB), 40 * GIB);
    assert_eq!(Amount::parse("x", "100 %").unwrap().of(80 * GIB), 80 * GIB);
    assert_eq!(Amount::parse("x", "33.333333%").unwrap().of(300_000_000), 99_999_999);
    assert_eq!(Amount::parse("x", "0.000001%").unwrap().of(10), 1);
    assert_eq!(Amount::parse("x", "100%").unwrap().of(u64::MAX), u64::MAX);
}

#[test]
fn amounts_that_are_mistakes() {
    let table = [
        ("", "the amount is empty"),
        ("  ", "the amount is empty"),
        ("0", "no memory at all"),
        ("0GiB", "no memory at all"),
        ("0.0%", "no memory at all"),
        ("-4GiB", "is negative"),
        ("+4GiB", "is not an amount"),
        ("GiB", "is not an amount"),
        (".", "is not an amount"),
        (".G", "is not an amount"),
        ("1.2.3G", "is not an amount"),
        ("1.0000000000000000001G", "is not an amount"),
        ("unlimited", "is not an amount"),
        ("4 gigs", "unknown unit \"gigs\""),
        ("4iB", "unknown unit \"ib\""),
        ("1e9", "unknown unit \"e9\""),
        ("4P", "unknown unit \"p\""),
        ("4GiB 2", "unknown unit \"gib 2\""),
        ("４GiB", "is not an amount"),
        ("0.5B", "is less than one byte"),
        ("0.0000001%", "is too small a share"),
        ("101%", "is more than the whole GPU"),
        ("99999999999999999999%", "is more than the whole GPU"),
        ("18446744073709551616", "is more than any GPU has"),
        ("16777216T", "is more than any GPU has"),
        ("999999999999999999999999999999999999999999", "is more than any GPU has"),
    ];
    for (text, problem) in table {
        let mistake = Amount::parse("VCUDA_MEMORY_LIMIT", text).unwrap_err().to_string();
        assert!(mistake.starts_with("VCUDA_MEMORY_LIMIT: "), "{mistake}");
        assert!(mistake.contains(problem), "{text}: {mistake}");
        assert!(mistake.contains("; "), "says what would be right: {mistake}");
    }
}

#[test]
fn amounts_display_as_they_are_read() {
    for text in ["4GiB", "1023MiB", "1TiB", "1025B", "50%", "33.3%", "0.000001%"] {
        assert_eq!(Amount::parse("x", text).unwrap().to_string(), text);
    }
}

#[test]
fn a_forgotten_unit_is_pointed_out() {
    let limits = World::variables(&[("VCUDA_MEMORY_LIMIT", "4")]).load().unwrap();
    assert_eq!(
        limits.warnings,
        ["VCUDA_MEMORY_LIMIT: 4 bytes can't hold a CUDA context; did you mean 4GiB or 4MiB?"]
    );
}

#[test]
fn hostile_text_stays_on_one_readable_line() {
    let long = "x\n\u{1b}[31m".repeat(100);
    let mistake = World::variables(&[("VCUDA_MEMORY_LIMIT", &long)]).mistake();
    assert!(mistake.len() < 500 && !mistake.contains('\n') && !mistake.contains('\u{1b}'), "{mistake}");
}
