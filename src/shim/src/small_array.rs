//! Small arrays: the driver packs them into 2 MiB chunks of their own, like small linear allocations, but
//! gives no address to tell the chunk by.
//!
//! Measured on an H200 with driver 580.159 by `scripts/gpu-facts`: one 16 x 16 byte array takes 2 MiB, 200
//! arrays of 64 x 64 floats (16 KiB each) take 4 MiB. Chunks are counted as the sum of sizes over 2 MiB;
//! what packing loses beyond that is found by measuring, as overhead.

use crate::quota::{MAPPING_BYTES, MAPPING_PAGES, Quota};
use parking_lot::Mutex;
use vcuda_driver::result::CUerror;

/// The small arrays on one device.
#[derive(Default)]
pub struct SmallArrays {
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    /// Sum of the arrays' sizes.
    bytes: u64,
    /// Chunks charged; never fewer than the sum needs.
    chunks: u64,
}

fn chunks(bytes: u64) -> u64 {
    bytes.div_ceil(MAPPING_BYTES)
}

impl SmallArrays {
    /// Charges an array of `bytes`, before it is created.
    pub fn add(&self, quota: &Quota, bytes: u64) -> Result<(), CUerror> {
        loop {
            let missing = {
                let mut books = self.books.lock();
                let missing = chunks(books.bytes + bytes).saturating_sub(books.chunks);
                if missing == 0 {
                    books.bytes += bytes;
                    return Ok(());
                }
                missing
            };
            // Another thread may use up or give back what is reserved here, hence the loop.
            quota.reserve(missing * MAPPING_PAGES)?.keep();
            self.books.lock().chunks += missing;
        }
    }

    /// Credits an array of `bytes`, after it was destroyed or when creating it failed.
    pub fn remove(&self, quota: &Quota, bytes: u64) {
        let surplus = {
            let mut books = self.books.lock();
            books.bytes = books.bytes.saturating_sub(bytes);
            let surplus = books.chunks.saturating_sub(chunks(books.bytes));
            books.chunks -= surplus;
            surplus
        };
        quota.give_back(surplus * MAPPING_PAGES);
    }

    /// Pages of the chunks in use.
    pub fn held_pages(&self) -> u64 {
        chunks(self.books.lock().bytes) * MAPPING_PAGES
    }
}
