//! Containers that share a GPU: each under a `vcuda run` of its own, in turns, end to end.
//!
//! What each has is what the simulated GPU was busy for it, by its own books. How exact that is on a real GPU is the
//! business of `scripts/gpu-sharing`, and how exact the turns are that of the arbiter's own tests; here the machine may be
//! busy with other tests, and a program that is kept from launching by others than the limiter gets less.

use std::thread::sleep;
use std::time::Duration;
use vcuda_tests::{Container, Running, World, artefacts, measured_again_while, program};

/// Until turns have settled, and what was saved up is spent.
const START_UP: Duration = Duration::from_millis(1200);
const WINDOW: Duration = Duration::from_millis(3000);
/// Points by which a tenant of the tests may differ from its share, wide enough for a machine that is busy.
const WITHIN: f64 = 6.0;

/// A load generator under a `vcuda run` of its own.
struct Tenant {
    running: Running,
}

impl Tenant {
    /// Waits until it is ready.
    fn start(container: &Container, name: &str, limits: &str) -> Tenant {
        let run = container.run(World::Bare, &artefacts().vcuda).env("VCUDA_LIBRARY", &artefacts().library);
        let run = run.arg("run").args(limits.split(' ')).arg("--control-file");
        let run = run.arg(container.directory().join(name)).arg("--").arg(program("compute_load"));
        // From one process to another the GPU goes as a real one does.
        let mut running = run.arg("serve").env("VCUDA_FAKE_TIMES", "switch=150000").start();
        running.wait_for("ready");
        Tenant { running }
    }

    /// Has it work for longer than anybody looks, until it is dropped.
    fn work(&mut self, mode: &str, kernel_us: u64) {
        let seconds = (START_UP + WINDOW * 12).as_secs_f64();
        self.running.say(&format!("{mode} {} 1 seconds={seconds} warmup=0", kernel_us * 1000));
    }

    /// The program's own process.
    fn pid(&self) -> u32 {
        self.running.number("pid") as u32
    }

    fn signal(&self, signal: i32) {
        // SAFETY: the program runs as long as the command that waits for it.
        unsafe { libc::kill(self.pid() as i32, signal) };
    }
}

/// Percent of the time that the GPU is busy for each of them within `window`.
fn busy_percent(container: &Container, tenants: &[&Tenant], window: Duration) -> Vec<f64> {
    let machine = container.machine();
    let before = machine.busy(0);
    sleep(window);
    let after = machine.busy(0);
    let of = |books: &[(u32, u64)], pid: u32| {
        books.iter().find(|(known, _)| *known == pid).map_or(0, |(_, ns)| *ns)
    };
    let passed = (after.at_ns - before.at_ns) as f64;
    let percent = |tenant: &&Tenant| {
        let busy_ns = of(&after.processes, tenant.pid()) - of(&before.processes, tenant.pid());
        100.0 * busy_ns as f64 / passed
    };
    tenants.iter().map(percent).collect()
}

/// A tenant of a test: its limits, how it launches, and how long its kernels take in microseconds.
type Wish<'a> = (&'a str, &'a str, u64);

/// Tenants that have worked together for a while.
fn started<const N: usize>(container: &Container, wishes: [Wish; N]) -> [Tenant; N] {
    let mut number = 0;
    let mut tenants = wishes.map(|(limits, _, _)| {
        number += 1;
        Tenant::start(container, &format!("tenant-{number}"), limits)
    });
    for (tenant, (_, mode, kernel_us)) in tenants.iter_mut().zip(wishes) {
        tenant.work(mode, kernel_us);
    }
    sleep(START_UP);
    tenants
}

/// What tenants have together, which must be as `expected`, and more than `least` in sum.
#[track_caller]
fn assert_shares<const N: usize>(wishes: [Wish; N], expected: [f64; N], least: f64) {
    let container = Container::new();
    let tenants = started(&container, wishes);
    let tenants: Vec<&Tenant> = tenants.iter().collect();
    assert_has(&container, &tenants, WINDOW, &expected, least);
}

/// What `tenants` have from now on. Of what a busy machine takes from one, others have more, so that either is excused for
/// some windows.
#[track_caller]
fn assert_has(container: &Container, tenants: &[&Tenant], window: Duration, expected: &[f64], least: f64) {
    let is_kept = |found: &[f64]| {
        let mut each = found.iter().zip(expected);
        each.all(|(found, expected)| (found - expected).abs() <= WITHIN) && found.iter().sum::<f64>() > least
    };
    let found =
        measured_again_while(|found: &Vec<f64>| !is_kept(found), || busy_percent(container, tenants, window));
    assert!(is_kept(&found), "{found:.1?} %, expected {expected:?}, in sum more than {least}");
}

const HALF: &str = "--cores 50 --elastic --weight 50";

#[test]
fn two_that_want_everything_have_half_each_and_lose_little() {
    // Bare, a tenth is lost in going from one to the other again and again.
    assert_shares([(HALF, "free", 2_000), (HALF, "free", 500)], [50.0, 50.0], 94.0);
}

#[test]
fn one_that_waits_for_each_kernel_is_not_starved() {
    let container = Container::new();
    let [waiting] = started(&container, [(HALF, "sync1", 1_000)]);
    let mut other = Tenant::start(&container, "other", HALF);
    // By itself it has all but what it takes to wake up again, which is more on a busy machine; half of that is its half.
    let by_itself = || busy_percent(&container, &[&waiting], WINDOW / 3)[0];
    let alone = measured_again_while(|&percent| percent < 80.0, by_itself);
    assert!(alone > 40.0, "{alone:.1} % by itself");
    other.work("free", 2_000);
    sleep(START_UP / 2);
    let is_kept = |found: &[f64]| {
        let [waiting, other] = found else { return false };
        (alone / 2.0 - WITHIN..=50.0 + WITHIN).contains(waiting) && *other >= 50.0 - WITHIN
    };
    let both = || busy_percent(&container, &[&waiting, &other], WINDOW);
    let found = measured_again_while(|found: &Vec<f64>| !is_kept(found), both);
    assert!(is_kept(&found), "{found:.1?} %, by itself {alone:.1} %");
}

#[test]
fn weights_are_kept() {
    let three = "--cores 30 --elastic --weight 3";
    let seven = "--cores 70 --elastic --weight 7";
    assert_shares([(three, "free", 1_000), (seven, "free", 1_000)], [30.0, 70.0], 0.0);
}

#[test]
fn hard_shares_are_kept_beside_each_other() {
    assert_shares([("--cores 30", "free", 1_000), ("--cores 60", "free", 1_000)], [30.0, 60.0], 0.0);
}

#[test]
fn a_hard_share_leaves_the_rest_to_an_elastic_one() {
    let elastic = "--cores 30 --elastic --weight 30";
    assert_shares([("--cores 40", "free", 1_000), (elastic, "free", 1_000)], [40.0, 60.0], 0.0);
}

#[test]
fn an_elastic_tenant_has_all_beside_an_idle_one_until_that_wakes() {
    let container = Container::new();
    let mut second = Tenant::start(&container, "second", HALF);
    let [first] = started(&container, [(HALF, "free", 1_000)]);
    assert_has(&container, &[&first], WINDOW / 3, &[100.0], 90.0);
    second.work("free", 1_000);
    sleep(START_UP / 2);
    assert_has(&container, &[&first, &second], WINDOW / 2, &[50.0, 50.0], 0.0);
}

/// What the survivor has in the time after its neighbour, which has most of the GPU, was sent a signal.
fn after(signal: i32) -> f64 {
    let container = Container::new();
    let mut survivor = Tenant::start(&container, "survivor", "--cores 20 --elastic --weight 20");
    let mut holder = Tenant::start(&container, "holder", "--cores 80 --elastic --weight 80");
    survivor.work("free", 1_000);
    holder.work("free", 1_000);
    sleep(START_UP);
    let before = busy_percent(&container, &[&survivor], WINDOW / 3)[0];
    assert!(before < 35.0, "{before:.1} % beside the other");
    holder.signal(signal);
    // A turn of 20 ms, and as much again if it is exceeded, are four hundredths of this.
    let percent = busy_percent(&container, &[&survivor], Duration::from_millis(1000))[0];
    holder.signal(libc::SIGCONT);
    percent
}

#[test]
fn a_killed_holder_costs_its_neighbour_no_more_than_its_turn() {
    let percent = measured_again_while(|&percent| percent <= 88.0, || after(libc::SIGKILL));
    assert!(percent > 88.0, "{percent:.1} %");
}

#[test]
fn a_stopped_holder_costs_its_neighbour_no_more_than_its_turn() {
    let percent = measured_again_while(|&percent| percent <= 88.0, || after(libc::SIGSTOP));
    assert!(percent > 88.0, "{percent:.1} %");
}
