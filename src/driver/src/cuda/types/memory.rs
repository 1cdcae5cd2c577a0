//! Memory: physical allocations, pools, and who may use them.

use super::{CUmemAccess_flags, CUmemAllocationHandleType, CUmemAllocationType, CUmemLocationType};
use crate::layout::c_structs;
use core::ffi::c_void;

c_structs! {
    /// Where memory is: a kind of place and which one.
    #[derive(Eq, Hash)]
    struct CUmemLocation [8] {
        [0] type_ as type: CUmemLocationType,
        [4] id: i32,
    }

    /// What `cuMemCreate` is asked for.
    #[derive(Eq)]
    struct CUmemAllocationProp [32] {
        [0] type_ as type: CUmemAllocationType,
        [4] requestedHandleTypes: CUmemAllocationHandleType,
        [8] location: CUmemLocation,
        [16] win32HandleMetaData: *mut c_void,
        [24] allocFlags: CUmemAllocationFlags,
    }

    /// Who may read and write a mapping.
    #[derive(Eq, Hash)]
    struct CUmemAccessDesc [12] {
        [0] location: CUmemLocation,
        [8] flags: CUmemAccess_flags,
    }

    /// What `cuMemPoolCreate` is asked for.
    #[derive(Eq)]
    struct CUmemPoolProps [88] {
        [0] allocType: CUmemAllocationType,
        [4] handleTypes: CUmemAllocationHandleType,
        [8] location: CUmemLocation,
        [16] win32SecurityAttributes: *mut c_void,
        [24] maxSize: usize,
        [32] usage: u16,
        [34] gpuDirectRDMACapable: u8,
        [35] reserved: [u8; 53],
    }

    /// A pool allocation as another process can import it.
    #[derive(Eq, Hash)]
    struct CUmemPoolPtrExportData [64] {
        [0] reserved: [u8; 64],
    }

    /// A handle by which another node can import physical memory.
    #[derive(Eq, Hash)]
    struct CUmemFabricHandle [64] {
        [0] data: [u8; 64],
    }
}

/// The unnamed struct at the end of [`CUmemAllocationProp`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(non_snake_case)]
pub struct CUmemAllocationFlags {
    /// `CU_MEM_ALLOCATION_COMP_*`.
    pub compressionType: u8,
    /// Whether other PCI devices may reach the memory.
    pub gpuDirectRDMACapable: u8,
    /// `CU_MEM_CREATE_USAGE_*` flags.
    pub usage: u16,
    /// Must be zero.
    pub reserved: [u8; 4],
}

const _: () = assert!(size_of::<CUmemAllocationFlags>() == 8);

impl crate::layout::Zero for CUmemAllocationFlags {
    const ZERO: Self = Self { compressionType: 0, gpuDirectRDMACapable: 0, usage: 0, reserved: [0; 4] };
}
