//! What is told of slices, over their lives and those of their processes.

use crate::world::{GPU, GPU_LABEL, Holder, MIB, PAGES_PER_MIB, World, metrics_of};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;
use vcuda_core::compute::{Charge, Measured, monotonic_ns};
use vcuda_core::control::Control;

/// Claims a slot and has it use and be refused what is then counted.
fn work(control: &std::sync::Arc<Control>, times: u64) {
    let gpu = control.device(GPU).unwrap();
    let slot = control.claim("worker").unwrap();
    let mut account = slot.account(gpu).unwrap().unwrap();
    let compute = slot.compute_account(gpu);
    let (words, lost) = compute.open();
    assert_eq!(lost, None);
    words.set_share_ppm(250_000);
    for _ in 0..times {
        account.count_refusal().unwrap();
        let now_ns = monotonic_ns();
        let charge = Charge { busy_ns: 1_000_000, work_count: 1, done_by_ns: now_ns, ..Charge::default() };
        words.charge(now_ns, charge, 250_000, u64::MAX);
        let measured = Measured {
            charged_ns: 1_000_000,
            start_ns: now_ns,
            end_ns: now_ns + 1_000_000,
            busy_ns: 1_000_000,
        };
        words.settle(now_ns, measured, 250_000, u64::MAX);
        words.note_throttled(3_000_000);
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_users_slice_is_told_under_its_name() {
    let world = World::new();
    let control = world.slice(&world.user().join("run-7"));
    let gpu = control.device(GPU).unwrap();
    let slot = control.claim("trainer").unwrap();
    let mut account = slot.account(gpu).unwrap().unwrap();
    account.reserve(300 * PAGES_PER_MIB, 1024 * PAGES_PER_MIB).unwrap();
    account.release(100 * PAGES_PER_MIB).unwrap();

    let metrics = metrics_of(world.watcher(&[]).look());
    let share = format!("share=\"vcuda-{}/run-7\"", world.uid());
    let labels = [share.as_str(), GPU_LABEL, "namespace=\"\"", "pod=\"\"", "container=\"\""];
    assert_eq!(metrics.get("vcuda_container_memory_limit_bytes", &labels), (1024 * MIB) as f64);
    assert_eq!(metrics.get("vcuda_container_memory_used_bytes", &labels), (200 * MIB) as f64);
    assert_eq!(metrics.get("vcuda_container_memory_peak_bytes", &labels), (300 * MIB) as f64);
    assert_eq!(metrics.get("vcuda_container_processes", &labels), 1.0);
    assert_eq!(metrics.get("vcuda_container_allocations_denied_total", &labels), 0.0);
    for of_time in
        ["core_limit_ratio", "kernel_launches_total", "busy_seconds_total", "throttled_seconds_total"]
    {
        let found = metrics.find(&format!("vcuda_container_{of_time}"), &[]);
        assert_eq!(found, None, "{of_time}: without a share, time is not measured");
    }
    assert_eq!(metrics.get("vcuda_device_memory_allocated_bytes", &[GPU_LABEL]), (1024 * MIB) as f64);
    assert_eq!(metrics.get("vcuda_device_shares", &[GPU_LABEL]), 1.0);
    assert_eq!(metrics.get("vcuda_node_slices", &[]), 1.0);
}

#[test]
fn memory_that_is_not_counted_is_not_told_as_none() {
    let world = World::new();
    let control = world.slice(&world.user().join("control"));
    control.set_limit_bytes(control.device(GPU).unwrap(), None).unwrap();
    let slot = control.claim("trainer").unwrap();
    let compute = slot.compute_account(control.device(GPU).unwrap());
    compute.open().0.set_share_ppm(250_000);
    let metrics = metrics_of(world.watcher(&[]).look());
    for of_memory in ["limit_bytes", "used_bytes", "peak_bytes"] {
        assert_eq!(metrics.find(&format!("vcuda_container_memory_{of_memory}"), &[]), None, "{of_memory}");
    }
    assert_eq!(metrics.find("vcuda_container_allocations_denied_total", &[]), None);
    assert_eq!(metrics.get("vcuda_container_kernel_launches_total", &[]), 0.0);
    assert_eq!(metrics.get("vcuda_device_core_allocated_ratio", &[GPU_LABEL]), 0.25);
}

#[test]
fn a_containers_slice_is_told_with_its_labels() {
    let world = World::new();
    let directory = world.path("shares/7f3a");
    world.slice(&directory.join("control"));
    fs::write(directory.join("share.json"), r#"{"namespace": "team-a", "pod": "p", "container": "main"}"#)
        .unwrap();
    let metrics = metrics_of(world.watcher(&[]).look());
    let labels = ["namespace=\"team-a\"", "pod=\"p\"", "container=\"main\"", "share=\"7f3a\""];
    assert_eq!(metrics.get("vcuda_container_memory_limit_bytes", &labels), (1024 * MIB) as f64);
    assert_eq!(metrics.find("vcuda_device_shares", &[]), None, "no process lives in it");
}

#[test]
fn what_was_used_of_a_share_is_told() {
    let world = World::new();
    let control = world.slice(&world.user().join("control"));
    let mut watcher = world.watcher(&[]);
    assert_eq!(metrics_of(watcher.look()).find("vcuda_container_core_utilization_ratio", &[]), None);
    work(&control, 10);
    let metrics = metrics_of(watcher.look());
    assert_eq!(metrics.get("vcuda_container_core_limit_ratio", &[]), 0.25);
    assert_eq!(metrics.get("vcuda_container_kernel_launches_total", &[]), 10.0);
    assert_eq!(metrics.get("vcuda_container_throttled_seconds_total", &[]), 0.03);
    let busy = metrics.get("vcuda_container_busy_seconds_total", &[]);
    assert!((0.009..=0.01).contains(&busy), "{busy}");
    let used = metrics.get("vcuda_container_core_utilization_ratio", &[]);
    assert!(used > 0.0 && used < 4.0, "{used}");
    let last = metrics.get("vcuda_container_last_kernel_timestamp_seconds", &[]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - 60.0..=now).contains(&last), "{last} {now}");
}

#[test]
fn the_dead_are_reaped_and_what_they_counted_stands() {
    let world = World::new();
    let path = world.user().join("control");
    let control = world.slice(&path);
    work(&control, 5);
    let holder = Holder::start(&path);
    let mut watcher = world.watcher(&[]);
    let before = metrics_of(watcher.look());
    assert_eq!(before.get("vcuda_container_memory_used_bytes", &[]), (300 * MIB) as f64);
    assert_eq!(before.get("vcuda_container_processes", &[]), 1.0);
    assert_eq!(before.get("vcuda_node_reaped_processes_total", &[]), 0.0);

    holder.kill();
    // Its memory may be on its way back for a moment.
    let after = (0..100)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            metrics_of(watcher.look())
        })
        .find(|metrics| metrics.get("vcuda_node_reaped_processes_total", &[]) > 0.0)
        .expect("never reaped");
    assert_eq!(after.get("vcuda_container_memory_used_bytes", &[]), 0.0);
    assert_eq!(after.get("vcuda_container_processes", &[]), 0.0);
    assert_eq!(after.get("vcuda_node_reaped_bytes_total", &[]), (300 * MIB) as f64);
    assert_eq!(after.get("vcuda_container_allocations_denied_total", &[]), 5.0);
    assert_eq!(after.get("vcuda_container_kernel_launches_total", &[]), 5.0);
    let gpu = control.device(GPU).unwrap();
    assert_eq!(control.used_pages(gpu), Ok(0), "the next process can have it all");
}

#[test]
fn counters_go_on_when_the_file_is_made_anew() {
    let world = World::new();
    let path = world.user().join("control");
    let mut watcher = world.watcher(&[]);
    let mut told = Vec::new();
    for times in [5, 3, 7] {
        let control = world.slice(&path);
        work(&control, times);
        let metrics = metrics_of(watcher.look());
        told.push((
            metrics.get("vcuda_container_allocations_denied_total", &[]),
            metrics.get("vcuda_container_kernel_launches_total", &[]),
        ));
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(told, [(5.0, 5.0), (8.0, 8.0), (15.0, 15.0)]);
    assert_eq!(metrics_of(watcher.look()).find("vcuda_container_processes", &[]), None, "it is gone");
}

#[test]
fn ended_runs_are_removed_where_that_is_safe() {
    let world = World::new();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let ended = world.user().join(format!("run-{}", child.id()));
    world.slice(&ended);
    world.slice(&world.user().join("control"));
    assert_eq!(
        metrics_of(world.watcher(&["--remove-ended", "never"]).look()).get("vcuda_node_slices", &[]),
        2.0
    );
    assert!(ended.exists());

    let mut watcher = world.watcher(&["--remove-ended", "always"]);
    let first = metrics_of(watcher.look());
    // As root, it needs every process to let it look, which the superuser of a container may not be allowed to.
    let environments = vcuda_slices::environments::Environments::read();
    let is_expected = world.uid() != 0 || environments.are_complete();
    assert_eq!(first.get("vcuda_node_removed_files_total", &[]) == 1.0, is_expected);
    assert_eq!(ended.exists(), !is_expected);
    assert!(world.user().join("control").exists());
}

#[test]
fn two_slices_of_one_name_are_told_apart() {
    let world = World::new();
    for (name, directory) in [("a", "shares/a"), ("b", "shares/b")] {
        world.slice(&world.path(directory).join("control"));
        fs::write(world.path(directory).join("share.json"), r#"{"share": "same"}"#).unwrap();
        let _ = name;
    }
    let metrics = metrics_of(world.watcher(&[]).look());
    assert!(metrics.find("vcuda_container_processes", &["share=\"same\""]).is_some());
    let path = format!("share=\"{}\"", world.path("shares/b/control").display());
    assert!(metrics.find("vcuda_container_processes", &[&path]).is_some());
}

#[test]
fn what_can_t_be_read_is_counted_and_keeps_nothing_else_from_being_read() {
    let world = World::new();
    let broken = |name: &str, change: &dyn Fn(&Path)| {
        let path = world.path("shares").join(name).join("control");
        world.slice(&path);
        change(&path);
    };
    let write = |path: &Path, bytes: &[u8], at: u64| {
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
    };
    broken("version", &|path| write(path, &[77], 8));
    broken("cut", &|path| OpenOptions::new().write(true).open(path).unwrap().set_len(4096).unwrap());
    broken("other", &|path| fs::write(path, "something else").unwrap());
    broken("good", &|_| {});
    fs::create_dir(world.path("shares/empty")).unwrap();
    fs::write(world.user().join("notes.txt"), "not ours").unwrap();
    fs::write(world.path("shares/good/share.json"), "{").unwrap();
    let metrics = metrics_of(world.watcher(&["--directory", "/nonexistent"]).look());
    assert_eq!(metrics.get("vcuda_node_unreadable_files", &["reason=\"version\""]), 1.0);
    assert_eq!(metrics.get("vcuda_node_unreadable_files", &["reason=\"damaged\""]), 2.0);
    assert_eq!(metrics.get("vcuda_node_slices", &[]), 1.0);
    assert_eq!(metrics.get("vcuda_container_processes", &["share=\"good\""]), 0.0);
    assert_eq!(metrics.get("vcuda_node_directory_readable", &["directory=\"/nonexistent\""]), 0.0);
    let shares = format!("directory=\"{}\"", world.path("shares").display());
    assert_eq!(metrics.get("vcuda_node_directory_readable", &[&shares]), 1.0);
}
