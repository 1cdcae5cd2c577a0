//! Every allocation of this process by address: what a pointer belongs to.

use crate::driver::driver;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use vcuda_driver::result::CUerror;
use vcuda_fake_machine::OBSTACLE_MANAGED;

/// A range of addresses that the program was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    pub address: u64,
    /// As the program asked for it.
    pub bytes: u64,
    /// The device's place in the program's own order.
    pub ordinal: usize,
    /// Id of the context that it ends with; 0 where it outlives contexts.
    pub context_id: u64,
    pub kind: Kind,
    /// As the program gave them.
    pub flags: u32,
    pub id: u64,
}

/// How an allocation came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Packed into a chunk.
    Small,
    /// Mapped alone.
    Large,
    /// Managed; true once it is on the device.
    Managed(bool),
    /// From the pool of this handle.
    Pooled(usize),
    /// Of a graph's memory.
    Graph,
    /// Host memory made by the driver.
    Host,
    /// The program's own host memory, registered.
    Registered,
    /// A mapping of the physical memory of this handle.
    Mapped(u64),
    /// A variable of a module.
    Global,
    /// Another process's memory.
    Imported,
}

impl Kind {
    /// Whether the memory is the host's.
    pub fn is_host(self) -> bool {
        matches!(self, Kind::Host | Kind::Registered)
    }
}

static SPACE: RwLock<BTreeMap<u64, Allocation>> = RwLock::new(BTreeMap::new());
static MANAGED_COUNT: Mutex<i64> = Mutex::new(0);
static IS_ANY_MANAGED: AtomicBool = AtomicBool::new(false);

/// A number that no other allocation has.
pub fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

/// Enters an allocation.
pub fn insert(allocation: Allocation) {
    if matches!(allocation.kind, Kind::Managed(_)) {
        count_managed(1);
    }
    SPACE.write().insert(allocation.address, allocation);
}

/// Takes out the allocation that begins at `address`, if it is as expected.
pub fn remove_if(address: u64, expected: impl FnOnce(&Allocation) -> bool) -> Option<Allocation> {
    let mut space = SPACE.write();
    if !expected(space.get(&address)?) {
        return None;
    }
    let removed = space.remove(&address)?;
    if matches!(removed.kind, Kind::Managed(_)) {
        count_managed(-1);
    }
    Some(removed)
}

fn count_managed(change: i64) {
    let mut count = MANAGED_COUNT.lock();
    *count += change;
    driver().member.set_obstacle(OBSTACLE_MANAGED, *count > 0);
    IS_ANY_MANAGED.store(*count > 0, Relaxed);
}

/// Takes out everything that ends with a context.
pub fn remove_of_context(context_id: u64) -> Vec<Allocation> {
    let addresses: Vec<u64> = {
        let space = SPACE.read();
        space.values().filter(|held| held.context_id == context_id).map(|held| held.address).collect()
    };
    addresses.into_iter().filter_map(|address| remove_if(address, |_| true)).collect()
}

/// The allocation that an address lies in.
pub fn find(address: u64) -> Option<Allocation> {
    let space = SPACE.read();
    let (_, found) = space.range(..=address).next_back()?;
    (address - found.address < found.bytes).then_some(*found)
}

/// Whether any managed memory exists.
pub fn is_any_managed() -> bool {
    IS_ANY_MANAGED.load(Relaxed)
}

/// Notes that a managed allocation is on the device now; false if it was or isn't managed.
pub fn mark_touched(address: u64) -> bool {
    match SPACE.write().get_mut(&address) {
        Some(allocation) if allocation.kind == Kind::Managed(false) => {
            allocation.kind = Kind::Managed(true);
            true
        }
        _ => false,
    }
}

/// Checks that `bytes` from `address` on are device-accessible, across neighbouring allocations.
pub fn check(address: u64, bytes: u64) -> Result<(), CUerror> {
    let end = address.checked_add(bytes).ok_or(CUerror::INVALID_VALUE)?;
    let space = SPACE.read();
    let mut covered = match space.range(..=address).next_back() {
        Some((&start, found)) => start + found.bytes,
        None => return Err(CUerror::INVALID_VALUE),
    };
    let mut next = space.range((Excluded(address), Unbounded));
    while covered < end {
        match next.next() {
            Some((&start, found)) if start <= covered => covered = covered.max(start + found.bytes),
            _ => return Err(CUerror::INVALID_VALUE),
        }
    }
    if covered <= address { Err(CUerror::INVALID_VALUE) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_what_they_belong_to() {
        let of = |address, bytes, context_id| Allocation {
            address,
            bytes,
            ordinal: 0,
            context_id,
            kind: Kind::Large,
            flags: 0,
            id: next_id(),
        };
        insert(of(1000, 100, 77));
        insert(of(1100, 50, 78));
        assert_eq!(find(1099).map(|found| found.address), Some(1000));
        assert_eq!(find(1150), None);
        assert_eq!(find(999), None);
        assert_eq!(check(1000, 150), Ok(()));
        assert!(check(1000, 151).is_err());
        assert!(check(1150, 1).is_err());
        assert!(check(999, 1).is_err());
        assert_eq!(remove_of_context(77).len(), 1);
        assert!(find(1000).is_none());
        assert!(remove_if(1100, |found| found.bytes == 51).is_none());
        assert!(remove_if(1100, |found| found.bytes == 50).is_some());
    }
}
