//! What streams wait for: values in memory, the host, kernels that last until something is written.

use crate::api::*;
use crate::driver_test;
use crate::program::*;
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::CUerror;

const MS: Duration = Duration::from_millis(1);
const EQUAL: u32 = 1;

/// Words that live as long as the process.
fn word() -> (&'static AtomicU32, CUdeviceptr) {
    let word: &AtomicU32 = Box::leak(Box::new(AtomicU32::new(0)));
    (word, CUdeviceptr(word.as_ptr() as u64))
}

fn launch_until_set(stream: CUstream, address: CUdeviceptr) {
    let mut address = address;
    launch(function("until_set"), stream, &mut [(&raw mut address).cast()]).unwrap();
}

driver_test! {
    fn a_stream_waits_for_a_value() {
        begin();
        let (stream, kernel, mark) = (stream(), function("spin"), event());
        let (word, address) = word();
        cuStreamWaitValue32_v2(stream, address, 7, EQUAL).unwrap();
        spin(kernel, stream, MS);
        cuEventRecord(mark, stream).unwrap();
        std::thread::sleep(20 * MS);
        word.store(6, SeqCst);
        std::thread::sleep(20 * MS);
        assert_eq!(cuEventQuery(mark), Err(CUerror::NOT_READY));
        assert_eq!(busy(), Duration::ZERO);
        word.store(7, SeqCst);
        cuEventSynchronize(mark).unwrap();
        assert_eq!(busy(), MS, "a waiting stream keeps no engine");
    }
}

driver_test! {
    fn streams_wait_for_values_that_others_write() {
        begin();
        let (one, other, kernel) = (stream(), stream(), function("spin"));
        let wide = Box::new(AtomicU64::new(0));
        let address = CUdeviceptr(wide.as_ptr() as u64);
        cuStreamWaitValue64_v2(one, address, 1 << 40, 0).unwrap();
        spin(kernel, other, 100 * MS);
        cuStreamWriteValue64_v2(other, address, 1 << 40, 0).unwrap();
        let time = timed(|| cuStreamSynchronize(one).unwrap());
        assert!(time > 20 * MS, "{time:?}");
        assert_eq!(wide.load(SeqCst), 1 << 40);
    }
}

driver_test! {
    fn batches_do_one_thing_after_the_other() {
        begin();
        let (stream, mark) = (stream(), event());
        let (gate, gate_address) = word();
        let (written, written_address) = word();
        // Kind, address, value, flags: wait until equal, a barrier, write.
        let operations: [[u64; 6]; 3] =
            [[1, gate_address.0, 3, EQUAL.into(), 0, 0], [6, 0, 0, 0, 0, 0], [2, written_address.0, 9, 0, 0, 0]];
        let place = operations.as_ptr().cast::<c_void>();
        cuStreamBatchMemOp_v2(stream, 3, place.cast_mut(), 0).unwrap();
        cuEventRecord(mark, stream).unwrap();
        std::thread::sleep(10 * MS);
        assert_eq!((cuEventQuery(mark), written.load(SeqCst)), (Err(CUerror::NOT_READY), 0));
        gate.store(3, SeqCst);
        cuStreamSynchronize(stream).unwrap();
        assert_eq!(written.load(SeqCst), 9);
        let wrong: [u64; 6] = [77, 0, 0, 0, 0, 0];
        let refused = cuStreamBatchMemOp_v2(stream, 1, wrong.as_ptr().cast_mut().cast(), 0);
        assert_eq!(refused, Err(CUerror::INVALID_VALUE));

        written.store(0, SeqCst);
        let (mut graph, mut exec) = (CUgraph::NULL, CUgraphExec::NULL);
        cuGraphCreate(&mut graph, 0).unwrap();
        let params: [u64; 4] = [0, 3, place as u64, 0];
        cuGraphAddBatchMemOpNode(&mut CUgraphNode::default(), graph, null(), 0, params.as_ptr().cast()).unwrap();
        cuGraphInstantiateWithFlags(&mut exec, graph, 0).unwrap();
        cuGraphLaunch(exec, stream).unwrap();
        cuStreamSynchronize(stream).unwrap();
        assert_eq!(written.load(SeqCst), 9);
    }
}

extern "C" fn take_a_while(_data: *mut c_void) {
    std::thread::sleep(20 * MS);
}

driver_test! {
    fn a_stream_goes_on_when_its_host_function_has_returned() {
        begin();
        let (stream, kernel, start, end) = (stream(), function("spin"), event(), event());
        cuEventRecord(start, stream).unwrap();
        cuLaunchHostFunc(stream, take_a_while as *mut c_void, null_mut()).unwrap();
        spin(kernel, stream, MS);
        cuEventRecord(end, stream).unwrap();
        cuStreamSynchronize(stream).unwrap();
        assert!(elapsed(start, end) >= 21 * MS);
        assert_eq!(busy(), MS);
    }
}

driver_test! {
    fn a_kernel_lasts_until_another_stream_writes() {
        begin();
        let (one, other, kernel, mark) = (stream(), stream(), function("spin"), event());
        let (_, address) = word();
        launch_until_set(one, address);
        cuEventRecord(mark, one).unwrap();
        spin(kernel, other, 20 * MS);
        cuStreamSynchronize(other).unwrap();
        assert_eq!(cuEventQuery(mark), Err(CUerror::NOT_READY), "it runs beside the other");
        cuStreamWriteValue32_v2(other, address, 1, 0).unwrap();
        cuEventSynchronize(mark).unwrap();
        assert!(busy() >= 20 * MS);
    }
}

driver_test! {
    fn a_kernel_lasts_until_the_host_writes_or_a_later_kernel_does() {
        begin();
        let (stream, later) = (stream(), stream());
        let (set_by_host, address) = word();
        launch_until_set(stream, address);
        std::thread::sleep(10 * MS);
        assert_eq!(cuStreamQuery(stream), Err(CUerror::NOT_READY));
        set_by_host.store(1, SeqCst);
        cuStreamSynchronize(stream).unwrap();

        let memory = alloc(4);
        cuMemsetD8_v2(memory, 0, 4).unwrap();
        launch_until_set(stream, memory);
        let (mut to, mut value, mut count) = (memory, 1_u32, 1_u64);
        let mut parameters: [*mut c_void; 3] =
            [(&raw mut to).cast(), (&raw mut value).cast(), (&raw mut count).cast()];
        launch(function("fill_u32"), later, &mut parameters).unwrap();
        cuCtxSynchronize().unwrap();
    }
}
