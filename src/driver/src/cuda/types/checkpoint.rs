//! Checkpoints of processes.

use super::CUuuid;
use crate::layout::c_structs;

c_structs! {
    /// How a process is to be locked.
    #[derive(Eq, Hash)]
    struct CUcheckpointLockArgs [64] {
        /// How long to wait for the process to come to rest; 0: as long as it takes.
        [0] timeoutMs: u32,
        /// 0.
        [4] reserved0: u32,
        /// 0.
        [8] reserved1: [u64; 7],
    }

    /// A GPU that a process was on, and the one it is to be on.
    #[derive(Eq, Hash)]
    struct CUcheckpointGpuPair [32] {
        [0] oldUuid: CUuuid,
        [16] newUuid: CUuuid,
    }
}
