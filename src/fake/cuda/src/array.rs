//! Arrays and mipmaps: sized as the driver lays them out, stored row by row.

use crate::backing::STEP_BYTES;
use crate::capture;
use crate::context::{self, Context};
use crate::driver::driver;
use crate::edge::{FromC, Out, Value};
use crate::format::element_bytes;
use crate::memory;
use crate::slab::{Slab, handle_of};
use parking_lot::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

pub static ARRAYS: Slab<Array> = Slab::new();
pub static MIPMAPS: Slab<Mipmap> = Slab::new();

/// Sizes are multiples of this, as the driver tells them.
const ALIGNMENT_BYTES: u64 = 1 << 16;
/// Arrays up to this size share chunks of 2 MiB.
const SMALL_BYTES: u64 = 1 << 20;
const LAYERED: u32 = 1;
const CUBEMAP: u32 = 4;
const SPARSE: u32 = 0x40;
const DEFERRED_MAPPING: u32 = 0x80;

/// An array.
#[derive(Default)]
pub struct Array(Mutex<State>);

/// A mipmapped array.
#[derive(Default)]
pub struct Mipmap(Mutex<MipmapState>);

#[derive(Clone, Copy, Default)]
struct State {
    descriptor: CUDA_ARRAY3D_DESCRIPTOR,
    storage: Storage,
    /// Where it begins within its storage: a level of a mipmap begins behind the larger ones.
    offset: u64,
    /// Whether the storage is a mipmap's.
    is_level: bool,
}

#[derive(Default)]
struct MipmapState {
    storage: Storage,
    levels: Vec<&'static Array>,
}

/// Memory of an array.
#[derive(Clone, Copy, Default)]
struct Storage {
    address: u64,
    bytes: u64,
    kind: StorageKind,
    ordinal: usize,
    context_id: u64,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum StorageKind {
    /// Not on the device until something is mapped to it.
    #[default]
    None,
    Small,
    Large,
}

/// Where an array's elements are.
pub struct Shape {
    pub address: u64,
    /// Bytes of a row.
    pub pitch: u64,
    pub height: u64,
    /// Slices or layers.
    pub depth: u64,
}

impl FromC<CUarray> for &'static Array {
    unsafe fn from_c(value: CUarray) -> Result<&'static Array, CUerror> {
        find(value)
    }
}

/// The array of a handle.
pub fn find(handle: CUarray) -> Result<&'static Array, CUerror> {
    ARRAYS.get(handle.0).ok_or(CUerror::INVALID_HANDLE)
}

impl FromC<CUmipmappedArray> for &'static Mipmap {
    unsafe fn from_c(value: CUmipmappedArray) -> Result<&'static Mipmap, CUerror> {
        MIPMAPS.get(value.0).ok_or(CUerror::INVALID_HANDLE)
    }
}

impl Array {
    pub fn shape(&self) -> Shape {
        let state = self.0.lock();
        let descriptor = &state.descriptor;
        let element = element_bytes(descriptor.Format, descriptor.NumChannels).unwrap_or(1);
        Shape {
            address: state.storage.address + state.offset,
            pitch: descriptor.Width as u64 * element,
            height: descriptor.Height.max(1) as u64,
            depth: descriptor.Depth.max(1) as u64,
        }
    }
}

fn check(descriptor: &CUDA_ARRAY3D_DESCRIPTOR) -> Result<u64, CUerror> {
    let element = element_bytes(descriptor.Format, descriptor.NumChannels).ok_or(CUerror::INVALID_VALUE)?;
    let is_cubemap = descriptor.Flags & CUBEMAP != 0;
    let fits = descriptor.Width > 0
        && descriptor.Width <= 131_072
        && descriptor.Height <= 65536
        && descriptor.Depth <= 16384
        && (descriptor.Flags & LAYERED == 0 || descriptor.Depth > 0)
        && (!is_cubemap || (descriptor.Width == descriptor.Height && descriptor.Depth.is_multiple_of(6)));
    if fits { Ok(element) } else { Err(CUerror::INVALID_VALUE) }
}

/// Bytes of one level of an array, in blocks of 64 bytes by 8 rows: up to 16 such rows high where it is
/// flat, and 16 slices deep where it is not.
fn level_bytes(width: u64, height: u64, depth: u64, is_layered: bool, element: u64) -> u64 {
    let pitch = (width * element).next_multiple_of(64);
    let (height, depth) = (height.max(1), depth.max(1));
    if is_layered || depth == 1 {
        let rows = height.next_multiple_of(8 * height.div_ceil(8).next_power_of_two().min(16));
        return pitch * rows * depth;
    }
    let slices = depth.next_multiple_of(depth.next_power_of_two().min(16));
    pitch * height.next_multiple_of(8) * slices
}

/// Bytes of `levels` levels.
fn laid_out_bytes(descriptor: &CUDA_ARRAY3D_DESCRIPTOR, levels: u32, element: u64) -> u64 {
    let is_layered = descriptor.Flags & (LAYERED | CUBEMAP) != 0;
    let shrink = |size: usize, level: u32| if size == 0 { 0 } else { (size as u64 >> level).max(1) };
    (0..levels)
        .map(|level| {
            let depth = if is_layered { descriptor.Depth as u64 } else { shrink(descriptor.Depth, level) };
            let (width, height) = (shrink(descriptor.Width, level), shrink(descriptor.Height, level));
            level_bytes(width, height, depth, is_layered, element)
        })
        .sum()
}

impl Storage {
    fn take(context: &Context, bytes: u64, flags: u32) -> Result<Storage, CUerror> {
        let device = context.device();
        let (ordinal, context_id) = (device.ordinal, context.id.load(Relaxed));
        let (address, kind) = if flags & (SPARSE | DEFERRED_MAPPING) != 0 {
            (0, StorageKind::None)
        } else if bytes <= SMALL_BYTES {
            let chunks = &mut context.holdings.lock().array_chunks;
            let address = match chunks.take(bytes) {
                Some(address) => address,
                None => {
                    chunks.add(memory::take_mapped(device, STEP_BYTES)?);
                    chunks.take(bytes).ok_or(CUerror::OUT_OF_MEMORY)?
                }
            };
            (address, StorageKind::Small)
        } else {
            (memory::take_mapped(device, bytes)?, StorageKind::Large)
        };
        Ok(Storage { address, bytes, kind, ordinal, context_id })
    }

    /// Gives the memory back; small arrays' only while their context lives, which gives back whole chunks.
    fn give(&self) {
        let device = &driver().devices[self.ordinal];
        match self.kind {
            StorageKind::None => {}
            StorageKind::Large => memory::give_mapped(device, self.address, self.bytes),
            StorageKind::Small => {
                let Some(context) = context::find_by_id(self.context_id) else { return };
                let emptied = context.holdings.lock().array_chunks.give(self.address, self.bytes);
                if let Some(start) = emptied {
                    memory::give_chunk(device, start);
                }
            }
        }
    }
}

/// Ends the arrays of a context that ended.
pub fn destroy_of_context(context_id: u64) {
    for mipmap in MIPMAPS.live() {
        let belongs = mipmap.0.lock().storage.context_id == context_id;
        if belongs {
            end_mipmap(mipmap);
        }
    }
    for array in ARRAYS.live() {
        let state = *array.0.lock();
        if state.storage.context_id == context_id && ARRAYS.remove(array) && !state.is_level {
            state.storage.give();
        }
    }
}

pub fn create_3d(out: Out<CUarray>, descriptor: Value<CUDA_ARRAY3D_DESCRIPTOR>) -> CUresult {
    let context = Context::current()?;
    context.check()?;
    capture::forbid_unsafe()?;
    let descriptor = descriptor.0;
    let element = check(&descriptor)?;
    let bytes = laid_out_bytes(&descriptor, 1, element);
    let storage = Storage::take(context, bytes, descriptor.Flags)?;
    let Some(array) = ARRAYS.add() else {
        storage.give();
        return Err(CUerror::OUT_OF_MEMORY);
    };
    *array.0.lock() = State { descriptor, storage, offset: 0, is_level: false };
    out.set(CUarray(handle_of(array)));
    Ok(())
}

pub fn create_3d_v1(out: Out<CUarray>, descriptor: Value<CUDA_ARRAY3D_DESCRIPTOR_v1>) -> CUresult {
    create_3d(out, Value(descriptor.0.into()))
}

pub fn create(out: Out<CUarray>, descriptor: Value<CUDA_ARRAY_DESCRIPTOR>) -> CUresult {
    create_3d(out, Value(descriptor.0.into()))
}

pub fn create_v1(out: Out<CUarray>, descriptor: Value<CUDA_ARRAY_DESCRIPTOR_v1>) -> CUresult {
    create(out, Value(descriptor.0.into()))
}

pub fn destroy(array: &'static Array) -> CUresult {
    let state = *array.0.lock();
    if state.is_level || !ARRAYS.remove(array) {
        return Err(CUerror::INVALID_HANDLE);
    }
    if let Ok(context) = Context::current() {
        context.wait();
    }
    state.storage.give();
    Ok(())
}

pub fn descriptor_3d(out: Out<CUDA_ARRAY3D_DESCRIPTOR>, array: &'static Array) -> CUresult {
    out.set(array.0.lock().descriptor);
    Ok(())
}

pub fn descriptor(out: Out<CUDA_ARRAY_DESCRIPTOR>, array: &'static Array) -> CUresult {
    let descriptor = array.0.lock().descriptor;
    out.set(CUDA_ARRAY_DESCRIPTOR {
        Width: descriptor.Width,
        Height: descriptor.Height,
        Format: descriptor.Format,
        NumChannels: descriptor.NumChannels,
    });
    Ok(())
}

pub fn descriptor_3d_v1(out: Out<CUDA_ARRAY3D_DESCRIPTOR_v1>, array: &'static Array) -> CUresult {
    let descriptor = array.0.lock().descriptor;
    out.set(CUDA_ARRAY3D_DESCRIPTOR_v1 {
        Width: descriptor.Width as u32,
        Height: descriptor.Height as u32,
        Depth: descriptor.Depth as u32,
        Format: descriptor.Format,
        NumChannels: descriptor.NumChannels,
        Flags: descriptor.Flags,
    });
    Ok(())
}

pub fn descriptor_v1(out: Out<CUDA_ARRAY_DESCRIPTOR_v1>, array: &'static Array) -> CUresult {
    let descriptor = array.0.lock().descriptor;
    out.set(CUDA_ARRAY_DESCRIPTOR_v1 {
        Width: descriptor.Width as u32,
        Height: descriptor.Height as u32,
        Format: descriptor.Format,
        NumChannels: descriptor.NumChannels,
    });
    Ok(())
}

fn requirements(storage: &Storage) -> Result<CUDA_ARRAY_MEMORY_REQUIREMENTS, CUerror> {
    if storage.kind != StorageKind::None {
        return Err(CUerror::INVALID_VALUE);
    }
    Ok(CUDA_ARRAY_MEMORY_REQUIREMENTS {
        size: storage.bytes.next_multiple_of(ALIGNMENT_BYTES) as usize,
        alignment: ALIGNMENT_BYTES as usize,
        reserved: [0; 4],
    })
}

/// Only arrays that are mapped later tell what they need.
pub fn memory_requirements(
    out: Out<CUDA_ARRAY_MEMORY_REQUIREMENTS>,
    array: &'static Array,
    device: CUdevice,
) -> CUresult {
    driver().device(device)?;
    out.set(requirements(&array.0.lock().storage)?);
    Ok(())
}

pub fn mipmap_create(
    out: Out<CUmipmappedArray>,
    descriptor: Value<CUDA_ARRAY3D_DESCRIPTOR>,
    levels: u32,
) -> CUresult {
    let context = Context::current()?;
    context.check()?;
    capture::forbid_unsafe()?;
    let descriptor = descriptor.0;
    let element = check(&descriptor)?;
    let largest = descriptor.Width.max(descriptor.Height);
    let levels = levels.clamp(1, largest.ilog2() + 1);
    let storage = Storage::take(context, laid_out_bytes(&descriptor, levels, element), descriptor.Flags)?;
    let level_arrays = (0..levels).map(|level| {
        let array = ARRAYS.add().ok_or(CUerror::OUT_OF_MEMORY)?;
        let shrink = |size: usize| if size == 0 { 0 } else { (size >> level).max(1) };
        let is_layered = descriptor.Flags & (LAYERED | CUBEMAP) != 0;
        let shrunk = CUDA_ARRAY3D_DESCRIPTOR {
            Width: shrink(descriptor.Width),
            Height: shrink(descriptor.Height),
            Depth: if is_layered { descriptor.Depth } else { shrink(descriptor.Depth) },
            ..descriptor
        };
        let offset = laid_out_bytes(&descriptor, level, element);
        *array.0.lock() = State { descriptor: shrunk, storage, offset, is_level: true };
        Ok(array)
    });
    let level_arrays = level_arrays.collect::<Result<Vec<_>, _>>().inspect_err(|_| storage.give())?;
    let mipmap = MIPMAPS.add().ok_or(CUerror::OUT_OF_MEMORY).inspect_err(|_| storage.give())?;
    *mipmap.0.lock() = MipmapState { storage, levels: level_arrays };
    out.set(CUmipmappedArray(handle_of(mipmap)));
    Ok(())
}

fn end_mipmap(mipmap: &'static Mipmap) -> bool {
    if !MIPMAPS.remove(mipmap) {
        return false;
    }
    let state = std::mem::take(&mut *mipmap.0.lock());
    for level in state.levels {
        ARRAYS.remove(level);
    }
    state.storage.give();
    true
}

pub fn mipmap_destroy(mipmap: &'static Mipmap) -> CUresult {
    if let Ok(context) = Context::current() {
        context.wait();
    }
    if end_mipmap(mipmap) { Ok(()) } else { Err(CUerror::INVALID_HANDLE) }
}

pub fn mipmap_level(out: Out<CUarray>, mipmap: &'static Mipmap, level: u32) -> CUresult {
    let state = mipmap.0.lock();
    let level = state.levels.get(level as usize).ok_or(CUerror::INVALID_VALUE)?;
    out.set(CUarray(handle_of(*level)));
    Ok(())
}

pub fn mipmap_memory_requirements(
    out: Out<CUDA_ARRAY_MEMORY_REQUIREMENTS>,
    mipmap: &'static Mipmap,
    device: CUdevice,
) -> CUresult {
    driver().device(device)?;
    out.set(requirements(&mipmap.0.lock().storage)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an H200 with driver 580.159 says about deferred arrays.
    #[test]
    fn sizes_are_the_drivers() {
        let size = |width, height, depth, channels, element: u64, flags, levels| {
            let descriptor = CUDA_ARRAY3D_DESCRIPTOR {
                Width: width,
                Height: height,
                Depth: depth,
                Format: if element == 1 { CU_AD_FORMAT_UNSIGNED_INT8 } else { CU_AD_FORMAT_FLOAT },
                NumChannels: channels,
                Flags: flags,
            };
            let element = check(&descriptor).unwrap();
            laid_out_bytes(&descriptor, levels, element).next_multiple_of(ALIGNMENT_BYTES)
        };
        let flat = |width, height, channels, element| size(width, height, 0, channels, element, 0, 1);
        assert_eq!(flat(1024, 0, 4, 4), 131_072);
        assert_eq!(flat(65536, 0, 4, 4), 8_388_608);
        assert_eq!(flat(65, 65, 4, 4), 196_608);
        assert_eq!(flat(100, 100, 4, 4), 262_144);
        assert_eq!(flat(640, 480, 1, 4), 1_310_720);
        assert_eq!(flat(1920, 1080, 1, 1), 2_228_224);
        assert_eq!(flat(3000, 3000, 1, 4), 36_962_304);
        assert_eq!(flat(100_000, 1, 1, 1), 851_968);
        assert_eq!(flat(1, 30000, 4, 4), 1_966_080);
        let cube = |side, channels, element| size(side, side, side, channels, element, 0, 1);
        assert_eq!(cube(17, 1, 4), 131_072);
        assert_eq!(cube(17, 4, 4), 262_144);
        assert_eq!(cube(33, 1, 4), 393_216);
        assert_eq!(cube(33, 4, 4), 1_114_112);
        assert_eq!(cube(100, 1, 4), 5_242_880);
        assert_eq!(cube(130, 1, 1), 3_801_088);
        assert_eq!(cube(200, 4, 4), 133_169_152);
        assert_eq!(size(100, 100, 7, 1, 4, LAYERED, 1), 458_752);
        assert_eq!(size(100, 100, 8, 1, 4, LAYERED, 1), 458_752);
        assert_eq!(size(1000, 0, 10, 1, 4, LAYERED, 1), 327_680);
        assert_eq!(size(256, 256, 6, 1, 4, CUBEMAP, 1), 1_572_864);
        assert_eq!(size(256, 256, 0, 1, 4, 0, 5), 393_216);
        assert_eq!(size(2048, 2048, 0, 1, 4, 0, 5), 22_347_776);
    }
}
