//! Accounts of several slots on one device, within one process.
#![cfg(not(loom))]

use std::sync::Arc;

use vcuda_core::control::Control;
use vcuda_core::device::{DeviceIndex, Uuid};
use vcuda_core::error::{Refused, ReserveError};
use vcuda_core::slots::Slot;

const GPU: Uuid = Uuid::gpu(*b"0123456789abcdef");

fn fresh() -> (tempfile::TempDir, Arc<Control>, DeviceIndex) {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::open_or_create(directory.path().join("control")).unwrap();
    let device = control.device(GPU).unwrap();
    (directory, control, device)
}

fn claim(control: &Arc<Control>, name: &str) -> Slot {
    control.claim(name).unwrap()
}

#[test]
fn a_limit_binds_the_sum_of_all_slots() {
    let (_directory, control, device) = fresh();
    let (one, two) = (claim(&control, "one"), claim(&control, "two"));
    assert_ne!(one.index(), two.index());
    let mut first = one.account(device).unwrap().unwrap();
    let mut second = two.account(device).unwrap().unwrap();

    first.reserve(60, 100).unwrap();
    assert_eq!(
        second.reserve(41, 100),
        Err(ReserveError::Refused(Refused { used_pages: 60, limit_pages: 100 }))
    );
    second.reserve(40, 100).unwrap();
    assert_eq!(control.used_pages(device), Ok(100));
    assert!(first.reserve(1, 100).is_err());
    assert_eq!(first.release(10), Ok(0));
    second.reserve(10, 100).unwrap();
    assert_eq!((first.used_pages(), second.used_pages()), (50, 50));
    assert_eq!(first.device_used_pages(), Ok(100));
}

#[test]
fn what_the_driver_took_is_charged_beyond_the_limit() {
    let (_directory, control, device) = fresh();
    let slot = claim(&control, "test");
    let mut account = slot.account(device).unwrap().unwrap();
    account.reserve(90, 100).unwrap();
    account.force(30).unwrap();
    assert_eq!(control.used_pages(device), Ok(120));
    assert!(account.reserve(1, 100).is_err());
    assert_eq!(account.release(30), Ok(0));
    account.reserve(10, 100).unwrap();
}

#[test]
fn nothing_is_given_back_twice() {
    let (_directory, control, device) = fresh();
    let (one, two) = (claim(&control, "one"), claim(&control, "two"));
    let mut first = one.account(device).unwrap().unwrap();
    let mut second = two.account(device).unwrap().unwrap();
    first.reserve(5, 100).unwrap();
    second.reserve(7, 100).unwrap();
    assert_eq!(first.release(9), Ok(4));
    assert_eq!(first.used_pages(), 0);
    assert_eq!(control.used_pages(device), Ok(7));
    assert_eq!(first.release(u64::MAX), Ok(u64::MAX));
    assert_eq!(control.used_pages(device), Ok(7));
}

#[test]
fn absurd_amounts_are_refused_and_change_nothing() {
    let (_directory, control, device) = fresh();
    let slot = claim(&control, "test");
    let mut account = slot.account(device).unwrap().unwrap();
    account.reserve(1, u64::MAX).unwrap();
    for pages in [u64::MAX, u64::MAX / 4096, 1 << 36, (1 << 36) - 1] {
        assert!(matches!(account.reserve(pages, u64::MAX), Err(ReserveError::Refused(_))), "{pages}");
        assert!(account.force(pages).is_err(), "{pages}");
    }
    assert_eq!(control.used_pages(device), Ok(1));
    account.reserve((1 << 36) - 2, u64::MAX).unwrap();
    assert!(matches!(account.reserve(1, u64::MAX), Err(ReserveError::Refused(_))));
}

#[test]
fn an_account_exists_once() {
    let (_directory, control, device) = fresh();
    let slot = claim(&control, "test");
    let mut account = slot.account(device).unwrap().unwrap();
    assert!(slot.account(device).unwrap().is_none());
    account.reserve(3, 10).unwrap();
    drop(account);
    let mut account = slot.account(device).unwrap().unwrap();
    assert_eq!(account.used_pages(), 3);
    assert_eq!(account.release(3), Ok(0));
}

#[test]
fn dropping_a_slot_gives_everything_back() {
    let (_directory, control, device) = fresh();
    let other = control.device(Uuid::gpu(*b"fedcba9876543210")).unwrap();
    assert_ne!(device, other);
    let slot = claim(&control, "test");
    let mut first = slot.account(device).unwrap().unwrap();
    let mut second = slot.account(other).unwrap().unwrap();
    first.reserve(11, 100).unwrap();
    second.reserve(13, 100).unwrap();
    drop(slot);
    assert_eq!(control.used_pages(device), Ok(11), "an account that is left keeps the slot");
    drop((first, second));
    assert_eq!((control.used_pages(device), control.used_pages(other)), (Ok(0), Ok(0)));
    assert!(control.snapshot().unwrap().processes.is_empty());
}

#[test]
fn a_snapshot_tells_who_holds_what() {
    let (_directory, control, device) = fresh();
    control.set_limit_bytes(device, Some(1 << 20)).unwrap();
    control.set_physical_bytes(device, 1 << 30).unwrap();
    control.learn_context_pages(device, 100).unwrap();
    let slot = claim(&control, "python3");
    let mut account = slot.account(device).unwrap().unwrap();
    account.reserve(200, 256).unwrap();
    account.set_overhead_pages(100).unwrap();
    account.reserve(57, 256).unwrap_err();
    account.count_refusal().unwrap();
    account.release(50).unwrap();

    let snapshot = control.snapshot().unwrap();
    assert!(snapshot.at_path);
    let [gpu] = &snapshot.devices[..] else { panic!("{snapshot:?}") };
    assert_eq!(gpu.uuid, GPU);
    assert_eq!(gpu.limit_bytes, Some(1 << 20));
    assert_eq!(gpu.physical_bytes, 1 << 30);
    assert_eq!(gpu.used_bytes, 150 * 4096);
    assert_eq!(gpu.peak_bytes, 200 * 4096);
    assert_eq!(gpu.refused_count, 1);
    assert_eq!(gpu.context_bytes_learned, 100 * 4096);
    let [process] = &snapshot.processes[..] else { panic!("{snapshot:?}") };
    assert_eq!(process.identity.name, "python3");
    assert_eq!(process.identity.pid, std::process::id());
    assert_eq!(process.alive, Some(true));
    assert_eq!(process.used_bytes(device), 150 * 4096);
    assert_eq!(process.devices[0].overhead_bytes, 100 * 4096);

    control.set_limit_bytes(device, None).unwrap();
    assert_eq!(control.snapshot().unwrap().devices[0].limit_bytes, None);
}
