//! Anything at all in the file: no panic, no fault, no endless loop.
#![cfg(not(loom))]

use std::fs::OpenOptions;
use std::mem::{offset_of, size_of};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vcuda_core::abi::{ControlFile, Device, Slot, SlotDevice};
use vcuda_core::account::Account;
use vcuda_core::control::Control;
use vcuda_core::device::Uuid;

const GPU: Uuid = Uuid::gpu(*b"0123456789abcdef");

/// Everything that reads or writes the file, without regard to what it answers.
fn use_everything(control: &Arc<Control>, account: &mut Account, pages: u64) {
    let _ = account.reserve(pages, 1000);
    let _ = account.force(pages >> 20);
    let _ = account.release(pages / 2);
    let _ = account.set_overhead_pages(pages);
    let _ = account.overhead_pages();
    let _ = account.device_used_pages();
    let _ = account.count_refusal();
    let _ = control.device(Uuid::gpu([pages as u8 | 1; 16]));
    let _ = control.limit_bytes(account.device());
    let _ = control.physical_bytes(account.device());
    let _ = control.context_pages_learned(account.device());
    let _ = control.snapshot().map(|snapshot| format!("{snapshot:?}"));
    let slot = control.claim("while it lasts");
    if let Ok(Ok(Some(mut account))) = slot.map(|slot| slot.account(account.device())) {
        let _ = account.reserve(pages, u64::MAX);
        let _ = account.release(u64::MAX);
    }
    let _ = control.reap();
}

/// Offsets of the words that matter most, of the first device and the first slots; and any others.
fn offset() -> impl Strategy<Value = usize> {
    let device = offset_of!(ControlFile, devices);
    let slots = offset_of!(ControlFile, slots);
    let words =
        (0usize..4, 0usize..2, 0usize..size_of::<SlotDevice>() / 8).prop_map(move |(slot, device, word)| {
            let entry = slots + slot * size_of::<Slot>() + offset_of!(Slot, devices);
            entry + device * size_of::<SlotDevice>() + word * 8
        });
    prop_oneof![
        4 => (0..2 * size_of::<Device>() / 8).prop_map(move |word| device + word * 8),
        4 => words,
        3 => (0usize..4, 0..offset_of!(Slot, devices) / 8).prop_map(move |(s, word)| slots + s * size_of::<Slot>() + word * 8),
        1 => 0..14usize * 8,
        2 => 0..size_of::<ControlFile>(),
    ]
}

/// Near an honest value, or anything.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        any::<u64>(),
        Just(0),
        Just(u64::MAX),
        (0u64..20, 0u64..4, 0u64..4).prop_map(|(used, slot, sequence)| used << 28 | slot << 16 | sequence),
        (0u64..20, 0u64..4).prop_map(|(used, sequence)| used << 28 | sequence),
    ];
    prop_oneof![
        8 => word.prop_map(|word| word.to_le_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..5000),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_anywhere_between_any_calls(
        steps in prop::collection::vec((offset(), garbage(), any::<u64>()), 1..24),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let control = Control::open_or_create(&path).unwrap();
        let device = control.device(GPU).unwrap();
        let slot = control.claim("test").unwrap();
        let mut account = slot.account(device).unwrap().unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let length = size_of::<ControlFile>();
        let start = Instant::now();
        for (offset, bytes, pages) in steps {
            let end = length.min(offset + bytes.len());
            file.write_all_at(&bytes[..end - offset], offset as u64).unwrap();
            use_everything(&control, &mut account, pages % 2000);
            let _ = Control::open_or_create(&path).map(|control| control.snapshot());
        }
        prop_assert!(start.elapsed() < Duration::from_secs(20));
    }
}

/// A writer without pause against every operation: they give up or succeed, but return.
#[test]
fn a_scribbler_cannot_hold_anyone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let control = Control::open_or_create(&path).unwrap();
    let device = control.device(GPU).unwrap();
    let slot = control.claim("test").unwrap();
    let mut account = slot.account(device).unwrap().unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let quota = offset_of!(ControlFile, devices) + offset_of!(Device, quota);
            let state = offset_of!(ControlFile, slots) + offset_of!(Slot, state);
            let mut random = 1u64;
            while !stop.load(Ordering::Relaxed) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                file.write_all_at(&(random >> 30).to_le_bytes(), quota as u64).unwrap();
                file.write_all_at(&(random >> 7).to_le_bytes(), state as u64).unwrap();
            }
        });
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            use_everything(&control, &mut account, 7);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(start.elapsed() < Duration::from_secs(30));
    });
}
