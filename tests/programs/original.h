/* What a loaded library defines, read from its own tables: no lookup function is asked, so nothing that
 * interposes lookups can answer instead. */
#ifndef ORIGINAL_H
#define ORIGINAL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <elf.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct definition {
    const char *name;
    uintptr_t address;
};
struct definitions {
    const char *file_start;
    struct definition *list;
    size_t count;
};

/* Symbols behind the hash table: the last chain's end. */
static inline size_t gnu_hash_count(const uint32_t *hash) {
    uint32_t buckets = hash[0], first = hash[1], bloom_words = hash[2], last = 0;
    const uint32_t *bucket = hash + 4 + bloom_words * 2, *chain = bucket + buckets;
    for (uint32_t i = 0; i < buckets; i++)
        if (bucket[i] > last) last = bucket[i];
    if (last < first) return first;
    while (!(chain[last - first] & 1)) last++;
    return last + 1;
}

static inline int read_definitions(struct dl_phdr_info *info, size_t size, void *data) {
    struct definitions *found = (struct definitions *)data;
    const char *file = strrchr(info->dlpi_name, '/');
    (void)size;
    file = file ? file + 1 : info->dlpi_name;
    if (strncmp(file, found->file_start, strlen(found->file_start))) return 0;
    const ElfW(Sym) *symbols = NULL;
    const char *names = NULL;
    size_t count = 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type != PT_DYNAMIC) continue;
        for (ElfW(Dyn) *entry = (ElfW(Dyn) *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr); entry->d_tag; entry++) {
            if (entry->d_tag == DT_SYMTAB) symbols = (const ElfW(Sym) *)entry->d_un.d_ptr;
            if (entry->d_tag == DT_STRTAB) names = (const char *)entry->d_un.d_ptr;
            if (entry->d_tag == DT_HASH) count = ((const uint32_t *)entry->d_un.d_ptr)[1];
            if (entry->d_tag == DT_GNU_HASH) count = gnu_hash_count((const uint32_t *)entry->d_un.d_ptr);
        }
    }
    found->list = (struct definition *)calloc(count + 1, sizeof *found->list);
    for (size_t i = 0; symbols && names && found->list && i < count; i++) {
        if (symbols[i].st_shndx == SHN_UNDEF || ELF64_ST_TYPE(symbols[i].st_info) != STT_FUNC) continue;
        found->list[found->count].name = names + symbols[i].st_name;
        found->list[found->count++].address = info->dlpi_addr + symbols[i].st_value;
    }
    return 1;
}

/* What the loaded library defines whose file name starts with `file_start`; none if it isn't loaded. */
static inline struct definitions definitions_of(const char *file_start) {
    struct definitions found = {file_start, NULL, 0};
    dl_iterate_phdr(read_definitions, &found);
    return found;
}

/* The address of `name`, or 0. */
static inline uintptr_t defined_at(const struct definitions *in, const char *name) {
    for (size_t i = 0; i < in->count; i++)
        if (!strcmp(in->list[i].name, name)) return in->list[i].address;
    return 0;
}

#endif
