//! What measuring itself takes: events on the device, and the way back from a wait.

/// What events take, which is nobody's work. Measured on an H200; scaled for others by the time that two events take
/// that are recorded in a row.
#[derive(Clone, Copy, Debug)]
pub struct EventCost {
    /// From the return of a launch on an idle stream to the kernel's start, less the same for an event.
    pub idle_ns: u64,
    /// From the end of a kernel to the start of the next when there is an event between them.
    pub queued_ns: u64,
    least_pair_ns: u64,
    pairs_sum_ns: u64,
    pairs: u64,
}

impl EventCost {
    /// On the H200.
    const PAIR_NS: u64 = 1380;
    const IDLE_NS: u64 = 600;
    const QUEUED_NS: u64 = 1300;

    /// Two events in a row were `elapsed_ns` apart. Timers have coarse steps, so the mean counts, of those between which
    /// the program was not held up.
    pub fn note_pair(&mut self, elapsed_ns: u64) {
        let elapsed_ns = elapsed_ns.max(1);
        if elapsed_ns * 2 < self.least_pair_ns {
            (self.pairs_sum_ns, self.pairs) = (0, 0);
        }
        self.least_pair_ns = self.least_pair_ns.min(elapsed_ns);
        if elapsed_ns > self.least_pair_ns * 2 {
            return;
        }
        self.pairs_sum_ns += elapsed_ns;
        self.pairs += 1;
        let pair_ns = (self.pairs_sum_ns / self.pairs).clamp(Self::PAIR_NS / 4, Self::PAIR_NS * 4);
        self.idle_ns = Self::IDLE_NS * pair_ns / Self::PAIR_NS;
        self.queued_ns = Self::QUEUED_NS * pair_ns / Self::PAIR_NS;
    }
}

impl Default for EventCost {
    fn default() -> Self {
        Self {
            idle_ns: Self::IDLE_NS,
            queued_ns: Self::QUEUED_NS,
            least_pair_ns: u64::MAX / 2,
            pairs_sum_ns: 0,
            pairs: 0,
        }
    }
}

/// How long after the end of the work a call returns that waits for it.
///
/// Where an event is recorded right behind the work, the end is known. But the event itself may delay the return, by
/// about a microsecond, and for a program that waits for each of its short kernels a microsecond is percents. So waits for
/// work without an event are compared with its prediction as well: on average that is right, as predictions are learned
/// from events. The mean of those differences is used as far as the first kind bears it out.
#[derive(Clone, Copy, Debug, Default)]
pub struct WaitDelay {
    measured_ns: Option<f32>,
    unmeasured_ns: Option<f32>,
}

impl WaitDelay {
    /// On an H200, where nothing better is known.
    const TYPICAL_NS: f32 = 2_700.0;
    /// An event delays the return by at most this.
    const EVENT_NS: f32 = 2_000.0;
    /// By how much the mean of the second kind may be above that of the first.
    const NOISE_NS: f32 = 1_000.0;
    /// What a single wait may say.
    const LARGEST_NS: f32 = 100_000.0;
    const WEIGHT: f32 = 1.0 / 16.0;
    const UNMEASURED_WEIGHT: f32 = 1.0 / 64.0;

    /// The delay.
    pub fn ns(&self) -> u64 {
        let measured_ns = self.measured_ns.unwrap_or(Self::TYPICAL_NS);
        let unmeasured_ns = self.unmeasured_ns.unwrap_or(measured_ns);
        unmeasured_ns.clamp(measured_ns - Self::EVENT_NS, measured_ns + Self::NOISE_NS).max(0.0) as u64
    }

    /// A wait for work with an event behind it returned so long after the event.
    pub fn learn_measured(&mut self, delay_ns: u64) {
        let delay_ns = (delay_ns as f32).min(Self::LARGEST_NS);
        let known_ns = self.measured_ns.unwrap_or(delay_ns);
        self.measured_ns = Some(known_ns + Self::WEIGHT * (delay_ns - known_ns));
    }

    /// A wait for work without one returned so long after its predicted end.
    pub fn learn_unmeasured(&mut self, delay_ns: i64) {
        let delay_ns = (delay_ns as f32).clamp(-Self::LARGEST_NS, Self::LARGEST_NS);
        let known_ns = self.unmeasured_ns.unwrap_or(delay_ns);
        self.unmeasured_ns = Some(known_ns + Self::UNMEASURED_WEIGHT * (delay_ns - known_ns));
    }
}
