//! A GPU in virtual time.
//!
//! Streams are first in, first out. A kernel of full width has the GPU to itself; kernels of part of it run beside
//! each other; copies have an engine of their own. Whatever can start first does, and of those that can start at the same
//! time the one whose stream has waited longest for its turn. Kernels and events of one process run at a time: the device
//! goes to another when the one it is with has nothing to do, or after a slice of time if it has. The device runs behind its hosts: it is taken forward to a moment when somebody
//! asks for something, and everything given later also starts later.

use crate::truth::Truth;
use std::collections::VecDeque;

/// Where work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// All of the GPU.
    Whole,
    /// So little of it that others run at the same time.
    Part,
    /// The copy engine.
    Copy,
}

/// A kernel, a graph, a copy.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub duration_ns: u64,
    pub engine: Engine,
    /// Runs until the gate of this number is open.
    pub awaits: Option<usize>,
    /// Opens the gate of this number when it starts.
    pub opens: Option<usize>,
}

impl Work {
    pub fn whole(duration_ns: u64) -> Self {
        Self { duration_ns, engine: Engine::Whole, awaits: None, opens: None }
    }

    pub fn on(self, engine: Engine) -> Self {
        Self { engine, ..self }
    }
}

/// How the device behaves, in nanoseconds; see `measured.md` of the project's facts for where the figures come from.
#[derive(Clone, Copy, Debug)]
pub struct Behaviour {
    /// From the return of a launch to the start of its kernel on an idle stream.
    pub start_ns: u64,
    /// From the return of a record to the time stamp on an idle stream.
    pub stamp_ns: u64,
    /// What an event between two kernels takes of its stream.
    pub event_ns: u64,
    /// Step of the device's timer.
    pub timer_step_ns: u64,
    /// By how many parts per million the device's timer is fast.
    pub drift_ppm: f64,
    /// A device that had nothing to do for so long is asleep, and takes so long to wake up.
    pub asleep_after_ns: u64,
    pub wakes_in_ns: u64,
    /// To go from one process to another, and how long one that has work is stayed with while another waits.
    pub switch_ns: u64,
    pub slice_ns: u64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            start_ns: 1_000,
            stamp_ns: 500,
            event_ns: 1_200,
            timer_step_ns: 32,
            drift_ppm: 0.0,
            asleep_after_ns: u64::MAX,
            wakes_in_ns: 0,
            switch_ns: 150_000,
            slice_ns: 2_000_000,
        }
    }
}

#[derive(Clone, Copy)]
enum Item {
    Work(Work),
    Event(usize),
}

struct Queued {
    arrival_ns: u64,
    item: Item,
}

#[derive(Default)]
struct Stream {
    process: usize,
    items: VecDeque<Queued>,
    /// When the next can start, as far as the stream is concerned.
    free_ns: u64,
    /// When the last that started was done.
    done_ns: u64,
    /// When it last had its turn.
    turn_ns: u64,
    /// The work that runs until a gate opens, and when it started.
    spinning: Option<(Work, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stamp {
    Unused,
    Queued,
    At(u64),
}

pub struct Device {
    pub behaviour: Behaviour,
    pub truth: Truth,
    /// The same, of each process.
    pub truths: Vec<Truth>,
    now_ns: u64,
    streams: Vec<Stream>,
    /// When kernels of full width, when all kernels, and when copies are done.
    whole_free_ns: u64,
    any_free_ns: u64,
    copy_free_ns: u64,
    spinning: usize,
    /// When the last of everything started was done, and from when on the device is awake.
    idle_ns: u64,
    awake_ns: u64,
    /// The process that the device is with, and since when.
    process: usize,
    since_ns: u64,
    /// When each gate opened.
    gates: Vec<Option<u64>>,
    stamps: Vec<Stamp>,
    unused: Vec<usize>,
}

impl Device {
    pub fn new(behaviour: Behaviour) -> Self {
        Self {
            behaviour,
            truth: Truth::default(),
            truths: Vec::new(),
            now_ns: 0,
            streams: Vec::new(),
            whole_free_ns: 0,
            any_free_ns: 0,
            copy_free_ns: 0,
            spinning: 0,
            idle_ns: 0,
            awake_ns: 0,
            process: 0,
            since_ns: 0,
            gates: Vec::new(),
            stamps: Vec::new(),
            unused: Vec::new(),
        }
    }

    pub fn add_stream(&mut self, process: usize) -> usize {
        self.streams.push(Stream { process, ..Stream::default() });
        self.streams.len() - 1
    }

    pub fn add_gate(&mut self) -> usize {
        self.gates.push(None);
        self.gates.len() - 1
    }

    pub fn give(&mut self, stream: usize, work: Work, arrival_ns: u64) {
        self.wake(arrival_ns);
        self.streams[stream].items.push_back(Queued { arrival_ns, item: Item::Work(work) });
    }

    pub fn record(&mut self, stream: usize, arrival_ns: u64) -> usize {
        let event = self.unused.pop().unwrap_or_else(|| {
            self.stamps.push(Stamp::Unused);
            self.stamps.len() - 1
        });
        self.stamps[event] = Stamp::Queued;
        self.wake(arrival_ns);
        self.streams[stream].items.push_back(Queued { arrival_ns, item: Item::Event(event) });
        event
    }

    /// Something arrives: if the device sleeps, it begins to wake.
    fn wake(&mut self, arrival_ns: u64) {
        let has_work = self.spinning > 0 || self.streams.iter().any(|stream| !stream.items.is_empty());
        if !has_work && arrival_ns.saturating_sub(self.idle_ns) > self.behaviour.asleep_after_ns {
            self.awake_ns = arrival_ns + self.behaviour.wakes_in_ns;
        }
    }

    /// Events there are.
    pub fn events(&self) -> usize {
        self.stamps.len()
    }

    pub fn recycle(&mut self, event: usize) {
        assert!(self.stamps[event] != Stamp::Unused, "event {event} was given back twice");
        // As with a driver, an event whose stamp is still to come may be recorded anew.
        self.stamps[event] = Stamp::Unused;
        self.unused.push(event);
    }

    /// Whether what lies before the event is done by `now_ns`.
    pub fn is_done(&mut self, event: usize, now_ns: u64) -> bool {
        self.advance(now_ns);
        match self.stamps[event] {
            Stamp::Unused => panic!("event {event} was asked about after it was given back"),
            Stamp::Queued => false,
            Stamp::At(at_ns) => at_ns <= now_ns,
        }
    }

    /// As `cuEventElapsedTime`: in the device's time, by the timer's steps, in milliseconds of single precision.
    pub fn elapsed_milliseconds(&self, from: usize, to: usize) -> f32 {
        let step = |event: usize| match self.stamps[event] {
            Stamp::At(at_ns) => {
                let device_ns = at_ns as f64 * (1.0 + self.behaviour.drift_ppm * 1e-6);
                (device_ns / self.behaviour.timer_step_ns as f64).floor()
                    * self.behaviour.timer_step_ns as f64
            }
            _ => panic!("event {event} has no time"),
        };
        ((step(to) - step(from)) * 1e-6) as f32
    }

    /// When everything given to the stream was or will be done, if that is settled by `now_ns`.
    pub fn done_ns(&mut self, stream: usize, now_ns: u64) -> Option<u64> {
        self.advance(now_ns);
        let stream = &self.streams[stream];
        (stream.items.is_empty() && stream.spinning.is_none()).then_some(stream.done_ns)
    }

    /// Work and events that wait on a stream.
    pub fn depth(&mut self, stream: usize, now_ns: u64) -> usize {
        self.advance(now_ns);
        self.streams[stream].items.len()
    }

    /// A moment before which the stream does not come to the last of what it was given, or to the next.
    pub fn not_before_ns(&self, stream: usize, all: bool) -> u64 {
        let stream = &self.streams[stream];
        let Some(first) = stream.items.front() else { return stream.done_ns };
        let mut at_ns = self.start_ns(stream, first);
        if at_ns == u64::MAX {
            return self.now_ns;
        }
        if all {
            let work = |queued: &Queued| match queued.item {
                Item::Work(work) => work.duration_ns,
                Item::Event(_) => 0,
            };
            at_ns += stream.items.iter().map(work).sum::<u64>();
        }
        at_ns
    }

    /// When an item at the head of its stream starts, as things are; `MAX` if that is not known.
    fn start_ns(&self, stream: &Stream, queued: &Queued) -> u64 {
        if stream.spinning.is_some() {
            return u64::MAX;
        }
        match queued.item {
            Item::Event(_) => {
                stream.free_ns.max(self.awake_ns).max(queued.arrival_ns + self.behaviour.stamp_ns)
            }
            Item::Work(work) => {
                let engine_ns = match work.engine {
                    Engine::Whole if self.spinning > 0 => return u64::MAX,
                    Engine::Whole => self.any_free_ns,
                    Engine::Part => self.whole_free_ns,
                    Engine::Copy => self.copy_free_ns,
                };
                stream
                    .free_ns
                    .max(engine_ns)
                    .max(self.awake_ns)
                    .max(queued.arrival_ns + self.behaviour.start_ns)
            }
        }
    }

    /// Takes the device forward to `now_ns`.
    pub fn advance(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
        loop {
            match (self.next(now_ns, true), self.next(now_ns, false)) {
                (Some((start_ns, _, index)), other)
                    if other.is_none_or(|(other_ns, ..)| {
                        start_ns <= other_ns && start_ns < self.since_ns + self.behaviour.slice_ns
                    }) =>
                {
                    self.start(index, start_ns)
                }
                (_, Some((start_ns, _, index))) => {
                    self.process = self.streams[index].process;
                    self.since_ns = start_ns + self.behaviour.switch_ns;
                    self.awake_ns = self.awake_ns.max(self.since_ns);
                }
                (_, None) => return,
            }
        }
    }

    /// What starts next by `now_ns`, of the process that the device is with or of the others, and when.
    fn next(&self, now_ns: u64, is_own: bool) -> Option<(u64, u64, usize)> {
        let starts = self.streams.iter().enumerate().filter_map(|(index, stream)| {
            let first = stream.items.front()?;
            // Engines of their own are with nobody.
            let needs_process = !matches!(first.item, Item::Work(Work { engine: Engine::Copy, .. }));
            if is_own != (stream.process == self.process || !needs_process) {
                return None;
            }
            let after_ns = if is_own { 0 } else { self.any_free_ns };
            let start_ns = self.start_ns(stream, first).max(after_ns);
            (start_ns <= now_ns).then_some((start_ns, stream.turn_ns.max(first.arrival_ns), index))
        });
        starts.min()
    }

    fn start(&mut self, index: usize, start_ns: u64) {
        let Some(Queued { item, .. }) = self.streams[index].items.pop_front() else { return };
        self.streams[index].turn_ns = start_ns;
        match item {
            Item::Event(event) => {
                if self.stamps[event] == Stamp::Queued {
                    self.stamps[event] = Stamp::At(start_ns);
                }
                self.streams[index].done_ns = start_ns;
                self.streams[index].free_ns = start_ns + self.behaviour.event_ns;
                self.idle_ns = self.idle_ns.max(start_ns);
            }
            Item::Work(work) => {
                if let Some(gate) = work.opens
                    && self.gates[gate].is_none()
                {
                    self.gates[gate] = Some(start_ns);
                    self.release(gate, start_ns);
                }
                match work.awaits {
                    Some(gate) if self.gates[gate].is_none() => {
                        self.streams[index].spinning = Some((work, start_ns));
                        self.spinning += 1;
                    }
                    _ => self.run(index, work, start_ns, start_ns + work.duration_ns),
                }
            }
        }
    }

    fn run(&mut self, index: usize, work: Work, start_ns: u64, end_ns: u64) {
        self.idle_ns = self.idle_ns.max(end_ns);
        let stream = &mut self.streams[index];
        stream.free_ns = end_ns;
        stream.done_ns = end_ns;
        match work.engine {
            Engine::Whole => {
                self.whole_free_ns = end_ns;
                self.any_free_ns = self.any_free_ns.max(end_ns);
            }
            Engine::Part => self.any_free_ns = self.any_free_ns.max(end_ns),
            Engine::Copy => self.copy_free_ns = end_ns,
        }
        self.truth.add(start_ns, end_ns);
        let process = self.streams[index].process;
        if self.truths.len() <= process {
            self.truths.resize_with(process + 1, Truth::default);
        }
        self.truths[process].add(start_ns, end_ns);
    }

    fn release(&mut self, gate: usize, at_ns: u64) {
        for index in 0..self.streams.len() {
            if let Some((work, start_ns)) = self.streams[index].spinning
                && work.awaits == Some(gate)
            {
                self.streams[index].spinning = None;
                self.spinning -= 1;
                self.run(index, work, start_ns, (start_ns + work.duration_ns).max(at_ns + 1_000));
            }
        }
    }
}
