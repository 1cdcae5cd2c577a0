//! Linear memory, mappings and arrays.

use crate::api::*;
use crate::driver_test;
use crate::program::*;
use std::ffi::c_void;
use std::ptr::null_mut;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::CUerror;

driver_test! {
    fn small_allocations_share_chunks_and_large_ones_are_rounded() {
        begin();
        let mut small = Vec::new();
        assert_eq!(taken_mib(|| small = (0..1000).map(|_| alloc(4)).collect()), 2);
        assert!(small.iter().all(|address| address.0 >> 21 == small[0].0 >> 21));
        assert_eq!(taken_mib(|| small.iter().skip(1).for_each(|&address| cuMemFree_v2(address).unwrap())), 0);
        assert_eq!(taken_mib(|| cuMemFree_v2(small[0]).unwrap()), -2);
        assert_eq!(taken_mib(|| alloc(MIB + 1)), 2);
        assert_eq!(taken_mib(|| alloc(33 * MIB)), 34);
        let mut pitch = 0;
        let pitched = || cuMemAllocPitch_v2(&mut CUdeviceptr::default(), &mut pitch, 1000, 100_000, 4).unwrap();
        assert_eq!(taken_mib(pitched), 98);
        assert_eq!(pitch, 1024);
    }
}

driver_test! {
    fn memory_runs_out_exactly() {
        begin();
        let all = free_bytes() / (2 * MIB) * 2 * MIB;
        let mut address = CUdeviceptr(1);
        assert_eq!(cuMemAlloc_v2(&mut address, all + 1), Err(CUerror::OUT_OF_MEMORY));
        assert!(address.is_null());
        let everything = alloc(all);
        assert_eq!(try_alloc(2 * MIB), Err(CUerror::OUT_OF_MEMORY));
        cuMemFree_v2(everything).unwrap();
        assert_eq!(cuMemFree_v2(everything), Err(CUerror::INVALID_VALUE));
        assert_eq!(cuMemFree_v2(CUdeviceptr::NULL), Ok(()));
        assert_eq!(try_alloc(0), Err(CUerror::INVALID_VALUE));
        assert_eq!(try_alloc(1 << 50), Err(CUerror::OUT_OF_MEMORY));
        alloc(all);
    }
}

driver_test! {
    fn contents_are_copied_set_and_checked() {
        begin();
        let memory = alloc(3 * MIB);
        write(memory, &[1_u32, 2, 3, 4]);
        cuMemsetD32_v2(CUdeviceptr(memory.0 + 4), 7, 2).unwrap();
        assert_eq!(read::<u32>(memory, 4), [1, 7, 7, 4]);
        let end = CUdeviceptr(memory.0 + 3 * MIB as u64 - 4);
        assert_eq!(cuMemsetD32_v2(end, 0, 2), Err(CUerror::INVALID_VALUE));
        let square = [1_u8, 2, 3, 4, 5, 6, 7, 8, 9];
        write(memory, &square);
        let mut corner = [0_u8; 4];
        let copy = CUDA_MEMCPY2D {
            srcXInBytes: 1,
            srcY: 1,
            srcMemoryType: CU_MEMORYTYPE_DEVICE,
            srcDevice: memory,
            srcPitch: 3,
            dstMemoryType: CU_MEMORYTYPE_HOST,
            dstHost: corner.as_mut_ptr().cast(),
            dstPitch: 2,
            WidthInBytes: 2,
            Height: 2,
            ..CUDA_MEMCPY2D::default()
        };
        cuMemcpy2D_v2(&copy).unwrap();
        assert_eq!(corner, [5, 6, 8, 9]);
    }
}

driver_test! {
    fn managed_memory_is_taken_when_the_device_touches_it() {
        begin();
        let mut managed = CUdeviceptr::NULL;
        assert_eq!(taken_mib(|| cuMemAllocManaged(&mut managed, 256 * MIB, CU_MEM_ATTACH_GLOBAL).unwrap()), 0);
        assert_eq!(taken_mib(|| cuMemsetD8_v2(managed, 1, MIB).unwrap()), 256);
        assert_eq!(taken_mib(|| cuMemFree_v2(managed).unwrap()), -256);
        cuMemAllocManaged(&mut managed, 64 * MIB, CU_MEM_ATTACH_GLOBAL).unwrap();
        let fill = function("fill_u32");
        let (mut to, mut value, mut count) = (managed, 3_u32, 8_u64);
        let mut parameters: [*mut c_void; 3] =
            [(&raw mut to).cast(), (&raw mut value).cast(), (&raw mut count).cast()];
        assert_eq!(taken_mib(|| launch(fill, CUstream::NULL, &mut parameters).unwrap()), 64);
    }
}

driver_test! {
    fn host_memory_takes_nothing_of_the_device() {
        begin();
        let mut memory: *mut c_void = null_mut();
        assert_eq!(taken_mib(|| cuMemHostAlloc(&mut memory, 64 * MIB, 0).unwrap()), 0);
        cuMemFreeHost(memory).unwrap();
        assert_eq!(cuMemFreeHost(memory), Err(CUerror::INVALID_VALUE));
        let mut own = vec![0_u8; 4096];
        let address: *mut c_void = own.as_mut_ptr().cast();
        cuMemHostRegister_v2(address, 4096, 0).unwrap();
        assert_eq!(cuMemHostRegister_v2(address, 4096, 0), Err(CUerror::HOST_MEMORY_ALREADY_REGISTERED));
        cuMemHostUnregister(address).unwrap();
        assert_eq!(cuMemHostUnregister(address), Err(CUerror::HOST_MEMORY_NOT_REGISTERED));
    }
}

fn properties(handle_types: u32) -> CUmemAllocationProp {
    CUmemAllocationProp {
        type_: CU_MEM_ALLOCATION_TYPE_PINNED,
        requestedHandleTypes: handle_types,
        location: CUmemLocation { type_: CU_MEM_LOCATION_TYPE_DEVICE, id: 0 },
        ..CUmemAllocationProp::default()
    }
}

driver_test! {
    fn physical_memory_lives_until_released_and_unmapped() {
        begin();
        let bytes = 64 * MIB;
        let (mut handle, mut address) = (CUmemGenericAllocationHandle::NULL, CUdeviceptr::NULL);
        let wanted = properties(CU_MEM_HANDLE_TYPE_NONE);
        assert_eq!(cuMemCreate(&mut handle, 3 * MIB, &wanted, 0), Err(CUerror::INVALID_VALUE));
        assert_eq!(taken_mib(|| cuMemCreate(&mut handle, bytes, &wanted, 0).unwrap()), 64);
        cuMemAddressReserve(&mut address, 2 * bytes, 0, CUdeviceptr::NULL, 0).unwrap();
        assert_eq!(cuMemsetD8_v2(address, 1, 1), Err(CUerror::INVALID_VALUE));
        let second = CUdeviceptr(address.0 + bytes as u64);
        cuMemMap(address, bytes, 0, handle, 0).unwrap();
        cuMemMap(second, bytes, 0, handle, 0).unwrap();
        assert_eq!(cuMemMap(address, bytes, 0, handle, 0), Err(CUerror::INVALID_VALUE));
        let access = CUmemAccessDesc { location: wanted.location, flags: CU_MEM_ACCESS_FLAGS_PROT_READWRITE };
        cuMemSetAccess(address, 2 * bytes, &access, 1).unwrap();
        write(address, &[1_u32, 2, 3]);
        assert_eq!(read::<u32>(second, 3), [1, 2, 3], "both show the same memory");
        assert_eq!(taken_mib(|| cuMemRelease(handle).unwrap()), 0);
        assert_eq!(taken_mib(|| cuMemUnmap(address, bytes).unwrap()), 0);
        assert_eq!(cuMemAddressFree(address, 2 * bytes), Err(CUerror::INVALID_VALUE));
        assert_eq!(taken_mib(|| cuMemUnmap(second, bytes).unwrap()), -64);
        cuMemAddressFree(address, 2 * bytes).unwrap();
        assert_eq!(cuMemRelease(handle), Err(CUerror::INVALID_VALUE));
    }
}

driver_test! {
    fn exported_and_imported_handles_are_one_memory() {
        begin();
        let bytes = 2 * MIB;
        let kind = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
        let (mut made, mut imported) = Default::default();
        cuMemCreate(&mut made, bytes, &properties(kind), 0).unwrap();
        let mut descriptor = -1_i32;
        cuMemExportToShareableHandle((&raw mut descriptor).cast(), made, kind, 0).unwrap();
        let shared = descriptor as usize as *mut c_void;
        assert_eq!(taken_mib(|| cuMemImportFromShareableHandle(&mut imported, shared, kind).unwrap()), 0);
        assert_ne!(made, imported);
        assert_eq!(taken_mib(|| cuMemRelease(made).unwrap()), 0);
        assert_eq!(taken_mib(|| cuMemRelease(imported).unwrap()), -2);
    }
}

driver_test! {
    fn arrays_take_what_the_driver_lays_out() {
        begin();
        let mut array = CUarray::NULL;
        let mut create = |width, height, depth, channels, flags| {
            let descriptor = CUDA_ARRAY3D_DESCRIPTOR {
                Width: width,
                Height: height,
                Depth: depth,
                Format: CU_AD_FORMAT_FLOAT,
                NumChannels: channels,
                Flags: flags,
            };
            taken_mib(|| cuArray3DCreate_v2(&mut array, &descriptor).unwrap())
        };
        assert_eq!(create(65536, 0, 0, 4, 0), 8);
        assert_eq!(create(3000, 3000, 0, 1, 0), 36);
        assert_eq!(create(100, 100, 100, 1, 0), 6);
        assert_eq!(create(4096, 4096, 0, 4, 0x80), 0, "mapped later");
        let taken: isize = (0..200).map(|_| create(64, 64, 0, 1, 0)).sum();
        assert_eq!(taken, 4);
    }
}

driver_test! {
    fn arrays_keep_their_elements() {
        begin();
        let descriptor =
            CUDA_ARRAY_DESCRIPTOR { Width: 100, Height: 3, Format: CU_AD_FORMAT_FLOAT, NumChannels: 1 };
        let mut array = CUarray::NULL;
        cuArrayCreate_v2(&mut array, &descriptor).unwrap();
        let values: Vec<f32> = (0..300_u16).map(f32::from).collect();
        cuMemcpyHtoA_v2(array, 0, values.as_ptr().cast(), 1200).unwrap();
        let mut back = [0_f32; 2];
        cuMemcpyAtoH_v2(back.as_mut_ptr().cast(), array, 4 * 298, 8).unwrap();
        assert_eq!(back, [298.0, 299.0]);
        let too_much = cuMemcpyAtoH_v2(back.as_mut_ptr().cast(), array, 1196, 8);
        assert_eq!(too_much, Err(CUerror::INVALID_VALUE));
        cuArrayDestroy(array).unwrap();
        assert_eq!(cuArrayDestroy(array), Err(CUerror::INVALID_HANDLE));
    }
}
