//! Several processes on one machine, and the management library that tells of them.

use crate::api::*;
use crate::driver_test;
use crate::program::*;
use crate::world::{self, hold};
use std::ffi::CStr;
use std::time::Duration;
use vcuda_driver::cuda::types::*;
use vcuda_driver::nvml::types::*;
use vcuda_driver::result::{CUerror, NvmlError};

/// The first GPU, by the management library.
fn gpu() -> nvmlDevice_t {
    nvmlInit_v2().unwrap();
    let mut gpu = nvmlDevice_t::NULL;
    nvmlDeviceGetHandleByIndex_v2(0, &mut gpu).unwrap();
    gpu
}

fn listed(gpu: nvmlDevice_t) -> Vec<(u32, u64)> {
    let mut list = [nvmlProcessInfo_t::default(); 8];
    let mut count = 8;
    nvmlDeviceGetComputeRunningProcesses_v3(gpu, &mut count, list.as_mut_ptr()).unwrap();
    list[..count as usize].iter().map(|info| (info.pid, info.usedGpuMemory)).collect()
}

fn used_mib(gpu: nvmlDevice_t) -> u64 {
    let mut memory = nvmlMemory_v2_t { version: nvmlMemory_v2, ..nvmlMemory_v2_t::default() };
    nvmlDeviceGetMemoryInfo_v2(gpu, &mut memory).unwrap();
    memory.used / MIB as u64
}

#[test]
fn a_killed_process_gives_its_memory_back() {
    match world::body().as_deref() {
        Some("holder") => {
            begin();
            alloc(2 << 30);
            hold();
        }
        Some("looker") => {
            let gpu = gpu();
            assert_eq!(listed(gpu), []);
            assert_eq!(used_mib(gpu), 0);
            begin();
            let all = listed(gpu);
            assert_eq!(all, [(std::process::id(), 518 * MIB as u64)]);
            alloc(3 << 30);
            assert_eq!(used_mib(gpu), 3 + 523 + 3072);
        }
        Some("competitor") => {
            begin();
            assert_eq!(try_alloc(3 << 29), Err(CUerror::OUT_OF_MEMORY));
            assert_eq!(listed(gpu()).len(), 2);
        }
        Some(other) => panic!("{other}"),
        None => {
            let world = crate::world!(a_killed_process_gives_its_memory_back);
            let mut holder = world.start("holder");
            world.run("competitor");
            let pid = u64::from(holder.child.id());
            assert_eq!(world.state()["gpus"][0]["processes"][0]["pid"], pid);
            holder.child.kill().unwrap();
            holder.child.wait().unwrap();
            world.run("looker");
            let state = world.state();
            assert_eq!(state["gpus"][0]["used"], 0);
            assert!(state["gpus"][0]["peak"].as_u64().unwrap() > 3 << 30);
        }
    }
}

driver_test! {
    fn a_forked_child_has_no_driver() {
        begin();
        // SAFETY: the child only calls the driver, which answers without locks, and ends.
        let child = unsafe { libc_fork() };
        if child == 0 {
            let refused = cuInit(0) == Err(CUerror::NOT_INITIALIZED)
                && try_alloc(4) == Err(CUerror::NOT_INITIALIZED)
                && cuDriverGetVersion(&mut 0).is_ok();
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc_exit(i32::from(!refused)) };
        }
        let mut status = -1;
        // SAFETY: `status` is live and writable.
        unsafe { libc_waitpid(child, &mut status, 0) };
        assert_eq!(status, 0);
        alloc(MIB);
    }
}

unsafe extern "C" {
    #[link_name = "fork"]
    fn libc_fork() -> i32;
    #[link_name = "_exit"]
    fn libc_exit(code: i32) -> !;
    #[link_name = "waitpid"]
    fn libc_waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
}

#[test]
fn memory_is_shared_by_handle() {
    match world::body() {
        Some(body) if body == "maker" => {
            begin();
            let memory = alloc(4096);
            alloc(512);
            write(memory, &[1_u32, 2, 3]);
            let mut handle = CUipcMemHandle { reserved: [0; 64] };
            cuIpcGetMemHandle(&mut handle, memory).unwrap();
            let own = cuIpcOpenMemHandle_v2(&mut CUdeviceptr::default(), handle, 1);
            assert_eq!(own, Err(CUerror::INVALID_CONTEXT));
            let text: String = handle.reserved.iter().map(|byte| format!("{byte:02x}")).collect();
            println!("ready");
            println!("handle {text}");
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).unwrap();
            assert_eq!(read::<u32>(memory, 3), [1, 20, 3]);
            println!("seen");
        }
        Some(text) => {
            begin();
            let byte = |index| u8::from_str_radix(&text[2 * index..2 * index + 2], 16).unwrap();
            let handle = CUipcMemHandle { reserved: std::array::from_fn(byte) };
            let mut memory = CUdeviceptr::NULL;
            assert_eq!(taken_mib(|| cuIpcOpenMemHandle_v2(&mut memory, handle, 1).unwrap()), 0);
            assert_eq!(read::<u32>(memory, 3), [1, 2, 3]);
            write(CUdeviceptr(memory.0 + 4), &[20_u32]);
            cuIpcCloseMemHandle(memory).unwrap();
            assert_eq!(cuMemsetD8_v2(memory, 0, 1), Err(CUerror::INVALID_VALUE));
        }
        None => {
            use std::io::Write;
            let world = crate::world!(memory_is_shared_by_handle);
            let mut maker = world.start("maker");
            let handle = maker.wait_for("handle");
            world.run(&handle);
            maker.child.stdin.as_mut().unwrap().write_all(b"go on\n").unwrap();
            maker.wait_for("seen");
        }
    }
}

#[test]
fn processes_take_turns_on_a_gpu() {
    match world::body().as_deref() {
        Some("busy") => {
            begin();
            let (kernel, stream) = (function("spin"), stream());
            for _ in 0..100 {
                spin(kernel, stream, Duration::from_millis(10));
            }
            hold();
        }
        Some(_) => {
            begin();
            let (kernel, stream) = (function("spin"), stream());
            spin(kernel, stream, Duration::from_millis(1));
            let waited = timed(|| cuStreamSynchronize(stream).unwrap());
            assert!(waited < Duration::from_millis(100), "not all of the other's come first: {waited:?}");
            std::thread::sleep(Duration::from_millis(500));
            let mut rates = nvmlUtilization_t::default();
            nvmlDeviceGetUtilizationRates(gpu(), &mut rates).unwrap();
            assert!(rates.gpu > 30, "{}", rates.gpu);
        }
        None => {
            let world = crate::world!(processes_take_turns_on_a_gpu);
            let _busy = world.start("busy");
            world.run("short");
        }
    }
}

driver_test! {
    fn the_management_library_answers_as_it_should() {
        let mut gpu_count = 0;
        assert_eq!(nvmlDeviceGetCount_v2(&mut gpu_count), Err(NvmlError::UNINITIALIZED));
        let gpu = gpu();
        nvmlDeviceGetCount_v2(&mut gpu_count).unwrap();
        assert_eq!(gpu_count, 2);
        let mut uuid = [0_i8; 96];
        nvmlDeviceGetUUID(gpu, uuid.as_mut_ptr().cast(), 96).unwrap();
        // SAFETY: the library wrote a text.
        let uuid = unsafe { CStr::from_ptr(uuid.as_ptr().cast()) };
        assert!(uuid.to_str().unwrap().starts_with("GPU-510faced-0000-"));
        let (mut v1, mut v2) = (nvmlMemory_t::default(), nvmlMemory_v2_t::default());
        assert_eq!(nvmlDeviceGetMemoryInfo_v2(gpu, &mut v2), Err(NvmlError::ARGUMENT_VERSION_MISMATCH));
        v2.version = nvmlMemory_v2;
        nvmlDeviceGetMemoryInfo(gpu, &mut v1).unwrap();
        nvmlDeviceGetMemoryInfo_v2(gpu, &mut v2).unwrap();
        assert_eq!((v1.total, v1.free, v1.used), (v2.total, v2.free, v2.used + v2.reserved));
        assert_eq!(v2.total - v2.reserved, 4096 * MIB as u64);
        begin();
        let mut count = 0;
        let sizing = nvmlDeviceGetComputeRunningProcesses_v3(gpu, &mut count, std::ptr::null_mut());
        assert_eq!((sizing, count), (Err(NvmlError::INSUFFICIENT_SIZE), 1));
        nvmlDeviceGetTemperature(gpu, 0, &mut 0).unwrap();
        assert_eq!(nvmlDeviceGetFanSpeed(gpu, &mut 0), Err(NvmlError::NOT_SUPPORTED));
        let mut short = [0_i8; 4];
        let cut = nvmlDeviceGetVbiosVersion(gpu, short.as_mut_ptr().cast(), 4);
        assert_eq!(cut, Err(NvmlError::INSUFFICIENT_SIZE));
        // SAFETY: the library gave a text that lives as long as it.
        let text = unsafe { CStr::from_ptr(nvmlErrorString(Err(NvmlError::NOT_SUPPORTED))) };
        assert_eq!(text, c"not supported");
        nvmlShutdown().unwrap();
        assert_eq!(nvmlShutdown(), Err(NvmlError::UNINITIALIZED));
    }
}

driver_test! {
    fn the_management_library_can_be_absent() with ("VCUDA_FAKE_NVML", "absent") {
        assert_eq!(nvmlInit_v2(), Err(NvmlError::DRIVER_NOT_LOADED));
    }
}

driver_test! {
    fn the_management_library_can_hide_processes_memory() with ("VCUDA_FAKE_NVML", "no-process-memory") {
        begin();
        assert_eq!(listed(gpu()), [(std::process::id(), NVML_VALUE_NOT_AVAILABLE)]);
    }
}

driver_test! {
    fn the_management_library_can_tell_other_ids() with ("VCUDA_FAKE_NVML", "host-pids") {
        begin();
        assert_eq!(listed(gpu()), [(std::process::id() + 1_000_000, 518 * MIB as u64)]);
    }
}
