//! What calls and the GPU's front end take: the text of `VCUDA_FAKE_TIMES`.

use crate::timeline::Slices;

/// Times of the simulation, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// What a launch, a copy or a fill takes of the caller's time.
    pub launch_ns: u64,
    /// What recording an event that tells the time takes of the caller's time.
    pub record_ns: u64,
    /// From the return of a launch on an idle stream to the start of the work.
    pub launch_delay_ns: u64,
    /// From the return of a record on an idle stream to the event.
    pub record_delay_ns: u64,
    /// How long a stream stays at an event that tells the time, which tells the end of that.
    pub mark_ns: u64,
    /// What the times of events are multiples of.
    pub timer_ns: u64,
    /// How processes take turns; of the first process that uses a machine.
    pub slices: Slices,
}

impl Default for Times {
    fn default() -> Times {
        Times {
            launch_ns: 0,
            record_ns: 0,
            launch_delay_ns: 1_200,
            record_delay_ns: 500,
            mark_ns: 0,
            timer_ns: 500,
            slices: Slices::default(),
        }
    }
}

impl Times {
    /// The times that the environment asks for.
    pub fn from_environment() -> Times {
        let text = std::env::var("VCUDA_FAKE_TIMES").unwrap_or_default();
        let (times, unread) = Times::parse(&text);
        for part in unread {
            eprintln!(
                "simulated machine: VCUDA_FAKE_TIMES: '{part}' left out; write for example launch=3300,record=800"
            );
        }
        times
    }

    /// Reads a comma-separated list of `NAME=NANOSECONDS`, and gives the parts that can't be read.
    fn parse(text: &str) -> (Times, Vec<&str>) {
        let mut times = Times::default();
        let mut unread = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            if times.set(part).is_none() {
                unread.push(part);
            }
        }
        (times, unread)
    }

    fn set(&mut self, part: &str) -> Option<()> {
        let (name, number) = part.split_once('=')?;
        let place = match name.trim() {
            "launch" => &mut self.launch_ns,
            "record" => &mut self.record_ns,
            "launch_delay" => &mut self.launch_delay_ns,
            "record_delay" => &mut self.record_delay_ns,
            "mark" => &mut self.mark_ns,
            "timer" => &mut self.timer_ns,
            "slice" => &mut self.slices.slice_ns,
            "switch" => &mut self.slices.switch_ns,
            _ => return None,
        };
        *place = number.trim().parse().ok()?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let (times, unread) =
            Times::parse("launch=3300, record=800,slice=1000000,switch=150000,,timer=32,mark=700");
        assert_eq!(unread, [""; 0]);
        assert_eq!((times.launch_ns, times.record_ns, times.timer_ns, times.mark_ns), (3300, 800, 32, 700));
        assert_eq!(times.slices, Slices { slice_ns: 1_000_000, switch_ns: 150_000 });
        assert_eq!((times.launch_delay_ns, times.record_delay_ns), (1200, 500));
        assert_eq!(Times::parse("launch,slice=2ms,delay=1").1, ["launch", "slice=2ms", "delay=1"]);
        assert_eq!(Times::parse("").0, Times::default());
    }
}
