//! `include/vcuda.h` against this crate: every size, offset and constant, and the example that is built on it.
#![cfg(not(loom))]

use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vcuda_core::abi::{
    self, Arbiter, BusyRecord, Compute, ControlFile, Device, Header, Seat, Slot, SlotDevice, Tail,
};
use vcuda_core::control::Control;
use vcuda_core::device::Uuid;
use vcuda_core::sharing;
use vcuda_core::suspension::{self, Phase};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Compiles one C or C++ source with warnings as errors.
fn compile(compiler: &str, standard: &str, source: &Path, program: &Path) {
    let output = Command::new(compiler)
        .args([standard, "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror", "-I"])
        .arg(repository().join("include"))
        .arg("-o")
        .args([program, source])
        .output()
        .unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn run(program: &Path, arguments: &[&Path]) -> Output {
    Command::new(program).args(arguments).env_remove("VCUDA_CONTROL_FILE").output().unwrap()
}

/// The Rust side, by the C side's names, and a C program that prints the C side.
#[derive(Default)]
struct Comparison {
    rust: BTreeMap<String, u64>,
    probe: String,
}

impl Comparison {
    fn expect(&mut self, name: String, value: u64, expression: &str) {
        self.probe += &format!("\tprintf(\"{name} %llu\\n\", (unsigned long long)({expression}));\n");
        assert!(self.rust.insert(name, value).is_none());
    }
}

macro_rules! compare {
    ($comparison:ident, $rust:ident as $c:literal: $($field:ident),+) => {
        let c = concat!("struct ", $c);
        $comparison.expect(format!("{}", $c), size_of::<$rust>() as u64, &format!("sizeof({c})"));
        $({
            let name = stringify!($field);
            let offset = offset_of!($rust, $field) as u64;
            $comparison.expect(format!("{}.{name}", $c), offset, &format!("offsetof({c}, {name})"));
            let size = size_of_field(|whole: &$rust| &whole.$field);
            $comparison.expect(format!("{}.{name} size", $c), size, &format!("sizeof((({c} *)0)->{name})"));
        })+
    };
}

/// The size of the field that `_select` would return; it is never called.
fn size_of_field<Whole, Field>(_select: fn(&Whole) -> &Field) -> u64 {
    size_of::<Field>() as u64
}

#[test]
fn the_header_describes_what_the_library_maps() {
    let mut comparison = Comparison::default();
    compare!(comparison, Header as "vcuda_header": magic, version, header_bytes, file_bytes, page_bytes,
        device_capacity, slot_capacity, device_bytes, slot_bytes, slot_device_bytes, devices_offset, slots_offset,
        slot_devices_offset, coverage_offset, sentinel_offset, lock_base, created_unix_ns, generation, ready, slots_ever_claimed);
    compare!(comparison, Device as "vcuda_device": uuid_high, uuid_low, quota, limit_bytes, physical_bytes,
        peak_pages, refused_count, context_pages_learned, kind, set_aside, held_until_ns, attended_until_ns, reserved,
        compute);
    compare!(comparison, Compute as "vcuda_compute": deadline_ns, share_ppm, work_count, busy_ns, throttled_ns,
        throttled_count, forgiven_ns, stream_busy_ns, sharing, reserved);
    compare!(comparison, BusyRecord as "vcuda_busy_record": slots);
    compare!(comparison, SlotDevice as "vcuda_slot_device": settled, proposed, overhead_pages,
        unsettled_ns, done_by_ns, work_count, busy_ns, throttled_ns);
    compare!(comparison, Slot as "vcuda_slot": state, pid, uid, pid_namespace, start_time_ticks, started_unix_ns,
        name, found_dead_ns, suspension, activity, set_aside, reserved,
        limits_digest, devices);
    compare!(comparison, Tail as "vcuda_tail": reserved, sentinel);
    compare!(comparison, Seat as "vcuda_seat": identity, terms, seen_ns, wants_until_ns, busy_until_ns, clock, due_ns,
        held_from_ns, served_ns, waited_ns, duty_ppm, turn_count, crew, in_wait_until_ns, flight, reserved);
    compare!(comparison, Arbiter as "vcuda_arbiter": grant, clock, reserved, seats);
    compare!(comparison, ControlFile as "vcuda_control": header, devices, slots, coverage, arbiters, tail);
    for (name, value) in [
        ("VCUDA_MAGIC", abi::MAGIC),
        ("VCUDA_SENTINEL", abi::SENTINEL),
        ("VCUDA_VERSION", abi::VERSION.into()),
        ("VCUDA_READY", abi::READY),
        ("VCUDA_PAGE_BYTES", vcuda_core::quota::PAGE_BYTES),
        ("VCUDA_DEVICE_CAPACITY", abi::DEVICE_CAPACITY as u64),
        ("VCUDA_SLOT_CAPACITY", abi::SLOT_CAPACITY as u64),
        ("VCUDA_SEAT_CAPACITY", abi::SEAT_CAPACITY as u64),
        ("VCUDA_NAME_BYTES", abi::NAME_BYTES as u64),
        ("VCUDA_LOCK_BASE", abi::LOCK_BASE),
        ("VCUDA_UNLIMITED", abi::UNLIMITED),
        ("VCUDA_COVERAGE_SLOTS", vcuda_core::coverage::SLOTS as u64),
        ("VCUDA_COVERAGE_SLOT_NS", vcuda_core::coverage::SLOT_NS),
        ("VCUDA_DEVICE_GPU", abi::DEVICE_GPU),
        ("VCUDA_DEVICE_MIG", abi::DEVICE_MIG),
        ("VCUDA_SHARING_WEIGHT_MASK", sharing::WEIGHT_MASK),
        ("VCUDA_SHARING_ELASTIC", sharing::ELASTIC_BIT),
        ("VCUDA_SHARING_HIGH_PRIORITY", sharing::HIGH_PRIORITY_BIT),
        ("VCUDA_PHASE_RUNNING", Phase::Running as u64),
        ("VCUDA_PHASE_SUSPENDING", Phase::Suspending as u64),
        ("VCUDA_PHASE_SUSPENDED", Phase::Suspended as u64),
        ("VCUDA_PHASE_RESUMING", Phase::Resuming as u64),
        ("VCUDA_PHASE_LOST", Phase::Lost as u64),
        ("VCUDA_SUSPENSION_SEVERAL", suspension::SEVERAL),
        ("VCUDA_SUSPENSION_IDLE", suspension::IDLE),
        ("VCUDA_SUSPENSION_WANTED", suspension::WANTED),
        ("VCUDA_SUSPENSION_MANAGED", suspension::MANAGED),
        ("VCUDA_SUSPENSION_SHARED", suspension::SHARED),
        ("VCUDA_SUSPENSION_DENIED", suspension::DENIED),
        ("VCUDA_SLOT_FREE", abi::SLOT_FREE),
        ("VCUDA_SLOT_CHANGING", abi::SLOT_CHANGING),
        ("VCUDA_SLOT_CLAIMED", abi::SLOT_CLAIMED),
    ] {
        comparison.expect(name.to_owned(), value, name);
    }

    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("probe.c");
    let body =
        format!("#include <stdio.h>\n#include \"vcuda.h\"\nint main(void)\n{{\n{}}}\n", comparison.probe);
    std::fs::write(&source, body).unwrap();
    let program = directory.path().join("probe");
    compile("cc", "-std=c11", &source, &program);
    let output = String::from_utf8(run(&program, &[]).stdout).unwrap();
    let c: BTreeMap<String, u64> = output
        .lines()
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect();
    assert_eq!(c, comparison.rust);
}

#[test]
fn the_header_is_also_cpp() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("probe.cpp");
    std::fs::write(&source, "#include \"vcuda.h\"\nint main() { return 0; }\n").unwrap();
    compile("c++", "-std=c++11", &source, &directory.path().join("probe"));
}

#[test]
fn the_example_tells_who_holds_what() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("read-control");
    compile("cc", "-std=c11", &repository().join("examples/read-control/read-control.c"), &program);
    let path = directory.path().join("control");

    let output = run(&program, &[&path]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("No such file"), "{output:?}");
    std::fs::write(&path, vec![0; 8192]).unwrap();
    let output = run(&program, &[&path]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("not a vcuda control file"), "{output:?}");
    std::fs::remove_file(&path).unwrap();

    let control = Control::open_or_create(&path).unwrap();
    let device = control.device(Uuid::mig(*b"0123456789abcdef")).unwrap();
    control.set_limit_bytes(device, Some(4 << 30)).unwrap();
    let slots = [control.claim("python3").unwrap(), control.claim("trainer").unwrap()];
    let mut accounts = slots.each_ref().map(|slot| slot.account(device).unwrap().unwrap());
    accounts[0].reserve(1536 << 8, u64::MAX).unwrap();
    accounts[1].reserve(512 << 8, u64::MAX).unwrap();
    accounts[0].release(512 << 8).unwrap();

    let output = run(&program, &[&path]);
    assert!(output.status.success(), "{output:?}");
    let pid = std::process::id();
    let expected = format!(
        "MIG-30313233-3435-3637-3839-616263646566  1536.0 MiB in use of 4096.0 MiB, peak 2048.0 MiB, refused 0 times\n\
         \x20 pid {pid:<8} {:32} {:12.1} MiB\n\
         \x20 pid {pid:<8} {:32} {:12.1} MiB\n",
        "python3", 1024.0, "trainer", 512.0
    );
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
