//! Result codes as Rust values: success is `Ok(())`, anything else an error with its number.
//!
//! A `Result<(), E>` with a transparent non-zero integer in it has, by the guarantee in
//! `core::option` ("Representation") and `core::result` ("Representation"), the size, alignment and ABI of that integer, with
//! `Ok(())` as zero. So a C function that returns a result code can be declared and defined in Rust with
//! `-> CUresult`, and codes this library has never heard of stay representable.

use core::fmt;
use core::num::NonZeroU32;

/// Defines one error type and its result.
macro_rules! result_codes {
    (
        $(#[$error_doc:meta])* $error:ident,
        $(#[$result_doc:meta])* $result:ident,
        prefix $prefix:literal,
        { $($name:ident = $code:literal,)* }
    ) => {
        $(#[$error_doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $error(NonZeroU32);

        $(#[$result_doc])*
        pub type $result = Result<(), $error>;

        const _: () = assert!(size_of::<$result>() == size_of::<u32>());
        const _: () = assert!(align_of::<$result>() == align_of::<u32>());

        #[allow(missing_docs)] // each name is NVIDIA's own
        impl $error {
            $(
                pub const $name: Self = Self(match NonZeroU32::new($code) {
                    Some(code) => code,
                    None => panic!("an error code cannot be zero"),
                });
            )*

            /// Every code that has a name, in ascending order.
            pub const NAMED: &[(Self, &str)] = &[$((Self::$name, concat!($prefix, stringify!($name)))),*];
        }

        impl $error {
            /// The error of this code; `None` for 0, which is success.
            #[inline]
            pub const fn new(code: u32) -> Option<Self> {
                match NonZeroU32::new(code) {
                    Some(code) => Some(Self(code)),
                    None => None,
                }
            }

            /// The code as C sees it.
            #[inline]
            pub const fn code(self) -> u32 {
                self.0.get()
            }

            /// NVIDIA's name of the code; `None` where this library knows none.
            pub fn name(self) -> Option<&'static str> {
                let position = Self::NAMED.binary_search_by_key(&self, |&(error, _)| error).ok()?;
                Self::NAMED.get(position).map(|&(_, name)| name)
            }
        }

        impl fmt::Debug for $error {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => formatter.write_str(name),
                    None => write!(formatter, "{}({})", stringify!($error), self.code()),
                }
            }
        }

        impl fmt::Display for $error {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => write!(formatter, "{name} ({})", self.code()),
                    None => write!(formatter, "code {}", self.code()),
                }
            }
        }

        impl core::error::Error for $error {}

        impl RawCode for $result {
            #[inline]
            fn to_raw(self) -> u32 {
                match self {
                    Ok(()) => 0,
                    Err(error) => error.code(),
                }
            }

            #[inline]
            fn from_raw(code: u32) -> Self {
                match $error::new(code) {
                    Some(error) => Err(error),
                    None => Ok(()),
                }
            }
        }
    };
}

/// A result as the number that C knows it by.
pub trait RawCode {
    /// The code: 0 for success.
    fn to_raw(self) -> u32;
    /// The result of this code.
    fn from_raw(code: u32) -> Self;
}

/// The code of a result; 0 for success.
#[inline]
pub fn to_raw(result: impl RawCode) -> u32 {
    result.to_raw()
}

/// The result of a code.
#[inline]
pub fn from_raw<R: RawCode>(code: u32) -> R {
    R::from_raw(code)
}

result_codes! {
    /// Why a driver call failed.
    CUerror,
    /// What a driver function returns.
    CUresult,
    prefix "CUDA_ERROR_",
    {
        INVALID_VALUE = 1,
        OUT_OF_MEMORY = 2,
        NOT_INITIALIZED = 3,
        DEINITIALIZED = 4,
        PROFILER_DISABLED = 5,
        PROFILER_NOT_INITIALIZED = 6,
        PROFILER_ALREADY_STARTED = 7,
        PROFILER_ALREADY_STOPPED = 8,
        STUB_LIBRARY = 34,
        CALL_REQUIRES_NEWER_DRIVER = 36,
        DEVICE_UNAVAILABLE = 46,
        MULTICAST_RESOURCE_FULL = 47,
        NO_DEVICE = 100,
        INVALID_DEVICE = 101,
        DEVICE_NOT_LICENSED = 102,
        INVALID_IMAGE = 200,
        INVALID_CONTEXT = 201,
        CONTEXT_ALREADY_CURRENT = 202,
        MAP_FAILED = 205,
        UNMAP_FAILED = 206,
        ARRAY_IS_MAPPED = 207,
        ALREADY_MAPPED = 208,
        NO_BINARY_FOR_GPU = 209,
        ALREADY_ACQUIRED = 210,
        NOT_MAPPED = 211,
        NOT_MAPPED_AS_ARRAY = 212,
        NOT_MAPPED_AS_POINTER = 213,
        ECC_UNCORRECTABLE = 214,
        UNSUPPORTED_LIMIT = 215,
        CONTEXT_ALREADY_IN_USE = 216,
        PEER_ACCESS_UNSUPPORTED = 217,
        INVALID_PTX = 218,
        INVALID_GRAPHICS_CONTEXT = 219,
        NVLINK_UNCORRECTABLE = 220,
        JIT_COMPILER_NOT_FOUND = 221,
        UNSUPPORTED_PTX_VERSION = 222,
        JIT_COMPILATION_DISABLED = 223,
        UNSUPPORTED_EXEC_AFFINITY = 224,
        UNSUPPORTED_DEVSIDE_SYNC = 225,
        CONTAINED = 226,
        INSUFFICIENT_LOADER_VERSION = 227,
        INVALID_SOURCE = 300,
        FILE_NOT_FOUND = 301,
        SHARED_OBJECT_SYMBOL_NOT_FOUND = 302,
        SHARED_OBJECT_INIT_FAILED = 303,
        OPERATING_SYSTEM = 304,
        INVALID_HANDLE = 400,
        ILLEGAL_STATE = 401,
        LOSSY_QUERY = 402,
        NOT_FOUND = 500,
        NOT_READY = 600,
        ILLEGAL_ADDRESS = 700,
        LAUNCH_OUT_OF_RESOURCES = 701,
        LAUNCH_TIMEOUT = 702,
        LAUNCH_INCOMPATIBLE_TEXTURING = 703,
        PEER_ACCESS_ALREADY_ENABLED = 704,
        PEER_ACCESS_NOT_ENABLED = 705,
        PRIMARY_CONTEXT_ACTIVE = 708,
        CONTEXT_IS_DESTROYED = 709,
        ASSERT = 710,
        TOO_MANY_PEERS = 711,
        HOST_MEMORY_ALREADY_REGISTERED = 712,
        HOST_MEMORY_NOT_REGISTERED = 713,
        HARDWARE_STACK_ERROR = 714,
        ILLEGAL_INSTRUCTION = 715,
        MISALIGNED_ADDRESS = 716,
        INVALID_ADDRESS_SPACE = 717,
        INVALID_PC = 718,
        LAUNCH_FAILED = 719,
        COOPERATIVE_LAUNCH_TOO_LARGE = 720,
        TENSOR_MEMORY_LEAK = 721,
        NOT_PERMITTED = 800,
        NOT_SUPPORTED = 801,
        SYSTEM_NOT_READY = 802,
        SYSTEM_DRIVER_MISMATCH = 803,
        COMPAT_NOT_SUPPORTED_ON_DEVICE = 804,
        MPS_CONNECTION_FAILED = 805,
        MPS_RPC_FAILURE = 806,
        MPS_SERVER_NOT_READY = 807,
        MPS_MAX_CLIENTS_REACHED = 808,
        MPS_MAX_CONNECTIONS_REACHED = 809,
        MPS_CLIENT_TERMINATED = 810,
        CDP_NOT_SUPPORTED = 811,
        CDP_VERSION_MISMATCH = 812,
        STREAM_CAPTURE_UNSUPPORTED = 900,
        STREAM_CAPTURE_INVALIDATED = 901,
        STREAM_CAPTURE_MERGE = 902,
        STREAM_CAPTURE_UNMATCHED = 903,
        STREAM_CAPTURE_UNJOINED = 904,
        STREAM_CAPTURE_ISOLATION = 905,
        STREAM_CAPTURE_IMPLICIT = 906,
        CAPTURED_EVENT = 907,
        STREAM_CAPTURE_WRONG_THREAD = 908,
        TIMEOUT = 909,
        GRAPH_EXEC_UPDATE_FAILURE = 910,
        EXTERNAL_DEVICE = 911,
        INVALID_CLUSTER_SIZE = 912,
        FUNCTION_NOT_LOADED = 913,
        INVALID_RESOURCE_TYPE = 914,
        INVALID_RESOURCE_CONFIGURATION = 915,
        KEY_ROTATION = 916,
        STREAM_DETACHED = 917,
        GRAPH_RECAPTURE_FAILURE = 918,
        FABRIC_NOT_READY = 919,
        UNKNOWN = 999,
    }
}

result_codes! {
    /// Why a management library call failed.
    NvmlError,
    /// What a management library function returns.
    NvmlResult,
    prefix "NVML_ERROR_",
    {
        UNINITIALIZED = 1,
        INVALID_ARGUMENT = 2,
        NOT_SUPPORTED = 3,
        NO_PERMISSION = 4,
        ALREADY_INITIALIZED = 5,
        NOT_FOUND = 6,
        INSUFFICIENT_SIZE = 7,
        INSUFFICIENT_POWER = 8,
        DRIVER_NOT_LOADED = 9,
        TIMEOUT = 10,
        IRQ_ISSUE = 11,
        LIBRARY_NOT_FOUND = 12,
        FUNCTION_NOT_FOUND = 13,
        CORRUPTED_INFOROM = 14,
        GPU_IS_LOST = 15,
        RESET_REQUIRED = 16,
        OPERATING_SYSTEM = 17,
        LIB_RM_VERSION_MISMATCH = 18,
        IN_USE = 19,
        MEMORY = 20,
        NO_DATA = 21,
        VGPU_ECC_NOT_SUPPORTED = 22,
        INSUFFICIENT_RESOURCES = 23,
        FREQ_NOT_SUPPORTED = 24,
        ARGUMENT_VERSION_MISMATCH = 25,
        DEPRECATED = 26,
        NOT_READY = 27,
        GPU_NOT_FOUND = 28,
        INVALID_STATE = 29,
        RESET_TYPE_NOT_SUPPORTED = 30,
        UNKNOWN = 999,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_is_zero_and_every_code_survives_the_way_there_and_back() {
        assert_eq!(to_raw(from_raw::<CUresult>(0)), 0);
        assert_eq!(from_raw::<CUresult>(2), Err(CUerror::OUT_OF_MEMORY));
        assert_eq!(from_raw::<NvmlResult>(7), Err(NvmlError::INSUFFICIENT_SIZE));
        for code in [1, 999, 12_345, u32::MAX] {
            assert_eq!(to_raw(from_raw::<CUresult>(code)), code);
            assert_eq!(to_raw(from_raw::<NvmlResult>(code)), code);
        }
    }

    #[test]
    fn a_c_function_that_returns_a_number_can_be_called_as_one_that_returns_a_result() {
        extern "C" fn number(code: u32) -> u32 {
            code
        }
        // SAFETY: the two types have the same ABI, as the module's first paragraph says.
        let result = unsafe {
            core::mem::transmute::<extern "C" fn(u32) -> u32, extern "C" fn(u32) -> CUresult>(number)
        };
        assert_eq!(result(0), Ok(()));
        assert_eq!(result(801), Err(CUerror::NOT_SUPPORTED));
        assert_eq!(result(77_777).map_err(CUerror::code), Err(77_777));
    }

    #[test]
    fn named_codes_ascend_and_print_by_name() {
        assert!(CUerror::NAMED.is_sorted());
        assert!(NvmlError::NAMED.is_sorted());
        assert_eq!(CUerror::OUT_OF_MEMORY.to_string(), "CUDA_ERROR_OUT_OF_MEMORY (2)");
        assert_eq!(format!("{:?}", NvmlError::GPU_IS_LOST), "NVML_ERROR_GPU_IS_LOST");
        assert_eq!(CUerror::new(77_777).map(|error| error.to_string()).as_deref(), Some("code 77777"));
    }
}
