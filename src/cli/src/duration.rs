//! Spans of time for people, in few characters.

/// `12.4 s`, `3.1 ms`, `820 ns`, `0 s`, and from ten minutes on `12.5 min` and `80.0 h`.
pub fn text(ns: u64) -> String {
    // Name, length, and from where on: early enough to leave at most three digits before the point, if it can be.
    const UNITS: [(&str, f64, u64); 5] = [
        ("h", 3_600e9, 36_000_000_000_000),
        ("min", 60e9, 600_000_000_000),
        ("s", 1e9, 1_000_000_000),
        ("ms", 1e6, 1_000_000),
        ("us", 1e3, 1_000),
    ];
    if ns == 0 {
        return "0 s".to_owned();
    }
    match UNITS.into_iter().find(|(_, _, from_ns)| ns >= *from_ns) {
        // Rounded down: a time that is shown has passed.
        Some((name, unit_ns, _)) => format!("{:.1} {name}", (ns as f64 / unit_ns * 10.0).floor() / 10.0),
        None => format!("{ns} ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn spans_read_well() {
        let table = [
            (0, "0 s"),
            (820, "820 ns"),
            (1_000, "1.0 us"),
            (999_999, "999.9 us"),
            (3_100_000, "3.1 ms"),
            (12_400_000_000, "12.4 s"),
            (599_999_999_999, "599.9 s"),
            (600_000_000_000, "10.0 min"),
            (36_000_000_000_000, "10.0 h"),
            (u64::MAX, "5124095.5 h"),
        ];
        for (ns, expected) in table {
            assert_eq!(text(ns), expected);
        }
    }
}
