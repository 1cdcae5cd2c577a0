//! Who has the engines. Copies take turns in the order in which they could begin. The processors belong to one
//! process at a time, for a slice of time while others want them; within it, kernels of its lines run beside
//! each other as far as they fit.

use super::line::{EngineNumber, FROM_HOST, Line, NO_ENGINE, PROCESSORS, READY, RUNNING, TO_HOST, WAITING};
use super::{NEVER_NS, Timeline};

/// Who has a GPU's processors.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Holder {
    /// The owner of the lines that may use the processors; 0 when nobody ever did.
    pub owner: u32,
    /// Since when, or from when on.
    pub since_ns: u64,
    /// When the next one has them; [`NEVER_NS`] while nobody else wants them.
    pub until_ns: u64,
}

impl Holder {
    /// Nobody yet.
    pub const NOBODY: Holder = Holder { owner: 0, since_ns: 0, until_ns: NEVER_NS };

    /// When this changes by itself.
    pub fn next_change_ns(&self, now_ns: u64) -> u64 {
        if self.since_ns > now_ns { self.since_ns } else { self.until_ns }
    }
}

/// Who waits at a GPU's processors, or works there.
struct Demand {
    by_holder: bool,
    /// Whose turn it is after the holder's.
    next: Option<u32>,
}

impl Timeline {
    /// Gives engines to units that are ready for them; false if nothing changed.
    pub(super) fn start_what_can_run(&mut self) -> bool {
        let mut used = 0_u32;
        for line in self.active().filter(|line| line.stage != WAITING && line.engine != NO_ENGINE) {
            used |= 1 << line.gpu;
        }
        let mut changed = false;
        for gpu in 0..self.holders.len() {
            if used & 1 << gpu == 0 {
                self.holders[gpu].until_ns = NEVER_NS;
                continue;
            }
            changed |= self.start_copy(gpu, FROM_HOST);
            changed |= self.start_copy(gpu, TO_HOST);
            changed |= self.share_processors(gpu);
        }
        changed
    }

    /// The lines whose next unit waits for an engine or has it.
    pub(super) fn at_engine(&self, gpu: usize, engine: EngineNumber) -> impl Iterator<Item = (usize, &Line)> {
        let active = self.active[..self.active_count as usize].iter();
        active.map(|&index| (index as usize, &self.lines[index as usize])).filter(move |(_, line)| {
            line.stage != WAITING && line.engine == engine && line.gpu as usize == gpu
        })
    }

    fn start_copy(&mut self, gpu: usize, engine: EngineNumber) -> bool {
        if self.at_engine(gpu, engine).any(|(_, line)| line.stage == RUNNING) {
            return false;
        }
        let first = self.at_engine(gpu, engine).min_by_key(|(_, line)| (line.since_ns, line.order));
        let Some(index) = first.map(|(index, _)| index) else { return false };
        self.start(index);
        true
    }

    fn share_processors(&mut self, gpu: usize) -> bool {
        let now_ns = self.settled_ns;
        let demand = self.demand(gpu);
        let holder = &mut self.holders[gpu];
        let mut changed = false;
        match demand.next {
            None => holder.until_ns = NEVER_NS,
            Some(next) if !demand.by_holder || holder.until_ns <= now_ns => {
                self.hand_over(gpu, next);
                changed = true;
            }
            Some(_) if holder.until_ns == NEVER_NS => {
                // Slices went by unnoticed while nobody else wanted the processors.
                let passed = now_ns.saturating_sub(holder.since_ns) / self.slices.slice_ns;
                holder.until_ns = holder.since_ns + (passed + 1) * self.slices.slice_ns;
            }
            Some(_) => {}
        }
        changed | self.admit(gpu)
    }

    fn demand(&self, gpu: usize) -> Demand {
        let holder = self.holders[gpu].owner;
        let mut demand = Demand { by_holder: false, next: None };
        for (_, line) in self.at_engine(gpu, PROCESSORS) {
            if line.owner == holder {
                demand.by_holder = true;
                continue;
            }
            let turn = |owner: u32| owner.wrapping_sub(holder + 1);
            if demand.next.is_none_or(|next| turn(line.owner) < turn(next)) {
                demand.next = Some(line.owner);
            }
        }
        demand
    }

    /// Takes the processors from their holder and gives them to another process.
    fn hand_over(&mut self, gpu: usize, next: u32) {
        let (now_ns, former) = (self.settled_ns, self.holders[gpu].owner);
        for place in 0..self.active_count as usize {
            let line = &mut self.lines[self.active[place] as usize];
            let has_them = line.stage == RUNNING && line.engine == PROCESSORS && line.gpu as usize == gpu;
            if has_them {
                line.pause(now_ns);
            }
        }
        let since_ns = if former == 0 { now_ns } else { now_ns + self.slices.switch_ns };
        self.holders[gpu] = Holder { owner: next, since_ns, until_ns: NEVER_NS };
        if self.demand(gpu).next.is_some() {
            self.holders[gpu].until_ns = since_ns + self.slices.slice_ns;
        }
    }

    /// Starts kernels of the holder, in the order in which they were queued, as long as the next one fits.
    fn admit(&mut self, gpu: usize) -> bool {
        let holder = self.holders[gpu];
        if holder.since_ns > self.settled_ns {
            return false;
        }
        let mut changed = false;
        loop {
            let mut room = Room::default();
            let mut next: Option<(usize, (bool, u64))> = None;
            for (index, line) in
                self.at_engine(gpu, PROCESSORS).filter(|(_, line)| line.owner == holder.owner)
            {
                // What was interrupted goes on before anything else begins.
                let key = (line.stage == READY, line.order);
                if line.stage == RUNNING {
                    room.take(line);
                } else if next.is_none_or(|(_, least)| key < least) {
                    next = Some((index, key));
                }
            }
            match next {
                Some((index, _)) if room.fits(self.lines[index].percent) => {
                    self.start(index);
                    changed = true;
                }
                _ => return changed,
            }
        }
    }
}

/// Hundredths of the processors that running kernels take.
#[derive(Default)]
struct Room {
    taken: u32,
    /// By kernels that last until they are told to end.
    taken_by_open: u32,
}

impl Room {
    fn take(&mut self, line: &Line) {
        if line.is_head_open() {
            self.taken_by_open += line.percent;
        } else {
            self.taken += line.percent;
        }
    }

    /// Whether a kernel can begin. One that only open ones leave too little room makes do with what is left:
    /// its blocks run a few at a time.
    fn fits(&self, percent: u32) -> bool {
        let open = self.taken_by_open;
        self.taken + open + percent <= 100 || self.taken == 0 && open < 100
    }
}
