//! Opening control files: made well, refused with reasons, and not missed when they go.
#![cfg(not(loom))]

mod child;

use std::fs::{self, File, OpenOptions};
use std::mem::offset_of;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use child::Child;
use vcuda_core::abi::{self, ControlFile, FILE_BYTES, Header};
use vcuda_core::control::Control;
use vcuda_core::device::Uuid;
use vcuda_core::error::{ControlError, ControlErrorKind as Kind, Lost, ReserveError};

const GPU: Uuid = Uuid::gpu(*b"0123456789abcdef");

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    (directory, path)
}

fn names(directory: &Path) -> Vec<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn writable(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).unwrap()
}

/// Refused, by name of the path, in a sentence that says what would be right, and with the file left as it is.
fn refused(path: &Path, remedy: &str) -> ControlError {
    let before = fs::read(path).ok();
    let error = Control::open_or_create(path).expect_err("opened");
    let text = error.to_string();
    assert!(text.starts_with(&format!("control file {}: ", path.display())), "{text}");
    assert!(text.contains(remedy), "{text}");
    assert!(!text.contains('\n'), "{text}");
    assert_eq!(fs::read(path).ok(), before);
    error
}

#[test]
fn a_new_file_is_whole_for_everyone_and_leaves_no_trace_of_its_making() {
    let (directory, path) = place();
    let path_in_child = path.clone();
    Child::fork(move || {
        // SAFETY: changes this child's mask only.
        unsafe { libc::umask(0o077) };
        let control = Control::open_or_create(&path_in_child).unwrap();
        assert!(control.is_intact() && control.is_writable());
        // SAFETY: as above.
        assert_eq!(unsafe { libc::umask(0) }, 0o077);
    })
    .succeed();
    assert_eq!(names(directory.path()), ["control"]);
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o666);
    assert_eq!(metadata.len(), FILE_BYTES as u64);
    assert!(
        std::os::unix::fs::MetadataExt::blocks(&metadata) * 512 >= FILE_BYTES as u64,
        "pages are not reserved"
    );
    let control = Control::open_existing(&path).unwrap();
    let snapshot = control.snapshot().unwrap();
    assert!((snapshot.devices, snapshot.processes) == (vec![], vec![]) && snapshot.created_unix_ns > 0);
}

#[test]
fn a_tool_makes_no_file() {
    let (directory, path) = place();
    let error = Control::open_existing(&path).unwrap_err();
    assert!(matches!(error.kind(), Kind::Missing), "{error}");
    assert_eq!(names(directory.path()), Vec::<String>::new());
}

#[test]
fn names_that_are_no_regular_file_are_refused() {
    let (directory, path) = place();
    let error = refused(&directory.path().join("missing/control"), "VCUDA_CONTROL_FILE");
    assert!(matches!(error.kind(), Kind::NoDirectory), "{error}");

    let target = directory.path().join("target");
    symlink(&target, &path).unwrap();
    assert!(matches!(refused(&path, "symbolic link").kind(), Kind::Symlink));
    assert!(!target.exists(), "a link was followed");
    Control::open_or_create(&target).unwrap();
    assert!(matches!(refused(&path, "symbolic link").kind(), Kind::Symlink));

    assert!(matches!(refused(directory.path(), "regular file").kind(), Kind::NotRegular));
    assert!(matches!(refused(Path::new("/dev/null"), "regular file").kind(), Kind::NotRegular));

    let fifo = directory.path().join("fifo");
    let name = std::ffi::CString::new(fifo.to_str().unwrap()).unwrap();
    // SAFETY: a terminated string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let error = Control::open_or_create(&fifo).unwrap_err();
    assert!(matches!(error.kind(), Kind::NotRegular), "{error}");
}

#[test]
fn files_that_are_no_control_file_are_refused() {
    let (_directory, path) = place();
    for contents in [vec![], b"VCUDA".to_vec(), vec![0; FILE_BYTES], vec![0xff; 10_000]] {
        fs::write(&path, contents).unwrap();
        assert!(matches!(refused(&path, "remove it").kind(), Kind::NotControlFile));
    }
}

#[test]
fn files_of_another_make_are_refused() {
    let (_directory, path) = place();
    let expect = |offset: usize, bytes: &[u8], remedy: &str| {
        let _ = fs::remove_file(&path);
        Control::open_or_create(&path).unwrap();
        writable(&path).write_all_at(bytes, offset as u64).unwrap();
        refused(&path, remedy)
    };
    let error = expect(
        offset_of!(Header, version),
        &[7, 0, 0, 0],
        &format!("version 7, this library speaks {}", abi::VERSION),
    );
    assert!(matches!(error.kind(), Kind::WrongVersion { found: 7 }));
    assert!(matches!(expect(offset_of!(Header, ready), &[0], "remove it").kind(), Kind::NotReady));
    assert!(matches!(expect(offset_of!(Header, generation), &[0; 8], "remove it").kind(), Kind::WrongLayout));
    let layout = offset_of!(Header, header_bytes)..offset_of!(Header, created_unix_ns);
    for offset in layout.step_by(4) {
        let error = expect(offset, &[0xee], "remove it");
        assert!(matches!(error.kind(), Kind::WrongLayout), "byte {offset}: {error}");
    }
    let error = expect(FILE_BYTES - 1, &[0], "restart");
    assert!(matches!(error.kind(), Kind::Lost(Lost::Overwritten)), "{error}");

    for size in [0, 8, 100, 4096, FILE_BYTES - 1, FILE_BYTES + 1] {
        let _ = fs::remove_file(&path);
        Control::open_or_create(&path).unwrap();
        writable(&path).set_len(size as u64).unwrap();
        let error = refused(&path, "remove it");
        match error.kind() {
            Kind::WrongSize { found } => assert_eq!(*found, size as u64),
            Kind::NotControlFile => assert!(size < 8),
            Kind::WrongVersion { found: 0 } => assert!(size < 12),
            other => panic!("{size}: {other:?}"),
        }
    }
}

#[test]
fn a_user_who_may_not_write_can_look() {
    let (directory, path) = place();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let control = Control::open_or_create(&path).unwrap();
    let device = control.device(GPU).unwrap();
    let slot = control.claim("owner").unwrap();
    slot.account(device).unwrap().unwrap().reserve(3, 10).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    Child::fork(|| {
        // SAFETY: gives up this child's rights, if it has any.
        if unsafe { libc::geteuid() == 0 && libc::setuid(65_534) != 0 } {
            panic!("cannot give up root's rights");
        }
        let seen = Control::open_existing(&path).unwrap();
        assert!(!seen.is_writable() && seen.is_intact());
        assert_eq!(seen.device(GPU).unwrap(), device);
        let snapshot = seen.snapshot().unwrap();
        assert_eq!(snapshot.processes[0].alive, Some(true));
        assert_eq!(snapshot.processes[0].used_bytes(device), 3 * 4096);

        assert!(matches!(seen.reap().unwrap_err().kind(), Kind::ReadOnly));
        assert!(matches!(seen.claim("no").unwrap_err().kind(), Kind::ReadOnly));
        let unknown = Uuid::gpu(*b"fedcba9876543210");
        assert!(matches!(seen.device(unknown).unwrap_err().kind(), Kind::ReadOnly));
        assert_eq!(seen.set_limit_bytes(device, None), Err(Lost::ReadOnly));
        let error = Control::open_or_create(&path).unwrap_err();
        assert!(error.to_string().contains("Permission denied"), "{error}");
    })
    .succeed();
}

#[test]
fn a_directory_without_permission_is_reported() {
    let (directory, path) = place();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o555)).unwrap();
    Child::fork(|| {
        // SAFETY: gives up this child's rights, if it has any.
        if unsafe { libc::geteuid() == 0 && libc::setuid(65_534) != 0 } {
            panic!("cannot give up root's rights");
        }
        refused(&path, "cannot create it: Permission denied");
    })
    .succeed();
}

#[test]
fn a_small_file_size_limit_is_reported_and_kills_nobody() {
    let (directory, path) = place();
    Child::fork(|| {
        let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
        // SAFETY: lowers this child's limit.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
        refused(&path, "File too large");
    })
    .succeed();
    assert_eq!(names(directory.path()), Vec::<String>::new());
}

#[test]
fn a_full_disk_is_reported_and_leaves_nothing() {
    let (directory, _) = place();
    let mut child = Child::fork(|| {
        let mount = std::ffi::CString::new(directory.path().to_str().unwrap()).unwrap();
        let none = std::ptr::null();
        // SAFETY: terminated strings; the mount namespace is this child's own and goes with it.
        let mounted = unsafe {
            (libc::unshare(libc::CLONE_NEWNS) == 0
                || libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) == 0)
                && libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) == 0
                && libc::mount(
                    c"t".as_ptr(),
                    mount.as_ptr(),
                    c"tmpfs".as_ptr(),
                    0,
                    c"size=1m".as_ptr().cast(),
                ) == 0
        };
        if !mounted {
            // SAFETY: ends this child.
            unsafe { libc::_exit(77) }
        }
        let error = refused(&directory.path().join("control"), "no space left for its 8856 KiB");
        assert!(matches!(error.kind(), Kind::NoSpace));
        assert_eq!(names(directory.path()), Vec::<String>::new());
    });
    match libc::WEXITSTATUS(child.wait()) {
        77 => eprintln!("file systems cannot be mounted here; nothing was tested"),
        code => assert_eq!(code, 0),
    }
}

/// Whatever is done to the file in place, its users are told and live on.
fn spoil(spoil: impl FnOnce(&Path), expected: Lost) {
    let (_directory, path) = place();
    let control = Control::open_or_create(&path).unwrap();
    let device = control.device(GPU).unwrap();
    let slot = control.claim("test").unwrap();
    let mut account = slot.account(device).unwrap().unwrap();
    account.reserve(5, 10).unwrap();
    assert!(control.is_intact());
    spoil(&path);

    assert!(!control.is_intact());
    assert_eq!(account.reserve(1, 10), Err(ReserveError::Lost(expected)));
    assert_eq!(account.force(1), Err(expected));
    assert_eq!(account.release(1), Err(expected));
    assert_eq!(account.device_used_pages(), Err(expected));
    assert_eq!(account.set_overhead_pages(1), Err(expected));
    assert_eq!(control.snapshot(), Err(expected));
    assert_eq!(control.set_physical_bytes(device, 1), Err(expected));
    assert!(matches!(control.reap().unwrap_err().kind(), Kind::Lost(lost) if *lost == expected));
    assert!(matches!(control.claim("again").unwrap_err().kind(), Kind::Lost(lost) if *lost == expected));
    assert!(matches!(control.device(GPU).unwrap_err().kind(), Kind::Lost(lost) if *lost == expected));
    drop((account, slot));
}

#[test]
fn truncation_is_noticed_and_survived() {
    for size in [0, 4096, FILE_BYTES - 4096] {
        spoil(|path| writable(path).set_len(size as u64).unwrap(), Lost::Truncated);
    }
    spoil(|path| writable(path).set_len(FILE_BYTES as u64 - 1).unwrap(), Lost::Overwritten);
    spoil(|path| drop(File::create(path).unwrap()), Lost::Truncated);
}

#[test]
fn truncation_and_regrowth_are_noticed() {
    let regrow = |path: &Path| {
        writable(path).set_len(0).unwrap();
        writable(path).set_len(FILE_BYTES as u64).unwrap();
    };
    spoil(regrow, Lost::Overwritten);
}

#[test]
fn another_files_contents_are_noticed() {
    let replace_contents = |path: &Path| {
        let (_directory, other) = place();
        Control::open_or_create(&other).unwrap();
        writable(path).write_all_at(&fs::read(other).unwrap(), 0).unwrap();
    };
    spoil(replace_contents, Lost::Overwritten);
    spoil(|path| writable(path).write_all_at(&[0; 8], 0).unwrap(), Lost::Overwritten);
}

#[test]
fn a_file_that_is_removed_or_replaced_serves_those_who_have_it() {
    let (_directory, path) = place();
    let control = Control::open_or_create(&path).unwrap();
    let device = control.device(GPU).unwrap();
    let slot = control.claim("test").unwrap();
    let mut account = slot.account(device).unwrap().unwrap();
    assert!(control.is_at_path().unwrap());
    account.reserve(4, 10).unwrap();

    let gone = |control: &Arc<Control>| {
        assert!(control.is_intact() && !control.is_at_path().unwrap());
        let error = control.reap().unwrap_err();
        assert!(matches!(error.kind(), Kind::Replaced), "{error}");
        assert!(matches!(control.claim("no").unwrap_err().kind(), Kind::Replaced));
        let snapshot = control.snapshot().unwrap();
        assert!(!snapshot.at_path);
        assert_eq!(snapshot.processes[0].alive, None);
    };
    fs::remove_file(&path).unwrap();
    gone(&control);
    account.reserve(1, 10).unwrap();
    let other = Control::open_or_create(&path).unwrap();
    gone(&control);
    account.reserve(5, 10).unwrap();
    assert!(account.reserve(1, 10).is_err());
    assert_eq!(account.release(10), Ok(0));
    assert!(other.is_at_path().unwrap());
    assert_eq!(other.used_pages(other.device(GPU).unwrap()), Ok(0));
}

#[test]
fn slots_run_out_with_a_reason_and_come_back() {
    let (_directory, path) = place();
    let control = Control::open_or_create(&path).unwrap();
    let mut slots: Vec<_> = (0..abi::SLOT_CAPACITY).map(|_| control.claim("one of many").unwrap()).collect();
    let error = control.claim("one too many").unwrap_err();
    assert!(matches!(error.kind(), Kind::SlotsFull), "{error}");
    assert!(error.to_string().contains("all 1024 slots belong to living processes"), "{error}");
    let freed = slots.remove(700).index();
    assert_eq!(control.claim("the next").unwrap().index(), freed);
}

#[test]
fn devices_keep_their_place_and_run_out_with_a_reason() {
    let (_directory, path) = place();
    let control = Control::open_or_create(&path).unwrap();
    let uuid = |number: usize| {
        let mut bytes = [1; 16];
        bytes[0] = number as u8;
        Uuid::gpu(bytes)
    };
    for number in 0..abi::DEVICE_CAPACITY {
        assert_eq!(control.device(uuid(number)).unwrap().get(), number);
    }
    let error = control.device(uuid(200)).unwrap_err();
    assert!(matches!(error.kind(), Kind::DevicesFull { .. }), "{error}");
    assert_eq!(control.device(uuid(17)).unwrap().get(), 17);
    for zero in [(0, 0), (0, 1), (1, 0)]
        .map(|(high, low): (u64, u64)| [high.to_be_bytes(), low.to_be_bytes()].concat())
    {
        assert!(matches!(
            control.device(Uuid::gpu(zero.try_into().unwrap())).unwrap_err().kind(),
            Kind::ImpossibleUuid { .. }
        ));
    }
}

#[test]
fn a_device_claimed_by_half_is_completed_by_the_next() {
    let (_directory, path) = place();
    let control = Control::open_or_create(&path).unwrap();
    let bytes: [u8; 16] = *b"0123456789abcdef";
    let high = u64::from_be_bytes(bytes[..8].try_into().unwrap());
    let entry = offset_of!(ControlFile, devices) + offset_of!(abi::Device, uuid_high);
    writable(&path).write_all_at(&high.to_le_bytes(), entry as u64).unwrap();
    assert_eq!(control.snapshot().unwrap().devices, []);

    let another = control.device(Uuid::gpu(*b"01234567same-GPU")).unwrap();
    assert_eq!(another.get(), 0);
    let mig = control.device(Uuid::mig(bytes)).unwrap();
    assert_eq!(mig.get(), 1);
    let shown: Vec<_> =
        control.snapshot().unwrap().devices.iter().map(|device| device.uuid.to_string()).collect();
    assert_eq!(
        shown,
        ["GPU-30313233-3435-3637-7361-6d652d475055", "MIG-30313233-3435-3637-3839-616263646566"]
    );
}

#[test]
fn processes_that_add_devices_at_once_agree() {
    let (_directory, path) = place();
    let control = Control::open_or_create(&path).unwrap();
    let uuid =
        |number: u8| Uuid::gpu([number / 2 + 1, 1, 1, 1, 1, 1, 1, 1, number % 2 + 1, 1, 1, 1, 1, 1, 1, 1]);
    let found: Vec<Vec<_>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let control = &control;
                scope.spawn(move || {
                    let mut found: Vec<_> = (0..32).map(|n| (n * 7 + thread * 5) % 32).collect();
                    found
                        .iter_mut()
                        .for_each(|n| *n = *n * 64 + control.device(uuid(*n as u8)).unwrap().get());
                    found.sort_unstable();
                    found
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(found.iter().all(|other| *other == found[0]), "{found:?}");
    assert_eq!(control.snapshot().unwrap().devices.len(), 32);
}
