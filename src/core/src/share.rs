//! A share of one GPU's time, exactly.
//!
//! Owns how a share is written and what it may be. Knows neither where it was written nor how it is kept.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use crate::decimal::Decimal;
use std::fmt;
use std::str::FromStr;

/// A share of a GPU's time: 1 to 1 000 000 parts per million, so a percentage with up to four decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share {
    ppm: u32,
}

/// Parts per million in one percent.
const PPM_PER_PERCENT: u32 = 10_000;
/// Decimals of a percentage that parts per million can express.
const MOST_DECIMALS: u32 = 4;

impl Share {
    /// All of the GPU's time, which is no limit.
    pub const WHOLE: Share = Share { ppm: 1_000_000 };

    /// A share in parts per million; `None` unless it is 1 to 1 000 000.
    pub const fn from_ppm(ppm: u32) -> Option<Share> {
        if ppm >= 1 && ppm <= Share::WHOLE.ppm { Some(Share { ppm }) } else { None }
    }

    /// Parts per million of the GPU's time, 1 to 1 000 000.
    pub const fn ppm(self) -> u32 {
        self.ppm
    }

    /// Whether this is all of the GPU's time, which is no limit.
    pub const fn is_whole(self) -> bool {
        self.ppm == Share::WHOLE.ppm
    }

    /// Whether it is a percentage without decimals.
    pub const fn is_whole_percentage(self) -> bool {
        self.ppm.is_multiple_of(PPM_PER_PERCENT)
    }
}

impl FromStr for Share {
    type Err = ShareError;

    /// Reads a percentage of the whole GPU: `30`, `30%`, `12.5`, `0.5 %`, with spaces around it or none.
    fn from_str(text: &str) -> Result<Share, ShareError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(ShareError::Empty);
        }
        if text.starts_with('-') {
            return Err(ShareError::Negative);
        }
        let number = text.strip_suffix('%').unwrap_or(text).trim_end();
        let percent = Decimal::parse(number).ok_or(ShareError::NotANumber)?;
        if percent.is_zero() {
            return Err(ShareError::Zero);
        }
        if percent.decimals() > MOST_DECIMALS {
            return Err(ShareError::TooFine);
        }
        let ppm = percent.times(u64::from(PPM_PER_PERCENT)).and_then(|ppm| u32::try_from(ppm).ok());
        ppm.and_then(Share::from_ppm).ok_or(ShareError::AboveWhole)
    }
}

impl fmt::Display for Share {
    /// `30 %`, `12.5 %`: the shortest exact form, which [`Share::from_str`] reads back.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let fraction = format!("{:04}", self.ppm % PPM_PER_PERCENT);
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{} %", self.ppm / PPM_PER_PERCENT),
            fraction => write!(f, "{}.{fraction} %", self.ppm / PPM_PER_PERCENT),
        }
    }
}

/// Why a text is no share. Displays as what is wrong with the text and what would be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareError {
    /// Nothing but spaces.
    Empty,
    /// Anything else than digits, one point and one percent sign: exponents, NaN, words.
    NotANumber,
    /// Below zero.
    Negative,
    /// Exactly zero: a program without any GPU time could not even start.
    Zero,
    /// More than 100 %.
    AboveWhole,
    /// More decimals than parts per million can express.
    TooFine,
}

impl ShareError {
    /// What would be right.
    pub const REMEDY: &str = "write 1 to 100, such as 30; decimals work: 12.5";

    /// What is wrong, to follow the text in quotes.
    pub fn problem(self) -> &'static str {
        match self {
            ShareError::Empty => "is empty",
            ShareError::NotANumber => "is not a percentage",
            ShareError::Negative => "is negative",
            ShareError::Zero => "is no GPU time at all",
            ShareError::AboveWhole => "is more than the whole GPU",
            ShareError::TooFine => "has more than four decimals",
        }
    }
}

impl fmt::Display for ShareError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}; {}", self.problem(), ShareError::REMEDY)
    }
}

impl std::error::Error for ShareError {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percentages_are_exact_parts_per_million() {
        let table = [
            ("1", 10_000),
            ("30", 300_000),
            ("30%", 300_000),
            (" 30 ", 300_000),
            ("30 %", 300_000),
            ("12.5", 125_000),
            ("0.5 %", 5_000),
            (".5", 5_000),
            ("2.", 20_000),
            ("0.0001", 1),
            ("33.3333%", 333_333),
            ("99.9999", 999_999),
            ("100", 1_000_000),
            ("100.0000000000000000000000000000", 1_000_000),
            ("0000000000000000000000000000000000000000000050", 500_000),
        ];
        for (text, ppm) in table {
            assert_eq!(text.parse::<Share>().map(Share::ppm), Ok(ppm), "{text}");
        }
    }

    #[test]
    fn mistakes_are_told_apart() {
        let table = [
            ("", ShareError::Empty),
            ("  ", ShareError::Empty),
            ("0", ShareError::Zero),
            ("0%", ShareError::Zero),
            ("0.00000", ShareError::Zero),
            ("-1", ShareError::Negative),
            ("-0", ShareError::Negative),
            ("100.0001", ShareError::AboveWhole),
            ("101", ShareError::AboveWhole),
            ("18446744073709551616", ShareError::AboveWhole),
            ("999999999999999999999999999999999999999999", ShareError::AboveWhole),
            ("0.00001", ShareError::TooFine),
            ("30.123456", ShareError::TooFine),
            ("%", ShareError::NotANumber),
            (".", ShareError::NotANumber),
            ("30%%", ShareError::NotANumber),
            ("%30", ShareError::NotANumber),
            ("+30", ShareError::NotANumber),
            ("3 0", ShareError::NotANumber),
            ("1e1", ShareError::NotANumber),
            ("0x1e", ShareError::NotANumber),
            ("1.2.3", ShareError::NotANumber),
            ("NaN", ShareError::NotANumber),
            ("inf", ShareError::NotANumber),
            ("half", ShareError::NotANumber),
            ("30GiB", ShareError::NotANumber),
            ("３０", ShareError::NotANumber),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<Share>(), Err(expected), "{text}");
        }
        assert_eq!(
            ShareError::AboveWhole.to_string(),
            "is more than the whole GPU; write 1 to 100, such as 30; decimals work: 12.5"
        );
    }

    #[test]
    fn shares_display_in_their_shortest_form() {
        let shown = |ppm| Share::from_ppm(ppm).unwrap().to_string();
        assert_eq!(shown(300_000), "30 %");
        assert_eq!(shown(125_000), "12.5 %");
        assert_eq!(shown(1), "0.0001 %");
        assert_eq!(shown(1_000_000), "100 %");
    }

    #[test]
    fn only_all_of_it_is_whole() {
        assert!(Share::WHOLE.is_whole());
        assert!(!Share::from_ppm(999_999).unwrap().is_whole());
        assert_eq!(Share::from_ppm(0), None);
        assert_eq!(Share::from_ppm(1_000_001), None);
    }

    proptest! {
        #[test]
        fn shares_survive_display_and_parse(ppm in 1..=1_000_000u32) {
            let share = Share::from_ppm(ppm).unwrap();
            prop_assert_eq!(share.to_string().parse(), Ok(share));
        }

        #[test]
        fn any_text_is_a_share_in_range_or_a_mistake(
            text in prop_oneof!["[ ]?-?[0-9.]{0,45}[ ]?%?[ ]?", "\\PC{0,20}"],
        ) {
            if let Ok(share) = text.parse::<Share>() {
                prop_assert!((1..=1_000_000).contains(&share.ppm()));
            }
        }

        #[test]
        fn four_decimals_are_exact_and_a_fifth_is_refused(
            whole in 0..100u32,
            fraction in 0..10_000u32,
            fifth in 1..10u32,
        ) {
            let text = format!("{whole}.{fraction:04}");
            let ppm = whole * 10_000 + fraction;
            let expected = Share::from_ppm(ppm).ok_or(ShareError::Zero);
            prop_assert_eq!(text.parse(), expected);
            let finer = format!("{text}{fifth}");
            prop_assert_eq!(finer.parse::<Share>(), Err(ShareError::TooFine));
        }
    }
}
