//! Time: kernels last, streams run on, events tell when.

use crate::api::*;
use crate::driver_test;
use crate::program::*;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::CUerror;

const MS: Duration = Duration::from_millis(1);

driver_test! {
    fn launches_return_at_once_and_waiting_takes_the_kernels_time() {
        begin();
        let (stream, kernel) = (stream(), function("spin"));
        assert!(timed(|| spin(kernel, stream, 20 * MS)) < 10 * MS);
        assert_eq!(cuStreamQuery(stream), Err(CUerror::NOT_READY));
        let waited = timed(|| cuStreamSynchronize(stream).unwrap());
        assert!(waited > 10 * MS && waited < 40 * MS, "{waited:?}");
        cuStreamQuery(stream).unwrap();
    }
}

driver_test! {
    fn kernels_of_all_streams_run_one_after_the_other() {
        begin();
        let (one, other, kernel) = (stream(), stream(), function("spin"));
        let time = timed(|| {
            spin(kernel, one, 10 * MS);
            spin(kernel, other, 10 * MS);
            cuCtxSynchronize().unwrap();
        });
        assert!(time >= 19 * MS, "{time:?}");
    }
}

driver_test! {
    fn events_tell_the_time_between_them() {
        begin();
        let (stream, kernel, start, end) = (stream(), function("spin"), event(), event());
        let mut ms = 0.0;
        assert_eq!(cuEventElapsedTime(&mut ms, start, end), Err(CUerror::INVALID_HANDLE));
        cuEventRecord(start, stream).unwrap();
        spin(kernel, stream, 15 * MS);
        cuEventRecord(end, stream).unwrap();
        assert_eq!(cuEventElapsedTime(&mut ms, start, end), Err(CUerror::NOT_READY));
        assert_eq!(cuEventQuery(end), Err(CUerror::NOT_READY));
        cuEventSynchronize(end).unwrap();
        cuEventElapsedTime(&mut ms, start, end).unwrap();
        assert!((15.0..20.0).contains(&ms), "{ms}");
    }
}

driver_test! {
    fn streams_wait_for_events_and_for_the_default_stream() {
        begin();
        let (one, other, kernel, done) = (stream(), stream(), function("spin"), event());
        spin(kernel, one, 10 * MS);
        cuEventRecord(done, one).unwrap();
        cuStreamQuery(other).unwrap();
        cuStreamWaitEvent(other, done, 0).unwrap();
        assert_eq!(cuStreamQuery(other), Err(CUerror::NOT_READY));
        cuCtxSynchronize().unwrap();

        let mut blocking = CUstream::NULL;
        cuStreamCreate(&mut blocking, CU_STREAM_DEFAULT).unwrap();
        spin(kernel, blocking, 10 * MS);
        let time = timed(|| cuStreamSynchronize(CU_STREAM_LEGACY).unwrap());
        assert!(time > 5 * MS, "the default stream waits for it: {time:?}");
    }
}

driver_test! {
    fn the_null_stream_of_ptsz_functions_is_the_threads_own() {
        begin();
        let (mut legacy, mut own) = (0, 0);
        cuStreamGetId(CUstream::NULL, &mut legacy).unwrap();
        cuStreamGetId_ptsz(CUstream::NULL, &mut own).unwrap();
        assert_ne!(legacy, own);
        let mut named = 0;
        cuStreamGetId(CU_STREAM_PER_THREAD, &mut named).unwrap();
        assert_eq!(named, own);
        cuStreamSynchronize_ptsz(CUstream::NULL).unwrap();
    }
}

static CALLS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_data: *mut c_void) {
    CALLS.fetch_add(1, SeqCst);
}

driver_test! {
    fn host_functions_and_writes_happen_in_their_time() {
        begin();
        let (stream, kernel) = (stream(), function("spin"));
        let word = Box::new(AtomicU32::new(0));
        let address = CUdeviceptr(word.as_ptr() as u64);
        spin(kernel, stream, 20 * MS);
        cuLaunchHostFunc(stream, count as *mut c_void, null_mut()).unwrap();
        cuStreamWriteValue32_v2(stream, address, 5, 0).unwrap();
        assert_eq!((CALLS.load(SeqCst), word.load(SeqCst)), (0, 0));
        cuStreamSynchronize(stream).unwrap();
        assert_eq!((CALLS.load(SeqCst), word.load(SeqCst)), (1, 5));
    }
}

driver_test! {
    fn known_kernels_compute_and_bad_addresses_break_the_context() {
        begin();
        let (stream, fill, saxpy) = (stream(), function("fill_u32"), function("saxpy_f32"));
        let memory = alloc(64);
        let (mut to, mut value, mut count) = (memory, 9_u32, 3_u64);
        let mut parameters: [*mut c_void; 3] =
            [(&raw mut to).cast(), (&raw mut value).cast(), (&raw mut count).cast()];
        launch(fill, stream, &mut parameters).unwrap();
        assert_eq!(read::<u32>(memory, 3), [9, 9, 9]);

        let (mut x, mut y) = (alloc(8), alloc(8));
        write(x, &[1.0_f32, 2.0]);
        write(y, &[10.0_f32, 20.0]);
        let (mut n, mut a) = (2_u64, 3.0_f32);
        let mut parameters: [*mut c_void; 4] =
            [(&raw mut n).cast(), (&raw mut a).cast(), (&raw mut x).cast(), (&raw mut y).cast()];
        launch(saxpy, stream, &mut parameters).unwrap();
        assert_eq!(read::<f32>(y, 2), [13.0, 26.0]);

        to = CUdeviceptr(0x1234);
        let mut parameters: [*mut c_void; 3] =
            [(&raw mut to).cast(), (&raw mut value).cast(), (&raw mut count).cast()];
        launch(fill, stream, &mut parameters).unwrap();
        assert_eq!(cuStreamSynchronize(stream), Err(CUerror::ILLEGAL_ADDRESS));
        assert_eq!(try_alloc(4), Err(CUerror::ILLEGAL_ADDRESS));
    }
}

driver_test! {
    fn libraries_take_memory_when_first_used() {
        begin();
        let text = std::ffi::CString::new(format!("{PTX}\n// simulated: image_bytes=83881984\n")).unwrap();
        let (mut library, mut kernel, mut function) = (CUlibrary::NULL, CUkernel::NULL, CUfunction::NULL);
        let load = || {
            let image = text.as_ptr().cast();
            cuLibraryLoadData(&mut library, image, null_mut(), null_mut(), 0, null_mut(), null_mut(), 0).unwrap();
        };
        assert_eq!(taken_mib(load), 0);
        assert_eq!(taken_mib(|| cuLibraryGetKernel(&mut kernel, library, c"spin".as_ptr()).unwrap()), 0);
        assert_eq!(taken_mib(|| cuKernelGetFunction(&mut function, kernel).unwrap()), 80);
        let (mut address, mut bytes) = (CUdeviceptr::NULL, 0);
        let module = load_small();
        cuModuleGetGlobal_v2(&mut address, &mut bytes, module, c"table".as_ptr()).unwrap();
        assert_eq!(bytes, 64);
        write(address, &[1_u8; 64]);
        let missing = cuModuleGetFunction(&mut function, module, c"missing".as_ptr());
        assert_eq!(missing, Err(CUerror::NOT_FOUND));
        assert_eq!(taken_mib(|| cuModuleUnload(module).unwrap()), -2);
        let bad = cuModuleLoadData(&mut CUmodule::default(), c"garbage".as_ptr().cast());
        assert_eq!(bad, Err(CUerror::INVALID_IMAGE));
    }
}

fn load_small() -> CUmodule {
    load(PTX)
}

driver_test! {
    fn without_time_nothing_lasts() with ("VCUDA_FAKE_NULL", "1") {
        begin();
        let (stream, kernel) = (stream(), function("spin"));
        let time = timed(|| {
            for _ in 0..1000 {
                spin(kernel, stream, Duration::from_secs(1));
            }
            cuStreamSynchronize(stream).unwrap();
        });
        assert!(time < Duration::from_secs(1), "{time:?}");
        cuStreamDestroy_v2(stream).unwrap();
    }
}
