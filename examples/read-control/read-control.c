/*
 * Prints who holds how much of which GPU and used how much of its time, from the control file alone: no library, only
 * include/vcuda.h.
 *
 *     cc -std=c11 -Wall -I include -o read-control examples/read-control/read-control.c
 *     ./read-control [FILE]
 *
 * FILE is VCUDA_CONTROL_FILE, or /dev/shm/vcuda-UID/control, if not given.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vcuda.h"

/* Older C libraries know these only by number. */
#ifndef F_OFD_GETLK
#define F_OFD_GETLK 36
#endif

static int fail(const char *path, const char *what)
{
	fprintf(stderr, "read-control: %s: %s\n", path, what);
	return EXIT_FAILURE;
}

/* Returns NULL if the file is a control file of the version this header describes, else what is wrong with it. */
static const char *check(const struct vcuda_header *header, off_t size)
{
	if (size < (off_t)sizeof *header || vcuda_load(&header->magic) != VCUDA_MAGIC)
		return "not a vcuda control file";
	if (vcuda_load32(&header->version) != VCUDA_VERSION)
		return "a control file of another version; use the vcuda.h that came with the library";
	if (size != (off_t)sizeof(struct vcuda_control) || vcuda_load(&header->file_bytes) != (uint64_t)size)
		return "a control file of the wrong size";
	if (vcuda_load(&header->ready) != VCUDA_READY)
		return "a control file that is not in use";
	return NULL;
}

/* The owner of a slot lives as long as it holds the lock of the slot's byte. Returns 1, 0, or -1 if nobody can say. */
static int is_alive(int descriptor, uint32_t slot)
{
	struct flock byte = {
		.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)(VCUDA_LOCK_BASE + slot), .l_len = 1};
	if (fcntl(descriptor, F_OFD_GETLK, &byte) != 0)
		return -1;
	return byte.l_type != F_UNLCK;
}

static void print_uuid(const struct vcuda_device *device)
{
	uint64_t high = vcuda_load(&device->uuid_high), low = vcuda_load(&device->uuid_low);
	printf("%s-%08" PRIx64 "-%04" PRIx64 "-%04" PRIx64 "-%04" PRIx64 "-%012" PRIx64,
	       vcuda_load(&device->kind) == VCUDA_DEVICE_MIG ? "MIG" : "GPU", high >> 32, high >> 16 & 0xffff,
	       high & 0xffff, low >> 48, low & UINT64_C(0xffffffffffff));
}

/* Prints what was used of the device's time, if that is limited or was measured. */
static void print_time(const struct vcuda_compute *compute)
{
	uint64_t share_ppm = vcuda_load(&compute->share_ppm), calls = vcuda_load(&compute->work_count);
	if (share_ppm == 0 && calls == 0)
		return;
	printf("  GPU time");
	if (share_ppm != 0)
		printf(" of %.4f %%", (double)share_ppm / 1e4);
	printf(": %.3f s used, %" PRIu64 " calls, %.3f s held back\n", (double)vcuda_load(&compute->busy_ns) / 1e9, calls,
	       (double)vcuda_load(&compute->throttled_ns) / 1e9);
}

static double mebibytes(uint64_t pages)
{
	return (double)pages * VCUDA_PAGE_BYTES / (1 << 20);
}

/* Copies a name that may be changing, leaving out what a terminal might obey. */
static void copy_name(char *to, const char *name)
{
	for (size_t i = 0; i < VCUDA_NAME_BYTES; i++) {
		char c = __atomic_load_n(&name[i], __ATOMIC_ACQUIRE);
		to[i] = (c > 0 && c < ' ') || c == 0x7f ? '?' : c;
	}
	to[VCUDA_NAME_BYTES - 1] = '\0';
}

static void print_device(const struct vcuda_control *file, int descriptor, uint32_t index)
{
	const struct vcuda_device *device = &file->devices[index];
	uint64_t held[VCUDA_SLOT_CAPACITY];
	uint64_t quota, set_aside, limit = vcuda_load(&device->limit_bytes);
	uint64_t slots = vcuda_load(&file->header.slots_ever_claimed);
	if (slots > VCUDA_SLOT_CAPACITY)
		slots = VCUDA_SLOT_CAPACITY;

	/* Amounts that add up: nothing was reserved or released between the first and the last of them. */
	int tries = 0;
	do {
		quota = vcuda_load(&device->quota);
		for (uint32_t slot = 0; slot < slots; slot++)
			held[slot] = vcuda_held_pages(quota, slot, &file->slots[slot].devices[index]);
	} while (vcuda_load(&device->quota) != quota && ++tries < 8);

	print_uuid(device);
	set_aside = vcuda_set_aside_pages(vcuda_load(&device->set_aside));
	printf("  %.1f MiB in use", mebibytes(vcuda_used_pages(quota) - set_aside));
	if (limit != VCUDA_UNLIMITED)
		printf(" of %.1f MiB", mebibytes(limit / VCUDA_PAGE_BYTES));
	printf(", peak %.1f MiB, refused %" PRIu64 " times\n", mebibytes(vcuda_load(&device->peak_pages)),
	       vcuda_load(&device->refused_count));
	print_time(&device->compute);

	for (uint32_t slot = 0; slot < slots; slot++) {
		const struct vcuda_slot *owner = &file->slots[slot];
		if (vcuda_slot_status(vcuda_load(&owner->state)) == VCUDA_SLOT_FREE || held[slot] == 0)
			continue;
		char name[VCUDA_NAME_BYTES];
		copy_name(name, owner->name);
		int alive = is_alive(descriptor, slot);
		printf("  pid %-8" PRIu32 " %-32s %12.1f MiB%s\n", vcuda_load32(&owner->pid), name, mebibytes(held[slot]),
		       alive == 0 ? "  dead: free for whoever asks next" : alive < 0 ? "  dead or alive" : "");
	}
}

int main(int argc, char **argv)
{
	char standard[64];
	snprintf(standard, sizeof standard, "/dev/shm/vcuda-%u/control", (unsigned)geteuid());
	const char *chosen = getenv("VCUDA_CONTROL_FILE");
	const char *path = argc > 1 ? argv[1] : chosen ? chosen : standard;

	int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (descriptor < 0)
		return fail(path, strerror(errno));
	struct stat status;
	if (fstat(descriptor, &status) != 0)
		return fail(path, strerror(errno));
	if (!S_ISREG(status.st_mode) || status.st_size < (off_t)sizeof(struct vcuda_header))
		return fail(path, "not a vcuda control file");
	void *mapping = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, descriptor, 0);
	if (mapping == MAP_FAILED)
		return fail(path, strerror(errno));
	const struct vcuda_control *file = mapping;
	const char *wrong = check(&file->header, status.st_size);
	if (wrong)
		return fail(path, wrong);

	for (uint32_t index = 0; index < VCUDA_DEVICE_CAPACITY; index++) {
		if (vcuda_load(&file->devices[index].uuid_high) == 0)
			break;
		if (vcuda_load(&file->devices[index].uuid_low) != 0)
			print_device(file, descriptor, index);
	}
	return EXIT_SUCCESS;
}
