//! Physical allocations of the virtual memory API: charged when created, credited when neither a handle nor
//! a mapping is left, as the driver keeps them.
//!
//! Imported allocations are known and not charged: their exporter pays.

use crate::hash::WordMap;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use vcuda_driver::cuda::types::CUmemGenericAllocationHandle;

/// What to credit: pages on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// Ordinal of the device.
    pub device: i32,
    /// Pages.
    pub pages: u64,
    /// The allocation was exported: somebody, this process too, may hold it under another handle.
    pub exported: bool,
}

/// An allocation that this process has no reference to any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was charged.
    Charged(Credit),
    /// It was imported, or lay elsewhere.
    Uncharged,
}

#[derive(Clone, Copy)]
struct Allocation {
    charge: Option<Credit>,
    handles: u64,
    mappings: u64,
}

#[derive(Default)]
struct Books {
    next: u64,
    allocations: WordMap<u64, Allocation>,
    handles: WordMap<CUmemGenericAllocationHandle, u64>,
    /// By start address: length in bytes and allocation.
    mappings: BTreeMap<u64, (u64, u64)>,
}

impl Books {
    fn drop_if_unused(&mut self, id: u64) -> Option<End> {
        let allocation = self.allocations.get(&id)?;
        if allocation.handles > 0 || allocation.mappings > 0 {
            return None;
        }
        Some(self.allocations.remove(&id)?.charge.map_or(End::Uncharged, End::Charged))
    }
}

/// The physical allocations of this process.
#[derive(Default)]
pub struct PhysicalMemory {
    books: Mutex<Books>,
}

impl PhysicalMemory {
    /// Enters a new allocation with one handle; `charge` is `None` for memory that isn't charged here.
    pub fn created(&self, handle: CUmemGenericAllocationHandle, charge: Option<Credit>) {
        let mut books = self.books.lock();
        books.next += 1;
        let id = books.next;
        books.allocations.insert(id, Allocation { charge, handles: 1, mappings: 0 });
        books.handles.insert(handle, id);
    }

    /// Notes that the allocation may be imported elsewhere.
    pub fn exported(&self, handle: CUmemGenericAllocationHandle) {
        let mut books = self.books.lock();
        let Some(&id) = books.handles.get(&handle) else { return };
        if let Some(charge) = books.allocations.get_mut(&id).and_then(|allocation| allocation.charge.as_mut())
        {
            charge.exported = true;
        }
    }

    /// Whether the handle is one of these.
    pub fn knows(&self, handle: CUmemGenericAllocationHandle) -> bool {
        self.books.lock().handles.contains_key(&handle)
    }

    /// Enters one more reference to an allocation: `handle` was given for the mapping at `address`.
    pub fn retained(&self, handle: CUmemGenericAllocationHandle, address: u64) {
        let mut books = self.books.lock();
        let mapping = books.mappings.range(..=address).next_back();
        let Some((&start, &(length, id))) = mapping else { return };
        if address - start >= length {
            return;
        }
        if let Some(allocation) = books.allocations.get_mut(&id) {
            allocation.handles += 1;
        }
        books.handles.insert(handle, id);
    }

    /// One more handle of the same value, as imports of one object may give.
    pub fn referenced(&self, handle: CUmemGenericAllocationHandle) {
        let mut books = self.books.lock();
        let Some(&id) = books.handles.get(&handle) else { return };
        if let Some(allocation) = books.allocations.get_mut(&id) {
            allocation.handles += 1;
        }
    }

    /// Takes out one reference by handle, after the driver released it.
    pub fn released(&self, handle: CUmemGenericAllocationHandle) -> Option<End> {
        let mut books = self.books.lock();
        let id = *books.handles.get(&handle)?;
        let allocation = books.allocations.get_mut(&id)?;
        allocation.handles = allocation.handles.saturating_sub(1);
        if allocation.handles == 0 {
            books.handles.remove(&handle);
        }
        books.drop_if_unused(id)
    }

    /// Enters a mapping of `bytes` at `address`.
    pub fn mapped(&self, handle: CUmemGenericAllocationHandle, address: u64, bytes: u64) {
        let mut books = self.books.lock();
        let Some(&id) = books.handles.get(&handle) else { return };
        if let Some(allocation) = books.allocations.get_mut(&id) {
            allocation.mappings += 1;
        }
        books.mappings.insert(address, (bytes, id));
    }

    /// Takes out the mappings that begin in `bytes` from `address` on, after the driver unmapped them.
    pub fn unmapped(&self, address: u64, bytes: u64) -> Vec<End> {
        let mut books = self.books.lock();
        let range = address..address.saturating_add(bytes);
        let gone: Vec<(u64, u64)> =
            books.mappings.range(range).map(|(&start, &(_, id))| (start, id)).collect();
        let mut ends = Vec::new();
        for (start, id) in gone {
            books.mappings.remove(&start);
            if let Some(allocation) = books.allocations.get_mut(&id) {
                allocation.mappings = allocation.mappings.saturating_sub(1);
            }
            ends.extend(books.drop_if_unused(id));
        }
        ends
    }
}
