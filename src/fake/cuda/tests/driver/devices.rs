//! Devices, contexts, lookups and faults.

use crate::api::{self, *};
use crate::driver_test;
use crate::program::*;
use crate::world;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::null_mut;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

driver_test! {
    fn nothing_works_before_initialising() {
        assert_eq!(cuDeviceGetCount(&mut 0), Err(CUerror::NOT_INITIALIZED));
        assert_eq!(cuMemFree_v2(CUdeviceptr::NULL), Err(CUerror::NOT_INITIALIZED));
        let mut version = 0;
        cuDriverGetVersion(&mut version).unwrap();
        assert_eq!(version, 13_000);
        assert_eq!(cuInit(1), Err(CUerror::INVALID_VALUE));
        cuInit(0).unwrap();
        assert_eq!(try_alloc(4), Err(CUerror::INVALID_CONTEXT));
        assert_eq!(cuTexObjectCreate(null_mut(), null_mut(), null_mut(), null_mut()), Err(CUerror::NOT_SUPPORTED));
    }
}

/// Names of the devices that a program sees, first to last, by the first byte of their UUIDs.
fn visible() -> Vec<u8> {
    match cuInit(0) {
        Ok(()) => {}
        Err(error) => {
            assert_eq!(error, CUerror::NO_DEVICE);
            return Vec::new();
        }
    }
    let mut count = 0;
    cuDeviceGetCount(&mut count).unwrap();
    let first_byte = |device| {
        let mut uuid = CUuuid::default();
        cuDeviceGetUuid_v2(&mut uuid, device).unwrap();
        uuid.bytes[0]
    };
    (0..count).map(first_byte).collect()
}

#[test]
fn cuda_visible_devices_chooses_and_orders() {
    if let Some(expected) = world::body() {
        let seen: Vec<String> = visible().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(seen.join(","), expected);
        return;
    }
    for (wanted, expected) in [
        ("0,1,2", "51,52,53"),
        ("2,0", "53,51"),
        ("1", "52"),
        ("", ""),
        ("-1", ""),
        ("0,7,1", "51"),
        ("1,1", ""),
        ("GPU-530facee", ""),
        ("GPU-530faced,0", "53,51"),
        ("GPU-", ""),
    ] {
        crate::world!(cuda_visible_devices_chooses_and_orders)
            .with("VCUDA_FAKE_GPUS", "H200,2xT4")
            .with("CUDA_VISIBLE_DEVICES", wanted)
            .run(expected);
    }
}

driver_test! {
    fn contexts_take_memory_and_give_it_back() with ("VCUDA_FAKE_CONTEXT_MIB", "100") {
        cuInit(0).unwrap();
        let mut total = 0;
        cuDeviceTotalMem_v2(&mut total, 0).unwrap();
        assert_eq!(total, 4096 * MIB);
        let primary = begin();
        assert_eq!((total - free_bytes()) / MIB, 108, "100 of the process, 5.56 beside it, 3.3 from the start");
        let mut created = CUcontext::NULL;
        let create = || cuCtxCreate_v4(&mut created, null_mut(), 0, 0).unwrap();
        assert_eq!(taken_mib(create), 105);
        assert_eq!(taken_mib(|| alloc(10 * MIB)), 10);
        assert_eq!(taken_mib(|| cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 2048).unwrap()), 264);
        cuCtxSetCurrent(primary).unwrap();
        assert_eq!(taken_mib(|| cuCtxDestroy_v2(created).unwrap()), -(105 + 10 + 264));
        assert_eq!(cuCtxDestroy_v2(created), Err(CUerror::INVALID_CONTEXT));
        alloc(1 << 30);
        cuDevicePrimaryCtxReset_v2(0).unwrap();
        assert_eq!(try_alloc(4), Err(CUerror::CONTEXT_IS_DESTROYED));
        let mut again = CUcontext::NULL;
        cuDevicePrimaryCtxRetain(&mut again, 0).unwrap();
        assert_eq!(again, primary);
        assert_eq!((total - free_bytes()) / MIB, 108);
        cuDevicePrimaryCtxRelease_v2(0).unwrap();
        cuDevicePrimaryCtxRelease_v2(0).unwrap();
        assert_eq!(cuDevicePrimaryCtxRelease_v2(0), Err(CUerror::INVALID_CONTEXT));
    }
}

/// What `cuGetProcAddress_v2` says: the result, whether the address is that of a symbol, and the status.
fn look_up(name: &str, version: i32, flags: u64, symbol: &str) -> (CUresult, bool, u32) {
    let text = CString::new(name).unwrap();
    let mut address: *mut c_void = null_mut();
    let mut status = 77;
    let result = cuGetProcAddress_v2(text.as_ptr(), &mut address, version, flags, &mut status);
    let expected = if symbol.is_empty() { null_mut() } else { api::address("libcuda.so.1", symbol) };
    (result, address == expected, status)
}

driver_test! {
    fn look_ups_give_the_exported_addresses() {
        let per_thread = u64::from(CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM);
        for (name, version, flags, symbol, status) in [
            ("cuMemAlloc", 13_000, 0, "cuMemAlloc_v2", 0),
            ("cuMemAlloc", 3010, 0, "cuMemAlloc", 0),
            ("cuMemAlloc", 13_000, per_thread, "cuMemAlloc_v2", 0),
            ("cuMemcpyAsync", 13_000, per_thread, "cuMemcpyAsync_ptsz", 0),
            ("cuMemcpyAsync", 13_000, 0, "cuMemcpyAsync", 0),
            ("cuGetProcAddress", 11_030, 0, "cuGetProcAddress", 0),
            ("cuGetProcAddress", 12_000, 0, "cuGetProcAddress_v2", 0),
            ("cuMemAlloc", 1000, 0, "", 2),
            ("cuGreenCtxCreate", 12_000, 0, "", 2),
            ("cuMemAlloc_v2", 13_000, 0, "", 1),
            ("cuNothing", 13_000, 0, "", 1),
            ("", 13_000, 0, "", 1),
        ] {
            assert_eq!(look_up(name, version, flags, symbol), (Ok(()), true, status), "{name} {version} {flags}");
        }
        assert_eq!(look_up("cuMemAlloc", 13_010, 0, "").0, Err(CUerror::INVALID_VALUE));
        assert_eq!(look_up("cuMemAlloc", 13_000, 7, "").0, Err(CUerror::INVALID_VALUE));
        let mut address = null_mut();
        let unknown = cuGetProcAddress(c"cuNothing".as_ptr(), &mut address, 13_000, 0);
        assert_eq!(unknown, Err(CUerror::NOT_FOUND));
    }
}

driver_test! {
    fn an_old_driver_knows_no_newer_functions() with ("VCUDA_FAKE_DRIVER_VERSION", "12000") {
        assert_eq!(look_up("cuGreenCtxCreate", 12_000, 0, ""), (Ok(()), true, 1));
        assert_eq!(look_up("cuCtxCreate", 12_000, 0, "cuCtxCreate_v3"), (Ok(()), true, 0));
        assert_eq!(look_up("cuCtxCreate", 13_000, 0, "").0, Err(CUerror::INVALID_VALUE));
    }
}

driver_test! {
    fn faults_strike_as_planned() with ("VCUDA_FAKE_FAULTS", "cuMemAlloc_v2:2=999;cuStreamCreate:*=2;cuMemFree_v2:1=sleep:50ms") {
        begin();
        let first = alloc(MIB);
        assert_eq!(try_alloc(MIB), Err(CUerror::UNKNOWN));
        alloc(MIB);
        assert_eq!(cuStreamCreate(&mut CUstream::default(), 0), Err(CUerror::OUT_OF_MEMORY));
        assert!(timed(|| cuMemFree_v2(first).unwrap()).as_millis() >= 50);
    }
}

driver_test! {
    fn codes_have_names() {
        let mut name: *const c_char = std::ptr::null();
        cuGetErrorName(Err(CUerror::OUT_OF_MEMORY), &mut name).unwrap();
        // SAFETY: the driver gave a text that lives as long as it.
        assert_eq!(unsafe { CStr::from_ptr(name) }, c"CUDA_ERROR_OUT_OF_MEMORY");
        assert_eq!(cuGetErrorName(Err(CUerror::new(9999).unwrap()), &mut name), Err(CUerror::INVALID_VALUE));
        assert!(name.is_null());
    }
}
