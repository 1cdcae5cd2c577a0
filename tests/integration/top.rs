//! `vcuda top` on a terminal, over simulated tenants.

use crate::live::Obedient;
use rustix::termios::LocalModes;
use std::fs;
use vcuda_core::control::Control;
use vcuda_tests::{Container, OnTerminal, Run, Running, World, artefacts, program};

fn vcuda(container: &Container) -> Run {
    container.run(World::Bare, &artefacts().vcuda).env("VCUDA_LIBRARY", &artefacts().library)
}

/// Two tenants, and the part of their names that no other test has.
struct Tenants {
    container: Container,
    mark: String,
    programs: Vec<Obedient>,
}

impl Tenants {
    fn new(test: &str) -> Tenants {
        let container = Container::new();
        let mark = format!("{test}-{}", std::process::id());
        let tenant = |name: &str, limits: [&str; 4], mib: u32| {
            let run = vcuda(&container).args(["run", "--name", &format!("{name}-{mark}")]).args(limits);
            let mut program = Obedient::new(run.arg("--").arg(program("live")));
            program.result(&format!("take {mib}"));
            program
        };
        let programs = vec![
            tenant("large", ["--memory", "2GiB", "--cores", "50"], 1000),
            tenant("small", ["--memory", "1GiB", "--cores", "12.5"], 200),
        ];
        Tenants { container, mark, programs }
    }

    /// `vcuda top`, which shows what others' tests have as well until it is told not to.
    fn top(&self, arguments: &[&str], variables: &[(&str, &str)]) -> OnTerminal {
        let run = vcuda(&self.container).arg("top").args(arguments);
        let run = variables.iter().fold(run, |run, (name, value)| run.env(name, value));
        run.start_on_terminal(80, 24)
    }

    fn end(self) {
        self.programs.into_iter().for_each(Obedient::end);
    }
}

/// Shows this test's slices alone, and waits until they are seen.
fn filter(top: &mut OnTerminal, text: &str) -> Vec<String> {
    top.wait_until(|lines| lines.first().is_some_and(|line| line.starts_with(" vcuda top")));
    top.press(&format!("/{text}\r"));
    let footer = format!("/ filter \"{text}\"");
    top.wait_until(|lines| lines.last().is_some_and(|line| line.contains(&footer)))
}

/// A line without what was before, which differs from look to look.
fn still(line: &str) -> String {
    line.chars().take(63).collect::<String>().trim_end().to_owned()
}

#[test]
fn the_screen_says_what_tenants_have_and_keys_change_what_it_says() {
    let tenants = Tenants::new("screen");
    let mark = &tenants.mark;
    let mut top = tenants.top(&["--interval", "0.25"], &[]);
    let lines = filter(&mut top, mark);
    let expected = [
        format!(" large-{mark}"),
        "   memory █████████████████████ 1.48 GiB of 2.00 GiB".to_owned(),
        "   share  ░░░░░░░░░░░░░░░░░░░░░ 0.0 % of 50 %".to_owned(),
    ];
    let at = lines.iter().position(|line| line.starts_with(&expected[0])).expect("the larger slice");
    assert!(lines[at].ends_with("GPU-510faced"), "{lines:#?}");
    assert!(
        lines[at + 1].starts_with("   memory ███████████████")
            && lines[at + 1].contains("1.48 GiB of 2.00 GiB  74 %")
    );
    assert_eq!(still(&lines[at + 2]), expected[2]);
    assert!(
        lines[at + 3].contains(" live             ")
            && lines[at + 3].contains("   1.48 GiB      0.0 %        0 %"),
        "{lines:#?}"
    );
    assert_eq!(lines[at + 4].split_whitespace().next(), Some(format!("small-{mark}").as_str()), "{lines:#?}");
    assert!(lines[at + 5].contains("718 MiB of 1.00 GiB  70 %"), "{lines:#?}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80));

    top.press("sss");
    top.wait_until(|lines| lines.last().is_some_and(|line| line.contains("s sort: name")));
    top.press("r");
    let first = |lines: &[String]| {
        lines.iter().find(|line| line.contains(mark.as_str())).cloned().unwrap_or_default()
    };
    top.wait_until(|lines| first(lines).starts_with(" small-"));
    top.press("t");
    top.wait_until(|lines| lines.iter().all(|line| !line.contains(" live ")));
    top.press("?");
    top.wait_until(|lines| lines.iter().any(|line| line.contains("stop the picture and go on")));
    top.press("?t");

    // What changes is seen: a limit, and what is held.
    let set = vcuda(&tenants.container).args(["set", &format!("small-{mark}"), "--memory", "2GiB"]);
    set.finish().clean();
    let mut tenants = tenants;
    tenants.programs[1].until_total(2048);
    top.wait_until(|lines| lines.iter().any(|line| line.contains("718 MiB of 2.00 GiB  35 %")));

    top.resize(120, 30);
    top.wait_until(|lines| lines.iter().any(|line| line.contains("▼ name") || line.contains("▲ name")));
    assert!(
        top.lines().iter().any(|line| line.chars().count() > 100),
        "the width is used: {:#?}",
        top.lines()
    );
    assert!(top.screen().alternate_screen());
    top.press("q");
    assert_eq!(top.ended().code(), Some(0));
    assert_left_as_it_was(&top);
    tenants.end();
}

/// The terminal is as it was before: its screen, its cursor, and how it treats keys.
#[track_caller]
fn assert_left_as_it_was(top: &OnTerminal) {
    let screen = top.screen();
    assert!(!screen.alternate_screen() && !screen.hide_cursor());
    assert!(!screen.contents().contains("vcuda top"), "{}", screen.contents());
    let (before, after) = (top.manners_before(), top.manners());
    assert_eq!(after.local_modes, before.local_modes);
    assert_eq!((after.input_modes, after.output_modes), (before.input_modes, before.output_modes));
    assert!(after.local_modes.contains(LocalModes::ECHO | LocalModes::ICANON));
}

#[test]
fn processes_that_are_not_at_work_are_told_from_those_that_are() {
    let container = Container::new().gpus("8GiB").limit("6GiB");
    let path = |slice: &str| container.directory().join(slice).display().to_string();
    // Those who are named must be there.
    for slice in ["first", "second", "third"] {
        Control::open_or_create(path(slice)).unwrap();
    }
    let named = |run: Run| {
        let slices = ["first", "second", "third"].map(path);
        slices.iter().fold(run, |run, path| run.args(["--control-file", path]))
    };
    let tenant = |slice: &str, mib: u32, idle_release: &str| {
        let run = container.run(World::Limited, program("suspendable")).arg(mib.to_string());
        run.env("VCUDA_CONTROL_FILE", path(slice)).env("VCUDA_IDLE_RELEASE", idle_release).start()
    };
    let lease = |run: Run| run.env("VCUDA_LEASE_DIRECTORY", container.directory());
    let agent = || {
        let mut agent = lease(named(vcuda(&container).arg("release"))).start();
        agent.wait_for("vcuda:");
        agent
    };
    let mut first = tenant("first", 4500, "300ms");
    first.wait_for("ready");
    let mut third = tenant("third", 64, "600s");
    third.wait_for("ready");
    let mut top = named(vcuda(&container).args(["top", "--interval", "0.25"])).start_on_terminal(80, 40);
    let mark = container.directory().file_name().unwrap().to_string_lossy().into_owned();
    filter(&mut top, &mark);
    let shows = |pid: u32, text: &str| {
        let is_it = |line: &String| line.trim_start().starts_with(&pid.to_string()) && line.ends_with(text);
        top.wait_until(|lines| lines.iter().any(is_it))
    };
    shows(first.pid(), "0.0 %        0 %          0");

    let makes_room = agent();
    let mut second = tenant("second", 4500, "300ms");
    second.wait_for("ready");
    let lines = shows(first.pid(), "   4.90 GiB    put aside, back when it calls");
    assert!(lines.iter().any(|line| line.contains("   1 away   GPU-510faced")), "{lines:#?}");
    makes_room.kill();
    // For some seconds, processes believe in an agent.
    third.say("alloc 4000");
    shows(third.pid(), "waiting for 3.91 GiB of memory");
    first.say("work");
    shows(first.pid(), "put aside, waiting for memory");
    let states = |slice: &str| {
        let json = named(vcuda(&container).args(["ps", "--json"])).finish().clean().stdout;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let slices = json["slices"].as_array().unwrap();
        let slice = slices.iter().find(|known| known["control_file"] == path(slice)).unwrap();
        slice["devices"][0]["processes"][0].clone()
    };
    assert_eq!(
        (&states("first")["state"], &states("second")["state"]),
        (&"waiting".into(), &"running".into())
    );
    assert_eq!(states("first")["idle_release_ns"], 300_000_000);
    assert_eq!(states("third")["waits_for_bytes"], 4000u64 << 20);

    // Who comes back takes the room of who is idle.
    let makes_room = agent();
    first.wait_for("worked");
    shows(second.pid(), "put aside, back when it calls");
    third.wait_for("alloc_1");
    makes_room.kill();
    lease(vcuda(&container).args(["suspend", &path("third")])).finish().clean();
    shows(third.pid(), "suspended, not on the GPU");
    let inspected = vcuda(&container).args(["inspect", &path("third")]).finish().clean().stdout;
    assert!(inspected.contains("\n             suspended, not on the GPU\n"), "{inspected}");
    top.press("q");
    assert_eq!(top.ended().code(), Some(0));
    [first, second, third].into_iter().for_each(Running::kill);
}

#[test]
fn signals_and_keys_that_end_it_give_the_terminal_back() {
    let container = Container::new();
    let shown = |top: &OnTerminal| {
        top.wait_until(|lines| lines.first().is_some_and(|line| line.starts_with(" vcuda top")));
    };
    for (signal, code) in
        [(libc::SIGTERM, 143), (libc::SIGHUP, 129), (libc::SIGINT, 130), (libc::SIGQUIT, 131)]
    {
        let mut top = vcuda(&container).arg("top").start_on_terminal(80, 24);
        shown(&top);
        assert!(!top.manners().local_modes.contains(LocalModes::ECHO));
        top.signal(signal);
        assert_eq!(top.ended().code(), Some(code));
        assert_left_as_it_was(&top);
    }
    let mut top = vcuda(&container).arg("top").start_on_terminal(80, 24);
    shown(&top);
    // Ctrl-Z gives the terminal to the shell, and fg takes it back.
    top.press("\u{1a}");
    let state = |top: &OnTerminal| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", top.pid())).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
    };
    assert!(Container::eventually(|| state(&top) == Some('T')), "it was not stopped");
    assert!(Container::eventually(|| !top.screen().alternate_screen()));
    assert_left_as_it_was(&top);
    top.signal(libc::SIGCONT);
    shown(&top);
    top.press("\u{3}");
    assert_eq!(top.ended().code(), Some(0));
    assert_left_as_it_was(&top);
}

#[test]
fn colours_can_be_done_without() {
    let tenants = Tenants::new("colours");
    let coloured = |top: &OnTerminal| {
        let screen = top.screen();
        let cells = (0..24).flat_map(|row| (0..80).map(move |column| (row, column)));
        cells
            .filter_map(|(row, column)| screen.cell(row, column))
            .filter(|cell| cell.fgcolor() != vt100::Color::Default)
            .count()
    };
    let mut top = tenants.top(&[], &[]);
    filter(&mut top, &tenants.mark);
    assert!(coloured(&top) > 40);
    let mut plain = tenants.top(&[], &[("NO_COLOR", "1")]);
    filter(&mut plain, &tenants.mark);
    assert_eq!(coloured(&plain), 0);
    drop((top, plain));
    tenants.end();
}

#[test]
fn without_a_terminal_one_frame_is_printed_as_text() {
    let tenants = Tenants::new("once");
    for run in [vcuda(&tenants.container).arg("top"), vcuda(&tenants.container).args(["top", "--once"])] {
        let outcome = run.env("COLUMNS", "100").finish().clean();
        assert!(!outcome.stdout.contains('\u{1b}'));
        assert!(outcome.stdout.starts_with(" vcuda top   "), "{}", outcome.stdout);
        let lines: Vec<&str> = outcome.stdout.lines().collect();
        let name = format!(" large-{}", tenants.mark);
        let at = lines.iter().position(|line| line.starts_with(&name)).expect("the larger slice");
        assert!(lines[at + 1].contains("1.48 GiB of 2.00 GiB  74 %"), "{}", outcome.stdout);
        assert!(lines.iter().all(|line| line.chars().count() <= 100));
    }
    tenants.end();
}
