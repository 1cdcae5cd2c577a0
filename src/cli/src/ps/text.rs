//! What the control files say, for people: slices in which something runs, in at most 80 columns.

use super::state::{ProcessState, has_states};
use super::{living, recent_busy_ratio};
use crate::neighbours::{MEANING, OnGpu};
use crate::{duration, size};
use vcuda_core::device::Uuid;
use vcuda_core::share::Share;
use vcuda_core::sharing::{Priority, Sharing, Weight};
use vcuda_core::snapshot::{ComputeView, DeviceView, HoldingView, ProcessView, Snapshot};

/// Columns for a process's name: as many as the kernel keeps of it.
const NAME_COLUMNS: usize = 16;

/// Those of `snapshots` in which a process lives.
pub fn slices(snapshots: &[Snapshot], own_namespace: u64) -> String {
    let busy: Vec<_> = snapshots.iter().filter(|snapshot| living(snapshot).next().is_some()).collect();
    if busy.is_empty() {
        return "No program is running under a limit.\nStart one:  vcuda run --memory 4GiB --cores 30 -- COMMAND\n"
            .to_owned();
    }
    let mut text = String::new();
    for (position, snapshot) in busy.iter().enumerate() {
        if position > 0 {
            text.push('\n');
        }
        text.push_str(&slice(snapshot, own_namespace));
    }
    if busy.iter().any(|snapshot| living(snapshot).any(|process| is_elsewhere(process, own_namespace))) {
        text.push_str("\n* process id in another PID namespace\n");
    }
    text
}

/// What works beside the slices that nobody holds back.
pub fn beside(found: &[OnGpu]) -> String {
    let foreign = found.iter().filter(|one| !one.neighbours.foreign.is_empty());
    foreign
        .map(|one| {
            let gpu = short_uuid(one.gpu);
            format!("\n{gpu}  beside the slices: {}\n            {MEANING}\n", one.neighbours.text())
        })
        .collect()
}

fn slice(snapshot: &Snapshot, own_namespace: u64) -> String {
    let mut text = format!("{}\n", vcuda_slices::shown_name(&snapshot.path));
    if !snapshot.at_path {
        text.push_str("  was removed or replaced: programs started from now on count apart\n");
    }
    let is_used = |device: &&DeviceView| {
        device.used_bytes > 0
            || device.set_aside_bytes > 0
            || living(snapshot).any(|process| holding(process, device).is_some())
    };
    let used: Vec<&DeviceView> = snapshot.devices.iter().filter(is_used).collect();
    for device in &used {
        text.push_str(&format!("  {}  {}\n", name_of(device, &used), of_quota(device)));
        if device.set_aside_bytes > 0 {
            let away = size::text(device.set_aside_bytes);
            text.push_str(&format!(
                "    {away} of suspended processes are not on the device and not counted\n"
            ));
        }
        if has_compute(device) {
            text.push_str(&format!("    {}\n", of_share(device)));
        }
        text.push_str(&holders(snapshot, device, own_namespace));
    }
    for process in living(snapshot).filter(|process| process.devices.is_empty()) {
        let name = cut(&process.identity.name, NAME_COLUMNS);
        text.push_str(&format!("  {} {name} holds nothing\n", process_id(process, own_namespace)));
    }
    text
}

/// The processes that have to do with a device, under a heading.
pub fn holders(snapshot: &Snapshot, device: &DeviceView, own_namespace: u64) -> String {
    let is_held = living(snapshot).any(|process| holding(process, device).is_some());
    let has_states = has_states(snapshot);
    let mut text = if is_held { heading(device, has_states) } else { String::new() };
    for process in living(snapshot) {
        if let Some(held) = holding(process, device) {
            text.push_str(&row(process, held, device, own_namespace, has_states));
        }
    }
    let in_use = living(snapshot).filter(|process| !ProcessState::from(*process).is_away());
    let held: u64 = in_use.map(|process| process.used_bytes(device.index)).sum();
    if device.used_bytes > held {
        let rest = size::text(device.used_bytes - held);
        text.push_str(&format!("             {rest} of ended processes, free again when next needed\n"));
    }
    text
}

/// What the process has to do with the device.
fn holding<'a>(process: &'a ProcessView, device: &DeviceView) -> Option<&'a HoldingView> {
    process.devices.iter().find(|view| view.device == device.index)
}

/// Whether memory is counted on the device.
pub fn has_memory(device: &DeviceView) -> bool {
    device.limit_bytes.is_some() || device.used_bytes > 0 || device.set_aside_bytes > 0
}

/// Whether GPU time is counted on the device.
pub fn has_compute(device: &DeviceView) -> bool {
    device.compute.share_ppm.is_some() || device.compute.sharing.is_some() || device.compute.work_count > 0
}

/// The heads of the columns that [`row`] fills.
fn heading(device: &DeviceView, has_states: bool) -> String {
    let mut text = format!("        PID  {:<NAME_COLUMNS$}", "PROCESS");
    if has_memory(device) {
        text.push_str("     HOLDS");
    }
    // In place of what is known of contexts: there is room for one of the two.
    if has_states {
        text.push_str("     STATE");
    } else if has_memory(device) {
        text.push_str("  CONTEXTS");
    }
    if has_compute(device) {
        text.push_str("  GPU TIME     CALLS THROTTLED");
    }
    text.push('\n');
    text
}

fn row(
    process: &ProcessView,
    held: &HoldingView,
    device: &DeviceView,
    own_namespace: u64,
    has_states: bool,
) -> String {
    let name = cut(&process.identity.name, NAME_COLUMNS);
    let mut text = format!("  {} {name:<NAME_COLUMNS$}", process_id(process, own_namespace));
    if has_memory(device) {
        text.push_str(&format!(" {:>9}", size::text(held.used_bytes)));
    }
    if has_states {
        text.push_str(&format!(" {:>9}", ProcessState::from(process).word()));
    } else if has_memory(device) {
        text.push_str(&format!(" {:>9}", size::text(held.overhead_bytes)));
    }
    if has_compute(device) {
        let (busy, throttled) = (duration::text(held.busy_ns), duration::text(held.throttled_ns));
        text.push_str(&format!(" {busy:>9} {:>9} {throttled:>9}", count(held.work_count)));
    }
    text.push('\n');
    text
}

/// Right-aligned, with a mark where it means nothing here.
fn process_id(process: &ProcessView, own_namespace: u64) -> String {
    format!("{:>9}{}", process.identity.pid, if is_elsewhere(process, own_namespace) { '*' } else { ' ' })
}

/// As much of the UUID as tells the device from the others, which other tools take for it as well. All of it
/// needs a line of its own.
fn name_of(device: &DeviceView, all: &[&DeviceView]) -> String {
    let short = short_name(device);
    let is_shared = all.iter().filter(|other| short_name(other) == short).count() > 1;
    if is_shared { format!("{}\n   ", device.uuid) } else { short }
}

/// The start of the UUID.
pub fn short_name(device: &DeviceView) -> String {
    short_uuid(device.uuid)
}

/// As [`short_name`].
pub fn short_uuid(uuid: Uuid) -> String {
    uuid.to_string().chars().take("GPU-".len() + 8).collect()
}

/// `982 MiB of 4.00 GiB (23 %), peak 2.10 GiB, 3 refused`.
pub fn of_quota(device: &DeviceView) -> String {
    if !has_memory(device) {
        return "no memory limit".to_owned();
    }
    let mut text = size::text(device.used_bytes);
    match device.limit_bytes {
        Some(limit) => {
            let percent = u128::from(device.used_bytes) * 100 / u128::from(limit.max(1));
            text.push_str(&format!(" of {} ({percent} %)", size::text(limit)));
        }
        None => text.push_str(", no limit"),
    }
    text.push_str(&format!(", peak {}", size::text(device.peak_bytes)));
    if device.refused_count > 0 {
        text.push_str(&format!(", {} refused", device.refused_count));
    }
    text
}

/// `30 %`; `≥ 30 %` of an elastic share. `None` without a share.
pub fn share_text(compute: &ComputeView) -> Option<String> {
    let least = if compute.sharing.is_some_and(|sharing| sharing.elastic) { "≥ " } else { "" };
    compute.share_ppm.and_then(Share::from_ppm).map(|share| format!("{least}{share}"))
}

/// How the device is shared with others, where that is not what comes of the share alone.
pub fn sharing_text(compute: &ComputeView) -> Option<String> {
    let share = compute.share_ppm.and_then(Share::from_ppm);
    let usual = Sharing { elastic: false, weight: Weight::of_share(share), priority: Priority::Normal };
    compute.sharing.filter(|sharing| share.is_none() || *sharing != usual).map(|sharing| sharing.to_string())
}

/// `29.8 % busy of 30 %, 12.4 s used, 28.9 s throttled, debt 3.1 ms`.
pub fn of_share(device: &DeviceView) -> String {
    let compute = &device.compute;
    let now = format!("{:.1} % busy", recent_busy_ratio(compute) * 100.0);
    let (busy, throttled) = (duration::text(compute.busy_ns), duration::text(compute.throttled_ns));
    let Some(share) = share_text(compute) else {
        return format!("{now}, no compute limit, {busy} used, {throttled} throttled");
    };
    let debt = match compute.debt_ns {
        0 => String::new(),
        debt_ns => format!(", debt {}", duration::text(debt_ns)),
    };
    format!("{now} of {share}, {busy} used, {throttled} throttled{debt}")
}

/// At most nine characters: `1234567`, and from a hundred million on `1234 M`.
fn count(number: u64) -> String {
    const MILLION: u64 = 1_000_000;
    if number < 100 * MILLION { number.to_string() } else { format!("{} M", number / MILLION) }
}

pub fn is_elsewhere(process: &ProcessView, own_namespace: u64) -> bool {
    process.identity.pid_namespace != 0 && process.identity.pid_namespace != own_namespace
}

/// At most so many characters.
pub fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ps::state::tests::word;
    use vcuda_core::device::DeviceIndex;
    use vcuda_core::identity::Identity;
    use vcuda_core::sharing::{ELASTIC_BIT, HIGH_PRIORITY_BIT};
    use vcuda_core::snapshot::HoldingView;
    use vcuda_core::suspension::{Phase, Suspension};

    const MIB: u64 = 1 << 20;

    fn device(index: usize, first: u8) -> DeviceView {
        let mut uuid = [0x20; 16];
        uuid[0] = first;
        DeviceView {
            index: DeviceIndex::new(index).unwrap(),
            uuid: Uuid::gpu(uuid),
            limit_bytes: Some(4096 * MIB),
            physical_bytes: 81920 * MIB,
            used_bytes: 1024 * MIB,
            set_aside_bytes: 0,
            peak_bytes: 2150 * MIB,
            refused_count: 3,
            context_bytes_learned: 0,
            compute: ComputeView::default(),
        }
    }

    fn process(pid: u32, name: &str, alive: bool, used_bytes: u64) -> ProcessView {
        let identity = Identity { pid, name: name.to_owned(), pid_namespace: 1, ..Identity::default() };
        let held = HoldingView {
            device: DeviceIndex::new(0).unwrap(),
            used_bytes,
            overhead_bytes: used_bytes / 2,
            busy_ns: 0,
            work_count: 0,
            throttled_ns: 0,
        };
        ProcessView {
            slot: 0,
            identity,
            alive: Some(alive),
            suspension: Suspension::default(),
            devices: vec![held],
        }
    }

    fn snapshot(devices: Vec<DeviceView>, processes: Vec<ProcessView>) -> Snapshot {
        let path = "/run/job/control".into();
        Snapshot { path, created_unix_ns: 0, at_path: true, devices, processes }
    }

    #[test]
    fn the_table_fits_a_terminal_and_adds_up() {
        let processes = vec![
            process(1234567, "a program with a very long name", true, 700 * MIB),
            process(22, "python3", true, 200 * MIB),
            process(23, "dead", false, 124 * MIB),
        ];
        let text = slices(&[snapshot(vec![device(0, 0xaa)], processes)], 1);
        assert_eq!(
            text,
            "/run/job/control\n\
             \x20 GPU-aa202020  1.00 GiB of 4.00 GiB (25 %), peak 2.10 GiB, 3 refused\n\
             \x20       PID  PROCESS              HOLDS  CONTEXTS\n\
             \x20   1234567  a program with …   700 MiB   350 MiB\n\
             \x20        22  python3            200 MiB   100 MiB\n\
             \x20            124 MiB of ended processes, free again when next needed\n"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 80));
    }

    /// A device whose time is limited to 33.3333 %.
    fn share(mut device: DeviceView) -> DeviceView {
        device.compute = ComputeView {
            share_ppm: Some(333_333),
            sharing: Sharing::from_word(ELASTIC_BIT | 33),
            busy_ns: 599_990_000_000,
            work_count: 99_999_999,
            throttled_ns: 35_990_000_000_000,
            throttled_count: 4711,
            debt_ns: 29_900_000_000,
            recent_busy_ns: 33_300_000,
        };
        device
    }

    #[test]
    fn the_share_is_shown_beside_the_memory() {
        let mut worker = process(22, "python3", true, 200 * MIB);
        worker.devices[0].busy_ns = 599_990_000_000;
        worker.devices[0].work_count = 123_456_789;
        worker.devices[0].throttled_ns = 35_990_000_000_000;
        let mut device = share(device(0, 0xaa));
        device.used_bytes = 200 * MIB;
        let text = slices(&[snapshot(vec![device.clone()], vec![worker.clone()])], 1);
        assert_eq!(
            text,
            "/run/job/control\n\
             \x20 GPU-aa202020  200 MiB of 4.00 GiB (4 %), peak 2.10 GiB, 3 refused\n\
             \x20   33.3 % busy of ≥ 33.3333 %, 599.9 s used, 599.8 min throttled, debt 29.9 s\n\
             \x20       PID  PROCESS              HOLDS  CONTEXTS  GPU TIME     CALLS THROTTLED\n\
             \x20        22  python3            200 MiB   100 MiB   599.9 s     123 M 599.8 min\n"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 80));

        device.limit_bytes = None;
        device.used_bytes = 0;
        worker.devices[0].used_bytes = 0;
        let text = slices(&[snapshot(vec![device], vec![worker])], 1);
        assert!(text.contains("  GPU-aa202020  no memory limit\n    33.3 % busy of ≥ 33.3333 %, "), "{text}");
        assert!(text.contains("        PID  PROCESS           GPU TIME     CALLS THROTTLED\n"), "{text}");
        assert!(text.ends_with("         22  python3            599.9 s     123 M 599.8 min\n"), "{text}");
    }

    #[test]
    fn sharing_is_told_where_it_does_not_come_of_the_share() {
        let mut compute = ComputeView { share_ppm: Some(300_000), ..ComputeView::default() };
        let mut told = |word: u64| {
            compute.sharing = Sharing::from_word(word);
            (share_text(&compute), sharing_text(&compute))
        };
        let [share, least] = ["30 %", "≥ 30 %"].map(|text| Some(text.to_owned()));
        assert_eq!(told(0), (share.clone(), None));
        assert_eq!(told(30), (share.clone(), None));
        assert_eq!(told(31), (share.clone(), Some("weight 31".into())));
        assert_eq!(told(ELASTIC_BIT | 30), (least, Some("elastic, weight 30".into())));
        assert_eq!(told(HIGH_PRIORITY_BIT | 30), (share, Some("weight 30, high priority".into())));
        compute.share_ppm = None;
        assert_eq!(
            (share_text(&compute), sharing_text(&compute)),
            (None, Some("weight 30, high priority".into()))
        );
        compute.sharing = Sharing::from_word(100);
        assert_eq!(sharing_text(&compute), Some("weight 100".into()), "it takes part, without a share");
    }

    #[test]
    fn suspended_processes_are_told_from_those_that_run() {
        let mut away = process(22, "python3", true, 700 * MIB);
        away.suspension = word(|words| words.set_phase(Phase::Suspended, false));
        let mut device = share(device(0, 0xaa));
        device.used_bytes = 200 * MIB;
        device.set_aside_bytes = 700 * MIB;
        let text = slices(&[snapshot(vec![device], vec![away, process(23, "trainer", true, 200 * MIB)])], 1);
        assert!(text.contains("(4 %), peak 2.10 GiB, 3 refused\n    700 MiB of suspended "), "{text}");
        assert!(text.contains("        PID  PROCESS              HOLDS     STATE  GPU TIME "), "{text}");
        assert!(text.contains("         22  python3            700 MiB suspended "), "{text}");
        assert!(text.contains("         23  trainer            200 MiB   running "), "{text}");
        assert!(!text.contains("of ended processes"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn similar_uuids_are_shown_in_full() {
        let text = slices(&[snapshot(vec![device(0, 1), device(1, 1)], vec![process(1, "a", true, MIB)])], 1);
        assert!(text.contains("  GPU-01202020-2020-2020-2020-202020202020\n     1.00 GiB of"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn only_what_is_held_is_shown() {
        let mut idle = device(1, 2);
        idle.used_bytes = 0;
        let mut waiting = process(8, "waiting", true, 0);
        waiting.devices.clear();
        let text =
            slices(&[snapshot(vec![device(0, 1), idle], vec![process(7, "a", true, MIB), waiting])], 1);
        assert!(!text.contains("GPU-02"), "{text}");
        assert_eq!(text.matches("waiting").count(), 1, "{text}");
        assert!(text.ends_with("          8  waiting holds nothing\n"), "{text}");
    }

    #[test]
    fn process_ids_of_other_namespaces_are_marked() {
        let text = slices(&[snapshot(vec![device(0, 1)], vec![process(7, "a", true, MIB)])], 2);
        assert!(text.contains("        7* a"), "{text}");
        assert!(text.ends_with("\n* process id in another PID namespace\n"));
    }

    #[test]
    fn slices_without_living_processes_are_not_shown() {
        let idle = snapshot(vec![device(0, 1)], vec![process(7, "dead", false, MIB)]);
        assert!(slices(std::slice::from_ref(&idle), 1).starts_with("No program is running under a limit.\n"));
    }
}
