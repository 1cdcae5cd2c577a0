//! What a context takes of its device beside the program's own allocations: itself, stacks, streams, green
//! contexts within it, images. All as an H200 with driver 580.159 was measured to take it.

use crate::attributes::threads_per_multiprocessor;
use crate::backing::STEP_BYTES;
use crate::chunk::Chunks;
use crate::device::Device;
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_fake_machine::Bytes;

/// Stack per thread that the context comes with.
const STACK_BYTES: u64 = 1024;
/// Local memory that a thread may have at most.
const MOST_STACK_BYTES: u64 = 512 << 10;
/// What small arrays are rounded up to.
const SMALL_ARRAY_BYTES: u64 = 512;

/// What a context has taken of its device beside the program's own allocations.
pub struct Holdings {
    /// The context itself.
    pub base: Bytes,
    pub stack_bytes: u64,
    pub streams: u64,
    stream_bytes: u64,
    /// Green contexts within this one.
    pub greens: u64,
    green_bytes: u64,
    /// Code of all images.
    code_bytes: u64,
    /// What was taken for images.
    image_bytes: u64,
    pub limits: [u64; 12],
    pub chunks: Chunks,
    pub array_chunks: Chunks,
}

impl Default for Holdings {
    fn default() -> Holdings {
        Holdings {
            base: Bytes::default(),
            stack_bytes: STACK_BYTES,
            streams: 0,
            stream_bytes: 0,
            greens: 0,
            green_bytes: 0,
            code_bytes: 0,
            image_bytes: 0,
            limits: [STACK_BYTES, 8_650_752, 8 << 20, 0, 2048, 64, 11_796_480, 232_448, 0, 0, 0, 0],
            chunks: Chunks::new(512),
            array_chunks: Chunks::new(SMALL_ARRAY_BYTES),
        }
    }
}

fn image_steps(bytes: u64) -> u64 {
    bytes.next_multiple_of(STEP_BYTES).saturating_sub(STEP_BYTES)
}

impl Holdings {
    /// What a new context has.
    pub fn of_context(base: Bytes) -> Holdings {
        Holdings { base, ..Holdings::default() }
    }

    /// Device memory that the stacks take beyond what the context comes with.
    fn stack_taken(&self, device: &Device) -> u64 {
        let gpu = device.facts();
        let threads = u64::from(gpu.multiprocessors) * threads_per_multiprocessor(gpu);
        (self.stack_bytes.saturating_sub(STACK_BYTES) * threads).next_multiple_of(STEP_BYTES)
    }

    /// All that was taken beyond `base` and the chunks.
    pub fn taken_bytes(&self, device: &Device) -> u64 {
        self.stack_taken(device) + self.stream_bytes + self.green_bytes + self.image_bytes
    }

    /// Makes room for one more stream: the first takes nothing, 4 more take 2 MiB, 64 more 34 MiB, 128 more
    /// 70 MiB, kept for others when they end.
    pub fn take_stream(&mut self, device: &Device) -> CUresult {
        let wanted = (self.streams.div_ceil(4) + self.streams / 42) * STEP_BYTES;
        if let Some(more) = wanted.checked_sub(self.stream_bytes).filter(|&more| more > 0) {
            device.take(more)?;
            self.stream_bytes += more;
        }
        self.streams += 1;
        Ok(())
    }

    /// Makes room for one more green context: 6 MiB for the first and 4 for the second, kept for others when
    /// they end.
    pub fn take_green(&mut self, device: &Device) -> CUresult {
        let wanted = (2 * (self.greens + 1) + 1) * STEP_BYTES;
        if let Some(more) = wanted.checked_sub(self.green_bytes).filter(|&more| more > 0) {
            device.take(more)?;
            self.green_bytes = wanted;
        }
        self.greens += 1;
        Ok(())
    }

    /// Changes the stack that each thread of the device has. What that takes is taken at once.
    pub fn set_stack(&mut self, device: &Device, bytes: u64) -> CUresult {
        if bytes > MOST_STACK_BYTES {
            return Err(CUerror::INVALID_VALUE);
        }
        let before = self.stack_taken(device);
        let old_bytes = std::mem::replace(&mut self.stack_bytes, bytes);
        let after = self.stack_taken(device);
        if after > before {
            device.take(after - before).inspect_err(|_| self.stack_bytes = old_bytes)?;
        } else {
            device.give(before - after);
        }
        self.limits[0] = bytes.next_multiple_of(16);
        Ok(())
    }

    /// Makes room for an image: its variables in mappings of their own, its code in what contexts come with
    /// and, beyond 2 MiB of all images' code, in more.
    pub fn take_image(&mut self, device: &Device, code_bytes: u64, variable_bytes: u64) -> CUresult {
        let more = image_steps(self.code_bytes + code_bytes) - image_steps(self.code_bytes)
            + variable_bytes.next_multiple_of(STEP_BYTES);
        device.take(more)?;
        self.code_bytes += code_bytes;
        self.image_bytes += more;
        Ok(())
    }

    /// Gives an image's room back.
    pub fn give_image(&mut self, device: &Device, code_bytes: u64, variable_bytes: u64) {
        let less = image_steps(self.code_bytes) - image_steps(self.code_bytes - code_bytes)
            + variable_bytes.next_multiple_of(STEP_BYTES);
        self.code_bytes -= code_bytes;
        self.image_bytes -= less;
        device.give(less);
    }
}
