//! A limiter that knows how long everything takes, to compare with: what a program can get at a share when its launches
//! are held back in the same way, however well it is measured.

use crate::device::{Behaviour, Device, Work};
use crate::host::Host;
use parking_lot::Mutex;
use std::sync::atomic::AtomicU64;
use vcuda_core::bucket::{Bucket, LONGEST_DEBT_NS, wall_ns};
use vcuda_limiter::machine::Machine;
use vcuda_limiter::meter::BURST_NS;

pub struct Oracle {
    deadline: AtomicU64,
    share_ppm: u32,
    /// A device ahead of time, which says how much longer work makes it busy.
    ahead: Mutex<Device>,
}

impl Oracle {
    pub fn new(behaviour: Behaviour, share_ppm: u32) -> Self {
        Self { deadline: AtomicU64::new(0), share_ppm, ahead: Mutex::new(Device::new(behaviour)) }
    }

    pub fn add_stream(&self) {
        self.ahead.lock().add_stream(0);
    }

    /// Charges work, and returns when it may be given.
    pub fn hold(&self, host: &Host, stream: usize, work: Work) {
        let now_ns = host.now();
        let busy_ns = {
            let mut ahead = self.ahead.lock();
            let before_ns = ahead.truth.busy_ns();
            ahead.give(stream, work, now_ns + host.manners.launch_ns);
            ahead.advance(u64::MAX);
            ahead.truth.busy_ns() - before_ns
        };
        let bucket = Bucket::new(&self.deadline);
        let due_ns = bucket.charge(now_ns, wall_ns(busy_ns, self.share_ppm), LONGEST_DEBT_NS).due_ns;
        if due_ns > now_ns + wall_ns(BURST_NS, self.share_ppm) {
            host.sleep_until(due_ns);
        }
    }
}
