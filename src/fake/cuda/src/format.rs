//! Array formats: the size of one element.

use vcuda_driver::cuda::types::*;

/// Bytes of one element of an array; `None` for formats that the simulation doesn't know.
pub fn element_bytes(format: CUarray_format, channels: u32) -> Option<u64> {
    let channel = match format {
        CU_AD_FORMAT_UNSIGNED_INT8 | CU_AD_FORMAT_SIGNED_INT8 => 1,
        CU_AD_FORMAT_UNSIGNED_INT16 | CU_AD_FORMAT_SIGNED_INT16 | CU_AD_FORMAT_HALF => 2,
        CU_AD_FORMAT_UNSIGNED_INT32 | CU_AD_FORMAT_SIGNED_INT32 | CU_AD_FORMAT_FLOAT => 4,
        CU_AD_FORMAT_UNORM_INT8X1..=CU_AD_FORMAT_SNORM_INT16X4 => return packed_bytes(format),
        _ => return None,
    };
    matches!(channels, 1 | 2 | 4).then(|| channel * u64::from(channels))
}

/// The normalised formats say their channels themselves.
fn packed_bytes(format: CUarray_format) -> Option<u64> {
    let place = format - CU_AD_FORMAT_UNORM_INT8X1;
    let channels = [1, 2, 4].get(place as usize % 3)?;
    let channel = if (place / 3).is_multiple_of(2) { 1 } else { 2 };
    Some(channels * channel)
}
