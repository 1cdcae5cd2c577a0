//! Limits that change while programs run: by rewriting the limits file, and by `vcuda set`.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};
use vcuda_tests::{
    Container, MIB, NOT_PERMITTED, OUT_OF_MEMORY, Run, Running, SUCCESS, World, measured_again_while,
    program, skip,
};

/// What is promised.
const PROMISED: Duration = Duration::from_millis(100);

/// A container whose limits are in a file.
struct Sliced {
    container: Container,
    file: PathBuf,
}

impl Sliced {
    fn new(limits: &str) -> Sliced {
        let container = Container::new().no_limit();
        let file = container.directory().join("limits.json");
        let sliced = Sliced { container, file };
        sliced.write(limits);
        sliced
    }

    /// Writes the limits of every GPU, in the words of the file, as `vcuda set` does.
    fn write(&self, limits: &str) {
        let text = format!("{{\"version\":1,\"default\":{{{limits}}}}}");
        match fs::OpenOptions::new().read(true).write(true).open(&self.file) {
            Ok(file) => vcuda_core::limits::rewrite(&file, text.as_bytes()),
            Err(_) => fs::write(&self.file, &text),
        }
        .expect("a limits file");
    }

    fn run(&self, name: &str) -> Run {
        self.container.run(World::Limited, program(name)).env("VCUDA_LIMITS_FILE", &self.file)
    }

    /// The program that does what it is told.
    fn obedient(&self) -> Obedient {
        Obedient::new(self.run("live"))
    }
}

/// `tests/programs/live.c`.
pub struct Obedient {
    running: Running,
    said: u32,
}

impl Obedient {
    /// Starts it.
    pub fn new(run: Run) -> Obedient {
        let mut running = run.start();
        running.wait_for("ready");
        Obedient { running, said: 0 }
    }

    /// What it answers.
    pub fn ask(&mut self, line: &str) -> String {
        self.said += 1;
        let number = self.said.to_string();
        self.running.say(line).wait_for(&number).text(&number).to_owned()
    }

    /// The number that it answers.
    pub fn result(&mut self, line: &str) -> i64 {
        self.ask(line).parse().expect("a number")
    }

    /// Memory in all, as it is told by CUDA.
    pub fn total_mib(&mut self) -> u64 {
        self.total_of("memory")
    }

    /// Memory in all, as `line` asks for it.
    fn total_of(&mut self, line: &str) -> u64 {
        let answer = self.ask(line);
        answer.split_whitespace().last().and_then(|total| total.parse().ok()).expect("a total")
    }

    /// Ends it, and waits until it and what started it are gone.
    pub fn end(mut self) {
        self.running.say("end").finish().succeeded();
    }

    /// Waits until the program is told `mib` of memory in all, and says how long that took.
    #[track_caller]
    pub fn until_total(&mut self, mib: u64) -> Duration {
        self.until_total_of("memory", mib)
    }

    #[track_caller]
    fn until_total_of(&mut self, line: &str, mib: u64) -> Duration {
        let begun = Instant::now();
        while self.total_of(line) != mib {
            assert!(begun.elapsed() < Duration::from_secs(10), "the limit never became {mib} MiB");
        }
        begun.elapsed()
    }
}

#[test]
fn a_raised_memory_limit_gives_room_and_a_lowered_one_refuses_and_loses_nothing() {
    let sliced = Sliced::new(r#""memory":"1GiB""#);
    let mut program = sliced.obedient();
    assert_eq!(program.result("take 400"), SUCCESS);
    assert_eq!(program.result("take 400"), OUT_OF_MEMORY);
    sliced.write(r#""memory":"2GiB""#);
    sleep(PROMISED);
    assert_eq!(program.result("take 400"), SUCCESS);
    assert_eq!(program.total_mib(), 2048);
    let held = sliced.container.charged_bytes(0);

    sliced.write(r#""memory":"1GiB""#);
    sleep(PROMISED);
    assert_eq!(program.result("take 1"), OUT_OF_MEMORY);
    assert_eq!(program.ask("memory"), "0 1024");
    assert_eq!(program.result("check"), 0, "nothing is lost");
    assert_eq!(sliced.container.charged_bytes(0), held);
    assert_eq!(sliced.container.snapshot().devices[0].limit_bytes, Some(1024 * MIB));
    assert_eq!(program.result("give"), SUCCESS);
    assert_eq!(program.result("take 50"), SUCCESS, "what was given back may be had again");
    assert_eq!(program.result("take 400"), OUT_OF_MEMORY);
    let told = program.running.stop();
    let [line] = told.lines().collect::<Vec<_>>()[..] else { panic!("one line, not {told:?}") };
    assert!(
        line.contains("device 0 is 1024 MiB now, and 1318 MiB are in use: nothing more is given"),
        "{line}"
    );
}

#[test]
fn every_way_to_change_the_file_takes_effect_in_time() {
    let sliced = Sliced::new(r#""memory":"1GiB""#);
    let mut program = sliced.obedient();
    let mut longest = Duration::ZERO;
    for round in 0..20 {
        let mib = 1100 + round;
        let text = format!("{{\"version\":1,\"default\":{{\"memory\":\"{mib}MiB\"}}}}");
        match round % 3 {
            0 => sliced.write(&format!("\"memory\":\"{mib}MiB\"")),
            1 => fs::write(&sliced.file, text).expect("a file written over"),
            _ => {
                let other = sliced.file.with_extension("new");
                fs::write(&other, text).expect("another file");
                fs::rename(&other, &sliced.file).expect("a file replaced");
            }
        }
        longest = longest.max(program.until_total(mib));
    }
    // Half a second more than promised, for machines that are busy with other tests.
    assert!(longest < PROMISED + Duration::from_millis(500), "{longest:?}");
    println!("the slowest of 20 changes took {longest:?}");
    assert_eq!(program.running.stop(), "");
}

#[test]
fn all_processes_of_a_slice_follow() {
    let sliced = Sliced::new(r#""memory":"2GiB""#);
    let mut programs = [sliced.obedient(), sliced.obedient(), sliced.obedient()];
    sliced.write(r#""memory":"3GiB""#);
    for program in &mut programs {
        program.until_total(3072);
    }
    let digest = vcuda_core::limits::digest(&fs::read(&sliced.file).expect("the limits file"));
    let noted: Vec<u64> =
        sliced.container.snapshot().processes.iter().map(|process| process.identity.limits_digest).collect();
    assert_eq!(noted, [digest; 3]);
}

#[test]
fn a_program_that_starts_while_the_file_is_rewritten_gets_one_of_both() {
    let sliced = Sliced::new(r#""memory":"1GiB""#);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for mib in [1024, 2048].iter().cycle().take_while(|_| !is_over.load(Ordering::Relaxed)) {
                sliced.write(&format!("\"memory\":\"{mib}MiB\""));
                sleep(Duration::from_millis(2));
            }
        });
        let outcomes: Vec<_> = (0..40).map(|_| sliced.run("devices").finish()).collect();
        is_over.store(true, Ordering::Relaxed);
        for outcome in outcomes {
            let total = outcome.clean().number("device_0_total") as u64;
            assert!([1024 * MIB, 2048 * MIB].contains(&total), "{total}");
        }
    });
}

#[test]
fn monitors_follow_too() {
    let sliced = Sliced::new(r#""memory":"1GiB""#);
    let mut program = sliced.obedient();
    let mut monitor = Obedient::new(sliced.run("live").arg("monitor"));
    assert_eq!(monitor.ask("monitor"), "506 1024");
    sliced.write(r#""memory":"2GiB""#);
    monitor.until_total_of("monitor", 2048);
    program.until_total_of("monitor", 2048);
    assert_eq!(monitor.ask("monitor"), "1530 2048");
    fs::write(&sliced.file, "{").expect("a bad file");
    sleep(2 * PROMISED);
    assert_eq!(monitor.ask("monitor"), "1530 2048");
    assert_eq!(monitor.running.stop(), "", "programs that use the GPU tell of mistakes");
}

#[test]
fn the_systems_file_is_followed() {
    let container = Container::new().no_limit();
    let file = container.directory().join("limits.json");
    let control = container.control_path();
    let text = |mib: u32| {
        let control = control.display();
        format!("{{\"version\":1,\"control_file\":\"{control}\",\"default\":{{\"memory\":\"{mib}MiB\"}}}}")
    };
    fs::write(&file, text(1000)).expect("a limits file");
    // A directory that is mounted: what is renamed in it outside is seen inside.
    let script = format!(
        "mount -t tmpfs none /etc && mkdir /etc/vcuda && mount --bind '{}' /etc/vcuda && \
         mount -o remount,ro,bind /etc/vcuda && exec \"$@\"",
        container.directory().display()
    );
    let probe =
        container.run(World::Bare, "unshare").args(["-m", "sh", "-c", &script, "sh", "true"]).finish();
    if !probe.status.success() {
        return skip("no mount namespace can be made here");
    }
    let run = container.run(World::Limited, "unshare").args(["-m", "sh", "-c", &script, "sh"]);
    let mut program = Obedient::new(run.arg(program("live")).without("VCUDA_CONTROL_FILE"));
    assert_eq!(program.total_mib(), 1000);
    let other = container.directory().join("other");
    fs::write(&other, text(2000)).expect("another file");
    fs::rename(&other, &file).expect("a file replaced");
    program.until_total(2000);
    assert_eq!(program.running.stop(), "");
}

#[test]
fn a_bad_file_changes_nothing_and_is_told_once() {
    let sliced = Sliced::new(r#""memory":"1GiB""#);
    let mut program = sliced.obedient();
    let mistakes = [
        ("", "not JSON"),
        ("{\"version\":1,\"default\":{\"memory\":\"86G", "not JSON"),
        ("{\"version\":1,\"default\":{\"memory\":\"4X\"}}", "4X"),
        ("{\"version\":1,\"devices\":{\"7\":{\"memory\":\"8GiB\"}}}", "there is no GPU 7"),
        ("gone", "is gone"),
    ];
    for (text, _) in mistakes {
        match text {
            "gone" => fs::remove_file(&sliced.file).expect("the file removed"),
            text => fs::write(&sliced.file, text).expect("a bad file"),
        }
        for _ in 0..4 {
            sleep(Duration::from_millis(60));
            assert_eq!(program.total_mib(), 1024, "after {text:?}");
            assert_eq!(program.result("take 1000"), OUT_OF_MEMORY);
        }
    }
    sliced.write(r#""memory":"2GiB""#);
    program.until_total(2048);
    let told = program.running.stop();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), mistakes.len(), "{told}");
    for (line, (_, words)) in lines.iter().zip(mistakes) {
        assert!(line.contains("limits.json") && line.contains(words), "{words:?} is not in {line}");
        assert!(line.ends_with("; the limits of this program stay as they are"), "{line}");
    }
    fs::write(&sliced.file, "{").expect("a bad file");
    let outcome = sliced.run("devices").finish();
    assert_eq!(outcome.number("init"), NOT_PERMITTED, "a program that starts now is refused: {outcome:#?}");
}

#[test]
fn a_limit_may_be_taken_away_and_put_back_and_one_of_another_sort_is_for_later_programs() {
    let sliced = Sliced::new(r#""memory":"600MiB""#);
    let mut program = sliced.obedient();
    fs::write(&sliced.file, r#"{"version":1}"#).expect("no limits");
    program.until_total(16384);
    assert_eq!(program.result("take 700"), SUCCESS);
    assert_eq!(sliced.container.snapshot().devices[0].limit_bytes, None);
    sliced.write(r#""memory":"1000MiB""#);
    program.until_total(1000);
    assert_eq!(program.result("take 1"), OUT_OF_MEMORY, "what was taken meanwhile counts");
    assert_eq!(program.result("give"), SUCCESS);
    assert_eq!(program.result("take 300"), SUCCESS);
    sliced.write(r#""memory":"1200MiB","cores":30"#);
    program.until_total(1200);
    let told = program.running.stop();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 3, "one for what is too much, one for each device: {told}");
    assert!(lines[1].contains("device 0 has a limit now of a sort that it had not"), "{told}");
}

#[test]
fn how_a_gpu_is_shared_is_changed_like_the_limits() {
    let sliced = Sliced::new(r#""cores":30"#);
    let mut program = sliced.obedient();
    let mut comes_to = |limits: &str, share_ppm: Option<u32>, text: Option<&str>| {
        sliced.write(limits);
        let begun = Instant::now();
        loop {
            assert_eq!(program.result("take 1"), SUCCESS);
            let compute = sliced.container.snapshot().devices[0].compute;
            let sharing = compute.sharing.map(|sharing| sharing.to_string());
            if (compute.share_ppm, sharing.as_deref()) == (share_ppm, text) {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "{limits}: {compute:?}");
            sleep(Duration::from_millis(5));
        }
    };
    let share = Some(300_000);
    comes_to(r#""cores":30"#, share, Some("weight 30"));
    comes_to(r#""cores":30,"elastic":true"#, share, Some("elastic, weight 30"));
    comes_to(r#""cores":50,"elastic":true"#, Some(500_000), Some("elastic, weight 50"));
    comes_to(r#""cores":30,"weight":60,"priority":"high""#, share, Some("weight 60, high priority"));
    comes_to(r#""weight":60"#, None, Some("weight 60"));
    comes_to(r#""memory":"1GiB""#, None, None);
    comes_to(r#""priority":"high""#, None, Some("weight 100, high priority"));
    comes_to(r#""cores":30"#, share, Some("weight 30"));
    let told = program.running.stop();
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines.iter().all(|line| line.contains("a sort that it had not")), "{told}");
}

/// Percent of the time that GPU 0 is busy from now on for `length`.
fn busy_percent(container: &Container, length: Duration) -> f64 {
    let machine = container.machine();
    let before = machine.busy(0);
    sleep(length);
    let after = machine.busy(0);
    100.0 * (after.busy_ns - before.busy_ns) as f64 / (after.at_ns - before.at_ns) as f64
}

#[test]
fn a_changed_share_is_kept_within_two_seconds() {
    let sliced = Sliced::new(r#""cores":30"#);
    let mut running = sliced.run("compute_copies").args(["launch", "30"]).start();
    running.wait_for("running");
    sleep(Duration::from_millis(500));
    for share in [30.0, 60.0, 10.0, 45.0] {
        sliced.write(&format!("\"cores\":{share}"));
        sleep(PROMISED);
        // From the change on; a wrong share stays wrong.
        let window = || busy_percent(&sliced.container, Duration::from_millis(1900));
        let percent = measured_again_while(|percent| (percent - share).abs() > 1.0, window);
        println!("asked {share} %, measured {percent:.2} %");
        assert!((percent - share).abs() <= 1.0, "asked {share} %, measured {percent:.2} %");
    }
    assert_eq!(running.stop(), "");
}

#[test]
fn a_program_that_waits_for_its_share_follows_a_larger_one() {
    let sliced = Sliced::new(r#""cores":0.5"#);
    // Each kernel is paid for by four seconds of waiting.
    let run = sliced.run("compute_load").args(["run", "sync1", "20000000", "1", "seconds=30", "warmup=0"]);
    let running = run.start();
    let machine = sliced.container.machine();
    assert!(Container::eventually(|| machine.busy(0).busy_ns > 20_000_000), "it never began");
    sleep(Duration::from_millis(500));
    let before = machine.busy(0).busy_ns;
    sleep(Duration::from_millis(300));
    assert_eq!(machine.busy(0).busy_ns, before, "it waits");
    sliced.write(r#""cores":90"#);
    let begun = Instant::now();
    while machine.busy(0).busy_ns == before {
        assert!(begun.elapsed() < Duration::from_secs(2), "it still waits");
        sleep(Duration::from_millis(1));
    }
    println!("it went on after {:?}", begun.elapsed());
    // As above: what is promised, and room for a busy machine.
    assert!(begun.elapsed() < PROMISED + Duration::from_millis(500), "{:?}", begun.elapsed());
    let window = || busy_percent(&sliced.container, Duration::from_secs(1));
    let percent = measured_again_while(|&percent| percent <= 75.0, window);
    assert!(percent > 75.0, "{percent:.1} %");
    running.kill();
}
