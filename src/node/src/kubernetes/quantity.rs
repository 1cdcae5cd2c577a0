//! Amounts as Kubernetes writes them: `12Gi`, `30`, `1.5Gi`, `500m`, `2e3`.
//!
//! Owns reading them exactly, and writing bytes. It must not round: what is no whole number is no answer.

/// What an amount comes to; `None` if it can't be read or is no whole number up to [`u64::MAX`].
pub fn parse(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > 30 || fraction.contains('.') {
        return None;
    }
    let digits: u128 = digits.parse().ok()?;
    let (factor, exponent) = scale(suffix)?;
    let tens = exponent - i32::try_from(fraction.len()).ok()?;
    let digits = digits.checked_mul(factor)?;
    let power = 10_u128.checked_pow(tens.unsigned_abs())?;
    let value = if tens >= 0 {
        digits.checked_mul(power)?
    } else if digits % power == 0 {
        digits / power
    } else {
        return None;
    };
    u64::try_from(value).ok()
}

/// What a suffix multiplies by: a factor and a power of ten.
fn scale(suffix: &str) -> Option<(u128, i32)> {
    let binary = |power: u32| Some((1 << (10 * power), 0));
    match suffix {
        "" => Some((1, 0)),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        "n" => Some((1, -9)),
        "u" => Some((1, -6)),
        "m" => Some((1, -3)),
        "k" => Some((1, 3)),
        "M" => Some((1, 6)),
        "G" => Some((1, 9)),
        "T" => Some((1, 12)),
        "P" => Some((1, 15)),
        "E" => Some((1, 18)),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let exponent: i32 = exponent.parse().ok()?;
            (-30..=30).contains(&exponent).then_some((1, exponent))
        }
    }
}

/// Bytes as people write them, in the largest unit of which they are a whole number.
pub fn of_bytes(bytes: u64) -> String {
    let units = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let unit = if bytes == 0 { 0 } else { (bytes.trailing_zeros() / 10).min(6) };
    format!("{}{}", bytes >> (10 * unit), units[unit as usize])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_read_exactly() {
        for (text, expected) in [
            ("12Gi", Some(12 << 30)),
            ("1.5Gi", Some(3 << 29)),
            ("10496Mi", Some(10_496 << 20)),
            ("30", Some(30)),
            ("30000m", Some(30)),
            ("2e3", Some(2000)),
            ("2E3", Some(2000)),
            ("20e-1", Some(2)),
            ("1k", Some(1000)),
            ("0", Some(0)),
            (".5k", Some(500)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("16Ei", None),
            ("500m", None),
            ("1.5", None),
            ("0.3Ki", None),
            ("", None),
            (".", None),
            ("Gi", None),
            ("-1", None),
            ("+1", None),
            ("1.2.3", None),
            ("1 Gi", None),
            ("1gi", None),
            ("1e", None),
            ("1e99", None),
            ("9999999999999999999999999999999999999999", None),
            ("1e-30", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes: u64) {
            prop_assert_eq!(parse(&of_bytes(bytes)), Some(bytes));
        }

        #[test]
        fn any_text_is_survived(text in ".{0,40}") {
            parse(&text);
        }
    }
}
