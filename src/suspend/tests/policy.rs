//! Idle release against random programs: what they hold, when they call, what they lack, when they end.

use proptest::prelude::*;
use std::time::Duration;
use vcuda_suspend::policy::{Doing, Policy, Process, ProcessId, Step, View};

const AFTER: Duration = Duration::from_secs(60);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn running(id: u64, bytes: u64, idle: u64) -> Process {
    Process {
        id: ProcessId(id),
        doing: Doing::Running { idle: secs(idle) },
        idle_release: Some(AFTER),
        holds: vec![(0, bytes)],
        needs: None,
    }
}

fn aside(id: u64, bytes: u64, since: u64, is_wanted: bool) -> Process {
    Process { doing: Doing::Aside { since: secs(since), is_wanted }, ..running(id, bytes, 0) }
}

fn view(free: u64, processes: Vec<Process>) -> View {
    View { free_bytes: [(0, free)].into(), processes }
}

fn decide(free: u64, processes: Vec<Process>) -> Option<Step> {
    Policy::default().decide(&view(free, processes), secs(0))
}

#[test]
fn nobody_is_put_aside_without_need() {
    assert_eq!(decide(5, vec![running(1, 80, 900), running(2, 50, 900)]), None);
}

#[test]
fn the_longest_idle_makes_room_and_the_busy_do_not() {
    let lacking = Process { needs: Some((0, 60)), ..running(9, 10, 0) };
    let processes = vec![running(1, 50, 70), running(2, 50, 600), running(3, 50, 10), lacking.clone()];
    assert_eq!(decide(5, processes), Some(Step::PutAside(ProcessId(2))));
    assert_eq!(
        decide(5, vec![running(1, 50, 70), running(3, 50, 10), lacking.clone()]),
        None,
        "one alone is too little"
    );
    assert_eq!(decide(60, vec![running(1, 50, 70), lacking.clone()]), Some(Step::Admit(ProcessId(9))));
    let pinned = Process { idle_release: None, ..running(1, 200, 900) };
    assert_eq!(decide(5, vec![pinned, lacking]), Some(Step::Deny(ProcessId(9))));
}

#[test]
fn an_allocation_is_not_kept_waiting_for_ever() {
    let lacking = Process { needs: Some((0, 60)), ..running(9, 10, 0) };
    let view = view(5, vec![running(1, 80, 0), lacking]);
    let mut policy = Policy::default();
    assert_eq!(policy.decide(&view, secs(100)), None);
    assert_eq!(policy.decide(&view, secs(699)), None);
    assert_eq!(policy.decide(&view, secs(700)), Some(Step::Deny(ProcessId(9))));
}

#[test]
fn who_came_first_is_served_first() {
    let mut policy = Policy::default();
    let (big, small) = (aside(1, 80, 5, true), aside(2, 10, 5, true));
    let busy = running(3, 60, 0);
    assert_eq!(policy.decide(&view(20, vec![big.clone(), busy.clone()]), secs(0)), None);
    // The small one would fit, and would keep the big one out.
    assert_eq!(policy.decide(&view(20, vec![small.clone(), busy, big.clone()]), secs(1)), None);
    let idle = running(3, 60, 60);
    assert_eq!(
        policy.decide(&view(20, vec![small.clone(), idle, big.clone()]), secs(61)),
        Some(Step::PutAside(ProcessId(3)))
    );
    assert_eq!(
        policy.decide(&view(80, vec![small.clone(), big]), secs(65)),
        Some(Step::BringBack(ProcessId(1)))
    );
    assert_eq!(policy.decide(&view(20, vec![small]), secs(66)), Some(Step::BringBack(ProcessId(2))));
}

#[test]
fn who_cant_be_put_aside_is_left_alone_for_a_while() {
    let mut policy = Policy::default();
    let view = view(0, vec![running(1, 80, 600), aside(2, 80, 5, true)]);
    assert_eq!(policy.decide(&view, secs(0)), Some(Step::PutAside(ProcessId(1))));
    policy.note_failure(ProcessId(1), secs(0));
    assert_eq!(policy.decide(&view, secs(4)), None);
    assert_eq!(policy.decide(&view, secs(5)), Some(Step::PutAside(ProcessId(1))));
    policy.note_failure(ProcessId(1), secs(5));
    assert_eq!(policy.decide(&view, secs(14)), None);
    policy.note_success(ProcessId(1));
    assert_eq!(policy.decide(&view, secs(14)), Some(Step::PutAside(ProcessId(1))));
}

#[test]
fn who_was_put_aside_comes_back_when_there_is_room_anyway() {
    assert_eq!(decide(80, vec![aside(1, 80, 59, false)]), None, "not at once");
    assert_eq!(decide(80, vec![aside(1, 80, 60, false)]), Some(Step::BringBack(ProcessId(1))));
    assert_eq!(decide(79, vec![aside(1, 80, 600, false)]), None);
    let waiting = vec![aside(1, 10, 600, false), aside(2, 90, 5, true), running(3, 50, 0)];
    assert_eq!(decide(50, waiting), None, "not before who waits");
}

/// A machine that does what the policy says.
struct Machine {
    policy: Policy,
    total: u64,
    programs: Vec<Program>,
    now: u64,
}

#[derive(Clone, Debug)]
struct Program {
    id: u64,
    bytes: u64,
    is_aside: bool,
    since: u64,
    /// It calls, or an allocation waits.
    is_wanted: bool,
    needs: Option<u64>,
    last_call: u64,
    /// When its demand came.
    asked: u64,
}

impl Machine {
    fn used(&self) -> u64 {
        self.programs.iter().filter(|program| !program.is_aside).map(|program| program.bytes).sum()
    }

    fn view(&self) -> View {
        let processes = self.programs.iter().map(|program| Process {
            id: ProcessId(program.id),
            doing: match program.is_aside {
                true => Doing::Aside { since: secs(self.now - program.since), is_wanted: program.is_wanted },
                false => Doing::Running { idle: secs(self.now - program.last_call) },
            },
            idle_release: Some(AFTER),
            holds: vec![(0, program.bytes)],
            needs: program.needs.map(|bytes| (0, bytes)),
        });
        view(self.total - self.used(), processes.collect())
    }

    /// Takes steps until there is nothing to do; checks each.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let free = self.total - self.used();
            let Some(step) = self.policy.decide(&self.view(), secs(self.now)) else { return };
            let now = self.now;
            let find = |programs: &mut Vec<Program>, id: ProcessId| {
                programs.iter().position(|program| program.id == id.0).expect("a living program")
            };
            match step {
                Step::PutAside(id) => {
                    let index = find(&mut self.programs, id);
                    let program = &mut self.programs[index];
                    assert!(!program.is_aside && program.needs.is_none());
                    assert!(now - program.last_call >= AFTER.as_secs(), "only the idle");
                    (program.is_aside, program.since, program.is_wanted) = (true, now, false);
                    self.policy.note_success(id);
                }
                Step::BringBack(id) => {
                    let index = find(&mut self.programs, id);
                    let program = &mut self.programs[index];
                    assert!(program.is_aside && program.bytes <= free, "a restore always has room");
                    program.is_aside = false;
                    if program.is_wanted {
                        program.last_call = now;
                    }
                    program.is_wanted = false;
                }
                Step::Admit(id) => {
                    let index = find(&mut self.programs, id);
                    let bytes = self.programs[index].needs.take().expect("a need");
                    assert!(bytes <= free);
                    self.programs[index].bytes += bytes;
                    self.programs[index].last_call = now;
                }
                Step::Deny(id) => {
                    let index = find(&mut self.programs, id);
                    self.programs[index].needs.take().expect("a need");
                }
            }
        }
        panic!("no end of steps: {:?}", self.programs);
    }
}

#[derive(Clone, Debug)]
enum Event {
    Start(u64),
    Call(usize),
    Need(usize, u64),
    Free(usize),
    End(usize),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (1..80u64).prop_map(Event::Start),
        (0..8usize).prop_map(Event::Call),
        (0..8usize, 1..60u64).prop_map(|(who, bytes)| Event::Need(who, bytes)),
        (0..8usize).prop_map(Event::Free),
        (0..8usize).prop_map(Event::End),
        (1..120u64).prop_map(Event::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn everybody_gets_a_turn(events in prop::collection::vec(event(), 1..80)) {
        let mut machine = Machine { policy: Policy::default(), total: 100, programs: Vec::new(), now: 0 };
        let mut next = 0;
        for event in events {
            let count = machine.programs.len();
            let now = machine.now;
            match event {
                // One that does not fit is admitted with nothing and asks for its memory, as a real one would.
                Event::Start(bytes) => {
                    next += 1;
                    machine.programs.push(Program {
                        id: next, bytes: 0, is_aside: false, since: 0, is_wanted: false, needs: Some(bytes),
                        last_call: now, asked: now,
                    });
                }
                Event::Call(who) if who < count => {
                    let program = &mut machine.programs[who];
                    if program.is_aside {
                        if !program.is_wanted {
                            (program.is_wanted, program.asked) = (true, now);
                        }
                    } else {
                        program.last_call = now;
                    }
                }
                Event::Need(who, bytes) if who < count && !machine.programs[who].is_aside => {
                    let program = &mut machine.programs[who];
                    if program.needs.is_none() {
                        (program.needs, program.asked) = (Some(bytes), now);
                    }
                }
                Event::Free(who) if who < count && !machine.programs[who].is_aside => machine.programs[who].bytes /= 2,
                Event::End(who) if who < count => drop(machine.programs.remove(who)),
                Event::Pass(seconds) => machine.now += seconds,
                _ => {}
            }
            machine.settle();
            prop_assert!(machine.used() <= machine.total);
        }
        // From now on everybody is idle: whoever waits gets what it waits for, or is told that it never will.
        for _ in 0..20 {
            machine.now += 61;
            machine.settle();
        }
        for program in &machine.programs {
            prop_assert!(program.needs.is_none(), "{program:?}");
            prop_assert!(!program.is_wanted || program.bytes > machine.total, "{program:?}");
        }
    }
}
