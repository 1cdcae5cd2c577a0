//! Virtual memory management: physical memory by handle, reserved addresses, and mappings of one on the
//! other. Memory that can be shared is a file of its own, which its descriptor hands to another process.

use crate::backing::{self, STEP_BYTES, window};
use crate::driver::driver;
use crate::edge::{FromC, Items, Out, Plain, Value};
use crate::space::{self, Allocation, Kind};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_fake_machine::OBSTACLE_SHARED;

/// A handle to physical memory.
struct Physical {
    memory: Arc<Memory>,
    /// How often the program holds the handle.
    handles: u64,
    /// Mappings made with it.
    mappings: u64,
}

/// Physical memory, given back when the last handle to it and the last mapping of it are gone.
struct Memory {
    bytes: u64,
    properties: Plain<CUmemAllocationProp>,
    backing: Backing,
}

enum Backing {
    /// At these addresses of the window, which nobody uses as such.
    Window(u64),
    /// A file that can be handed on.
    File(OwnedFd),
    /// Another process's file; its maker has the memory.
    Imported(OwnedFd),
}

#[derive(Default)]
struct Books {
    next_handle: u64,
    physical: BTreeMap<u64, Physical>,
    /// Reserved addresses: start and length.
    reserved: BTreeMap<u64, u64>,
    /// Mappings: start, length and handle.
    mapped: BTreeMap<u64, (u64, u64)>,
}

static BOOKS: Mutex<Books> = Mutex::new(Books {
    next_handle: 1,
    physical: BTreeMap::new(),
    reserved: BTreeMap::new(),
    mapped: BTreeMap::new(),
});

fn check_properties(properties: &CUmemAllocationProp) -> CUresult {
    let is_device = properties.location.type_ == CU_MEM_LOCATION_TYPE_DEVICE;
    let is_host = matches!(
        properties.location.type_,
        CU_MEM_LOCATION_TYPE_HOST..=CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT
    );
    if properties.type_ != CU_MEM_ALLOCATION_TYPE_PINNED || !(is_device || is_host) {
        return Err(CUerror::INVALID_VALUE);
    }
    if is_device {
        driver().device(properties.location.id)?;
    }
    if properties.requestedHandleTypes & !CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR != 0 {
        return Err(CUerror::NOT_SUPPORTED);
    }
    Ok(())
}

impl Memory {
    /// The device that the memory is taken of; `None` for host memory and other processes'.
    fn device(&self) -> Option<&'static crate::device::Device> {
        let is_own = !matches!(self.backing, Backing::Imported(_));
        let location = self.properties.0.location;
        let is_device = location.type_ == CU_MEM_LOCATION_TYPE_DEVICE;
        (is_own && is_device).then(|| driver().device(location.id).ok()).flatten()
    }

    fn file(&self) -> Option<&OwnedFd> {
        match &self.backing {
            Backing::Window(_) => None,
            Backing::File(file) | Backing::Imported(file) => Some(file),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let (Backing::Window(address), Some(window)) = (&self.backing, window()) {
            window.give(*address, self.bytes);
        }
        if let Some(device) = self.device() {
            device.give(self.bytes);
        }
    }
}

impl Books {
    fn physical(&mut self, handle: u64) -> Result<&mut Physical, CUerror> {
        self.physical.get_mut(&handle).ok_or(CUerror::INVALID_VALUE)
    }

    fn add(&mut self, memory: Arc<Memory>) -> CUmemGenericAllocationHandle {
        let handle = self.next_handle;
        self.next_handle += 1;
        self.physical.insert(handle, Physical { memory, handles: 1, mappings: 0 });
        CUmemGenericAllocationHandle(handle)
    }

    /// The memory that a file is, if it is this process's own.
    fn memory_of(&self, identity: FileIdentity) -> Option<Arc<Memory>> {
        let is_it = |memory: &Arc<Memory>| memory.file().and_then(identity_of) == Some(identity);
        self.physical.values().map(|physical| &physical.memory).find(|memory| is_it(memory)).cloned()
    }

    /// Forgets a handle that the program gave up and has no mappings by.
    fn end_if_unused(&mut self, handle: u64) {
        let is_unused = |found: &Physical| found.handles == 0 && found.mappings == 0;
        if self.physical.get(&handle).is_some_and(is_unused) {
            self.physical.remove(&handle);
        }
    }

    fn mapping_at(&self, address: u64) -> Option<(u64, u64, u64)> {
        let (&start, &(bytes, handle)) = self.mapped.range(..=address).next_back()?;
        (address - start < bytes).then_some((start, bytes, handle))
    }

    fn is_reserved(&self, address: u64, bytes: u64) -> bool {
        let Some((&start, &length)) = self.reserved.range(..=address).next_back() else { return false };
        address - start <= length && bytes <= length - (address - start)
    }
}

fn is_whole(value: u64) -> bool {
    value != 0 && value.is_multiple_of(STEP_BYTES)
}

pub fn create(
    out: Out<CUmemGenericAllocationHandle>,
    bytes: usize,
    properties: Value<CUmemAllocationProp>,
    flags: u64,
) -> CUresult {
    let (bytes, properties) = (bytes as u64, properties.0);
    check_properties(&properties)?;
    if flags != 0 || !is_whole(bytes) {
        return Err(CUerror::INVALID_VALUE);
    }
    let device = match properties.location.type_ {
        CU_MEM_LOCATION_TYPE_DEVICE => Some(driver().device(properties.location.id)?),
        _ => None,
    };
    if let Some(device) = device {
        device.take(bytes)?;
    }
    let backing = if properties.requestedHandleTypes == 0 {
        window().and_then(|window| window.take(bytes)).map(Backing::Window)
    } else {
        backing::memory_file(c"simulated shared memory", bytes).ok().map(Backing::File)
    };
    let Some(backing) = backing else {
        if let Some(device) = device {
            device.give(bytes);
        }
        return Err(CUerror::OUT_OF_MEMORY);
    };
    let memory = Memory { bytes, properties: Plain(properties), backing };
    out.set(BOOKS.lock().add(Arc::new(memory)));
    Ok(())
}

pub fn release(handle: CUmemGenericAllocationHandle) -> CUresult {
    let mut books = BOOKS.lock();
    let physical = books.physical(handle.0)?;
    physical.handles = physical.handles.checked_sub(1).ok_or(CUerror::INVALID_VALUE)?;
    books.end_if_unused(handle.0);
    Ok(())
}

pub fn retain(out: Out<CUmemGenericAllocationHandle>, address: *mut c_void) -> CUresult {
    let mut books = BOOKS.lock();
    let (_, _, handle) = books.mapping_at(address as u64).ok_or(CUerror::INVALID_VALUE)?;
    books.physical(handle)?.handles += 1;
    out.set(CUmemGenericAllocationHandle(handle));
    Ok(())
}

pub fn reserve(
    out: Out<CUdeviceptr>,
    bytes: usize,
    alignment: usize,
    wanted: CUdeviceptr,
    flags: u64,
) -> CUresult {
    let bytes = bytes as u64;
    let alignment = (alignment as u64).max(STEP_BYTES);
    if flags != 0 || !is_whole(bytes) || !alignment.is_power_of_two() {
        return Err(CUerror::INVALID_VALUE);
    }
    // More than needed, and what sticks out is cut off.
    let room = bytes.checked_add(alignment).ok_or(CUerror::OUT_OF_MEMORY)?;
    let place = backing::reserve_addresses(wanted.0, room).map_err(|_| CUerror::OUT_OF_MEMORY)?;
    let start = place.next_multiple_of(alignment);
    if start > place {
        backing::unmap(place, start - place);
    }
    backing::unmap(start + bytes, place + room - (start + bytes));
    BOOKS.lock().reserved.insert(start, bytes);
    out.set(CUdeviceptr(start));
    Ok(())
}

pub fn free_addresses(address: CUdeviceptr, bytes: usize) -> CUresult {
    let mut books = BOOKS.lock();
    if books.reserved.get(&address.0) != Some(&(bytes as u64)) {
        return Err(CUerror::INVALID_VALUE);
    }
    if books.mapped.range(address.0..address.0 + bytes as u64).next().is_some() {
        return Err(CUerror::INVALID_VALUE);
    }
    books.reserved.remove(&address.0);
    backing::unmap(address.0, bytes as u64);
    Ok(())
}

pub fn map(
    address: CUdeviceptr,
    bytes: usize,
    offset: usize,
    handle: CUmemGenericAllocationHandle,
    flags: u64,
) -> CUresult {
    let (start, bytes, offset) = (address.0, bytes as u64, offset as u64);
    let mut books = BOOKS.lock();
    let is_free = books.is_reserved(start, bytes)
        && books.mapped.range(start..start + bytes).next().is_none()
        && books.mapping_at(start).is_none();
    let physical = books.physical(handle.0)?;
    let fits =
        is_whole(bytes) && offset.is_multiple_of(STEP_BYTES) && offset + bytes <= physical.memory.bytes;
    if flags != 0 || !is_free || !fits || !start.is_multiple_of(STEP_BYTES) {
        return Err(CUerror::INVALID_VALUE);
    }
    let mapped = match (&physical.memory.backing, window()) {
        (Backing::Window(place), Some(window)) => {
            backing::map_over(start, bytes, window.file(), window.offset(*place) + offset)
        }
        (Backing::File(file) | Backing::Imported(file), _) => backing::map_over(start, bytes, file, offset),
        _ => return Err(CUerror::MAP_FAILED),
    };
    mapped.map_err(|_| CUerror::MAP_FAILED)?;
    physical.mappings += 1;
    let ordinal = usize::try_from(physical.memory.properties.0.location.id).unwrap_or(0);
    books.mapped.insert(start, (bytes, handle.0));
    drop(books);
    let (kind, id) = (Kind::Mapped(handle.0), space::next_id());
    space::insert(Allocation { address: start, bytes, ordinal, context_id: 0, kind, flags: 0, id });
    Ok(())
}

/// Unmaps whole mappings only.
pub fn unmap(address: CUdeviceptr, bytes: usize) -> CUresult {
    let (start, end) = (address.0, address.0 + bytes as u64);
    let mut books = BOOKS.lock();
    let inside: Vec<(u64, u64, u64)> =
        books.mapped.range(start..end).map(|(&start, &(bytes, handle))| (start, bytes, handle)).collect();
    let covered: u64 = inside.iter().map(|(_, bytes, _)| bytes).sum();
    if covered != end - start || inside.is_empty() {
        return Err(CUerror::INVALID_VALUE);
    }
    for (start, bytes, handle) in inside {
        books.mapped.remove(&start);
        space::remove_if(start, |found| found.kind == Kind::Mapped(handle));
        backing::cover(start, bytes).map_err(|_| CUerror::UNMAP_FAILED)?;
        if let Ok(physical) = books.physical(handle) {
            physical.mappings -= 1;
        }
        books.end_if_unused(handle);
    }
    Ok(())
}

/// Mappings can be used at once here; the call only checks what it is given.
pub fn set_access(
    address: CUdeviceptr,
    bytes: usize,
    access: Items<CUmemAccessDesc>,
    count: usize,
) -> CUresult {
    for wanted in access.first(count) {
        if wanted.location.type_ == CU_MEM_LOCATION_TYPE_DEVICE {
            driver().device(wanted.location.id)?;
        }
    }
    space::check(address.0, bytes as u64)?;
    let books = BOOKS.lock();
    books.mapping_at(address.0).map(|_| ()).ok_or(CUerror::INVALID_VALUE)
}

pub fn get_access(out: Out<u64>, location: Value<CUmemLocation>, address: CUdeviceptr) -> CUresult {
    if location.0.type_ == CU_MEM_LOCATION_TYPE_DEVICE {
        driver().device(location.0.id)?;
    }
    BOOKS.lock().mapping_at(address.0).ok_or(CUerror::INVALID_VALUE)?;
    out.set(u64::from(CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
    Ok(())
}

pub fn granularity(out: Out<usize>, properties: Value<CUmemAllocationProp>, kind: u32) -> CUresult {
    check_properties(&properties.0)?;
    if kind > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED {
        return Err(CUerror::INVALID_VALUE);
    }
    out.set(STEP_BYTES as usize);
    Ok(())
}

pub fn properties(out: Out<CUmemAllocationProp>, handle: CUmemGenericAllocationHandle) -> CUresult {
    out.set(BOOKS.lock().physical(handle.0)?.memory.properties.0);
    Ok(())
}

pub fn export(
    out: Out<c_void>,
    handle: CUmemGenericAllocationHandle,
    kind: CUmemAllocationHandleType,
    flags: u64,
) -> CUresult {
    let mut books = BOOKS.lock();
    let memory = &books.physical(handle.0)?.memory;
    let file = memory.file().ok_or(CUerror::INVALID_VALUE)?;
    if kind != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || flags != 0 {
        return Err(CUerror::INVALID_VALUE);
    }
    let copy = file.as_fd().try_clone_to_owned().map_err(|_| CUerror::OPERATING_SYSTEM)?;
    driver().member.set_obstacle(OBSTACLE_SHARED, true);
    out.cast::<RawFd>().set(copy.into_raw_fd());
    Ok(())
}

/// A descriptor that the program passes as if it were an address.
pub struct Descriptor(OwnedFd);

impl FromC<*mut c_void> for Descriptor {
    unsafe fn from_c(value: *mut c_void) -> Result<Descriptor, CUerror> {
        let number = RawFd::try_from(value as usize).map_err(|_| CUerror::INVALID_VALUE)?;
        // SAFETY: the program's descriptor is borrowed only to be copied, which fails if it isn't open.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        borrowed.try_clone_to_owned().map(Descriptor).map_err(|_| CUerror::INVALID_VALUE)
    }
}

/// What tells files apart: the device and the number on it.
type FileIdentity = (u64, u64);

fn status_of(file: &OwnedFd) -> Option<libc::stat> {
    // SAFETY: an all-zero status is only passed on to be filled in.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and `status` is live and writable.
    (unsafe { libc::fstat(file.as_raw_fd(), &mut status) } == 0).then_some(status)
}

fn identity_of(file: &OwnedFd) -> Option<FileIdentity> {
    status_of(file).map(|status| (status.st_dev, status.st_ino))
}

/// The location isn't part of the file, so other processes' memory is said to be the first device's.
pub fn import(
    out: Out<CUmemGenericAllocationHandle>,
    descriptor: Descriptor,
    kind: CUmemAllocationHandleType,
) -> CUresult {
    if kind != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR {
        return Err(CUerror::NOT_SUPPORTED);
    }
    let status = status_of(&descriptor.0).ok_or(CUerror::INVALID_VALUE)?;
    let bytes = status.st_size as u64;
    if !is_whole(bytes) {
        return Err(CUerror::INVALID_VALUE);
    }
    driver().member.set_obstacle(OBSTACLE_SHARED, true);
    let mut books = BOOKS.lock();
    let memory = books.memory_of((status.st_dev, status.st_ino)).unwrap_or_else(|| {
        let properties = Plain(CUmemAllocationProp {
            type_: CU_MEM_ALLOCATION_TYPE_PINNED,
            requestedHandleTypes: CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
            location: CUmemLocation { type_: CU_MEM_LOCATION_TYPE_DEVICE, id: 0 },
            ..CUmemAllocationProp::default()
        });
        Arc::new(Memory { bytes, properties, backing: Backing::Imported(descriptor.0) })
    });
    out.set(books.add(memory));
    Ok(())
}
