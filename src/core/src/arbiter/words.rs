//! The arbiter's words, and what is packed into them.
//!
//! Owns layout and packing; decides nothing.

use crate::atomic::AtomicU64;

/// Containers that can take turns on a device.
#[cfg(not(loom))]
pub const SEAT_CAPACITY: usize = 63;
/// As many as a model needs.
#[cfg(loom)]
pub const SEAT_CAPACITY: usize = 2;

/// Whose turn it is on one device, in the one file that the containers of a machine share for that; see
/// [the rules](super). All 0 in a container's own file.
#[repr(C, align(4096))]
pub struct Arbiter {
    /// Who may give the device work and until when, a [`Grant`].
    pub grant: AtomicU64,
    /// The virtual time of whoever had the last turn: where those start that were away.
    pub clock: AtomicU64,
    /// 0.
    pub reserved: [AtomicU64; 14],
    /// One for each container.
    pub seats: [Seat; SEAT_CAPACITY],
}

/// One container at the table. Times are nanoseconds of the monotonic clock.
#[derive(Default)]
#[repr(C, align(128))]
pub struct Seat {
    /// The container's control file, by its `generation`; 0 while the seat is free.
    pub identity: AtomicU64,
    /// Its weight, share and priority, [`Terms`].
    pub terms: AtomicU64,
    /// When it last looked.
    pub seen_ns: AtomicU64,
    /// It waits for its turn, and will look again before this.
    pub wants_until_ns: AtomicU64,
    /// When what it has given the device is expected to be done, or when it is expected to give more.
    pub busy_until_ns: AtomicU64,
    /// Its virtual time: what it was served, over its weight.
    pub clock: AtomicU64,
    /// When what it was served will have been its share of the time.
    pub due_ns: AtomicU64,
    /// When its turn began, as far as that was added up already.
    pub held_from_ns: AtomicU64,
    /// How long it has had the device, in all.
    pub served_ns: AtomicU64,
    /// How long its calls waited for their turn, summed over threads.
    pub waited_ns: AtomicU64,
    /// How much of its turns the device was busy lately, in parts per million.
    pub duty_ppm: AtomicU64,
    /// Turns that it was given.
    pub turn_count: AtomicU64,
    /// Its processes that take part in this turn, and those of them that have nothing more for it, a [`Crew`].
    pub crew: AtomicU64,
    /// Its only process at work waits for the device, and will say when it goes on; not beyond this.
    pub in_wait_until_ns: AtomicU64,
    /// What its processes that take part in this turn have in flight, a [`Flight`].
    pub flight: AtomicU64,
    /// 0.
    pub reserved: AtomicU64,
}

impl Default for Arbiter {
    fn default() -> Self {
        Self {
            grant: AtomicU64::new(0),
            clock: AtomicU64::new(0),
            reserved: Default::default(),
            seats: std::array::from_fn(|_| Seat::default()),
        }
    }
}

/// Whose turn it is: the number of a seat and one in the upper 8 bits, 0 for nobody's; below, the moment in nanoseconds of
/// the monotonic clock at which the turn ends, or from which on nobody's may be taken. 56 bits of those are 2.3 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The seat, if it is anybody's.
    pub holder: Option<usize>,
    /// When it ends.
    pub until_ns: u64,
}

impl Grant {
    const TIME_BITS: u32 = 56;
    const TIME_MASK: u64 = (1 << Self::TIME_BITS) - 1;

    /// From the word.
    pub fn unpack(word: u64) -> Self {
        let holder =
            ((word >> Self::TIME_BITS) as usize).checked_sub(1).filter(|&place| place < SEAT_CAPACITY);
        Self { holder, until_ns: word & Self::TIME_MASK }
    }

    /// As the word.
    pub fn pack(self) -> u64 {
        let number = self.holder.map_or(0, |place| (place as u64).saturating_add(1));
        number << Self::TIME_BITS | self.until_ns & Self::TIME_MASK
    }
}

/// How many processes of a container are at work in its turn: the turn's number in the upper half, those that have begun and
/// those that have ended below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crew {
    /// The low half of the seat's `turn_count`.
    pub turn: u32,
    /// Processes that have given the device something in this turn.
    pub begun: u16,
    /// Processes of which that is done, and nothing comes after it.
    pub ended: u16,
}

impl Crew {
    /// From the word.
    pub fn unpack(word: u64) -> Self {
        Self { turn: (word >> 32) as u32, begun: (word >> 16) as u16, ended: word as u16 }
    }

    /// As the word.
    pub fn pack(self) -> u64 {
        u64::from(self.turn) << 32 | u64::from(self.begun) << 16 | u64::from(self.ended)
    }
}

/// Predicted GPU time that the processes of a container have given the device and don't know to be done, each as it said in
/// this turn: the turn's number in the upper 16 bits, nanoseconds below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    /// The lowest bits of the seat's `turn_count`.
    pub turn: u16,
    /// GPU time.
    pub work_ns: u64,
}

impl Flight {
    const TIME_BITS: u32 = 48;
    const TIME_MASK: u64 = (1 << Self::TIME_BITS) - 1;

    /// From the word.
    pub fn unpack(word: u64) -> Self {
        Self { turn: (word >> Self::TIME_BITS) as u16, work_ns: word & Self::TIME_MASK }
    }

    /// As the word.
    pub fn pack(self) -> u64 {
        u64::from(self.turn) << Self::TIME_BITS | self.work_ns.min(Self::TIME_MASK)
    }

    /// GPU time, if it is of this turn.
    pub fn of(self, turn: u16) -> u64 {
        if self.turn == turn { self.work_ns } else { 0 }
    }
}

/// What a container has asked for of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How what nobody has a right to is divided, 1 to 65535.
    pub weight: u16,
    /// What it gets at least, if it wants it, in parts per million; 0 for nothing in particular.
    pub share_ppm: u32,
    /// It goes before others as long as it has not had its share.
    pub is_high: bool,
}

impl Terms {
    /// From the word.
    pub fn unpack(word: u64) -> Self {
        Self { weight: (word as u16).max(1), share_ppm: (word >> 32) as u32, is_high: word >> 16 & 1 == 1 }
    }

    /// As the word.
    pub fn pack(self) -> u64 {
        u64::from(self.share_ppm) << 32 | u64::from(self.is_high) << 16 | u64::from(self.weight)
    }
}
