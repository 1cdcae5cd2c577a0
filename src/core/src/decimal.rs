//! Decimal numbers as people write them, exactly: no rounding before the last step, and no exponents.

/// A non-negative decimal number: `digits` divided by ten to the power of `decimals`.
pub struct Decimal {
    digits: u128,
    decimals: u32,
}

impl Decimal {
    /// Reads `12`, `1.5` or `.5`, with up to 18 decimals. What exceeds 128 bits is kept as the largest.
    pub fn parse(text: &str) -> Option<Decimal> {
        const MOST_DECIMALS: usize = 18;
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.len() + fraction.len() == 0 || !is_digits(whole) || !is_digits(fraction) {
            return None;
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > MOST_DECIMALS {
            return None;
        }
        let digits = whole.bytes().chain(fraction.bytes()).try_fold(0u128, |digits, byte| {
            digits.checked_mul(10)?.checked_add(u128::from(byte.wrapping_sub(b'0')))
        });
        Some(match digits {
            Some(digits) => Decimal { digits, decimals: fraction.len() as u32 },
            None => Decimal { digits: u128::MAX, decimals: 0 },
        })
    }

    /// Whether it is exactly zero.
    pub fn is_zero(&self) -> bool {
        self.digits == 0
    }

    /// Digits after the point that are needed to write it.
    pub fn decimals(&self) -> u32 {
        self.decimals
    }

    /// This number times `factor`, rounded down; `None` if that exceeds 64 bits.
    pub fn times(&self, factor: u64) -> Option<u64> {
        let divisor = 10u128.checked_pow(self.decimals)?;
        // Whole and fraction apart, so that long fractions of small numbers do not overflow.
        let whole = (self.digits / divisor).checked_mul(u128::from(factor))?;
        let fraction = (self.digits % divisor).checked_mul(u128::from(factor))? / divisor;
        u64::try_from(whole.checked_add(fraction)?).ok()
    }
}
