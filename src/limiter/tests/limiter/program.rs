//! Programs that use a GPU, and what they got of it.

use crate::device::{Behaviour, Device, Engine, Work};
use crate::host::{Host, Manners, World};
use crate::oracle::Oracle;
use crate::truth::Truth;
use crate::words::{File, Words, read};
use std::sync::Arc;
use vcuda_limiter::cost::Unit;
use vcuda_limiter::meter::{Meter, StreamOf};

pub const MILLISECOND_NS: u64 = 1_000_000;
pub const SECOND_NS: u64 = 1_000_000_000;
/// The clocks' first reading. Not 0, as it never is.
pub const BEGIN_NS: u64 = 1_000 * SECOND_NS;
/// What an unknown kernel is taken to cost, as in the preloaded library.
const GUESS_NS: u64 = 10_000;

/// How the lengths of a kind's kernels differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spread {
    /// Not at all.
    Exact,
    /// Evenly, by at most this part of the mean.
    Even(f64),
    /// One in ten takes ten times as long as the others.
    Rare,
}

/// A kind of work.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub mean_ns: u64,
    pub spread: Spread,
    pub engine: Engine,
    /// The call returns when the work is done.
    pub waits: bool,
    /// Every launch has a shape of its own.
    pub is_shapeless: bool,
}

impl Kind {
    pub fn kernel(mean_ns: u64) -> Self {
        Self { mean_ns, spread: Spread::Exact, engine: Engine::Whole, waits: false, is_shapeless: false }
    }

    pub fn longest_ns(&self) -> u64 {
        match self.spread {
            Spread::Exact => self.mean_ns,
            Spread::Even(part) => (self.mean_ns as f64 * (1.0 + part)) as u64,
            Spread::Rare => self.mean_ns * 100 / 19,
        }
    }
}

/// When a program waits.
#[derive(Clone, Copy, Debug)]
pub enum Pattern {
    /// Every so many launches, until all is done.
    SyncEvery(u64),
    /// Never.
    Free,
    /// As if launches took this much longer.
    Paced { gap_ns: u64 },
    /// So many launches, until they are done and for some time after.
    Bursts { count: u64, idle_ns: u64 },
}

#[derive(Clone, Debug)]
pub struct Program {
    pub kinds: Vec<Kind>,
    /// Kinds come in any order, not in turn.
    pub is_mixed: bool,
    pub pattern: Pattern,
    pub streams: usize,
}

impl Program {
    pub fn of(mean_ns: u64, pattern: Pattern) -> Self {
        Self { kinds: vec![Kind::kernel(mean_ns)], is_mixed: false, pattern, streams: 1 }
    }

    pub fn longest_ns(&self) -> u64 {
        self.kinds.iter().map(Kind::longest_ns).max().unwrap_or(0)
    }

    pub fn mean_ns(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.mean_ns).sum::<u64>() / self.kinds.len() as u64
    }

    /// Runs until the clock says `until_ns`.
    pub fn run<'w>(&self, host: &Host<'w>, limit: &Limit<'_, 'w>, until_ns: u64) {
        let streams: Vec<Lane> = (0..self.streams).map(|_| Lane::new(host, limit)).collect();
        self.run_on(host, limit, &streams, until_ns);
    }

    /// As [`Program::run`], on these streams.
    pub fn run_on<'w>(&self, host: &Host<'w>, limit: &Limit<'_, 'w>, streams: &[Lane], until_ns: u64) {
        let mut count = 0u64;
        while host.now() < until_ns {
            let lane = &streams[count as usize % streams.len()];
            let index = if self.is_mixed { host.chance.next() } else { count / streams.len() as u64 };
            let index = index as usize % self.kinds.len();
            lane.give(host, limit, self.unit(index, host));
            count += 1;
            match self.pattern {
                Pattern::Free => {}
                Pattern::Paced { gap_ns } => {
                    host.spend(gap_ns - gap_ns / 20 + host.chance.between(0, gap_ns / 10 + 1))
                }
                Pattern::SyncEvery(every) if count.is_multiple_of(every) => wait(host, limit, streams),
                Pattern::Bursts { count: every, idle_ns } if count.is_multiple_of(every) => {
                    wait(host, limit, streams);
                    host.spend(idle_ns);
                }
                _ => {}
            }
        }
    }

    /// A piece of work of a kind, as the device and as the limiter see it.
    fn unit(&self, index: usize, host: &Host) -> (Work, Unit) {
        let kind = &self.kinds[index];
        let mean_ns = kind.mean_ns as f64;
        let mut size = 1;
        let mut kind_number = spread(index as u64 + 1);
        let mut duration_ns = match kind.spread {
            Spread::Exact => mean_ns,
            Spread::Even(part) => mean_ns * (1.0 + part * (2.0 * host.chance.fraction() - 1.0)),
            Spread::Rare if host.chance.one_in(10) => mean_ns * 100.0 / 19.0,
            Spread::Rare => mean_ns * 10.0 / 19.0,
        };
        if kind.is_shapeless {
            size = host.chance.between(500, 1500);
            duration_ns *= size as f64 / 1000.0;
            kind_number = spread(host.chance.next());
        }
        let work = Work::whole(duration_ns as u64).on(kind.engine);
        let family = spread(index as u64 + 1_000_000);
        (work, Unit { kind: kind_number, family, size, guess_ns: GUESS_NS, waits: kind.waits })
    }
}

fn spread(number: u64) -> u64 {
    let product = u128::from(number) * 0x9E37_79B9_7F4A_7C15;
    ((product >> 64) as u64 ^ product as u64) | 1
}

/// What holds a program back.
pub enum Limit<'a, 'w> {
    None,
    Meter(&'a Meter<Host<'w>, Words>),
    Oracle(&'a Oracle),
}

/// A stream of a program.
pub struct Lane {
    pub stream: usize,
    pub limits: Option<Arc<StreamOf<Host<'static>>>>,
}

impl Lane {
    pub fn new<'w>(host: &Host<'w>, limit: &Limit<'_, 'w>) -> Self {
        let stream = host.world.device(|device| device.add_stream(host.process));
        let limits = match limit {
            Limit::Meter(meter) => Some(meter.add(stream)),
            Limit::Oracle(oracle) => {
                oracle.add_stream();
                None
            }
            Limit::None => None,
        };
        Self { stream, limits }
    }

    pub fn give<'w>(&self, host: &Host<'w>, limit: &Limit<'_, 'w>, (work, unit): (Work, Unit)) {
        let driver =
            || if unit.waits { host.copy(self.stream, work) } else { host.launch(self.stream, work) };
        // A failed launch is the program's own business.
        let _ = match (limit, &self.limits) {
            (Limit::Meter(meter), Some(stream)) => meter.submit(host, stream, unit, driver),
            (Limit::Oracle(oracle), _) => {
                oracle.hold(host, self.stream, work);
                driver()
            }
            _ => driver(),
        };
    }

    pub fn wait<'w>(&self, host: &Host<'w>, limit: &Limit<'_, 'w>) {
        let called_ns = host.now();
        if let Limit::Meter(meter) = limit {
            meter.about_to_wait(host);
        }
        host.synchronize(self.stream);
        if let (Limit::Meter(meter), Some(stream)) = (limit, &self.limits) {
            meter.synchronized(host, stream, called_ns);
        }
    }
}

fn wait<'w>(host: &Host<'w>, limit: &Limit<'_, 'w>, lanes: &[Lane]) {
    for lane in lanes {
        lane.wait(host, limit);
    }
}

/// A program under a share.
#[derive(Clone, Debug)]
pub struct Case {
    pub share: f64,
    pub program: Program,
    pub behaviour: Behaviour,
    pub manners: Manners,
    pub seed: u64,
    /// Before the window looked at.
    pub start_up_ns: u64,
    pub window_ns: u64,
}

/// What became of it.
pub struct Outcome {
    /// The busy part of the window.
    pub got: f64,
    pub truth: Truth,
    /// Busy time by the words and in truth, start-up included.
    pub counted_ns: u64,
    pub busy_ns: u64,
    pub events: usize,
}

impl Case {
    pub fn of(share: f64, program: Program, seed: u64) -> Self {
        let longest_ns = (program.longest_ns() as f64 / share) as u64;
        Self {
            share,
            program,
            behaviour: Behaviour::default(),
            manners: Manners::default(),
            seed,
            start_up_ns: (300 * MILLISECOND_NS).max(12 * longest_ns),
            window_ns: SECOND_NS.max(110 * longest_ns),
        }
    }

    pub fn until_ns(&self) -> u64 {
        BEGIN_NS + self.start_up_ns + self.window_ns
    }

    fn world(&self) -> World {
        World::new(Device::new(self.behaviour), 1, BEGIN_NS)
    }

    /// The busy part of the window without a limit.
    pub fn natural(&self) -> f64 {
        let world = self.world();
        let host = Host::new(&world, 0, self.manners, self.seed);
        let until_ns = self.until_ns();
        self.program.run(&host, &Limit::None, until_ns);
        world.device(|device| {
            device.advance(until_ns);
            device.truth.share(BEGIN_NS + self.start_up_ns, until_ns)
        })
    }

    /// The busy part of the window under a limiter that knows how long everything takes.
    pub fn ideal(&self) -> f64 {
        let world = self.world();
        let host = Host::new(&world, 0, self.manners, self.seed);
        let oracle = Oracle::new(self.behaviour, (self.share * 1e6).round() as u32);
        let until_ns = self.until_ns();
        self.program.run(&host, &Limit::Oracle(&oracle), until_ns);
        world.device(|device| {
            device.advance(until_ns);
            device.truth.share(BEGIN_NS + self.start_up_ns, until_ns)
        })
    }

    pub fn run(&self) -> Outcome {
        let world = self.world();
        let host = Host::new(&world, 0, self.manners, self.seed);
        let file = File::new();
        let meter = Meter::new(Words::new(&file), (self.share * 1e6).round() as u32);
        let until_ns = self.until_ns();
        self.program.run(&host, &Limit::Meter(&meter), until_ns);
        let (truth, events) = world.device(|device| {
            device.advance(until_ns);
            (std::mem::take(&mut device.truth), device.events())
        });
        Outcome {
            got: truth.share(BEGIN_NS + self.start_up_ns, until_ns),
            busy_ns: truth.between(BEGIN_NS, host.now()),
            truth,
            counted_ns: read(&file.compute.busy_ns),
            events,
        }
    }
}
