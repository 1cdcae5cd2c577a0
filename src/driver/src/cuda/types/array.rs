//! Arrays: memory in the layout that textures and surfaces read.

use super::CUarray_format;
use crate::layout::c_structs;

c_structs! {
    /// Shape of a 1D or 2D array; a height of 0 means 1D.
    #[derive(Eq, Hash)]
    struct CUDA_ARRAY_DESCRIPTOR [24] {
        [0] Width: usize,
        [8] Height: usize,
        [16] Format: CUarray_format,
        [20] NumChannels: u32,
    }

    /// As [`CUDA_ARRAY_DESCRIPTOR`], before CUDA 3.2.
    #[derive(Eq, Hash)]
    struct CUDA_ARRAY_DESCRIPTOR_v1 [16] {
        [0] Width: u32,
        [4] Height: u32,
        [8] Format: CUarray_format,
        [12] NumChannels: u32,
    }

    /// Shape of an array of any kind; a height or depth of 0 takes that dimension away.
    #[derive(Eq, Hash)]
    struct CUDA_ARRAY3D_DESCRIPTOR [40] {
        [0] Width: usize,
        [8] Height: usize,
        [16] Depth: usize,
        [24] Format: CUarray_format,
        [28] NumChannels: u32,
        [32] Flags: u32,
    }

    /// As [`CUDA_ARRAY3D_DESCRIPTOR`], before CUDA 3.2.
    #[derive(Eq, Hash)]
    struct CUDA_ARRAY3D_DESCRIPTOR_v1 [24] {
        [0] Width: u32,
        [4] Height: u32,
        [8] Depth: u32,
        [12] Format: CUarray_format,
        [16] NumChannels: u32,
        [20] Flags: u32,
    }

    /// What an array needs to be mapped to, in bytes.
    #[derive(Eq, Hash)]
    struct CUDA_ARRAY_MEMORY_REQUIREMENTS [32] {
        [0] size: usize,
        [8] alignment: usize,
        [16] reserved: [u32; 4],
    }
}

impl From<CUDA_ARRAY_DESCRIPTOR_v1> for CUDA_ARRAY_DESCRIPTOR {
    fn from(old: CUDA_ARRAY_DESCRIPTOR_v1) -> Self {
        Self {
            Width: old.Width as usize,
            Height: old.Height as usize,
            Format: old.Format,
            NumChannels: old.NumChannels,
        }
    }
}

impl From<CUDA_ARRAY3D_DESCRIPTOR_v1> for CUDA_ARRAY3D_DESCRIPTOR {
    fn from(old: CUDA_ARRAY3D_DESCRIPTOR_v1) -> Self {
        Self {
            Width: old.Width as usize,
            Height: old.Height as usize,
            Depth: old.Depth as usize,
            Format: old.Format,
            NumChannels: old.NumChannels,
            Flags: old.Flags,
        }
    }
}

impl From<CUDA_ARRAY_DESCRIPTOR> for CUDA_ARRAY3D_DESCRIPTOR {
    /// The same array, as one without depth or flags.
    fn from(flat: CUDA_ARRAY_DESCRIPTOR) -> Self {
        Self {
            Width: flat.Width,
            Height: flat.Height,
            Depth: 0,
            Format: flat.Format,
            NumChannels: flat.NumChannels,
            Flags: 0,
        }
    }
}
