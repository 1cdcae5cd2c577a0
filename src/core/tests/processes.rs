//! What becomes of a slot when its process forks, executes, closes its descriptors, or is killed.
//!
//! The tests fork, so they run one at a time: a child forked during another test's claim would prolong that claim.
#![cfg(not(loom))]

mod child;

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use vcuda_core::control::Control;
use vcuda_core::device::{DeviceIndex, Uuid};
use vcuda_core::error::{Lost, ReserveError};
use vcuda_core::slots::Reaped;

use child::Child;

const GPU: Uuid = Uuid::gpu(*b"0123456789abcdef");

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

struct Place {
    directory: tempfile::TempDir,
    control: Arc<Control>,
    device: DeviceIndex,
    _turn: MutexGuard<'static, ()>,
}

fn place() -> Place {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let directory = tempfile::tempdir().unwrap();
    let control = Control::open_or_create(directory.path().join("control")).unwrap();
    let device = control.device(GPU).unwrap();
    Place { directory, control, device, _turn: turn }
}

impl Place {
    fn path(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    fn used(&self) -> u64 {
        self.control.used_pages(self.device).unwrap()
    }

    fn alive(&self) -> Vec<Option<bool>> {
        self.control.snapshot().unwrap().processes.iter().map(|process| process.alive).collect()
    }
}

fn pipe() -> (PipeReader, PipeWriter) {
    std::io::pipe().unwrap()
}

fn wait_for(reader: &mut PipeReader) {
    reader.read_exact(&mut [0]).expect("the child ended before it was ready");
}

fn forever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// A child that claims a slot, reserves `pages`, does `then`, reports, and stays.
fn holder(place: &Place, pages: u64, then: impl FnOnce()) -> Child {
    let (mut reader, mut writer) = pipe();
    let child = Child::fork(|| {
        let slot = place.control.claim("holder").unwrap();
        let mut account = slot.account(place.device).unwrap().unwrap();
        account.reserve(pages, u64::MAX).unwrap();
        then();
        writer.write_all(&[1]).unwrap();
        forever()
    });
    drop(writer);
    wait_for(&mut reader);
    child
}

#[test]
fn a_killed_process_loses_its_slot_and_no_page() {
    let place = place();
    let child = holder(&place, 10, || ());
    assert_eq!((place.used(), place.alive()), (10, vec![Some(true)]));
    assert_eq!(place.control.reap().unwrap(), Reaped::default(), "the living are left alone");

    child.kill();
    assert_eq!((place.used(), place.alive()), (10, vec![Some(false)]));
    assert_eq!(place.control.reap().unwrap(), Reaped { slots: 1, pages: 10, dying: 0 });
    assert_eq!((place.used(), place.alive()), (0, vec![]));
    assert_eq!(place.control.reap().unwrap(), Reaped::default());
}

#[test]
fn the_next_claim_takes_back_what_the_dead_hold() {
    let place = place();
    let children: Vec<_> = (0..3).map(|_| holder(&place, 10, || ())).collect();
    children.into_iter().for_each(Child::kill);
    assert_eq!(place.used(), 30);
    let slot = place.control.claim("next").unwrap();
    assert_eq!(slot.index(), 0);
    assert_eq!((place.used(), place.alive()), (0, vec![Some(true)]));
}

#[test]
fn a_forked_child_does_not_prolong_its_parents_life() {
    let place = place();
    let (mut reader, writer) = pipe();
    // The grandchild lives until the test drops its end of this pipe.
    let (mut hold_open, keep) = pipe();
    let mut keep = Some(keep);
    let child = holder(&place, 10, || {
        keep.take();
        let mut writer = writer;
        // SAFETY: as in `Child::fork`.
        if unsafe { libc::fork() } == 0 {
            writer.write_all(&[1]).unwrap();
            let _ = hold_open.read(&mut [0]);
            // SAFETY: see `Child::fork`.
            unsafe { libc::_exit(0) }
        }
    });
    wait_for(&mut reader);
    child.kill();
    assert_eq!(place.control.reap().unwrap(), Reaped { slots: 1, pages: 10, dying: 0 });
    drop(keep);
}

#[test]
fn exec_ends_the_claim_although_the_process_goes_on() {
    let place = place();
    let mut child = Child::fork(|| {
        let slot = place.control.claim("before exec").unwrap();
        slot.account(place.device).unwrap().unwrap().reserve(10, u64::MAX).unwrap();
        // SAFETY: terminated strings and a terminated list.
        unsafe {
            libc::execl(c"/bin/sleep".as_ptr(), c"sleep".as_ptr(), c"3600".as_ptr(), std::ptr::null::<u8>())
        };
    });
    let start = Instant::now();
    let mut reaped = Reaped::default();
    while reaped == Reaped::default() && start.elapsed() < Duration::from_secs(10) {
        reaped = place.control.reap().unwrap();
    }
    assert_eq!(reaped, Reaped { slots: 1, pages: 10, dying: 0 });
    // SAFETY: asks about our own child.
    assert_eq!(unsafe { libc::waitpid(child.pid(), &mut 0, libc::WNOHANG) }, 0, "sleep should be running");
    child.signal_and_wait();
}

#[test]
fn closing_descriptors_does_not_end_the_claim() {
    let place = place();
    let path = place.path();
    let child = holder(&place, 10, || {
        // A POSIX lock would be lost here.
        drop(File::options().read(true).write(true).open(&path).unwrap());
    });
    assert_eq!(place.alive(), [Some(true)]);
    child.kill();
    place.control.reap().unwrap();

    let (mut reader, writer) = pipe();
    let child = Child::fork(|| {
        let slot = place.control.claim("closes all").unwrap();
        slot.account(place.device).unwrap().unwrap().reserve(10, u64::MAX).unwrap();
        let mut writer = writer;
        let keep = std::os::fd::AsRawFd::as_raw_fd(&writer);
        for descriptor in (3..1024).filter(|descriptor| *descriptor != keep) {
            // SAFETY: closes numbers, as `close_fds=True` does; nothing in this child uses them afterwards.
            unsafe { libc::close(descriptor) };
        }
        writer.write_all(&[1]).unwrap();
        forever()
    });
    wait_for(&mut reader);
    assert_eq!((place.used(), place.alive()), (10, vec![Some(true)]));
    assert_eq!(place.control.reap().unwrap(), Reaped::default());
    child.kill();
    assert_eq!(place.control.reap().unwrap(), Reaped { slots: 1, pages: 10, dying: 0 });
}

#[test]
fn no_descriptor_of_the_file_stays_open() {
    let place = place();
    let slot = place.control.claim("test").unwrap();
    place.control.reap().unwrap();
    place.control.snapshot().unwrap();
    let held: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter(|target| target.starts_with(place.directory.path()))
        .collect();
    assert_eq!(held, Vec::<PathBuf>::new());
    drop(slot);
}

#[test]
fn a_forked_child_cannot_use_or_end_its_parents_slot() {
    let place = place();
    let slot = place.control.claim("parent").unwrap();
    let mut account = slot.account(place.device).unwrap().unwrap();
    account.reserve(5, 10).unwrap();
    let (mut slot, mut account) = (Some(slot), Some(account));

    Child::fork(|| {
        let mut inherited = account.take().unwrap();
        assert_eq!(inherited.reserve(1, 10), Err(ReserveError::Lost(Lost::Forked)));
        assert_eq!(inherited.force(1), Err(Lost::Forked));
        assert_eq!(inherited.release(1), Err(Lost::Forked));
        let parents = slot.take().unwrap();
        assert!(!parents.is_own());
        drop((inherited, parents));
        assert_eq!(place.used(), 5);

        let own = place.control.claim("child").unwrap();
        assert!(own.is_own());
        let mut account = own.account(place.device).unwrap().unwrap();
        account.reserve(5, 10).unwrap();
        assert!(matches!(account.reserve(1, 10), Err(ReserveError::Refused(_))));
        assert_eq!(place.alive(), [Some(true), Some(true)]);
    })
    .succeed();

    let (slot, mut account) = (slot.unwrap(), account.unwrap());
    assert!(slot.is_own());
    assert_eq!(
        (place.used(), place.alive()),
        (5, vec![Some(true)]),
        "the child gave back its own and nothing else"
    );
    account.reserve(5, 10).unwrap();
    assert_eq!(place.used(), 10);
}

#[test]
fn process_ids_of_another_namespace_mean_nothing() {
    let place = place();
    let (mut reader, mut writer) = pipe();
    let (mut hold_open, keep) = pipe();
    let mut keep = Some(keep);
    let mut outer = Child::fork(|| {
        // SAFETY: affects this child only.
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWPID) == 0 }
            // SAFETY: as above.
            || unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID) == 0 };
        if !unshared {
            writer.write_all(&[0]).unwrap();
            return;
        }
        keep.take();
        let mut inner = Child::fork(|| {
            assert_eq!(std::process::id(), 1);
            let slot = place.control.claim("pid 1").unwrap();
            slot.account(place.device).unwrap().unwrap().reserve(10, u64::MAX).unwrap();
            writer.write_all(&[1]).unwrap();
            let _ = hold_open.read(&mut [0]);
            std::mem::forget(slot);
        });
        inner.wait();
    });
    let mut permitted = [0];
    reader.read_exact(&mut permitted).unwrap();
    if permitted == [0] {
        eprintln!("PID namespaces cannot be made here; nothing was tested");
        return;
    }
    let snapshot = place.control.snapshot().unwrap();
    let [process] = &snapshot.processes[..] else { panic!("{snapshot:?}") };
    assert_eq!((process.identity.pid, process.alive), (1, Some(true)));
    assert_ne!(process.identity.pid_namespace, vcuda_core::identity::pid_namespace_of_this_process());
    assert_eq!(place.control.reap().unwrap(), Reaped::default());

    keep.take();
    outer.wait();
    // Whose PID means nothing here can only be given time for the driver to finish with it.
    assert_eq!(place.control.reap().unwrap(), Reaped { slots: 0, pages: 0, dying: 1 });
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(place.control.reap().unwrap(), Reaped { slots: 1, pages: 10, dying: 0 });
}

#[test]
fn processes_that_start_together_use_one_file() {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    for _ in 0..20 {
        let (gate, open_gate) = pipe();
        let mut open_gate = Some(open_gate);
        let children: Vec<_> = (0..8)
            .map(|_| {
                let mut gate = gate.try_clone().unwrap();
                Child::fork(|| {
                    open_gate.take();
                    let _ = gate.read(&mut [0]);
                    let control = Control::open_or_create(&path).unwrap();
                    let device = control.device(GPU).unwrap();
                    let slot = control.claim("test").unwrap();
                    slot.account(device).unwrap().unwrap().reserve(1, u64::MAX).unwrap();
                    std::mem::forget(slot);
                })
            })
            .collect();
        drop((gate, open_gate));
        children.into_iter().for_each(Child::succeed);
        let control = Control::open_existing(&path).unwrap();
        control.reap().unwrap();
        assert_eq!(control.used_pages(control.device(GPU).unwrap()), Ok(0));
        let names: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["control"]);
        std::fs::remove_file(&path).unwrap();
    }
    drop(turn);
}

/// A tenant that allocates and frees without end, taking back what the dead hold when it is refused.
fn tenant(path: &Path, limit_pages: u64, seed: u64) -> ! {
    let control = Control::open_or_create(path).unwrap();
    let device = control.device(GPU).unwrap();
    let slot = control.claim("tenant").unwrap();
    let mut account = slot.account(device).unwrap().unwrap();
    let mut random = seed | 1;
    loop {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let pages = 1 + random % 40;
        if account.reserve(pages, limit_pages).is_err() {
            account.count_refusal().unwrap();
            control.reap().unwrap();
            account.release(pages).unwrap();
        }
    }
}

#[test]
fn two_hundred_kills_under_load_lose_nothing() {
    const LIMIT_PAGES: u64 = 100;
    const TENANTS: usize = 6;
    let place = place();
    let path = place.path();
    let stop = AtomicBool::new(false);
    let samples = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut most = 0;
            while !stop.load(Ordering::Relaxed) {
                let used = place.used();
                assert!(used <= LIMIT_PAGES, "{used} pages in use of {LIMIT_PAGES}");
                most = most.max(used);
                samples.fetch_add(1, Ordering::Relaxed);
            }
            most
        });
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let start = |random: u64| Child::fork(|| tenant(&path, LIMIT_PAGES, random));
        let mut tenants: Vec<_> = (0..TENANTS as u64).map(|tenant| start(random ^ tenant << 8)).collect();
        for _ in 0..200 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            std::thread::sleep(Duration::from_micros(random >> 32 & 0xfff));
            let victim = (random >> 48) as usize % TENANTS;
            tenants.remove(victim).kill();
            tenants.push(start(random));
        }
        tenants.into_iter().for_each(Child::kill);
        stop.store(true, Ordering::Relaxed);
        let most = sampler.join().unwrap();
        assert!(most > LIMIT_PAGES / 2, "the tenants hardly worked: {most} pages at most");
    });
    assert!(samples.load(Ordering::Relaxed) > 1000);

    let before = place.control.snapshot().unwrap();
    let held: u64 = before.processes.iter().map(|process| process.used_bytes(place.device)).sum();
    assert_eq!(held, before.devices[0].used_bytes, "every page is somebody's");
    assert_eq!(place.control.reap().unwrap().pages * 4096, held);
    assert_eq!(place.used(), 0);
    let after = place.control.snapshot().unwrap();
    assert_eq!(after.processes, []);
    assert!(after.devices[0].peak_bytes <= LIMIT_PAGES * 4096);
    assert!(after.devices[0].refused_count > 0);
}
