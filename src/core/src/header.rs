//! The header of a control file as bytes: written once into a new file, compared in every file that is opened.
//!
//! Owns the one list of its fixed fields. It must never read through a mapping: a file not yet known to be whole is read
//! by system call, where its end is an answer and not a fault.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use core::mem::{offset_of, size_of};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::abi::{self, ControlFile, FILE_BYTES, Header};
use crate::error::{ControlError, ControlErrorKind as Kind};
use crate::quota::PAGE_BYTES;
use crate::region::unix_time_ns;

/// A field of the header that is the same in every file: its offset, its width in bytes and its value.
type Field = (usize, usize, u64);

/// The one list that new files are written from and found files compared with.
const FIELDS: [Field; 16] = [
    (offset_of!(Header, magic), 8, abi::MAGIC),
    (offset_of!(Header, version), 4, abi::VERSION as u64),
    (offset_of!(Header, header_bytes), 4, size_of::<Header>() as u64),
    (offset_of!(Header, file_bytes), 8, FILE_BYTES as u64),
    (offset_of!(Header, page_bytes), 4, PAGE_BYTES),
    (offset_of!(Header, device_capacity), 4, abi::DEVICE_CAPACITY as u64),
    (offset_of!(Header, slot_capacity), 4, abi::SLOT_CAPACITY as u64),
    (offset_of!(Header, device_bytes), 4, size_of::<abi::Device>() as u64),
    (offset_of!(Header, slot_bytes), 4, size_of::<abi::Slot>() as u64),
    (offset_of!(Header, slot_device_bytes), 4, size_of::<abi::SlotDevice>() as u64),
    (offset_of!(Header, devices_offset), 8, offset_of!(ControlFile, devices) as u64),
    (offset_of!(Header, slots_offset), 8, offset_of!(ControlFile, slots) as u64),
    (offset_of!(Header, slot_devices_offset), 8, offset_of!(abi::Slot, devices) as u64),
    (offset_of!(Header, coverage_offset), 8, offset_of!(ControlFile, coverage) as u64),
    (offset_of!(Header, sentinel_offset), 8, offset_of!(ControlFile, tail) as u64),
    (offset_of!(Header, lock_base), 8, abi::LOCK_BASE),
];

/// Bytes of the header that mean something.
const USED_BYTES: usize = offset_of!(Header, ready) + 8;

/// The start of a new file's header, up to and including `ready`.
pub(crate) fn of_new_file(generation: u64) -> [u8; USED_BYTES] {
    let own: [Field; 3] = [
        (offset_of!(Header, created_unix_ns), 8, unix_time_ns()),
        (offset_of!(Header, generation), 8, generation),
        (offset_of!(Header, ready), 8, abi::READY),
    ];
    let mut header = [0; USED_BYTES];
    for (offset, width, value) in FIELDS.into_iter().chain(own) {
        for (place, byte) in header.iter_mut().skip(offset).take(width).zip(value.to_le_bytes()) {
            *place = byte;
        }
    }
    header
}

/// The number at `offset` of a header, 0 beyond its end.
fn field_at(header: &[u8], offset: usize, width: usize) -> u64 {
    let bytes = header.iter().skip(offset).take(width);
    bytes.rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Reads the header by system call, where a truncated file is an error and not a fault, and compares it.
pub(crate) fn validate(path: &Path, file: &File) -> Result<(), ControlError> {
    let fail = |kind| Err(ControlError::new(path, kind));
    let unreadable = |error| ControlError::io(path, "read it", error);
    let found = file.metadata().map_err(unreadable)?.len();
    let mut header = [0; USED_BYTES];
    let length = header.len().min(usize::try_from(found).unwrap_or(usize::MAX));
    let (present, _) = header.split_at_mut(length);
    file.read_exact_at(present, 0).map_err(unreadable)?;

    if field_at(&header, offset_of!(Header, magic), 8) != abi::MAGIC {
        return fail(Kind::NotControlFile);
    }
    let version = field_at(&header, offset_of!(Header, version), 4) as u32;
    if version != abi::VERSION {
        return fail(Kind::WrongVersion { found: version });
    }
    if found != FILE_BYTES as u64 {
        return fail(Kind::WrongSize { found });
    }
    let described = FIELDS.iter().all(|&(offset, width, value)| field_at(&header, offset, width) == value);
    if !described || field_at(&header, offset_of!(Header, generation), 8) == 0 {
        return fail(Kind::WrongLayout);
    }
    if field_at(&header, offset_of!(Header, ready), 8) != abi::READY {
        return fail(Kind::NotReady);
    }
    Ok(())
}
