//! What captures take in, and what they forbid while they are under way.

use crate::api::*;
use crate::driver_test;
use crate::program::*;
use std::time::Duration;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

const MS: Duration = Duration::from_millis(1);

fn blocking_stream() -> CUstream {
    let mut stream = CUstream::NULL;
    cuStreamCreate(&mut stream, CU_STREAM_DEFAULT).unwrap();
    stream
}

/// What a call answers while a stream is captured, and whether the capture lives through it.
fn in_capture(
    stream: CUstream,
    mode: CUstreamCaptureMode,
    call: impl FnOnce() -> CUresult,
) -> (CUresult, bool) {
    cuStreamBeginCapture_v2(stream, mode).unwrap();
    let result = call();
    let mut graph = CUgraph::NULL;
    let ended = cuStreamEndCapture(stream, &mut graph);
    if ended.is_ok() {
        cuGraphDestroy(graph).unwrap();
    }
    (result, ended.is_ok())
}

/// Has this thread do what captures of others would forbid.
fn relax() {
    let mut mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    cuThreadExchangeStreamCaptureMode(&mut mode).unwrap();
}

const MODES: [CUstreamCaptureMode; 3] =
    [CU_STREAM_CAPTURE_MODE_GLOBAL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, CU_STREAM_CAPTURE_MODE_RELAXED];

driver_test! {
    fn the_default_stream_is_forbidden_while_a_blocking_one_is_captured() {
        begin();
        let (blocking, independent, kernel, mark) = (blocking_stream(), stream(), function("spin"), event());
        let implicit = (Err(CUerror::STREAM_CAPTURE_IMPLICIT), false);
        let mut ns = 1000_u64;
        let launch_default = || launch(kernel, CUstream::NULL, &mut [(&raw mut ns).cast()]);
        assert_eq!(in_capture(independent, CU_STREAM_CAPTURE_MODE_GLOBAL, launch_default), (Ok(()), true));
        for mode in MODES {
            let mut ns = 1000_u64;
            let launch_default = || launch(kernel, CUstream::NULL, &mut [(&raw mut ns).cast()]);
            assert_eq!(in_capture(blocking, mode, launch_default), implicit, "mode {mode}");
            assert_eq!(in_capture(blocking, mode, || cuEventRecord(mark, CUstream::NULL)), implicit);
            assert_eq!(in_capture(blocking, mode, || cuStreamSynchronize(CU_STREAM_LEGACY)), implicit);
            assert_eq!(in_capture(blocking, mode, || cuStreamWaitEvent(CUstream::NULL, mark, 0)), implicit);
            let ask = || cuStreamIsCapturing(CUstream::NULL, &mut 0);
            let harmless = (Err(CUerror::STREAM_CAPTURE_IMPLICIT), true);
            assert_eq!(in_capture(blocking, mode, ask), harmless, "asking does no harm");
        }
        relax();
        let record = || cuEventRecord(mark, CUstream::NULL);
        assert_eq!(in_capture(blocking, CU_STREAM_CAPTURE_MODE_GLOBAL, record), implicit, "not even then");
    }
}

driver_test! {
    fn a_blocking_stream_that_joined_counts_too() {
        begin();
        let (first, joined, mark) = (stream(), blocking_stream(), event());
        let join_and_use_default = || {
            cuEventRecord(mark, first)?;
            cuStreamWaitEvent(joined, mark, 0)?;
            cuEventRecord(event(), CUstream::NULL)
        };
        let answer = in_capture(first, CU_STREAM_CAPTURE_MODE_GLOBAL, join_and_use_default);
        assert_eq!(answer, (Err(CUerror::STREAM_CAPTURE_IMPLICIT), false));
    }
}

driver_test! {
    fn a_relaxed_thread_may_ask_and_wait_for_what_is_not_captured() {
        begin();
        let (captured, other, kernel, mark) = (stream(), stream(), function("spin"), event());
        spin(kernel, other, MS);
        cuEventRecord(mark, other).unwrap();
        let global = CU_STREAM_CAPTURE_MODE_GLOBAL;
        let forbidden = (Err(CUerror::STREAM_CAPTURE_UNSUPPORTED), false);
        assert_eq!(in_capture(captured, global, || cuEventSynchronize(mark)), forbidden);
        let from_elsewhere = || std::thread::spawn(move || cuEventQuery(mark)).join().unwrap();
        assert_eq!(in_capture(captured, global, from_elsewhere), forbidden);
        let thread_local = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let relaxed_elsewhere = || {
            std::thread::spawn(move || {
                relax();
                cuEventSynchronize(mark)
            })
            .join()
            .unwrap()
        };
        assert_eq!(in_capture(captured, global, relaxed_elsewhere), (Ok(()), true));
        assert_eq!(in_capture(captured, thread_local, from_elsewhere), (Ok(()), true));
        relax();
        assert_eq!(in_capture(captured, global, || cuEventSynchronize(mark)), (Ok(()), true));
        assert_eq!(in_capture(captured, global, || cuStreamSynchronize(other)), (Ok(()), true));
        assert_eq!(in_capture(captured, global, || cuStreamQuery(captured)), forbidden, "but not this");
        assert_eq!(in_capture(captured, global, cuCtxSynchronize as fn() -> CUresult), forbidden);
    }
}

driver_test! {
    fn a_record_on_a_captured_stream_is_part_of_the_capture() {
        begin();
        let (captured, joined, kernel, start, end) = (stream(), stream(), function("spin"), event(), event());
        cuEventRecord(end, joined).unwrap();
        cuStreamSynchronize(joined).unwrap();
        let record = || {
            cuEventRecord(start, captured)?;
            cuEventElapsedTime(&mut 0.0, start, end)
        };
        let (refused, lives) = in_capture(captured, CU_STREAM_CAPTURE_MODE_GLOBAL, record);
        assert!(refused.is_err() && lives);
        assert!(cuEventElapsedTime(&mut 0.0, start, end).is_err(), "it tells no time afterwards either");
        let query = || {
            cuEventRecord(start, captured)?;
            cuEventQuery(start)
        };
        let answer = in_capture(captured, CU_STREAM_CAPTURE_MODE_GLOBAL, query);
        assert_eq!(answer, (Err(CUerror::CAPTURED_EVENT), false));
        cuEventRecord(start, captured).unwrap();
        spin(kernel, captured, MS);
        cuEventRecord(end, captured).unwrap();
        cuStreamSynchronize(captured).unwrap();
        assert!(elapsed(start, end) >= MS - Duration::from_micros(1), "recorded anew, they do");
    }
}
