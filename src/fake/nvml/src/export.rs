//! The exported symbols: those of the table that are implemented, each with the body behind it, and all
//! others as functions that say that they aren't supported. No signature is written here.

use crate::edge::FromC;
use crate::library;
use std::panic::{AssertUnwindSafe, catch_unwind};
use vcuda_driver::result::{NvmlError, NvmlResult};

/// Runs a body; a panic becomes an error code.
fn run(needs_init: bool, body: impl FnOnce() -> NvmlResult) -> NvmlResult {
    if needs_init {
        library::check()?;
    }
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(NvmlError::UNKNOWN))
}

/// Exports one implemented symbol.
macro_rules! export {
    (
        { $needs_init:literal $module:ident $body:ident }
        fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty
    ) => {
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            run($needs_init, || {
                // SAFETY: the program vouches for its pointers by calling.
                crate::$module::$body($(unsafe { FromC::from_c($argument) }?),*)
            })
        }
    };
}

/// Takes lines of `module::body: symbols;`, exports the symbols, and defines `export_rest!`, which exports
/// any other as a function that isn't supported.
macro_rules! implement {
    ($dollar:tt $($needs_init:literal { $($module:ident::$body:ident: $($name:ident)+;)* })*) => {
        $($($( vcuda_driver::nvml_signature! { $name, export, { $needs_init $module $body } } )+)*)*

        macro_rules! export_rest {
            (nvmlErrorString) => {};
            $($($( ($name) => {}; )+)*)*
            ($dollar other:ident) => {
                #[unsafe(no_mangle)]
                #[allow(non_snake_case)]
                pub extern "C" fn $dollar other() -> NvmlResult {
                    run(true, || Err(NvmlError::NOT_SUPPORTED))
                }
            };
        }
    };
}

implement! {$
    false {
        library::initialise: nvmlInit nvmlInit_v2;
        library::initialise_with_flags: nvmlInitWithFlags;
        library::shut_down: nvmlShutdown;
        library::cuda_version: nvmlSystemGetCudaDriverVersion nvmlSystemGetCudaDriverVersion_v2;
    }
    true {
        library::driver_release: nvmlSystemGetDriverVersion;
        library::library_release: nvmlSystemGetNVMLVersion;
        library::process_name: nvmlSystemGetProcessName;

        device::count: nvmlDeviceGetCount nvmlDeviceGetCount_v2;
        device::by_index: nvmlDeviceGetHandleByIndex nvmlDeviceGetHandleByIndex_v2;
        device::by_uuid: nvmlDeviceGetHandleByUUID;
        device::by_pci_bus_id: nvmlDeviceGetHandleByPciBusId nvmlDeviceGetHandleByPciBusId_v2;
        device::index: nvmlDeviceGetIndex nvmlDeviceGetMinorNumber;
        device::name: nvmlDeviceGetName;
        device::uuid: nvmlDeviceGetUUID;
        device::pci: nvmlDeviceGetPciInfo_v2 nvmlDeviceGetPciInfo_v3;
        device::memory: nvmlDeviceGetMemoryInfo;
        device::memory_v2: nvmlDeviceGetMemoryInfo_v2;
        device::bar1: nvmlDeviceGetBAR1MemoryInfo;
        device::utilisation: nvmlDeviceGetUtilizationRates;
        device::compute_capability: nvmlDeviceGetCudaComputeCapability;
        device::architecture: nvmlDeviceGetArchitecture;
        device::core_count: nvmlDeviceGetNumGpuCores;
        device::mig_mode: nvmlDeviceGetMigMode;
        device::ecc_mode: nvmlDeviceGetEccMode;
        device::is_mig_handle: nvmlDeviceIsMigDeviceHandle;
        device::enabled: nvmlDeviceGetPersistenceMode nvmlDeviceGetPowerManagementMode;
        device::zero: nvmlDeviceGetComputeMode nvmlDeviceGetPerformanceState nvmlDeviceGetPowerState
            nvmlDeviceGetDisplayMode nvmlDeviceGetDisplayActive nvmlDeviceGetVirtualizationMode
            nvmlDeviceGetMaxMigDeviceCount nvmlDeviceGetAccountingMode nvmlDeviceGetNumFans;
        device::temperature: nvmlDeviceGetTemperature;
        device::power: nvmlDeviceGetPowerUsage;
        device::power_limit: nvmlDeviceGetEnforcedPowerLimit nvmlDeviceGetPowerManagementLimit
            nvmlDeviceGetPowerManagementDefaultLimit;
        device::power_limits: nvmlDeviceGetPowerManagementLimitConstraints;
        device::clock: nvmlDeviceGetClockInfo nvmlDeviceGetMaxClockInfo;
        device::bus_width: nvmlDeviceGetMemoryBusWidth;
        device::board_serial: nvmlDeviceGetSerial;
        device::vbios: nvmlDeviceGetVbiosVersion;
        device::peer_status: nvmlDeviceGetP2PStatus;
        device::common_ancestor: nvmlDeviceGetTopologyCommonAncestor;

        event::supported: nvmlDeviceGetSupportedEventTypes;
        event::create: nvmlEventSetCreate;
        event::register: nvmlDeviceRegisterEvents;
        event::wait: nvmlEventSetWait nvmlEventSetWait_v2;
        event::free: nvmlEventSetFree;

        process::compute_v1: nvmlDeviceGetComputeRunningProcesses;
        process::compute: nvmlDeviceGetComputeRunningProcesses_v2 nvmlDeviceGetComputeRunningProcesses_v3;
        process::none_v1: nvmlDeviceGetGraphicsRunningProcesses nvmlDeviceGetMPSComputeRunningProcesses;
        process::none: nvmlDeviceGetGraphicsRunningProcesses_v2 nvmlDeviceGetGraphicsRunningProcesses_v3
            nvmlDeviceGetMPSComputeRunningProcesses_v2 nvmlDeviceGetMPSComputeRunningProcesses_v3;
        process::details: nvmlDeviceGetRunningProcessDetailList;
        process::utilisation: nvmlDeviceGetProcessUtilization;
        samples::get: nvmlDeviceGetSamples;
        process::utilisation_info: nvmlDeviceGetProcessesUtilizationInfo;
    }
}

/// Exports what is left of the table.
macro_rules! export_all {
    ($($name:ident)*) => { $( export_rest! { $name } )* };
}
vcuda_driver::nvml_symbols! { export_all }

/// Exports the one function that gives a text instead of a code.
macro_rules! export_description {
    ({} fn $name:ident($argument:ident: $type:ty) -> $result:ty) => {
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub extern "C" fn $name($argument: $type) -> $result {
            library::describe($argument)
        }
    };
}
vcuda_driver::nvml_signature! { nvmlErrorString, export_description, {} }
