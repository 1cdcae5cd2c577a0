/*
 * vcuda.h - the control file of vcuda: who holds how much of which GPU.
 *
 * One file per container, mapped by every CUDA process under a limit. This header is its C ABI, version 4, and
 * all a reader needs; see examples/read-control. It is written by hand; a test compiles it and compares every
 * size and offset with the library's own.
 *
 * Finding it      VCUDA_CONTROL_FILE, else /dev/shm/vcuda-UID/control (or /tmp/vcuda-UID/control).
 * Numbers         little-endian, in natural alignment. Amounts are pages of 4096 bytes: limits are rounded down
 *                 to pages, charges up.
 * Checking        magic, version, file_bytes, then ready == VCUDA_READY. A file gets its name only when it is complete.
 * Reading         map it MAP_SHARED and load whole words with acquire order: vcuda_load() and vcuda_load32(). Any word
 *                 may change at any time. A reader needs no lock.
 * Writing         is for the library. The words of a device and a slot are changed by compare-exchange according to a
 *                 protocol (src/core/src/quota.rs); a single foreign store makes every process under it stop trusting it.
 * Who is alive    the owner of slot i holds a write lock on the byte lock_base + i, as an open file description lock.
 *                 Ask with F_OFD_GETLK, type F_WRLCK, length 1. The pid is for people: it counts in the owner's own PID
 *                 namespace. A dead owner's slot keeps its contents until a living process takes them back.
 * Shrinking       never truncate the file in place; remove it, and processes that have it mapped go on undisturbed.
 */
#ifndef VCUDA_H
#define VCUDA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#define VCUDA_ASSERT(condition, text) static_assert(condition, text)
#else
#define VCUDA_ASSERT(condition, text) _Static_assert(condition, text)
#endif

#define VCUDA_MAGIC UINT64_C(0x4c54434144554356)    /* "VCUDACTL" as the file's first eight bytes */
#define VCUDA_SENTINEL UINT64_C(0x444e454144554356) /* "VCUDAEND" as the file's last eight bytes */
#define VCUDA_VERSION UINT32_C(4)
#define VCUDA_READY UINT64_C(1)
#define VCUDA_PAGE_BYTES 4096
#define VCUDA_DEVICE_CAPACITY 64
#define VCUDA_SLOT_CAPACITY 1024
#define VCUDA_NAME_BYTES 32
#define VCUDA_LOCK_BASE (UINT64_C(1) << 30)
#define VCUDA_UNLIMITED UINT64_MAX
#define VCUDA_SEAT_CAPACITY 63
#define VCUDA_COVERAGE_SLOTS 8192      /* in a record of busy time */
#define VCUDA_COVERAGE_SLOT_NS 16384   /* of the monotonic clock, each */

/* Values of vcuda_device.kind: how the UUID is printed. */
#define VCUDA_DEVICE_GPU 0
#define VCUDA_DEVICE_MIG 1

/* Values of vcuda_slot_status(). */
#define VCUDA_SLOT_FREE 0     /* nobody's, and holding nothing */
#define VCUDA_SLOT_CHANGING 1 /* being claimed or taken back; the description may be half written */
#define VCUDA_SLOT_CLAIMED 2  /* the described process's, dead or alive */

/* Values of vcuda_phase(). */
#define VCUDA_PHASE_RUNNING 0
#define VCUDA_PHASE_SUSPENDING 1
#define VCUDA_PHASE_SUSPENDED 2
#define VCUDA_PHASE_RESUMING 3
#define VCUDA_PHASE_LOST 4 /* the driver could not bring it back; it can only be ended */

/* Flags in vcuda_slot.suspension. */
#define VCUDA_SUSPENSION_SEVERAL (UINT64_C(1) << 10)   /* counts in other control files as well: can't be suspended */
#define VCUDA_SUSPENSION_IDLE (UINT64_C(1) << 11)      /* put aside for being idle: comes back when it calls */
#define VCUDA_SUSPENSION_WANTED (UINT64_C(1) << 12)    /* a call waits for it to come back */
#define VCUDA_SUSPENSION_MANAGED (UINT64_C(1) << 13)   /* has managed memory, which can't be suspended */
#define VCUDA_SUSPENSION_SHARED (UINT64_C(1) << 14)    /* has shared memory with another process */
#define VCUDA_SUSPENSION_DENIED (UINT64_C(1) << 15)    /* no room could be made for what it waited for */

/* In vcuda_compute.sharing. */
#define VCUDA_SHARING_WEIGHT_MASK UINT64_C(0xffff)      /* 1 to 10000: by what is divided what is left over */
#define VCUDA_SHARING_ELASTIC (UINT64_C(1) << 16)       /* the share is the least and not also the most */
#define VCUDA_SHARING_HIGH_PRIORITY (UINT64_C(1) << 17) /* goes first */

/* At offset 0. Written once, before the file gets its name, but for the last field. */
struct vcuda_header {
	uint64_t magic;   /* VCUDA_MAGIC */
	uint32_t version; /* VCUDA_VERSION */
	uint32_t header_bytes;
	uint64_t file_bytes;
	uint32_t page_bytes; /* VCUDA_PAGE_BYTES */
	uint32_t device_capacity;
	uint32_t slot_capacity;
	uint32_t device_bytes;      /* size of one vcuda_device */
	uint32_t slot_bytes;        /* size of one vcuda_slot */
	uint32_t slot_device_bytes; /* size of one vcuda_slot_device */
	uint64_t devices_offset;
	uint64_t slots_offset;
	uint64_t slot_devices_offset; /* from the start of a slot */
	uint64_t coverage_offset;     /* of the records of busy time */
	uint64_t sentinel_offset;     /* of the last page, whose last eight bytes are VCUDA_SENTINEL */
	uint64_t lock_base;
	uint64_t created_unix_ns; /* nanoseconds since 1970 */
	uint64_t generation;      /* random, never 0; differs between any two files */
	uint64_t ready;           /* VCUDA_READY, or the file is not to be used */
	uint64_t slots_ever_claimed; /* slots from this one on never had an owner; spares readers most of the file */
	uint8_t reserved[3968];
};

/* The compute share of one device, of all processes together. */
struct vcuda_compute {
	uint64_t deadline_ns;     /* when all GPU time charged so far will have been paid for by waiting, on the monotonic
	                             clock; debt is what this is ahead of now */
	uint64_t share_ppm;       /* the share last enforced in millionths of the device's time, 0 if none */
	uint64_t work_count;      /* launches, graphs, copies and fills */
	uint64_t busy_ns;         /* GPU time used: the union over streams and processes */
	uint64_t throttled_ns;    /* time that calls were held back, summed over threads */
	uint64_t throttled_count; /* how often a call was held back */
	uint64_t forgiven_ns;     /* debt that was dropped because it was beyond the bound */
	uint64_t stream_busy_ns;  /* as busy_ns, but each stream of each process by itself */
	uint64_t sharing;         /* how the device was last shared with others, VCUDA_SHARING_*: a weight and flags; 0 if
	                             nothing is said of its time */
	uint64_t reserved[7];     /* 0 */
};

/* One device. Entries fill from the first and are never given back; the first with uuid_high == 0 ends the list. */
struct vcuda_device {
	uint64_t uuid_high;     /* bytes 0 to 7 of the UUID, the first byte in the highest bits */
	uint64_t uuid_low;      /* bytes 8 to 15; an entry where this is 0 is unfinished: skip it */
	uint64_t quota;         /* used_pages:36 slot:12 sequence:16, from the highest bit: the total, and whose
	                           operation made it so; see vcuda_used_pages() */
	uint64_t limit_bytes;   /* the limit last enforced, VCUDA_UNLIMITED if none; for information */
	uint64_t physical_bytes; /* the device's memory, 0 while unknown */
	uint64_t peak_pages;    /* the most ever in use */
	uint64_t refused_count; /* reservations refused so far */
	uint64_t context_pages_learned; /* what a primary context was last measured to take, 0 while unknown */
	uint64_t kind;          /* VCUDA_DEVICE_GPU or VCUDA_DEVICE_MIG */
	uint64_t set_aside;     /* pages:36 count:28, from the highest bit: of the total, the pages of suspended processes,
	                           which leave room for others; in use is vcuda_used_pages() less vcuda_set_aside_pages() */
	uint64_t held_until_ns; /* until when new reservations wait, on the monotonic clock: a process is being restored */
	uint64_t attended_until_ns; /* until when an agent makes room on this device for those who ask, monotonic clock */
	uint64_t reserved[4];   /* 0 */
	struct vcuda_compute compute;
};

/* What one slot holds of one device. */
struct vcuda_slot_device {
	uint64_t settled;  /* used_pages:36 sequence:28, from the highest bit: what took effect */
	uint64_t proposed; /* the same: what is being attempted */
	uint64_t overhead_pages; /* of the pages held, those of contexts and modules */
	uint64_t unsettled_ns; /* GPU time charged in advance and not measured yet */
	uint64_t done_by_ns; /* when that work is expected to be done, on the monotonic clock */
	uint64_t work_count; /* launches, graphs, copies and fills */
	uint64_t busy_ns; /* GPU time used that no other process had used */
	uint64_t throttled_ns; /* time that calls were held back, summed over threads */
};

/* One process. */
struct vcuda_slot {
	uint64_t state; /* status in the low 8 bits, a count of changes above; see vcuda_slot_status() */
	uint32_t pid;   /* in the process's own PID namespace */
	uint32_t uid;   /* effective user */
	uint64_t pid_namespace;    /* inode of /proc/PID/ns/pid, 0 if unknown */
	uint64_t start_time_ticks; /* field 22 of /proc/PID/stat, 0 if unknown */
	uint64_t started_unix_ns;  /* when the slot was claimed, nanoseconds since 1970 */
	char name[VCUDA_NAME_BYTES]; /* UTF-8, padded with zeros, the last byte always 0 */
	uint64_t found_dead_ns;    /* since boot: when its lock was first found free by who can't look at it; or 0 */
	uint64_t suspension;       /* phase in the low 4 bits, see vcuda_phase() and the flags below; MiB that it waits for
	                              in bits 16 to 39; idle release in tenths of a second from bit 40 on, 0 if none */
	uint64_t activity;         /* of a process with idle release: driver calls begun:32, under way:32 */
	uint64_t set_aside;        /* the header's generation while the pages held are in the device's set_aside */
	uint64_t reserved[2];      /* 0 */
	uint64_t limits_digest;    /* 64-bit FNV-1a of the text of the limits file it goes by; 0 if it goes by variables */
	struct vcuda_slot_device devices[VCUDA_DEVICE_CAPACITY]; /* by index of the device */
};

/*
 * When one device was busy. Word number (t / VCUDA_COVERAGE_SLOT_NS) % VCUDA_COVERAGE_SLOTS tells of the slice of time
 * around t: low 32 bits of t / VCUDA_COVERAGE_SLOT_NS in the upper half, and in the lower a bit for each 32nd part of the
 * slice, from its beginning, in which the device was busy. A word with another number is of an earlier round: the device
 * was idle. See vcuda_recent_busy_ns().
 */
struct vcuda_busy_record {
	uint64_t slots[VCUDA_COVERAGE_SLOTS];
};

/* One container among those that take turns on a device. Times are nanoseconds of the monotonic clock. */
struct vcuda_seat {
	uint64_t identity;       /* the container's control file by its generation, 0 if the seat is free */
	uint64_t terms;          /* weight in the low 16 bits, priority in bit 16, share in millionths from bit 32 on */
	uint64_t seen_ns;        /* when it last looked */
	uint64_t wants_until_ns; /* it waits for its turn, and will look again before this */
	uint64_t busy_until_ns;  /* when what it has given the device should be done, or it should give more */
	uint64_t clock;          /* its virtual time: what it was served, over its weight */
	uint64_t due_ns;         /* when what it was served will have been its share of the time */
	uint64_t held_from_ns;   /* when its turn began, as far as that was added up already */
	uint64_t served_ns;      /* how long it has had the device, in all */
	uint64_t waited_ns;      /* how long its calls waited for their turn, summed over threads */
	uint64_t duty_ppm;       /* how much of its turns the device was busy lately, in millionths */
	uint64_t turn_count;     /* turns that it was given */
	uint64_t crew;           /* turn:32 begun:16 ended:16, from the highest bit: processes at work in a turn */
	uint64_t in_wait_until_ns; /* its only process at work waits for the device, and says when that is over */
	uint64_t flight;         /* turn:16 nanoseconds:48, from the highest bit: GPU time its processes have in flight */
	uint64_t reserved;       /* 0 */
};

/*
 * Whose turn it is on one device, in the one file that the containers of a machine share for that (VCUDA_ARBITER_FILE);
 * all 0 in a container's own file.
 */
struct vcuda_arbiter {
	uint64_t grant; /* number of a seat and one in the upper 8 bits, 0 for nobody; below, when the turn ends */
	uint64_t clock; /* the virtual time of whoever had the last turn */
	uint64_t reserved[14]; /* 0 */
	struct vcuda_seat seats[VCUDA_SEAT_CAPACITY];
};

/* The last page. */
struct vcuda_tail {
	uint64_t reserved[511]; /* 0 */
	uint64_t sentinel;      /* VCUDA_SENTINEL */
};

/* The whole file. */
struct vcuda_control {
	struct vcuda_header header;
	struct vcuda_device devices[VCUDA_DEVICE_CAPACITY];
	struct vcuda_slot slots[VCUDA_SLOT_CAPACITY];
	struct vcuda_busy_record coverage[VCUDA_DEVICE_CAPACITY];
	struct vcuda_arbiter arbiters[VCUDA_DEVICE_CAPACITY];
	struct vcuda_tail tail;
};

VCUDA_ASSERT(sizeof(struct vcuda_header) == 4096, "header is one page");
VCUDA_ASSERT(offsetof(struct vcuda_header, reserved) == 128, "header fields");
VCUDA_ASSERT(sizeof(struct vcuda_device) == 256, "device is four cache lines");
VCUDA_ASSERT(sizeof(struct vcuda_slot_device) == 64, "slot's device");
VCUDA_ASSERT(offsetof(struct vcuda_slot, devices) == 128, "slot's description is two cache lines");
VCUDA_ASSERT(sizeof(struct vcuda_slot) == 4224, "slot");
VCUDA_ASSERT(sizeof(struct vcuda_tail) == 4096, "tail is one page");
VCUDA_ASSERT(offsetof(struct vcuda_control, devices) == 4096, "devices follow the header");
VCUDA_ASSERT(offsetof(struct vcuda_control, slots) == 20480, "slots follow the devices");
VCUDA_ASSERT(offsetof(struct vcuda_control, coverage) == 4345856, "records follow the slots");
VCUDA_ASSERT(offsetof(struct vcuda_control, arbiters) == 8540160, "arbiters follow the records");
VCUDA_ASSERT(sizeof(struct vcuda_seat) == 128, "seat");
VCUDA_ASSERT(sizeof(struct vcuda_arbiter) == 8192, "arbiter");
VCUDA_ASSERT(offsetof(struct vcuda_control, tail) == 9064448, "tail follows the arbiters");
VCUDA_ASSERT(sizeof(struct vcuda_control) == 9068544, "file");

/* A word of the file as it is now. */
static inline uint64_t vcuda_load(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline uint32_t vcuda_load32(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/* Pages in a quota, settled or proposed word. */
static inline uint64_t vcuda_used_pages(uint64_t word)
{
	return word >> 28;
}

/* The slot whose operation a quota word names. */
static inline uint32_t vcuda_quota_slot(uint64_t quota)
{
	return (uint32_t)(quota >> 16) & 0xfff;
}

static inline uint32_t vcuda_slot_status(uint64_t state)
{
	return (uint32_t)(state & 0xff);
}

/* How far the slot's process is on the way to being suspended or back. */
static inline uint32_t vcuda_phase(uint64_t suspension)
{
	return (uint32_t)(suspension & 0xf);
}

/* Pages in a set_aside word. */
static inline uint64_t vcuda_set_aside_pages(uint64_t word)
{
	return word >> 28;
}

/*
 * Pages that slot number `index` holds of a device whose quota word was just read. The operation the quota names
 * may have taken effect without being settled yet; then what it proposed is what it holds. For readings that add
 * up, read the quota again when done with all slots, and start over if it changed.
 */
static inline uint64_t vcuda_held_pages(uint64_t quota, uint32_t index, const struct vcuda_slot_device *words)
{
	uint64_t settled = vcuda_load(&words->settled);
	uint64_t proposed = vcuda_load(&words->proposed);
	uint64_t owed = (settled + 1) & 0xfffffff;
	int unsettled = vcuda_quota_slot(quota) == index && (owed & 0xffff) == (quota & 0xffff) &&
	                (proposed & 0xfffffff) == owed;
	return vcuda_used_pages(unsettled ? proposed : settled);
}

/* Nanoseconds for which the device was busy in the whole slices of time from `from_ns` to `to_ns`, monotonic clock. */
static inline uint64_t vcuda_recent_busy_ns(const struct vcuda_busy_record *record, uint64_t from_ns, uint64_t to_ns)
{
	uint64_t busy = 0;
	for (uint64_t number = from_ns / VCUDA_COVERAGE_SLOT_NS; number < to_ns / VCUDA_COVERAGE_SLOT_NS; number++) {
		uint64_t word = vcuda_load(&record->slots[number % VCUDA_COVERAGE_SLOTS]);
		if (word >> 32 == (number & UINT32_MAX))
			busy += (uint64_t)__builtin_popcount((uint32_t)word) * (VCUDA_COVERAGE_SLOT_NS / 32);
	}
	return busy;
}

#ifdef __cplusplus
}
#endif

#endif
