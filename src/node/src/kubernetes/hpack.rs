//! Finds the value of `:authority` in a block of compressed HTTP/2 headers (RFC 7541).
//!
//! Walks the block by lengths alone: nothing is decoded, and no table is kept. Must never be wrong about where a value
//! begins and ends; about a block that it does not understand it says so.

use std::ops::Range;

/// The number of `:authority` in the static table.
const AUTHORITY_INDEX: usize = 1;
/// The name, as it is and in Huffman code.
const AUTHORITY: &[u8] = b":authority";
const AUTHORITY_HUFFMAN: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
/// Longer than any block that is looked at.
const LONGEST_INTEGER: usize = 1 << 20;

/// Where in a block a text is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Its length and it.
    pub whole: Range<usize>,
    /// It alone, in whichever code.
    pub content: Range<usize>,
}

/// Why a block can't be followed to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclear {
    /// It ends within a field, as the first part of a longer block may.
    Truncated,
    /// It is no block of headers.
    Malformed,
}

/// The values of all literal `:authority` fields in `block`, and whether it was understood to its end.
pub fn authorities(block: &[u8]) -> (Vec<Text>, Result<(), Unclear>) {
    let mut found = Vec::new();
    let mut reader = Reader { block, at: 0 };
    while reader.at < block.len() {
        match reader.field() {
            Ok(Some(value)) => found.push(value),
            Ok(None) => {}
            Err(unclear) => return (found, Err(unclear)),
        }
    }
    (found, Ok(()))
}

struct Reader<'a> {
    block: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// Goes over one field; where its value is, if it is a literal `:authority`.
    fn field(&mut self) -> Result<Option<Text>, Unclear> {
        let first = *self.block.get(self.at).ok_or(Unclear::Truncated)?;
        let prefix_bits = match first {
            // A field of a table.
            0x80.. => return self.integer(7).map(|_| None),
            // A literal that enters the table.
            0x40..=0x7f => 6,
            // The table's size.
            0x20..=0x3f => return self.integer(5).map(|_| None),
            // A literal that does not.
            _ => 4,
        };
        let is_authority = match self.integer(prefix_bits)? {
            0 => {
                let name = self.text()?;
                let is_huffman = self.block[name.whole.start] & 0x80 != 0;
                self.block[name.content] == *if is_huffman { AUTHORITY_HUFFMAN } else { AUTHORITY }
            }
            index => index == AUTHORITY_INDEX,
        };
        let value = self.text()?;
        Ok(is_authority.then_some(value))
    }

    fn text(&mut self) -> Result<Text, Unclear> {
        let start = self.at;
        let length = self.integer(7)?;
        let content = self.at;
        if length > self.block.len() - content {
            return Err(Unclear::Truncated);
        }
        self.at += length;
        Ok(Text { whole: start..self.at, content: content..self.at })
    }

    /// An integer in the last `prefix_bits` of a byte and, if it does not fit, in those behind.
    fn integer(&mut self, prefix_bits: u32) -> Result<usize, Unclear> {
        let most = (1_usize << prefix_bits) - 1;
        let mut value = usize::from(self.byte()?) & most;
        if value < most {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if value > LONGEST_INTEGER {
                break;
            }
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Unclear::Malformed)
    }

    fn byte(&mut self) -> Result<u8, Unclear> {
        let byte = *self.block.get(self.at).ok_or(Unclear::Truncated)?;
        self.at += 1;
        Ok(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(block: &[u8]) -> Vec<&[u8]> {
        let (found, understood) = authorities(block);
        assert_eq!(understood, Ok(()));
        found.into_iter().map(|value| &block[value.content]).collect()
    }

    #[test]
    fn every_way_to_write_it_is_found() {
        let with = |head: &[u8]| [&[0x86], head, b"\x03a%b\x84"].concat();
        // Entering the table, not entering it, never to enter one.
        for head in [0x41, 0x01, 0x11] {
            assert_eq!(one(&with(&[head])), [b"a%b"], "{head:x?}");
        }
        // With its name.
        for first in [0x40, 0x00, 0x10] {
            let plain = [&[first, 10], AUTHORITY].concat();
            let huffman = [&[first, 0x88], AUTHORITY_HUFFMAN].concat();
            assert_eq!(one(&with(&plain)), [b"a%b"]);
            assert_eq!(one(&with(&huffman)), [b"a%b"]);
        }
        // Something else.
        assert!(one(&with(&[0x44])).is_empty());
        assert!(one(&with(b"\x40\x0a:authoritz")).is_empty());
        assert!(one(&[0x3f, 0xe1, 0x1f, 0x81]).is_empty(), "a size of 4096, and a field of the table");
    }

    #[test]
    fn what_is_no_block_is_told() {
        for (block, unclear) in [
            (&[0x41][..], Unclear::Truncated),
            (b"\x41\x03a%", Unclear::Truncated),
            (&[0x40, 0x7f, 0xff, 0xff], Unclear::Truncated),
            (&[0x40, 0x7f, 0xff, 0xff, 0xff, 0xff, 0x7f], Unclear::Malformed),
            (&[0x40, 0x7f, 0x80, 0x80, 0x80, 0x80, 0x00], Unclear::Malformed),
        ] {
            assert_eq!(authorities(block), (Vec::new(), Err(unclear)), "{block:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(block in prop::collection::vec(any::<u8>(), 0..300)) {
            let (found, _) = authorities(&block);
            for value in found {
                prop_assert!(value.whole.end <= block.len());
                prop_assert!(value.whole.start < value.content.start && value.content.end == value.whole.end);
            }
        }
    }
}
