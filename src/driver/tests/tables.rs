//! What the generated tables promise to everyone who reads them.

use std::collections::{BTreeMap, BTreeSet};
use vcuda_driver::cuda::resolve::{family, find, looks_like_work, resolve};
use vcuda_driver::table::{Class, StreamMode, Symbol};
use vcuda_driver::{
    cuda, cuda_functions, cuda_signature, cuda_symbols, nvml, nvml_functions, nvml_signature, nvml_symbols,
};

/// A signature as text, and its type checked: a function pointer has one machine word.
macro_rules! describe {
    ({} fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty) => {
        (
            stringify!($name),
            concat!("(", stringify!($($type),*), ") -> ", stringify!($result)),
            size_of::<unsafe extern "C" fn($($type),*) -> $result>(),
        )
    };
}

macro_rules! names {
    ($($name:ident)*) => { &[$(stringify!($name)),*] };
}

type Signature = (&'static str, &'static str, usize);

fn cuda_signatures() -> &'static [Signature] {
    macro_rules! signatures {
        ($($name:ident)*) => { &[$(cuda_signature! { $name, describe, {} }),*] };
    }
    cuda_functions! { signatures }
}

fn nvml_signatures() -> &'static [Signature] {
    macro_rules! signatures {
        ($($name:ident)*) => { &[$(nvml_signature! { $name, describe, {} }),*] };
    }
    nvml_functions! { signatures }
}

fn libraries() -> [(&'static [Symbol], &'static [Signature]); 2] {
    [(cuda::symbols::SYMBOLS, cuda_signatures()), (nvml::symbols::SYMBOLS, nvml_signatures())]
}

#[test]
fn rows_are_sorted_by_name_and_none_comes_twice() {
    for (symbols, _) in libraries() {
        assert!(symbols.is_sorted_by(|first, second| first.name < second.name));
        for symbol in symbols {
            assert!(symbol.name.starts_with(symbol.base), "{}", symbol.name);
            let per_thread = symbol.name.ends_with("_ptsz") || symbol.name.ends_with("_ptds");
            assert_eq!(symbol.stream == StreamMode::PerThread, per_thread, "{}", symbol.name);
        }
    }
}

#[test]
fn the_macros_name_what_the_tables_list() {
    let cuda_names: &[&str] = cuda_symbols! { names };
    let nvml_names: &[&str] = nvml_symbols! { names };
    assert!(cuda_names.iter().eq(cuda::symbols::SYMBOLS.iter().map(|symbol| &symbol.name)));
    assert!(nvml_names.iter().eq(nvml::symbols::SYMBOLS.iter().map(|symbol| &symbol.name)));
}

#[test]
fn every_hooked_or_refused_function_has_a_signature() {
    for (symbols, signatures) in libraries() {
        let signed: BTreeSet<&str> = signatures.iter().map(|(name, ..)| *name).collect();
        let mut hooks = 0;
        for symbol in symbols.iter().filter(|symbol| matches!(symbol.class, Class::Hook | Class::Deny)) {
            assert!(signed.contains(symbol.name), "{} is hooked and has no signature", symbol.name);
            hooks += 1;
        }
        assert!(hooks >= 12);
        assert!(signatures.iter().all(|&(.., bytes)| bytes == size_of::<usize>()));
    }
}

#[test]
fn signatures_differ_where_the_abi_does() {
    let signatures: BTreeMap<_, _> =
        cuda_signatures().iter().map(|&(name, text, _)| (name, text.replace([' ', '\n'], ""))).collect();
    let of = |name: &str| {
        let types = "$crate::cuda::types::";
        signatures[name].replace(types, "").replace("$crate::result::", "").replace("::core::ffi::", "")
    };
    assert_eq!(of("cuMemAlloc"), "(*mutCUdeviceptr_v1,u32)->CUresult");
    assert_eq!(of("cuMemAlloc_v2"), "(*mutCUdeviceptr,usize)->CUresult");
    assert_eq!(of("cuMemAllocAsync_ptsz"), of("cuMemAllocAsync"));
    assert_eq!(of("cuCtxCreate_v2"), "(*mutCUcontext,u32,CUdevice)->CUresult");
    assert_eq!(of("cuCtxCreate_v4"), "(*mutCUcontext,*mutCUctxCreateParams,u32,CUdevice)->CUresult");
    assert_eq!(of("cuGetErrorName"), "(CUresult,*mut*constc_char)->CUresult");
    assert_eq!(of("cuIpcOpenMemHandle_v2"), "(*mutCUdeviceptr,CUipcMemHandle,u32)->CUresult");
    assert_eq!(of("cuMemPrefetchAsync_v2"), "(CUdeviceptr,usize,CUmemLocation,u32,CUstream)->CUresult");
    assert_eq!(of("cuInit"), "(u32)->CUresult");
    assert_eq!(
        of("cuLaunchKernel"),
        "(CUfunction,u32,u32,u32,u32,u32,u32,u32,CUstream,*mut*mutc_void,*mut*mutc_void)->CUresult"
    );
}

#[test]
fn a_name_and_a_version_lead_to_the_abi_that_version_knew() {
    let given = |base, version| resolve(base, version, false).map(|symbol| symbol.name);
    for (base, steps) in [
        ("cuMemAlloc", &[(2000, "cuMemAlloc"), (3020, "cuMemAlloc_v2")][..]),
        (
            "cuCtxCreate",
            &[
                (2000, "cuCtxCreate"),
                (3020, "cuCtxCreate_v2"),
                (11040, "cuCtxCreate_v3"),
                (12050, "cuCtxCreate_v4"),
            ],
        ),
        ("cuCtxDestroy", &[(2000, "cuCtxDestroy"), (4000, "cuCtxDestroy_v2")]),
        (
            "cuStreamGetCaptureInfo",
            &[
                (10010, "cuStreamGetCaptureInfo"),
                (11030, "cuStreamGetCaptureInfo_v2"),
                (12030, "cuStreamGetCaptureInfo_v3"),
            ],
        ),
        ("cuGraphInstantiate", &[(10000, "cuGraphInstantiate"), (11000, "cuGraphInstantiate_v2")]),
        ("cuGetProcAddress", &[(11030, "cuGetProcAddress"), (12000, "cuGetProcAddress_v2")]),
        ("cuDeviceGetUuid", &[(9020, "cuDeviceGetUuid"), (11040, "cuDeviceGetUuid_v2")]),
        ("cuMemPrefetchAsync", &[(8000, "cuMemPrefetchAsync"), (12020, "cuMemPrefetchAsync_v2")]),
    ] {
        let mut before = None;
        for &(version, name) in steps {
            assert_eq!(given(base, version - 1), before, "{base} before {version}");
            assert_eq!(given(base, version), Some(name), "{base} from {version} on");
            before = Some(name);
        }
    }
}

#[test]
fn the_per_thread_variant_is_given_alone_where_there_is_one() {
    let given = |base, version| resolve(base, version, true).map(|symbol| symbol.name);
    assert_eq!(given("cuMemcpyHtoD", 13000), Some("cuMemcpyHtoD_v2_ptds"));
    assert_eq!(given("cuMemAllocAsync", 13000), Some("cuMemAllocAsync_ptsz"));
    assert_eq!(given("cuLaunchKernel", 12000), Some("cuLaunchKernel_ptsz"));
    assert_eq!(given("cuLaunchKernel", 6000), None);
    assert_eq!(given("cuLaunchKernel", u32::MAX), Some("cuLaunchKernel_ptsz"));
    assert_eq!(given("cuMemAlloc", 13000), Some("cuMemAlloc_v2"));
    assert_eq!(given("cuMemcpyHtoD_v2_ptds", 13000), None);
    assert_eq!(given("cuNoSuchFunction", 13000), None);
    assert_eq!(given("", 13000), None);
}

#[test]
fn a_family_is_all_of_its_base_name_and_nothing_else() {
    let names = |base| family(base).map(|symbol| symbol.name).collect::<Vec<_>>();
    assert_eq!(names("cuMemAlloc"), ["cuMemAlloc", "cuMemAlloc_v2"]);
    assert_eq!(names("cuGraphAddNode"), ["cuGraphAddNode", "cuGraphAddNode_v2", "cuGraphAddNode_v3"]);
    assert_eq!(names("cuMem"), [""; 0]);
    let in_families: usize = cuda::symbols::SYMBOLS
        .iter()
        .map(|symbol| symbol.base)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(|base| family(base).count())
        .sum();
    assert_eq!(in_families, cuda::symbols::SYMBOLS.len());
}

#[test]
fn versions_of_one_function_do_not_share_a_birth_date() {
    let mut seen = BTreeSet::new();
    for symbol in cuda::symbols::SYMBOLS.iter().filter(|symbol| symbol.since != 0) {
        assert!(seen.insert((symbol.base, symbol.stream == StreamMode::PerThread, symbol.since)));
        assert!((2000..20000).contains(&symbol.since) && symbol.since % 10 == 0, "{}", symbol.name);
    }
}

#[test]
fn both_tables_find_exact_names_only() {
    assert_eq!(find("cuMemAlloc_v2").map(|symbol| symbol.class), Some(Class::Hook));
    assert_eq!(find("cuMemAllo"), None);
    assert_eq!(find("cuMemAlloc_v3"), None);
    let hooked = nvml::find("nvmlDeviceGetMemoryInfo_v2");
    assert_eq!(
        hooked.map(|symbol| (symbol.base, symbol.class)),
        Some(("nvmlDeviceGetMemoryInfo", Class::Hook))
    );
    assert_eq!(nvml::find("nvml"), None);
}

#[test]
fn every_abi_of_what_must_be_limited_is_hooked() {
    for base in [
        "cuInit",
        "cuGetProcAddress",
        "cuGetExportTable",
        "cuMemGetInfo",
        "cuDeviceTotalMem",
        "cuMemAlloc",
        "cuMemAllocPitch",
        "cuMemAllocManaged",
        "cuMemFree",
        "cuMemAllocAsync",
        "cuMemAllocFromPoolAsync",
        "cuMemPoolCreate",
        "cuMemCreate",
        "cuMemRelease",
        "cuMemMap",
        "cuMemUnmap",
        "cuArrayCreate",
        "cuArray3DCreate",
        "cuArrayDestroy",
        "cuMipmappedArrayCreate",
        "cuGraphAddMemAllocNode",
        "cuGraphAddNode",
        "cuGraphInstantiate",
        "cuGraphLaunch",
        "cuCtxCreate",
        "cuCtxDestroy",
        "cuDevicePrimaryCtxRetain",
        "cuDevicePrimaryCtxReset",
        "cuCtxSetLimit",
        "cuModuleLoadData",
        "cuLibraryLoadData",
        "cuStreamCreate",
        "cuLaunchKernel",
        "cuLaunchKernelEx",
        "cuLaunchCooperativeKernel",
    ] {
        assert!(family(base).count() > 0, "{base} is unknown");
        for symbol in family(base) {
            assert_eq!(symbol.class, Class::Hook, "{}", symbol.name);
        }
    }
    for base in ["nvmlDeviceGetMemoryInfo", "nvmlDeviceGetComputeRunningProcesses"] {
        let versions = nvml::symbols::SYMBOLS.iter().filter(|symbol| symbol.base == base);
        assert!(versions.clone().count() > 1);
        assert!(versions.clone().all(|symbol| symbol.class == Class::Hook));
    }
}

#[test]
fn everything_that_gives_a_gpu_work_is_hooked() {
    let gives_work = |name: &str| {
        ["cuLaunch", "cuMemcpy", "cuMemset", "cuMemPrefetch", "cuGraphLaunch", "cuStreamBatchMemOp"]
            .iter()
            .any(|word| name.starts_with(word))
    };
    let symbols = cuda::symbols::SYMBOLS.iter().filter(|symbol| gives_work(symbol.name));
    assert!(symbols.clone().count() > 120);
    for symbol in symbols {
        assert_eq!(symbol.class, Class::Hook, "{}", symbol.name);
    }
}

#[test]
fn names_of_the_future_are_judged_by_their_words() {
    assert!(looks_like_work("cuMemAlloc_v3"));
    assert!(looks_like_work("cuLaunchKernelNew"));
    assert!(!looks_like_work("cuCtxGetSomething"));
}

type Find = fn(&str) -> Option<&'static Symbol>;

/// Names that a real driver exports, one a line, as `nm -D` lists them.
const EXPORTS: [(&str, Find); 2] = [
    (include_str!("exports/libcuda-580.159.txt"), find),
    (include_str!("exports/libnvidia-ml-580.159.txt"), nvml::find),
];

#[test]
fn every_function_that_a_real_driver_exports_is_known() {
    for (exports, find) in EXPORTS {
        // The rest of `cudbg` is a debugger's variables.
        let names: Vec<_> = exports.lines().filter(|name| !name.starts_with("cudbg")).collect();
        assert!(names.len() > 400);
        for name in names {
            assert!(find(name).is_some(), "{name} is exported and unknown");
        }
    }
}

#[test]
fn everything_hooked_and_old_enough_is_exported_by_a_real_driver() {
    let exported: BTreeSet<&str> = EXPORTS[0].0.lines().collect();
    for symbol in cuda::symbols::SYMBOLS {
        if symbol.class == Class::Hook && symbol.since <= 13000 {
            assert!(exported.contains(symbol.name), "{}", symbol.name);
        }
    }
}
