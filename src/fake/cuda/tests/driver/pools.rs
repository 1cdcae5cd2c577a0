//! Stream-ordered allocation.

use crate::api::*;
use crate::driver_test;
use crate::program::*;
use std::time::Duration;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::CUerror;

fn default_pool() -> CUmemoryPool {
    let mut pool = CUmemoryPool::NULL;
    cuDeviceGetDefaultMemPool(&mut pool, 0).unwrap();
    pool
}

fn attribute_mib(pool: CUmemoryPool, attribute: u32) -> u64 {
    let mut value = 0_u64;
    cuMemPoolGetAttribute(pool, attribute, (&raw mut value).cast()).unwrap();
    value / MIB as u64
}

fn alloc_async(bytes: usize, stream: CUstream) -> CUdeviceptr {
    let mut address = CUdeviceptr::NULL;
    cuMemAllocAsync(&mut address, bytes, stream).unwrap();
    address
}

driver_test! {
    fn pools_grow_in_steps_and_shrink_at_waits() {
        begin();
        let (pool, stream) = (default_pool(), stream());
        let mut address = CUdeviceptr::NULL;
        assert_eq!(taken_mib(|| address = alloc_async(100 * MIB, stream)), 128);
        assert_eq!(attribute_mib(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), 128);
        assert_eq!(attribute_mib(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 100);
        assert_eq!(taken_mib(|| alloc_async(20 * MIB, stream)), 0);
        assert_eq!(taken_mib(|| cuMemFreeAsync(address, stream).unwrap()), 0);
        assert_eq!(taken_mib(|| cuStreamSynchronize(stream).unwrap()), -96, "one step is still in use");
        assert_eq!(attribute_mib(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH), 128);
        let forty = || (0..40).map(|_| alloc_async(5 * MIB, stream)).collect::<Vec<_>>();
        assert!((176..=224).contains(&taken_mib(forty)));
    }
}

driver_test! {
    fn the_release_threshold_keeps_memory_until_trimmed() {
        begin();
        let (pool, stream) = (default_pool(), stream());
        let mut threshold = u64::MAX;
        let attribute = CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()).unwrap();
        let address = alloc_async(100 * MIB, stream);
        cuMemFreeAsync(address, stream).unwrap();
        assert_eq!(taken_mib(|| cuStreamSynchronize(stream).unwrap()), 0);
        assert_eq!(attribute_mib(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 0);
        assert_eq!(taken_mib(|| cuMemPoolTrimTo(pool, 64 * MIB).unwrap()), -64);
        assert_eq!(taken_mib(|| cuMemPoolTrimTo(pool, 0).unwrap()), -64);
    }
}

driver_test! {
    fn freed_memory_is_its_streams_at_once_and_others_later() {
        begin();
        let (one, other, kernel) = (stream(), stream(), function("spin"));
        let first = alloc_async(10 * MIB, one);
        spin(kernel, one, Duration::from_millis(30));
        cuMemFreeAsync(first, one).unwrap();
        assert_ne!(alloc_async(10 * MIB, other), first, "the kernel may still use it");
        assert_eq!(alloc_async(10 * MIB, one), first);
        cuMemFreeAsync(first, one).unwrap();
        cuStreamSynchronize(one).unwrap();
        assert_eq!(alloc_async(10 * MIB, other), first);
    }
}

driver_test! {
    fn a_pools_memory_outlives_it_while_allocated() {
        begin();
        let stream = stream();
        let properties = CUmemPoolProps {
            allocType: CU_MEM_ALLOCATION_TYPE_PINNED,
            location: CUmemLocation { type_: CU_MEM_LOCATION_TYPE_DEVICE, id: 0 },
            ..CUmemPoolProps::default()
        };
        let (mut pool, mut address) = (CUmemoryPool::NULL, CUdeviceptr::NULL);
        cuMemPoolCreate(&mut pool, &properties).unwrap();
        let take = || cuMemAllocFromPoolAsync(&mut address, 33 * MIB, pool, stream).unwrap();
        assert_eq!(taken_mib(take), 64);
        assert_eq!(taken_mib(|| cuMemPoolDestroy(pool).unwrap()), 0);
        write(address, &[1_u8, 2]);
        assert_eq!(taken_mib(|| cuMemFree_v2(address).unwrap()), -64);
        assert_eq!(cuMemPoolDestroy(default_pool()), Err(CUerror::INVALID_VALUE));
        assert_eq!(cuMemFreeAsync(address, stream), Err(CUerror::INVALID_VALUE));
    }
}

driver_test! {
    fn pools_give_way_before_memory_runs_out() {
        begin();
        let stream = stream();
        let mut threshold = u64::MAX;
        let attribute = CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        cuMemPoolSetAttribute(default_pool(), attribute, (&raw mut threshold).cast()).unwrap();
        let large = free_bytes() * 2 / 3;
        for _ in 0..5 {
            let address = alloc_async(large, stream);
            cuMemFreeAsync(address, stream).unwrap();
            let other = alloc_async(large + 64 * MIB, stream);
            cuMemFreeAsync(other, stream).unwrap();
        }
        let refused = cuMemAllocAsync(&mut CUdeviceptr::default(), 5 << 30, stream);
        assert_eq!(refused, Err(CUerror::OUT_OF_MEMORY));
    }
}
