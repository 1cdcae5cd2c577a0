#!/usr/bin/env python3
"""Prints who holds how much of which GPU and used how much of its time, from the control file alone.

    python3 read_control.py [FILE]

FILE is VCUDA_CONTROL_FILE, or /dev/shm/vcuda-UID/control, if not given. Needs Python 3.8 and nothing else. To read it
in a program of your own:

    from read_control import ControlFile
    for device in ControlFile("/dev/shm/vcuda-0/control").devices():
        print(device["uuid"], device["used_bytes"], device["processes"])

What the words mean stands in include/vcuda.h, of which this follows the names. Never truncate a control file in place:
whoever has it mapped, this program too, would be ended by the system.
"""

import fcntl
import mmap
import os
import stat
import struct
import sys

MAGIC, VERSION, READY = 0x4C54434144554356, 4, 1
PAGE_BYTES, UNLIMITED, DEVICE_MIG, SLOT_FREE = 4096, (1 << 64) - 1, 1, 0
# Older versions of Python know this only by number.
F_OFD_GETLK = getattr(fcntl, "F_OFD_GETLK", 36)

# Offsets in bytes of what is read here.
HEADER = {"magic": 0, "version": 8, "file_bytes": 16, "device_capacity": 28, "slot_capacity": 32, "device_bytes": 36,
          "slot_bytes": 40, "slot_device_bytes": 44, "devices_offset": 48, "slots_offset": 56, "slot_devices_offset": 64,
          "lock_base": 88, "ready": 112, "slots_ever_claimed": 120}
DEVICE = {"uuid_high": 0, "uuid_low": 8, "quota": 16, "limit_bytes": 24, "physical_bytes": 32, "peak_pages": 40,
          "refused_count": 48, "kind": 64, "set_aside": 72, "compute.share_ppm": 136, "compute.work_count": 144,
          "compute.busy_ns": 152, "compute.throttled_ns": 160}
SLOT = {"state": 0, "pid": 8, "uid": 12, "name": 40}
SLOT_DEVICE = {"settled": 0, "proposed": 8, "overhead_pages": 16, "busy_ns": 48, "throttled_ns": 56}
NAME_BYTES = 32


class NotAControlFile(Exception):
    """The file is no control file that this program understands."""


class ControlFile:
    """A control file, mapped read-only."""

    def __init__(self, path):
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size < 4096:
            raise NotAControlFile("not a vcuda control file")
        mapping = mmap.mmap(self._descriptor, status.st_size, mmap.MAP_SHARED, mmap.PROT_READ)
        # Whole words are loaded by one instruction each, as they must be while others write.
        self._bytes = memoryview(mapping)
        self._words = self._bytes[: status.st_size // 8 * 8].cast("Q")
        self._halves = self._bytes[: status.st_size // 4 * 4].cast("I")
        self._check(status.st_size)

    def _check(self, size):
        if self._word(HEADER["magic"]) != MAGIC:
            raise NotAControlFile("not a vcuda control file")
        if self._half(HEADER["version"]) != VERSION:
            raise NotAControlFile("a control file of another version; use the reader that came with the library")
        self._header = {name: self._half(HEADER[name]) if name in ("device_capacity", "slot_capacity", "device_bytes",
                        "slot_bytes", "slot_device_bytes") else self._word(HEADER[name]) for name in HEADER}
        end = self._header["slots_offset"] + self._header["slot_capacity"] * self._header["slot_bytes"]
        if size != self._header["file_bytes"] or end > size:
            raise NotAControlFile("a control file of the wrong size")
        if self._header["ready"] != READY:
            raise NotAControlFile("a control file that is not in use")

    def _word(self, offset):
        return self._words[offset // 8]

    def _half(self, offset):
        return self._halves[offset // 4]

    def devices(self):
        """All devices that any process has used, as dictionaries: bytes, nanoseconds, and the processes."""
        for index in range(self._header["device_capacity"]):
            at = self._header["devices_offset"] + index * self._header["device_bytes"]
            if self._word(at + DEVICE["uuid_high"]) == 0:
                return
            if self._word(at + DEVICE["uuid_low"]) != 0:
                yield self._device(index, at)

    def _device(self, index, at):
        count = min(self._word(HEADER["slots_ever_claimed"]), self._header["slot_capacity"])
        # Amounts that add up: nothing was reserved or released between the first and the last of them.
        for _ in range(8):
            quota = self._word(at + DEVICE["quota"])
            held = [self._held_pages(quota, slot, index) for slot in range(count)]
            if self._word(at + DEVICE["quota"]) == quota:
                break
        limit = self._word(at + DEVICE["limit_bytes"])
        share = self._word(at + DEVICE["compute.share_ppm"])
        return {
            "uuid": self._uuid(at),
            # Suspended processes hold nothing now.
            "used_bytes": ((quota >> 28) - (self._word(at + DEVICE["set_aside"]) >> 28)) * PAGE_BYTES,
            "limit_bytes": None if limit == UNLIMITED else limit,
            "physical_bytes": self._word(at + DEVICE["physical_bytes"]),
            "peak_bytes": self._word(at + DEVICE["peak_pages"]) * PAGE_BYTES,
            "refused_count": self._word(at + DEVICE["refused_count"]),
            "share_ppm": share or None,
            "busy_ns": self._word(at + DEVICE["compute.busy_ns"]),
            "work_count": self._word(at + DEVICE["compute.work_count"]),
            "throttled_ns": self._word(at + DEVICE["compute.throttled_ns"]),
            "processes": [self._process(slot, index, pages) for slot, pages in enumerate(held)
                          if pages > 0 and self._word(self._slot(slot)) & 0xFF != SLOT_FREE],
        }

    def _uuid(self, at):
        high, low = self._word(at + DEVICE["uuid_high"]), self._word(at + DEVICE["uuid_low"])
        digits = f"{high:016x}{low:016x}"
        kind = "MIG" if self._word(at + DEVICE["kind"]) == DEVICE_MIG else "GPU"
        return "-".join([kind, digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]])

    def _slot(self, slot):
        return self._header["slots_offset"] + slot * self._header["slot_bytes"]

    def _slot_device(self, slot, index):
        return self._slot(slot) + self._header["slot_devices_offset"] + index * self._header["slot_device_bytes"]

    def _held_pages(self, quota, slot, index):
        """As vcuda_held_pages(): the operation that the quota names may not be settled yet."""
        at = self._slot_device(slot, index)
        settled = self._word(at + SLOT_DEVICE["settled"])
        proposed = self._word(at + SLOT_DEVICE["proposed"])
        owed = (settled + 1) & 0xFFFFFFF
        is_unsettled = (quota >> 16) & 0xFFF == slot and owed & 0xFFFF == quota & 0xFFFF and proposed & 0xFFFFFFF == owed
        return (proposed if is_unsettled else settled) >> 28

    def _process(self, slot, index, pages):
        at, device = self._slot(slot), self._slot_device(slot, index)
        name = bytes(self._bytes[at + SLOT["name"] : at + SLOT["name"] + NAME_BYTES]).split(b"\0")[0]
        # Without what a terminal might obey.
        printable = bytes(c if c >= 32 and c != 127 else ord("?") for c in name)
        return {
            "pid": self._half(at + SLOT["pid"]),
            "uid": self._half(at + SLOT["uid"]),
            "name": printable.decode("utf-8", "replace"),
            "is_alive": self._is_alive(slot),
            "used_bytes": pages * PAGE_BYTES,
            "context_bytes": self._word(device + SLOT_DEVICE["overhead_pages"]) * PAGE_BYTES,
            "busy_ns": self._word(device + SLOT_DEVICE["busy_ns"]),
            "throttled_ns": self._word(device + SLOT_DEVICE["throttled_ns"]),
        }

    def _is_alive(self, slot):
        """The owner of a slot lives as long as it holds the lock of the slot's byte."""
        lock = struct.pack("@hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, self._header["lock_base"] + slot, 1, 0)
        try:
            answer = fcntl.fcntl(self._descriptor, F_OFD_GETLK, lock)
        except OSError:
            return None
        return struct.unpack_from("@h", answer)[0] != fcntl.F_UNLCK


def text(device):
    """As read-control prints it."""
    mebibytes = 1 << 20
    limit = "" if device["limit_bytes"] is None else f" of {device['limit_bytes'] // PAGE_BYTES * PAGE_BYTES / mebibytes:.1f} MiB"
    yield (f"{device['uuid']}  {device['used_bytes'] / mebibytes:.1f} MiB in use{limit}, "
           f"peak {device['peak_bytes'] / mebibytes:.1f} MiB, refused {device['refused_count']} times")
    if device["share_ppm"] or device["work_count"]:
        share = f" of {device['share_ppm'] / 1e4:.4f} %" if device["share_ppm"] else ""
        yield (f"  GPU time{share}: {device['busy_ns'] / 1e9:.3f} s used, {device['work_count']} calls, "
               f"{device['throttled_ns'] / 1e9:.3f} s held back")
    for process in device["processes"]:
        state = {True: "", False: "  dead: free for whoever asks next", None: "  dead or alive"}[process["is_alive"]]
        yield f"  pid {process['pid']:<8} {process['name']:<32} {process['used_bytes'] / mebibytes:12.1f} MiB{state}"


def main():
    standard = f"/dev/shm/vcuda-{os.geteuid()}/control"
    path = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("VCUDA_CONTROL_FILE", standard)
    try:
        for device in ControlFile(path).devices():
            print("\n".join(text(device)))
    except OSError as error:
        sys.exit(f"read-control: {path}: {error.strerror}")
    except NotAControlFile as error:
        sys.exit(f"read-control: {path}: {error}")


if __name__ == "__main__":
    main()
