//! The quota protocol: who holds how many pages of one device, exact even when a process dies at any instruction.
//!
//! Owns the packing of the three shared words and the only code that changes them. It must never block, never take
//! a lock, never trust a number it reads, and never let the device's total pass a limit, not even for an instant.
//!
//! # The words
//!
//! All amounts are pages of 4096 bytes. Bits are written from the highest to the lowest.
//!
//! | word | one per | bits |
//! |---|---|---|
//! | `quota` | device | `used_pages:36`, `slot:12`, `sequence:16`: the total, and the operation that made it so |
//! | `settled` | slot and device | `used_pages:36`, `sequence:28`: what the slot holds after its operation `sequence` |
//! | `proposed` | slot and device | `used_pages:36`, `sequence:28`: what it will hold if its next operation succeeds |
//!
//! A slot has one owner at a time, and the owner makes one operation at a time. Operations of a slot on a device are
//! numbered 1, 2, 3, …; a number is used up only by success. `quota` carries the low 16 bits of the number.
//!
//! # An operation of slot `s` that changes its use by `n`
//!
//! 1. read `settled = (u, q)`; store `proposed = (u + n, q + 1)`;
//! 2. read `quota = w`, and *settle* the operation `w` names (below);
//! 3. if a limit applies and `w.used + n` is over it: store `proposed = settled` and report the refusal;
//! 4. exchange `quota`: `w` → `(w.used + n, s, q + 1)`. **This is the instant the operation takes effect.** If `quota`
//!    has changed meanwhile, go to 2;
//! 5. exchange `settled`: `(u, q)` → `(u + n, q + 1)`. If that fails, somebody has done it already.
//!
//! To *settle* `w`, which names operation `k` of slot `t`: read `t.settled`; unless its sequence is `k - 1`, nothing
//! is owed. Read `quota` again; unless it still is `w`, whoever replaced it has settled `k`. Read `t.proposed`; if its
//! sequence is `k`, exchange `t.settled` from what was read to that.
//!
//! # Why it holds
//!
//! * **Never over the limit.** The total changes only in step 4, and the exchange succeeds only against the very total
//!   that was compared with the limit in step 3.
//! * **Exactly attributable.** Let `Q` be the number of operations of `s` that took effect. The owner starts
//!   operation `Q + 1` only after step 5 of operation `Q`, and nobody replaces a `quota` that names operation `Q` before
//!   settling it. So at any instant either `s.settled.sequence = Q`, or it is `Q - 1` and `quota` still names
//!   operation `Q`, whose outcome stands in `s.proposed`. Whoever comes next can tell which, and finish it; a process
//!   killed between any two instructions therefore leaves nothing in doubt.
//! * **Settling is right even when late.** Suppose the last exchange of a settler succeeds, from `d` to `p`, where
//!   `p.sequence = d.sequence + 1`. The second reading of `quota` found an operation of `t` in force whose number agrees
//!   with `p.sequence` in 16 bits; call it `Q`. `d` was read before, so `d.sequence ≤ Q`, hence `p.sequence ≤ Q + 1`; as
//!   `settled` still was `d` at the exchange, `Q ≤ d.sequence + 1 = p.sequence`. Agreement in 16 bits leaves
//!   `p.sequence = Q`. And `p` was read after operation `Q` took effect, so it is the outcome of `Q`, not of an earlier
//!   attempt with that number that was refused.
//! * **The sum.** When nothing is owed, the total is the sum of `settled.used_pages` over all slots: both change by the
//!   same `n` for each operation that takes effect, and by nothing else.
//! * **Zero means nothing.** A fresh file is all zeros. `quota = 0` names operation 0 of slot 0; operations start at 1,
//!   so nobody ever owes operation 0, and by the time slot 0 makes operation 65536 `quota` no longer is 0 with that
//!   meaning: it names slot 0's operation 65535, or a later one of somebody else.
//! * **Wrapping.** Step 4 could mistake one `quota` for another only if the process stalls between steps 2 and 4 while
//!   slot `t` makes an exact multiple of 65536 operations, ends at the same total, and is killed before its own step 5;
//!   then that one operation of `t` would go unattributed. `settled` repeats only after 2^28 operations of one slot within
//!   one stall. Neither can breach the limit.
//!
//! # Memory of suspended processes
//!
//! What a slot holds can be *set aside*: its process is suspended, its pages stay in the total, and a limit applies to
//! the total less all that is set aside. The slot is frozen first, and then somebody makes an operation, so that an
//! operation of the slot's own that was on its way either took effect before and counts, or finds the slot frozen. To
//! take `n` set-aside pages back, somebody reserves `n` pages more against the limit, lowers what is set aside by `n`,
//! and gives the reservation back. Whoever saw the total before that last operation and the higher amount set aside
//! loses the exchange; whoever succeeded earlier succeeded against a total that had the reservation in it.
//!
//! Memory order: reads acquire, stores release, exchanges do both. Step 4 publishes `proposed`, and every conclusion
//! above is drawn from a value read after the one that leads to it. `tests/loom_quota.rs` checks this very code with a
//! kill at every access.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::arithmetic_side_effects)]

use crate::atomic::{AtomicU64, Ordering, back_off};

/// Bytes in one page, the unit of every amount in the control file.
pub const PAGE_BYTES: u64 = 4096;

/// The largest amount a word can carry: 256 TiB less one page.
pub const MAX_PAGES: u64 = (1 << 36) - 1;

/// Slots a quota word can name.
pub const MAX_SLOTS: u16 = 1 << 12;

const USED_SHIFT: u32 = 28;
const SLOT_SHIFT: u32 = 16;
const SEQUENCE_MASK: u32 = (1 << USED_SHIFT) - 1;

/// Exchanges lost in a row before the word is declared hostile. Each lost exchange among honest processes is another's
/// success, so this is out of reach for them; it takes about a second.
const MAX_ATTEMPTS: u32 = 1 << 20;

/// Pages that a charge of `bytes` takes: rounded up.
pub const fn pages_for_charge(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_BYTES)
}

/// Pages that a limit of `bytes` allows: rounded down.
pub const fn pages_within_limit(bytes: u64) -> u64 {
    bytes / PAGE_BYTES
}

/// Bytes in `pages`, at most `u64::MAX`.
pub const fn bytes_of_pages(pages: u64) -> u64 {
    pages.saturating_mul(PAGE_BYTES)
}

/// A device's total, and the operation that made it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Pages in use on the device by all slots, at most [`MAX_PAGES`].
    pub used_pages: u64,
    /// The slot whose operation came last, below [`MAX_SLOTS`].
    pub slot: u16,
    /// The low 16 bits of that operation's number.
    pub sequence: u16,
}

impl Quota {
    /// The word for this value; amounts and slots out of range lose their high bits.
    pub const fn pack(self) -> u64 {
        (self.used_pages & MAX_PAGES) << USED_SHIFT
            | ((self.slot & (MAX_SLOTS - 1)) as u64) << SLOT_SHIFT
            | self.sequence as u64
    }

    /// The value of a word; every word has one.
    pub const fn unpack(word: u64) -> Self {
        Self {
            used_pages: word >> USED_SHIFT,
            slot: (word >> SLOT_SHIFT) as u16 & (MAX_SLOTS - 1),
            sequence: word as u16,
        }
    }
}

impl Quota {
    /// Whether this names an operation from `settled` to `proposed`, both its slot's, that is not settled yet.
    pub const fn names(self, settled: Holding, proposed: Holding) -> bool {
        let owed = settled.next(0).sequence;
        owed as u16 == self.sequence && proposed.sequence == owed
    }
}

/// What a slot holds of a device after one of its operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Pages the slot holds, at most [`MAX_PAGES`].
    pub used_pages: u64,
    /// The operation's number, modulo 2^28.
    pub sequence: u32,
}

impl Holding {
    /// The word for this value; amounts and numbers out of range lose their high bits.
    pub const fn pack(self) -> u64 {
        (self.used_pages & MAX_PAGES) << USED_SHIFT | (self.sequence & SEQUENCE_MASK) as u64
    }

    /// The value of a word; every word has one.
    pub const fn unpack(word: u64) -> Self {
        Self { used_pages: word >> USED_SHIFT, sequence: word as u32 & SEQUENCE_MASK }
    }

    const fn next(self, used_pages: u64) -> Self {
        Self { used_pages, sequence: self.sequence.wrapping_add(1) & SEQUENCE_MASK }
    }
}

/// The two words of one slot for one device.
#[derive(Clone, Copy)]
pub struct SlotWords<'a> {
    /// A [`Holding`]: what took effect.
    pub settled: &'a AtomicU64,
    /// A [`Holding`]: what is being attempted.
    pub proposed: &'a AtomicU64,
}

/// Where the words of one device are.
pub trait Words {
    /// The device's total, a [`Quota`].
    fn quota(&self) -> &AtomicU64;

    /// The words of `slot`, or `None` if there is no such slot.
    fn slot(&self, slot: u16) -> Option<SlotWords<'_>>;

    /// Pages of the total that their suspended processes do not use now: a limit applies to the rest.
    ///
    /// Read after the total. Whoever lowers it makes an operation after that, so an exchange against the total that was
    /// read before fails.
    fn set_aside_pages(&self) -> u64 {
        0
    }

    /// Whether what `slot` holds is set aside and must stay as it is. Read after the total, as above.
    fn is_frozen(&self, _slot: u16) -> bool {
        false
    }

    /// Called before every access to a word. A model may end the process here.
    fn before_access(&self) {}
}

/// One change to what a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Take `pages` more, if the device's total stays within `limit_pages`.
    Reserve {
        /// Pages to take.
        pages: u64,
        /// The most the device's total may be afterwards; more than [`MAX_PAGES`] means [`MAX_PAGES`].
        limit_pages: u64,
    },
    /// Give back `pages`, at most what the slot holds.
    Release {
        /// Pages to give back.
        pages: u64,
    },
}

/// An operation that took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// What the slot holds now.
    pub holding: Holding,
    /// What the device's total became.
    pub total_pages: u64,
}

/// Why an operation did not take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotDone {
    /// The total would have passed the limit.
    OverLimit {
        /// The device's total at the instant of the refusal.
        used_pages: u64,
    },
    /// What the slot holds is set aside, its process being suspended. To be tried again later.
    Frozen,
    /// The slot does not exist.
    NoSuchSlot,
    /// `settled` is not what its owner left there: somebody wrote into the file.
    Contradiction,
    /// `quota` kept changing under an implausible number of attempts.
    Starved,
}

/// What `slot` holds, with nothing owed to it left open. Meant for the slot's owner, before its first operation.
///
/// # Errors
/// [`NotDone::NoSuchSlot`].
pub fn holding(words: &impl Words, slot: u16) -> Result<Holding, NotDone> {
    let own = words.slot(slot).ok_or(NotDone::NoSuchSlot)?;
    let last = Quota::unpack(load(words, words.quota()));
    if last.slot == slot {
        settle(words, last);
    }
    Ok(Holding::unpack(load(words, own.settled)))
}

/// Makes one operation of `slot`, whose owner the caller is and which `held` what this owner last saw.
///
/// # Errors
/// See [`NotDone`]; the slot holds what it held.
pub fn operate(words: &impl Words, slot: u16, held: Holding, change: Change) -> Result<Done, NotDone> {
    let own = words.slot(slot).ok_or(NotDone::NoSuchSlot)?;
    if load(words, own.settled) != held.pack() {
        return Err(NotDone::Contradiction);
    }
    let after = match change {
        Change::Reserve { pages, .. } => held.used_pages.saturating_add(pages),
        Change::Release { pages } => held.used_pages.saturating_sub(pages),
    };
    if after > MAX_PAGES {
        let used_pages = Quota::unpack(load(words, words.quota())).used_pages;
        return Err(NotDone::OverLimit { used_pages });
    }
    let proposed = held.next(after);
    store(words, own.proposed, proposed.pack());

    for attempt in 0..MAX_ATTEMPTS {
        let seen = Quota::unpack(load(words, words.quota()));
        settle(words, seen);
        if words.is_frozen(slot) {
            store(words, own.proposed, held.pack());
            return Err(NotDone::Frozen);
        }
        let total_pages = match change {
            Change::Reserve { pages, limit_pages } => {
                let set_aside = words.set_aside_pages();
                // More than there is at all: the total is another one by now, or somebody wrote into the file.
                if set_aside > seen.used_pages {
                    if load(words, words.quota()) != seen.pack() {
                        back_off(attempt);
                        continue;
                    }
                    store(words, own.proposed, held.pack());
                    return Err(NotDone::Contradiction);
                }
                let total = seen.used_pages.saturating_add(pages);
                if total > limit_pages.saturating_add(set_aside).min(MAX_PAGES) {
                    store(words, own.proposed, held.pack());
                    let used_pages = seen.used_pages.saturating_sub(set_aside);
                    return Err(NotDone::OverLimit { used_pages });
                }
                total
            }
            // Below zero only if somebody wrote into the file; then zero is the nearest truth.
            Change::Release { .. } => seen.used_pages.saturating_sub(held.used_pages.saturating_sub(after)),
        };
        let next = Quota { used_pages: total_pages, slot, sequence: proposed.sequence as u16 };
        if exchange(words, words.quota(), seen.pack(), next.pack()) {
            exchange(words, own.settled, held.pack(), proposed.pack());
            return Ok(Done { holding: proposed, total_pages });
        }
        back_off(attempt);
    }
    store(words, own.proposed, held.pack());
    Err(NotDone::Starved)
}

/// Brings what `slot` holds to zero, finishing whatever a dead owner left half done, and returns the pages given back.
/// The caller must own the slot. Can be cut short at any access and made again by the next owner.
///
/// # Errors
/// See [`NotDone`].
pub fn give_all_back(words: &impl Words, slot: u16) -> Result<u64, NotDone> {
    let own = words.slot(slot).ok_or(NotDone::NoSuchSlot)?;
    let held = holding(words, slot)?;
    if held.used_pages > 0 {
        operate(words, slot, held, Change::Release { pages: held.used_pages })?;
    } else if load(words, own.proposed) != held.pack() {
        store(words, own.proposed, held.pack());
    }
    Ok(held.used_pages)
}

/// Settles the operation that `last` names, if that is still owed.
fn settle(words: &impl Words, last: Quota) {
    let Some(named) = words.slot(last.slot) else { return };
    let settled = Holding::unpack(load(words, named.settled));
    let owed = settled.next(0).sequence;
    if owed as u16 != last.sequence || load(words, words.quota()) != last.pack() {
        return;
    }
    let proposed = Holding::unpack(load(words, named.proposed));
    if proposed.sequence == owed {
        exchange(words, named.settled, settled.pack(), proposed.pack());
    }
}

fn load(words: &impl Words, word: &AtomicU64) -> u64 {
    words.before_access();
    word.load(Ordering::Acquire)
}

fn store(words: &impl Words, word: &AtomicU64, value: u64) {
    words.before_access();
    word.store(value, Ordering::Release);
}

fn exchange(words: &impl Words, word: &AtomicU64, from: u64, to: u64) -> bool {
    words.before_access();
    word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
}
