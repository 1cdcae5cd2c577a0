//! How a slice takes part where several want one GPU at the same time.
//!
//! Owns how that is written and what it may be, and its form as one word of the control file. Knows neither where it was
//! written nor what is done about it.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use crate::share::Share;
use std::fmt;

/// How a slice shares a GPU with others, beside its [`Share`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharing {
    /// Whether the share is the least that the slice gets when it wants it, and not also the most: what others leave is
    /// used too. Without a share there is no most either way.
    pub elastic: bool,
    /// By what what is left over is divided.
    pub weight: Weight,
    /// Who goes first.
    pub priority: Priority,
}

/// A slice's part of what is left over of a GPU, against the weights of the others: 1 to 10 000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u16);

/// Who goes first where several wait for a GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Priority {
    /// In turn.
    #[default]
    Normal,
    /// Before all of normal priority.
    High,
}

/// [`Sharing::to_word`]: the weight is here, and 0 where nothing is said.
pub const WEIGHT_MASK: u64 = 0xffff;
/// [`Sharing::to_word`]: set if elastic.
pub const ELASTIC_BIT: u64 = 1 << 16;
/// [`Sharing::to_word`]: set if of high priority.
pub const HIGH_PRIORITY_BIT: u64 = 1 << 17;

impl Sharing {
    /// As the control file has it; never 0.
    pub const fn to_word(self) -> u64 {
        let elastic = if self.elastic { ELASTIC_BIT } else { 0 };
        let priority = if matches!(self.priority, Priority::High) { HIGH_PRIORITY_BIT } else { 0 };
        self.weight.0 as u64 | elastic | priority
    }

    /// What [`Sharing::to_word`] made of it; `None` of 0 and of a word whose weight is none.
    pub fn from_word(word: u64) -> Option<Sharing> {
        Some(Sharing {
            elastic: word & ELASTIC_BIT != 0,
            weight: Weight::new((word & WEIGHT_MASK) as u32)?,
            priority: if word & HIGH_PRIORITY_BIT == 0 { Priority::Normal } else { Priority::High },
        })
    }
}

impl fmt::Display for Sharing {
    /// `weight 30`, `elastic, weight 30, high priority`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(if self.elastic { "elastic, " } else { "" })?;
        write!(f, "weight {}", self.weight)?;
        f.write_str(if self.priority == Priority::High { ", high priority" } else { "" })
    }
}

impl Weight {
    /// What would be right.
    pub const REMEDY: &str = "write a whole number from 1 to 10000, such as 30";
    const MOST: u32 = 10_000;
    const PPM_PER_PERCENT: u32 = 10_000;

    /// A weight; `None` unless it is 1 to 10 000.
    pub fn new(weight: u32) -> Option<Weight> {
        let weight = u16::try_from(weight).ok()?;
        (weight >= 1 && u32::from(weight) <= Weight::MOST).then_some(Weight(weight))
    }

    /// Where no weight is given: the share in whole percent, at least 1; 100 without a share.
    pub fn of_share(share: Option<Share>) -> Weight {
        let percent = share.unwrap_or(Share::WHOLE).ppm() / Weight::PPM_PER_PERCENT;
        Weight(percent.max(1) as u16)
    }

    /// 1 to 10 000.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// Reads a weight, with spaces around it or none.
    pub fn parse(text: &str) -> Option<Weight> {
        let text = text.trim();
        // The standard library would take a plus sign.
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Weight::new(text.parse().ok()?)
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Priority {
    /// What would be right.
    pub const REMEDY: &str = "write normal or high";

    /// Reads a priority, with spaces around it or none.
    pub fn parse(text: &str) -> Option<Priority> {
        [Priority::Normal, Priority::High].into_iter().find(|priority| text.trim() == priority.name())
    }

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Priority::Normal => "normal",
            Priority::High => "high",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn weights_are_whole_numbers_in_range() {
        for (text, weight) in [("1", 1), ("30", 30), (" 30 ", 30), ("00030", 30), ("10000", 10_000)] {
            assert_eq!(Weight::parse(text).map(Weight::get), Some(weight), "{text}");
        }
        for text in ["", " ", "0", "-1", "+1", "1.5", "30%", "10001", "65537", "4294967297", "1e3", "３"] {
            assert_eq!(Weight::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_weight_that_is_not_given_is_the_share_in_percent() {
        let of = |ppm| Weight::of_share(Some(Share::from_ppm(ppm).unwrap())).get();
        assert_eq!([of(1), of(9_999), of(10_000), of(129_999), of(300_000)], [1, 1, 1, 12, 30]);
        assert_eq!([of(1_000_000), Weight::of_share(None).get()], [100, 100]);
    }

    #[test]
    fn priorities_have_two_names() {
        assert_eq!(Priority::parse(" high "), Some(Priority::High));
        assert_eq!(Priority::parse("normal"), Some(Priority::Normal));
        for text in ["", "High", "low", "0"] {
            assert_eq!(Priority::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_word_without_a_weight_says_nothing() {
        assert_eq!(Sharing::from_word(0), None);
        assert_eq!(Sharing::from_word(ELASTIC_BIT | HIGH_PRIORITY_BIT), None);
        assert_eq!(Sharing::from_word(10_001), None);
    }

    #[test]
    fn sharing_displays_what_is_not_usual() {
        let weight = Weight::new(30).unwrap();
        let mut sharing = Sharing { elastic: false, weight, priority: Priority::Normal };
        assert_eq!(sharing.to_string(), "weight 30");
        sharing.elastic = true;
        sharing.priority = Priority::High;
        assert_eq!(sharing.to_string(), "elastic, weight 30, high priority");
    }

    proptest! {
        #[test]
        fn sharing_survives_its_word(elastic: bool, weight in 1..=10_000u32, high: bool, later in 18..64u32) {
            let priority = if high { Priority::High } else { Priority::Normal };
            let sharing = Sharing { elastic, weight: Weight::new(weight).unwrap(), priority };
            prop_assert_eq!(Sharing::from_word(sharing.to_word()), Some(sharing));
            prop_assert_eq!(Sharing::from_word(sharing.to_word() | 1 << later), Some(sharing));
        }

        #[test]
        fn any_text_is_a_weight_in_range_or_none(text in prop_oneof!["[ ]?[-+]?[0-9]{0,12}[.]?[ ]?", "\\PC{0,20}"]) {
            if let Some(weight) = Weight::parse(&text) {
                prop_assert!((1..=10_000).contains(&weight.get()));
                prop_assert_eq!(Weight::parse(&weight.to_string()), Some(weight));
            }
        }
    }
}
