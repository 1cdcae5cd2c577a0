"""Suspends and resumes a process with the driver's own calls and says what each took: "lock SECONDS" and so on, and
"init SECONDS" for what starting the driver takes. usage: bare_checkpoint.py PID"""

import ctypes
import sys
import time

driver = ctypes.CDLL("libcuda.so.1")


class LockArguments(ctypes.Structure):
    _fields_ = [("timeout_ms", ctypes.c_uint), ("reserved0", ctypes.c_uint), ("reserved1", ctypes.c_uint64 * 7)]


def timed(name: str, call, *arguments) -> None:
    start = time.monotonic()
    code = call(*arguments)
    print(f"{name} {time.monotonic() - start:.6f}", flush=True)
    if code != 0:
        print(f"failed {name} {code}", flush=True)
        sys.exit(3)


pid = int(sys.argv[1])
nothing = (ctypes.c_uint64 * 8)()
timed("init", driver.cuInit, 0)
timed("lock", driver.cuCheckpointProcessLock, pid, ctypes.byref(LockArguments(timeout_ms=30000)))
timed("checkpoint", driver.cuCheckpointProcessCheckpoint, pid, ctypes.byref(nothing))
timed("restore", driver.cuCheckpointProcessRestore, pid, ctypes.byref(nothing))
timed("unlock", driver.cuCheckpointProcessUnlock, pid, ctypes.byref(nothing))
