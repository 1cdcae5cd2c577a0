//! The time line by itself, with a clock that the tests turn: what runs when, and for how long it counts.

use proptest::prelude::*;
use std::path::Path;
use vcuda_fake_machine::{
    DEPTH, Engine, Length, LineId, Machine, Mark, Member, Progress, Slices, Timeline, Unit, parse_gpus,
};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const FULL: Engine = Engine::Processors { percent: 100 };

/// A machine of one GPU, with processes and a clock of its own.
struct World {
    members: Vec<Member>,
    now_ns: u64,
    _directory: tempfile::TempDir,
}

impl World {
    fn new(processes: usize) -> World {
        World::with(processes, Slices::default())
    }

    fn with(processes: usize, slices: Slices) -> World {
        let directory = tempfile::tempdir_in(shared_memory()).unwrap();
        let path = directory.path().join("machine");
        let gpus = parse_gpus("1x4GiB").unwrap();
        let join = |_| Machine::open_or_create_with(&path, &gpus, slices).unwrap().join().unwrap();
        World { members: (0..processes).map(join).collect(), now_ns: 0, _directory: directory }
    }

    fn look<R>(&self, body: impl FnOnce(&mut Timeline) -> R) -> R {
        self.members[0].machine().timeline_at(self.now_ns, body)
    }

    fn line(&self, process: usize) -> LineId {
        self.look(|timeline| self.members[process].open_line(timeline, 0)).unwrap()
    }

    fn queue(&self, line: LineId, unit: Unit) -> Mark {
        self.look(|timeline| timeline.append(line, unit, |_| {})).unwrap()
    }

    fn kernel(&self, line: LineId, percent: u32, duration_ns: u64) -> Mark {
        let engine = Engine::Processors { percent };
        self.queue(line, Unit { engine, length: Length::Fixed(duration_ns), ..Unit::MARK })
    }

    fn pass(&mut self, time_ns: u64) {
        self.now_ns += time_ns;
        self.look(|_| {});
    }

    fn end_ns(&self, mark: Mark) -> Option<u64> {
        match self.look(|timeline| timeline.progress(mark)) {
            Progress::Over { end_ns } => Some(end_ns.expect("its record is kept")),
            _ => None,
        }
    }

    fn start_ns(&self, mark: Mark) -> Option<u64> {
        match self.look(|timeline| timeline.progress(mark)) {
            Progress::Begun { start_ns } => Some(start_ns),
            _ => None,
        }
    }

    /// How long the GPU worked, and for each process.
    fn busy(&self) -> (u64, Vec<u64>) {
        self.look(|timeline| {
            let of_members = self.members.iter().map(|member| timeline.busy_ns_of(member.slot(), 0));
            (timeline.busy_ns(0), of_members.collect())
        })
    }
}

fn shared_memory() -> &'static Path {
    let path = Path::new("/dev/shm");
    if path.is_dir() { path } else { Path::new("/tmp") }
}

#[test]
fn units_of_a_line_follow_each_other_without_a_gap() {
    let mut world = World::new(1);
    let line = world.line(0);
    let first = world.kernel(line, 100, 10 * US);
    let mark = world.queue(line, Unit::MARK);
    let second = world.kernel(line, 100, 5 * US);
    world.pass(12 * US);
    assert_eq!((world.end_ns(first), world.end_ns(mark)), (Some(10 * US), Some(10 * US)));
    assert_eq!((world.start_ns(second), world.end_ns(second)), (Some(10 * US), None));
    assert_eq!(world.busy(), (12 * US, vec![12 * US]), "what is promised doesn't count");
    world.pass(MS);
    assert_eq!(world.end_ns(second), Some(15 * US));
    assert_eq!(world.busy(), (15 * US, vec![15 * US]));
}

#[test]
fn nothing_begins_before_its_time_or_what_it_waits_for() {
    let mut world = World::new(1);
    let (one, other) = (world.line(0), world.line(0));
    let late = Unit { earliest_ns: 3 * US, ..Unit::MARK };
    let late = world.queue(one, late);
    let copy = Unit { engine: Engine::ToHost, length: Length::Fixed(7 * US), ..Unit::MARK };
    let copy = world.queue(one, copy);
    let behind = world.queue(other, Unit::wait(copy));
    let kernel = world.kernel(other, 100, US);
    assert_eq!(world.look(|timeline| timeline.earliest_end_ns(kernel)), 11 * US);
    world.pass(MS);
    assert_eq!(world.end_ns(late), Some(3 * US));
    assert_eq!(world.end_ns(behind), Some(10 * US));
    assert_eq!(world.end_ns(kernel), Some(11 * US));
    assert_eq!(world.busy().0, 8 * US);
}

#[test]
fn small_kernels_of_one_process_run_beside_each_other() {
    let mut world = World::new(1);
    let lines = [0; 4].map(|_| world.line(0));
    let ends = [(25, 8 * US), (50, 4 * US), (50, 3 * US), (25, US)];
    let marks: Vec<Mark> =
        lines.iter().zip(ends).map(|(&line, (percent, ns))| world.kernel(line, percent, ns)).collect();
    world.pass(MS);
    let ends: Vec<_> = marks.iter().map(|&mark| world.end_ns(mark).unwrap() / US).collect();
    assert_eq!(ends, [8, 4, 7, 5], "the third waits for room, and the last not to overtake it");
    assert_eq!(world.busy().0, 8 * US);
}

#[test]
fn copies_each_way_have_an_engine_of_their_own() {
    let mut world = World::new(2);
    let lines = [0, 1, 0, 1].map(|process| world.line(process));
    let copy = |engine| Unit { engine, length: Length::Fixed(10 * US), ..Unit::MARK };
    let marks = [
        world.queue(lines[0], copy(Engine::FromHost)),
        world.queue(lines[1], copy(Engine::FromHost)),
        world.queue(lines[2], copy(Engine::ToHost)),
        world.kernel(lines[3], 100, 25 * US),
    ];
    world.pass(MS);
    assert_eq!(marks.map(|mark| world.end_ns(mark).unwrap() / US), [10, 20, 10, 25]);
    assert_eq!(world.busy(), (25 * US, vec![10 * US, 25 * US]));
}

#[test]
fn a_backlog_delays_another_process_by_no_more_than_a_slice() {
    let mut world = World::new(2);
    let (busy, other) = (world.line(0), world.line(1));
    let backlog: Vec<Mark> = (0..50).map(|_| world.kernel(busy, 100, 10 * MS)).collect();
    world.pass(500 * US);
    let short = world.kernel(other, 100, 100 * US);
    world.pass(10 * MS);
    assert_eq!(world.end_ns(short), Some(2 * MS + 100 * US));
    assert_eq!(world.end_ns(backlog[0]), Some(10 * MS + 100 * US));
    world.pass(1000 * MS);
    assert_eq!(world.end_ns(backlog[49]), Some(500 * MS + 100 * US));
    assert_eq!(world.busy(), (500 * MS + 100 * US, vec![500 * MS, 100 * US]));
}

#[test]
fn processes_with_enough_to_do_get_equal_parts() {
    let mut world = World::new(3);
    for process in 0..3 {
        let line = world.line(process);
        for _ in 0..1000 {
            world.kernel(line, 100, [300 * US, 7 * MS, 40 * MS][process]);
        }
    }
    world.pass(300 * MS);
    let (all, each) = world.busy();
    assert_eq!(all, 300 * MS);
    assert!(each.iter().all(|part| part.abs_diff(100 * MS) <= 2 * MS), "{each:?}");
    assert_eq!(each.iter().sum::<u64>(), all);
}

#[test]
fn a_switch_of_processes_takes_what_it_is_said_to_take() {
    let mut world = World::with(2, Slices { slice_ns: MS, switch_ns: 100 * US });
    let marks = [0, 1].map(|process| world.kernel(world.line(process), 100, 2 * MS));
    world.pass(10 * MS);
    assert_eq!(marks.map(|mark| world.end_ns(mark)), [Some(3_200 * US), Some(4_300 * US)]);
    assert_eq!(world.busy(), (4 * MS, vec![2 * MS, 2 * MS]));
}

#[test]
fn an_open_unit_lasts_until_it_is_ended() {
    let mut world = World::new(1);
    let (one, other) = (world.line(0), world.line(0));
    let open = Length::Open { most_ns: 5 * MS };
    let spin =
        world.queue(one, Unit { engine: Engine::Processors { percent: 25 }, length: open, ..Unit::MARK });
    let after = world.queue(one, Unit { engine: Engine::None, length: open, ..Unit::MARK });
    let beside = world.kernel(other, 100, MS);
    world.pass(2 * MS);
    assert_eq!(world.end_ns(beside), Some(MS), "it makes do with what the other leaves");
    assert_eq!(world.start_ns(after), None);
    world.look(|timeline| timeline.finish(spin));
    assert_eq!((world.end_ns(spin), world.start_ns(after)), (Some(2 * MS), Some(2 * MS)));
    world.pass(10 * MS);
    assert_eq!(world.end_ns(after), Some(7 * MS), "nobody ended it");
    assert_eq!(world.busy().0, 2 * MS);

    let kernel = world.kernel(one, 100, MS);
    let ended_early = world.queue(one, Unit { engine: FULL, length: open, ..Unit::MARK });
    world.look(|timeline| timeline.finish(ended_early));
    world.pass(2 * MS);
    assert_eq!(world.end_ns(ended_early), world.end_ns(kernel));
}

#[test]
fn a_line_is_as_deep_as_it_says_and_tells_of_records_before_they_are_lost() {
    let mut world = World::new(1);
    let line = world.line(0);
    for tag in 1..=DEPTH as u64 {
        world.queue(line, Unit { tag, length: Length::Fixed(US), engine: FULL, ..Unit::MARK });
    }
    assert_eq!(world.look(|timeline| timeline.room(line)), 0);
    assert_eq!(world.look(|timeline| timeline.append(line, Unit::MARK, |_| {})), None);
    world.pass(2 * US);
    let mut told = Vec::new();
    world.look(|timeline| {
        timeline.append(line, Unit::MARK, |dropped| told.push((dropped.tag, dropped.end_ns)))
    });
    assert_eq!(told, [(1, US)]);
    assert!(!world.look(|timeline| timeline.close_line(line, |_| {})), "work is pending");
    world.pass(10 * MS);
    told.clear();
    assert!(
        world.look(|timeline| timeline.close_line(line, |dropped| told.push((dropped.tag, dropped.end_ns))))
    );
    assert_eq!(told.len(), DEPTH - 1);
    assert_eq!(told.last(), Some(&(DEPTH as u64, DEPTH as u64 * US)));
}

/// One thing that a random program does.
#[derive(Clone, Debug)]
enum Step {
    Kernel {
        line: usize,
        percent: u32,
        duration_ns: u64,
    },
    Copy {
        line: usize,
        to_host: bool,
        duration_ns: u64,
    },
    /// Has a line wait for the end of another one of the same process.
    Wait {
        line: usize,
        other: usize,
    },
    Pass {
        time_ns: u64,
    },
}

const PROCESSES: usize = 3;
const LINES: usize = 9;

fn step() -> impl Strategy<Value = Step> {
    let line = 0..LINES;
    prop_oneof![
        4 => (line.clone(), 1..=100_u32, 1..6 * MS)
            .prop_map(|(line, percent, duration_ns)| Step::Kernel { line, percent, duration_ns }),
        2 => (line.clone(), any::<bool>(), 1..2 * MS)
            .prop_map(|(line, to_host, duration_ns)| Step::Copy { line, to_host, duration_ns }),
        1 => (line.clone(), line).prop_map(|(line, other)| Step::Wait { line, other }),
        3 => (0..3 * MS).prop_map(|time_ns| Step::Pass { time_ns }),
    ]
}

/// What became of a random program.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    ends_ns: Vec<Option<u64>>,
    all_ns: u64,
    each_ns: Vec<u64>,
    /// The lengths of all that each process queued, added up.
    work_ns: Vec<u64>,
}

/// Runs a program, looking `looks` times as often as it takes.
fn run(steps: &[Step], looks: u64) -> Outcome {
    let mut world = World::new(PROCESSES);
    let lines: Vec<LineId> = (0..LINES).map(|line| world.line(line % PROCESSES)).collect();
    let (mut marks, mut work_ns) = (Vec::new(), vec![0; PROCESSES]);
    for step in steps {
        match *step {
            Step::Kernel { line, percent, duration_ns } => {
                marks.push(world.kernel(lines[line], percent, duration_ns));
                work_ns[line % PROCESSES] += duration_ns;
            }
            Step::Copy { line, to_host, duration_ns } => {
                let engine = if to_host { Engine::ToHost } else { Engine::FromHost };
                marks.push(
                    world.queue(
                        lines[line],
                        Unit { engine, length: Length::Fixed(duration_ns), ..Unit::MARK },
                    ),
                );
                work_ns[line % PROCESSES] += duration_ns;
            }
            Step::Wait { line, other } => {
                let other = lines[other / PROCESSES * PROCESSES + line % PROCESSES];
                let tail = world.look(|timeline| timeline.tail(other));
                marks.push(world.queue(lines[line], Unit::wait(tail)));
            }
            Step::Pass { time_ns } => {
                for look in 1..=looks {
                    world.pass(time_ns * look / looks - time_ns * (look - 1) / looks);
                }
            }
        }
    }
    world.pass(1000 * MS);
    let ends_ns = marks.into_iter().map(|mark| world.end_ns(mark)).collect();
    let (all_ns, each_ns) = world.busy();
    Outcome { ends_ns, all_ns, each_ns, work_ns }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_happens_does_not_depend_on_who_looks(steps in prop::collection::vec(step(), 1..60)) {
        let once = run(&steps, 1);
        prop_assert!(once.ends_ns.iter().all(Option::is_some), "everything comes to its end");
        for (busy_ns, work_ns) in once.each_ns.iter().zip(&once.work_ns) {
            // Work of one process may run beside other work of it, never longer than all of it.
            prop_assert!(busy_ns <= work_ns);
        }
        prop_assert!(once.all_ns <= once.each_ns.iter().sum());
        prop_assert!(once.each_ns.iter().all(|&busy_ns| busy_ns <= once.all_ns));
        prop_assert_eq!(once, run(&steps, 7));
    }

    #[test]
    fn estimates_are_never_too_late(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new(PROCESSES);
        let lines: Vec<LineId> = (0..LINES).map(|line| world.line(line % PROCESSES)).collect();
        let mut estimates = Vec::new();
        for step in &steps {
            match *step {
                Step::Kernel { line, percent, duration_ns } => {
                    let mark = world.kernel(lines[line], percent, duration_ns);
                    estimates.push((mark, world.look(|timeline| timeline.earliest_end_ns(mark))));
                }
                Step::Copy { line, duration_ns, .. } => {
                    let unit = Unit { engine: Engine::ToHost, length: Length::Fixed(duration_ns), ..Unit::MARK };
                    let mark = world.queue(lines[line], unit);
                    estimates.push((mark, world.look(|timeline| timeline.earliest_end_ns(mark))));
                }
                Step::Wait { line, other } => {
                    let tail = world.look(|timeline| timeline.tail(lines[other]));
                    world.queue(lines[line], Unit::wait(tail));
                }
                Step::Pass { time_ns } => world.pass(time_ns),
            }
        }
        world.pass(1000 * MS);
        for (mark, estimate_ns) in estimates {
            prop_assert!(world.end_ns(mark).unwrap() >= estimate_ns);
        }
    }
}
