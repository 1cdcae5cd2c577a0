//! Fills: of linear memory and rectangles, with elements of one, two or four bytes.

use crate::context::Context;
use crate::settings::settings;
use crate::stream::{self, Stream};
use crate::transfer::{DEVICE_LINK, OVERHEAD_NS, WHOLE_GPU, linear};
use crate::work::Work;
use crate::{memory, raw};
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

/// A fill of a rectangle of elements.
#[derive(Clone, Copy)]
pub struct Fill {
    pub params: CUDA_MEMSET_NODE_PARAMS,
}

impl Fill {
    /// A fill of a rectangle; one row where the height is 1.
    pub fn new(params: CUDA_MEMSET_NODE_PARAMS) -> Result<Fill, CUerror> {
        let row = params.width as u64 * u64::from(params.elementSize);
        let pitch = if params.height > 1 { params.pitch as u64 } else { row };
        if !matches!(params.elementSize, 1 | 2 | 4) || pitch < row {
            return Err(CUerror::INVALID_VALUE);
        }
        if params.width > 0 && params.height > 0 {
            linear(params.dst.0, pitch * (params.height as u64 - 1) + row, true)?;
        }
        Ok(Fill { params })
    }

    fn set_elements(&self) {
        let params = &self.params;
        for row in 0..params.height as u64 {
            let to = params.dst.0 + row * params.pitch as u64;
            match params.elementSize {
                1 => raw::fill_bytes(to, params.value as u8, params.width),
                2 => raw::fill(to, params.value as u16, params.width),
                _ => raw::fill(to, params.value, params.width),
            }
        }
    }

    /// Queues the fill.
    pub fn run(&self, stream: &'static Stream) -> CUresult {
        let params = &self.params;
        if settings().has_contents {
            self.set_elements();
        }
        memory::touch(params.dst.0);
        let bytes = (params.width * params.height) as u64 * u64::from(params.elementSize);
        stream.queue_work(WHOLE_GPU, OVERHEAD_NS + bytes / DEVICE_LINK)
    }
}

fn fill_work(params: CUDA_MEMSET_NODE_PARAMS) -> Result<Work, CUerror> {
    Context::current()?.check()?;
    Fill::new(params).map(Work::Fill)
}

/// Defines the four fills of one element size.
macro_rules! fills {
    ($element:ty, $line:ident, $line_async:ident, $rectangle:ident, $rectangle_async:ident) => {
        pub fn $line(to: CUdeviceptr, value: $element, count: usize) -> CUresult {
            $rectangle(to, 0, value, count, 1)
        }

        pub fn $line_async(
            to: CUdeviceptr,
            value: $element,
            count: usize,
            stream: &'static Stream,
        ) -> CUresult {
            $rectangle_async(to, 0, value, count, 1, stream)
        }

        pub fn $rectangle(
            to: CUdeviceptr,
            pitch: usize,
            value: $element,
            width: usize,
            height: usize,
        ) -> CUresult {
            $rectangle_async(to, pitch, value, width, height, stream::find(CUstream::NULL)?)
        }

        pub fn $rectangle_async(
            to: CUdeviceptr,
            pitch: usize,
            value: $element,
            width: usize,
            height: usize,
            stream: &'static Stream,
        ) -> CUresult {
            fill_work(CUDA_MEMSET_NODE_PARAMS {
                dst: to,
                pitch,
                value: u32::from(value),
                elementSize: size_of::<$element>() as u32,
                width,
                height,
            })?
            .submit(stream)
        }
    };
}
fills! { u8, u8_line, u8_async, u8_rectangle, u8_rectangle_async }
fills! { u16, u16_line, u16_async, u16_rectangle, u16_rectangle_async }
fills! { u32, u32_line, u32_async, u32_rectangle, u32_rectangle_async }
