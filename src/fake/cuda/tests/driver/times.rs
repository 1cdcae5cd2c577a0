//! What runs when, beside what, and for how long it counts: against the machine's own books, which are exact.

use crate::api::*;
use crate::driver_test;
use crate::program::*;
use crate::world::{self, hold};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::time::Duration;
use vcuda_driver::cuda::types::*;
use vcuda_driver::nvml::types::*;
use vcuda_driver::result::CUerror;

const US: Duration = Duration::from_micros(1);
const MS: Duration = Duration::from_millis(1);

driver_test! {
    fn an_event_on_an_idle_stream_tells_when_it_was_recorded()
        with ("VCUDA_FAKE_TIMES", "launch=2000000,timer=1")
    {
        begin();
        let (stream, kernel, marks) = (stream(), function("spin"), [event(), event(), event(), event()]);
        cuEventRecord(marks[0], stream).unwrap();
        spin(kernel, stream, MS);
        cuEventRecord(marks[1], stream).unwrap();
        cuStreamSynchronize(stream).unwrap();
        let alone = elapsed(marks[0], marks[1]);
        assert!(alone >= 3 * MS, "the launch itself is in between: {alone:?}");
        spin(kernel, stream, 100 * MS);
        cuEventRecord(marks[2], stream).unwrap();
        spin(kernel, stream, 3 * MS);
        cuEventRecord(marks[3], stream).unwrap();
        cuStreamSynchronize(stream).unwrap();
        let behind = elapsed(marks[2], marks[3]);
        assert!(behind.abs_diff(3 * MS) < US, "behind other work, there is nothing in between: {behind:?}");
        assert!(elapsed(marks[0], marks[2]) > 100 * MS, "times of events outlive what was recorded");
    }
}

driver_test! {
    fn the_timer_of_events_has_steps() with ("VCUDA_FAKE_TIMES", "timer=1000000") {
        begin();
        let (stream, kernel, start, end) = (stream(), function("spin"), event(), event());
        cuEventRecord(start, stream).unwrap();
        spin(kernel, stream, 1500 * US);
        cuEventRecord(end, stream).unwrap();
        cuStreamSynchronize(stream).unwrap();
        let time = elapsed(start, end).as_secs_f64() * 1e3;
        assert!(time >= 1.0 && (time - time.round()).abs() < 1e-3, "{time} ms");
    }
}

driver_test! {
    fn an_event_that_tells_the_time_takes_some() with ("VCUDA_FAKE_TIMES", "timer=1,mark=1000000") {
        begin();
        let (stream, kernel, start, end) = (stream(), function("spin"), event(), event());
        spin(kernel, stream, 100 * MS);
        cuEventRecord(start, stream).unwrap();
        cuEventRecord(end, stream).unwrap();
        cuStreamSynchronize(stream).unwrap();
        assert!(elapsed(start, end).abs_diff(MS) < US);
        assert_eq!(busy(), 100 * MS, "but nothing of the engines");
    }
}

driver_test! {
    fn calls_take_the_time_that_they_are_said_to_take() with ("VCUDA_FAKE_TIMES", "launch=200000,record=100000") {
        begin();
        let (stream, kernel, mark) = (stream(), function("spin"), event());
        assert!(timed(|| (0..10).for_each(|_| spin(kernel, stream, US))) >= 2 * MS);
        assert!(timed(|| (0..10).for_each(|_| cuEventRecord(mark, stream).unwrap())) >= MS);
        let mut untimed = CUevent::NULL;
        cuEventCreate(&mut untimed, CU_EVENT_DISABLE_TIMING).unwrap();
        assert!(timed(|| cuEventRecord(untimed, stream).unwrap()) < Duration::from_millis(50));
    }
}

driver_test! {
    fn without_time_calls_take_none_either()
        with ("VCUDA_FAKE_NULL", "1") ("VCUDA_FAKE_TIMES", "launch=100000000,record=100000000")
    {
        begin();
        let (stream, kernel, mark) = (stream(), function("spin"), event());
        let time = timed(|| {
            spin(kernel, stream, Duration::from_secs(9));
            cuEventRecord(mark, stream).unwrap();
            cuEventSynchronize(mark).unwrap();
        });
        assert!(time < 90 * MS, "{time:?}");
        assert_eq!(elapsed(mark, mark), Duration::ZERO);
    }
}

driver_test! {
    fn every_kind_of_launch_takes_its_time() {
        begin();
        let (stream, kernel) = (stream(), function("spin"));
        let mut ns = 20_000_000_u64;
        let mut parameters: [*mut c_void; 1] = [(&raw mut ns).cast()];
        let once = || spin(kernel, stream, 20 * MS);
        assert_eq!(busy_for(once), 20 * MS);
        assert_eq!(busy_for(|| {
            cuLaunchCooperativeKernel(kernel, 1, 1, 1, 32, 1, 1, 0, stream, parameters.as_mut_ptr()).unwrap();
        }), 20 * MS);
        let mut several = [CUDA_LAUNCH_PARAMS {
            function: kernel,
            gridDimX: 1, gridDimY: 1, gridDimZ: 1, blockDimX: 32, blockDimY: 1, blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: stream,
            kernelParams: parameters.as_mut_ptr(),
        }];
        assert_eq!(busy_for(|| {
            cuLaunchCooperativeKernelMultiDevice(several.as_mut_ptr(), 1, 0).unwrap();
        }), 20 * MS);

        let mark = event();
        let mut attributes = [
            CUlaunchAttribute { id: CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, pad: [0; 4], value: [1; 8] },
            CUlaunchAttribute {
                id: CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                pad: [0; 4],
                value: [1; 8],
            },
            CUlaunchAttribute {
                id: CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT,
                pad: [0; 4],
                value: [mark.0 as u64; 8],
            },
        ];
        let config = CUlaunchConfig {
            gridDimX: 1, gridDimY: 1, gridDimZ: 1, blockDimX: 32, blockDimY: 1, blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: stream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: 3,
        };
        assert_eq!(busy_for(|| {
            cuLaunchKernelEx(&config, kernel, parameters.as_mut_ptr(), null_mut()).unwrap();
            assert_eq!(cuEventQuery(mark), Err(CUerror::NOT_READY));
        }), 20 * MS);
        cuEventQuery(mark).unwrap();

        cuFuncSetBlockShape(kernel, 32, 1, 1).unwrap();
        cuParamSetSize(kernel, 8).unwrap();
        cuParamSetv(kernel, 0, (&raw mut ns).cast(), 8).unwrap();
        assert_eq!(busy_for(|| cuLaunch(kernel).unwrap()), 20 * MS);
        assert_eq!(busy_for(|| cuLaunchGrid(kernel, 4, 1).unwrap()), 20 * MS);
        assert_eq!(busy_for(|| cuLaunchGridAsync(kernel, 4, 1, stream).unwrap()), 20 * MS);
        assert_eq!(cuParamSetv(kernel, -1, (&raw mut ns).cast(), 8), Err(CUerror::INVALID_VALUE));
    }
}

driver_test! {
    fn copies_and_fills_keep_the_gpu_busy() with ("VCUDA_FAKE_CONTENTS", "0") {
        begin();
        const BYTES: usize = 25_000_000;
        let (one, other, kernel) = (stream(), stream(), function("spin"));
        let (memory, copy, mut host) = (alloc(BYTES), alloc(BYTES), vec![0_u8; BYTES]);
        let place = host.as_mut_ptr().cast::<c_void>();
        let across = MS + US;
        assert_eq!(busy_for(|| cuMemcpyHtoD_v2(memory, place, BYTES).unwrap()), across);
        assert_eq!(busy_for(|| cuMemcpyDtoH_v2(place, memory, BYTES).unwrap()), across);
        let within = US + Duration::from_nanos(BYTES as u64 / 2000);
        assert_eq!(busy_for(|| cuMemcpyDtoDAsync_v2(copy, memory, BYTES, one).unwrap()), within);
        assert_eq!(busy_for(|| cuMemsetD8Async(copy, 1, BYTES, one).unwrap()), within);
        let both_ways = || {
            // A kernel holds both back, so that they begin together.
            spin(kernel, one, 100 * MS);
            let mark = event();
            cuEventRecord(mark, one).unwrap();
            cuStreamWaitEvent(other, mark, 0).unwrap();
            cuMemcpyHtoDAsync_v2(memory, place, BYTES, one).unwrap();
            cuMemcpyDtoHAsync_v2(place, copy, BYTES, other).unwrap();
        };
        assert_eq!(busy_for(both_ways), 100 * MS + across, "each way has an engine of its own");
    }
}

driver_test! {
    fn narrow_kernels_run_beside_each_other() {
        begin();
        let (streams, narrow, wide) = ([stream(), stream(), stream(), stream()], function("narrow"), function("spin"));
        let four = || {
            let mark = event();
            spin(wide, streams[0], 100 * MS);
            cuEventRecord(mark, streams[0]).unwrap();
            for stream in streams {
                cuStreamWaitEvent(stream, mark, 0).unwrap();
                spin(narrow, stream, 10 * MS);
            }
        };
        assert_eq!(busy_for(four), 110 * MS);
    }
}

driver_test! {
    fn too_much_pending_work_blocks_the_caller() {
        begin();
        let (stream, kernel) = (stream(), function("spin"));
        let queue = |count| timed(|| (0..count).for_each(|_| spin(kernel, stream, 200 * US)));
        let time = queue(1024 + 500);
        assert!(time > 95 * MS, "{time:?}");
        assert_eq!(cuStreamQuery(stream), Err(CUerror::NOT_READY));
    }
}

driver_test! {
    fn an_exit_interrupts_a_blocked_launch() {
        begin();
        let (stream, kernel) = (stream(), function("spin"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(50 * MS);
                std::process::exit(0);
            });
            for _ in 0..2000 {
                spin(kernel, stream, Duration::from_secs(1));
            }
        });
    }
}

driver_test! {
    fn events_mark_all_of_a_context() {
        let context = begin();
        let (one, other, kernel, mark) = (stream(), stream(), function("spin"), event());
        spin(kernel, one, 100 * MS);
        spin(kernel, other, 100 * MS);
        cuCtxRecordEvent(context, mark).unwrap();
        let time = timed(|| cuEventSynchronize(mark).unwrap());
        assert!(time > 120 * MS, "{time:?}");
        spin(kernel, one, 100 * MS);
        cuEventRecord(mark, one).unwrap();
        cuCtxWaitEvent(context, mark).unwrap();
        let time = timed(|| cuStreamSynchronize(other).unwrap());
        assert!(time > 20 * MS, "{time:?}");
    }
}

driver_test! {
    fn the_default_stream_and_blocking_ones_wait_for_each_other() {
        begin();
        let (kernel, mut blocking) = (function("spin"), [CUstream::NULL; 2]);
        for stream in &mut blocking {
            cuStreamCreate(stream, CU_STREAM_DEFAULT).unwrap();
        }
        let marks = [event(), event(), event()];
        let order = [(blocking[0], marks[0]), (CUstream::NULL, marks[1]), (blocking[1], marks[2])];
        for (stream, mark) in order {
            spin(kernel, stream, 5 * MS);
            cuEventRecord(mark, stream).unwrap();
        }
        cuCtxSynchronize().unwrap();
        assert!(elapsed(marks[0], marks[1]) >= 5 * MS - US);
        assert!(elapsed(marks[1], marks[2]) >= 5 * MS - US);
    }
}

driver_test! {
    fn work_of_an_ended_stream_is_still_done() {
        begin();
        let (stream, kernel, mark) = (stream(), function("spin"), event());
        let both = || {
            spin(kernel, stream, 100 * MS);
            cuEventRecord(mark, stream).unwrap();
            cuStreamDestroy_v2(stream).unwrap();
            assert_eq!(cuEventQuery(mark), Err(CUerror::NOT_READY));
        };
        assert_eq!(busy_for(both), 100 * MS);
        cuEventQuery(mark).unwrap();
    }
}

driver_test! {
    fn a_thousand_streams_come_and_go() {
        begin();
        let kernel = function("spin");
        let mark = event();
        for _ in 0..1000 {
            let stream = stream();
            spin(kernel, stream, US);
            cuEventRecord(mark, stream).unwrap();
            cuStreamSynchronize(stream).unwrap();
            cuStreamDestroy_v2(stream).unwrap();
        }
        cuEventQuery(mark).unwrap();
    }
}

driver_test! {
    fn calls_of_events_can_be_made_to_fail()
        with ("VCUDA_FAKE_FAULTS", "cuEventCreate:3=2;cuEventRecord:2=999;cuEventQuery:2=4;cuEventElapsedTime:1+=700")
    {
        begin();
        let (stream, start, end) = (stream(), event(), event());
        assert_eq!(cuEventCreate(&mut CUevent::default(), 0), Err(CUerror::OUT_OF_MEMORY));
        cuEventRecord(start, stream).unwrap();
        assert_eq!(cuEventRecord(end, stream), Err(CUerror::UNKNOWN));
        cuStreamSynchronize(stream).unwrap();
        cuEventQuery(start).unwrap();
        assert_eq!(cuEventQuery(start), Err(CUerror::DEINITIALIZED));
        assert_eq!(cuEventElapsedTime(&mut 0.0, start, start), Err(CUerror::ILLEGAL_ADDRESS));
    }
}

#[test]
fn what_each_process_used_is_known_even_when_it_has_ended() {
    match world::body().as_deref() {
        Some("worker") => {
            begin();
            let (kernel, stream) = (function("spin"), stream());
            spin(kernel, stream, 30 * MS);
            cuStreamSynchronize(stream).unwrap();
            hold();
        }
        Some(_) => {
            begin();
            let (kernel, stream) = (function("spin"), stream());
            for _ in 0..100 {
                spin(kernel, stream, 100 * MS);
            }
            hold();
        }
        None => {
            let world = crate::world!(what_each_process_used_is_known_even_when_it_has_ended);
            let mut worker = world.start("worker");
            let state = world.state();
            let gpu = &state["gpus"][0];
            assert_eq!(gpu["busy_ns"], 30_000_000);
            assert_eq!(gpu["processes"][0]["busy_ns"], 30_000_000);
            let pid = worker.child.id();
            worker.child.kill().unwrap();
            worker.child.wait().unwrap();
            let mut backlog = world.start("backlog");
            std::thread::sleep(20 * MS);
            let before = world.state();
            backlog.child.kill().unwrap();
            backlog.child.wait().unwrap();
            let after = world.state();
            std::thread::sleep(20 * MS);
            let later = world.state();
            let busy = |state: &serde_json::Value| state["gpus"][0]["busy_ns"].as_u64().unwrap();
            assert!(busy(&before) > 45_000_000, "what ran so far counts");
            assert!(busy(&before) <= 30_000_000 + 10_000_000_000, "what is promised doesn't");
            assert_eq!(busy(&after), busy(&later), "the dead don't work");
            let ended = later["gpus"][0]["ended"].as_array().unwrap();
            assert_eq!(ended[0], serde_json::json!({ "pid": pid, "busy_ns": 30_000_000 }));
            assert_eq!(ended.len(), 2);
            assert_eq!(later["gpus"][0]["ended_busy_ns"], busy(&later));
        }
    }
}

driver_test! {
    fn the_management_library_has_samples_of_the_time_used() {
        begin();
        let (stream, kernel) = (stream(), function("spin"));
        spin(kernel, stream, 1000 * MS);
        cuStreamSynchronize(stream).unwrap();
        nvmlInit_v2().unwrap();
        let mut gpu = nvmlDevice_t::NULL;
        nvmlDeviceGetHandleByIndex_v2(0, &mut gpu).unwrap();
        let (mut kind, mut count) = (0, 0);
        let utilisation = 1;
        nvmlDeviceGetSamples(gpu, utilisation, 0, &mut kind, &mut count, null_mut()).unwrap();
        let mut samples = vec![[0_u64; 2]; count as usize];
        nvmlDeviceGetSamples(gpu, utilisation, 0, &mut kind, &mut count, samples.as_mut_ptr().cast()).unwrap();
        let samples = &samples[..count as usize];
        assert_eq!(kind, 1);
        assert!(samples.is_sorted_by_key(|sample| sample[0]));
        let full = samples.iter().filter(|sample| sample[1] == 100).count();
        assert!(full >= 8, "of ten tenths of a second, at least the inner ones: {samples:?}");
        let last = samples[samples.len() - 1][0];
        let mut room = [[0_u64; 2]; 120];
        count = 120;
        std::thread::sleep(120 * MS);
        nvmlDeviceGetSamples(gpu, utilisation, last, &mut kind, &mut count, room.as_mut_ptr().cast()).unwrap();
        assert!(count >= 1 && room[0][0] > last, "{count} newer ones");
    }
}
