//! Amounts of memory for people, in binary units and few characters.

/// `1.50 GiB`, `512 MiB`, `0 B`: rounded to what fits, with the unit that leaves at least 1 before the point.
pub fn text(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let Some((name, unit)) = UNITS.into_iter().find(|(_, unit)| bytes >= *unit) else {
        return format!("{bytes} B");
    };
    let value = bytes as f64 / unit as f64;
    match name {
        "TiB" | "GiB" => format!("{value:.2} {name}"),
        _ if bytes.is_multiple_of(unit) => format!("{} {name}", bytes / unit),
        _ => format!("{value:.1} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn amounts_read_well() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (512 << 20, "512 MiB"),
            (4 << 30, "4.00 GiB"),
            ((4 << 30) + (512 << 20), "4.50 GiB"),
            (2 << 40, "2.00 TiB"),
            (u64::MAX, "16777216.00 TiB"),
        ];
        for (bytes, expected) in table {
            assert_eq!(text(bytes), expected);
        }
    }
}
