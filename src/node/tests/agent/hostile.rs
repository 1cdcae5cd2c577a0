//! Control files that somebody wrote who wishes the agent ill, or everybody else on the machine.

use crate::world::{GPU, World, metrics_of};
use proptest::prelude::*;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::mem::{offset_of, size_of};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vcuda_core::abi::{ControlFile, Device, FILE_BYTES, Header, Slot};
use vcuda_core::device::Uuid;

/// Offsets that matter, and any others.
fn offset() -> impl Strategy<Value = usize> {
    let device = offset_of!(ControlFile, devices);
    let slots = offset_of!(ControlFile, slots);
    prop_oneof![
        4 => (0..3 * size_of::<Device>() / 8).prop_map(move |word| device + word * 8),
        3 => (0usize..4, 0..40usize).prop_map(move |(slot, word)| slots + slot * size_of::<Slot>() + word * 8),
        1 => Just(offset_of!(Header, slots_ever_claimed)),
        1 => Just(offset_of!(Header, created_unix_ns)),
        1 => 0..size_of::<Header>(),
        2 => 0..FILE_BYTES,
    ]
}

fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), 1u64..9, Just(1 << 63)];
    prop_oneof![
        8 => word.prop_map(|word| word.to_le_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..5000),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_in_the_file_the_text_is_sound_and_counters_never_fall(
        steps in prop::collection::vec((offset(), garbage()), 1..16),
    ) {
        let world = World::new();
        let path = world.user().join("control");
        let control = world.slice(&path);
        let slot = control.claim("victim").unwrap();
        let _account = slot.account(control.device(GPU).unwrap()).unwrap();
        let honest = world.slice(&world.path("shares/honest/control"));
        honest.device(Uuid::gpu([9; 16])).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let mut watcher = world.watcher(&[]);
        let mut before = metrics_of(watcher.look());
        let start = Instant::now();
        for (offset, bytes) in steps {
            let end = FILE_BYTES.min(offset + bytes.len());
            file.write_all_at(&bytes[..end - offset], offset as u64).unwrap();
            let metrics = metrics_of(watcher.look());
            for (series, value) in metrics.all() {
                let old = before.all().get(series).copied().unwrap_or(0.0);
                prop_assert!(!series.contains("_total") || old <= *value, "{series} fell from {old} to {value}");
            }
            let names = metrics.all().keys().filter(|series| series.contains("share=\"honest\"")).count();
            prop_assert_eq!(names, before.all().keys().filter(|series| series.contains("share=\"honest\"")).count());
            before = metrics;
        }
        prop_assert!(start.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn a_device_named_twice_is_told_once() {
    let world = World::new();
    let path = world.user().join("control");
    world.slice(&path).device(Uuid::gpu([9; 16])).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut first = [0; 16];
    let devices = offset_of!(ControlFile, devices) as u64;
    file.read_exact_at(&mut first, devices).unwrap();
    file.write_all_at(&first, devices + size_of::<Device>() as u64).unwrap();
    let metrics = metrics_of(world.watcher(&[]).look());
    assert!(metrics.find("vcuda_container_processes", &[]).is_some());
}

#[test]
fn made_up_devices_and_names_stay_within_bounds() {
    let world = World::new();
    let name = "\"} 1\nvcuda_device_healthy{x=\"\\";
    let control = world.slice(&world.user().join(name));
    for number in 0..40 {
        control.device(Uuid::gpu([100 + number; 16])).unwrap();
    }
    let metrics = metrics_of(world.watcher(&[]).look());
    let processes =
        metrics.all().keys().filter(|series| series.starts_with("vcuda_container_processes")).count();
    assert_eq!(processes, 32);
    assert_eq!(metrics.find("vcuda_device_healthy", &[]), None, "a name was taken for a line");
}

#[test]
fn names_that_read_alike_are_told_apart() {
    let world = World::new();
    for byte in [0xf1, 0xf2, 0xf3, 0xf4] {
        world.slice(&world.user().join(OsStr::from_bytes(&[b'a', byte])));
    }
    let metrics = metrics_of(world.watcher(&[]).look());
    let told = metrics.all().keys().filter(|series| series.starts_with("vcuda_container_processes")).count();
    assert_eq!(told, 4, "{metrics:#?}");
}

/// As much work as one file can make: every slot a dead process's, every device in use.
#[test]
fn a_file_full_of_the_dead_takes_little_time() {
    let world = World::new();
    let path = world.user().join("control");
    let control = world.slice(&path);
    for number in 1..vcuda_core::abi::DEVICE_CAPACITY as u8 {
        control.device(Uuid::gpu([number; 16])).unwrap();
    }
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let mut watcher = world.watcher(&[]);
    let mut longest = Duration::ZERO;
    for _ in 0..3 {
        for slot in 0..vcuda_core::abi::SLOT_CAPACITY {
            let at = offset_of!(ControlFile, slots) + slot * size_of::<Slot>() + offset_of!(Slot, state);
            file.write_all_at(&vcuda_core::abi::SLOT_CLAIMED.to_le_bytes(), at as u64).unwrap();
        }
        let all = vcuda_core::abi::SLOT_CAPACITY as u64;
        file.write_all_at(&all.to_le_bytes(), offset_of!(Header, slots_ever_claimed) as u64).unwrap();
        let reading = watcher.look();
        assert_eq!(reading.slices.len(), 1);
        longest = longest.max(reading.took);
    }
    println!("longest {longest:?}");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
}

#[test]
fn a_scribbler_and_a_truncater_keep_nothing_from_being_read() {
    vcuda_slices::truncation::survive().unwrap();
    let world = World::new();
    world.slice(&world.path("shares/honest/control"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for victim in 0..2u64 {
            let path = world.user().join(format!("control-{victim}"));
            let control = world.slice(&path);
            let original = std::fs::read(&path).unwrap();
            let stop = &stop;
            scope.spawn(move || {
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                let mut random = 1u64;
                while !stop.load(Ordering::Relaxed) {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if victim == 0 {
                        file.set_len((random >> 40) % FILE_BYTES as u64).unwrap();
                        file.write_all_at(&original[FILE_BYTES - 8..], FILE_BYTES as u64 - 8).unwrap();
                        file.write_all_at(&original[..8192], 0).unwrap();
                    } else {
                        let at = offset_of!(ControlFile, devices) as u64 + (random >> 32) % 20_000 / 8 * 8;
                        file.write_all_at(&(random >> 7).to_le_bytes(), at).unwrap();
                    }
                }
                drop(control);
            });
        }
        let mut watcher = world.watcher(&[]);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            let metrics = metrics_of(watcher.look());
            assert_eq!(metrics.get("vcuda_container_processes", &["share=\"honest\""]), 0.0);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(start.elapsed() < Duration::from_secs(30));
    });
}
