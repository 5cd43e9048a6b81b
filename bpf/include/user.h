/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Memory of the traced process, of the thread that runs. Never written, never faulted in.
 *
 * KS_USER_PAGES (the kernel was asked, see probes/direct.py): by the process's page tables to where the kernel has the same
 * page mapped for itself, then by plain loads; the last pages are kept. The helper takes 31 to 46 ns a read; this 5, and 1.5
 * a word. Threads may unmap or move a page at any time: the table's entry is read again after the words, and only where it
 * still is what it was do they count. Whatever is odd goes the helper's way: a page that is not present, or is no ordinary
 * memory, what lies in two pages, and the first read of a page. docs/design/reading-memory.md says why this is right.
 */
#pragma once
#include "ks.h"

#if KS_USER_PAGES
#define KS_PTE_PRESENT_USER 5
#define KS_PTE_HUGE 0x80
#define KS_PTE_SPECIAL 0x200 /* no memory that the kernel counts: a device's */
#define KS_PTE_TOUCHED 0x60 /* accessed, dirty: the processor sets them at any time */
#define KS_PTE_FRAME 0x000ffffffffff000ULL

static __always_inline u64 ks_entry(u64 table, u64 address, u32 shift)
{
	return table + ((address >> shift) & 511) * 8;
}

static __always_inline u64 ks_page_key(struct ks_scratch *s, u64 address)
{
	return address >> 12 | (u64)s->op.tgid << 36;
}

static __always_inline struct ks_page *ks_page_of(struct ks_scratch *s, u64 address)
{
	u64 slot = ((address >> 12) * 0x9E3779B97F4A7C15ULL) >> 55;

	KS_OPAQUE(slot);
	return &s->pages[slot & (KS_PAGES - 1)];
}

/*
 * Finds the page of an address. One test for all levels: what a level that is not there leads to is some other memory, or
 * none, and does not count.
 */
static __always_inline void ks_find_page(struct ks_scratch *s, u64 address)
{
	u64 mm = KS_KREAD(u64, ks_current_task() + KS_TASK_MM), size = 4096, entry, all, where;
	struct ks_page *page = ks_page_of(s, address);

	all = entry = KS_KREAD(u64, ks_entry(KS_KREAD(u64, mm + KS_MM_PGD), address, 39));
	entry = KS_KREAD(u64, ks_entry(KS_DIRECT_MAP + (entry & KS_PTE_FRAME), address, 30));
	all &= entry & KS_PTE_HUGE ? 0 : entry; /* a page of 1 GiB: the helper's */
	where = ks_entry(KS_DIRECT_MAP + (entry & KS_PTE_FRAME), address, 21);
	entry = KS_KREAD(u64, where);
	if (entry & KS_PTE_HUGE) {
		size = 1 << 21;
	} else {
		all &= entry;
		where = ks_entry(KS_DIRECT_MAP + (entry & KS_PTE_FRAME), address, 12);
		entry = KS_KREAD(u64, where);
		all &= entry & KS_PTE_SPECIAL ? 0 : entry;
	}
	all &= entry;
	page->key = 0;
	if (((all & KS_PTE_PRESENT_USER) | address >> 47 << 3) != KS_PTE_PRESENT_USER)
		return;
	page->at = KS_DIRECT_MAP + (entry & KS_PTE_FRAME & -size) + (address & (size - 1) & ~4095ULL);
	page->entry = entry | KS_PTE_TOUCHED;
	page->where = where;
	page->space = s->space;
	page->key = ks_page_key(s, address);
}

/*
 * Where the kernel has `bytes` at an address; 0: not to be had this way, or not yet: its page is found by the next
 * ks_user_turn. *page: to be asked afterwards if it still is.
 */
static __always_inline u64 ks_user_at(struct ks_scratch *s, struct ks_page **page, u64 address, u32 bytes)
{
	struct ks_page *p = ks_page_of(s, address);

	*page = p;
	if (KS_LOAD(p->key) != ks_page_key(s, address) || KS_LOAD(p->space) != s->space) {
		s->page_wanted = address;
		return 0;
	}
	return (address & 4095) > 4096 - bytes ? 0 : KS_LOAD(p->at) + (address & 4095);
}

static __always_inline int ks_user_still(struct ks_page *page)
{
	if ((KS_KREAD(u64, KS_LOAD(page->where)) | KS_PTE_TOUCHED) == KS_LOAD(page->entry))
		return 1;
	page->key = 0;
	return 0;
}
#endif

/* Before the first read of a walk. */
static __always_inline void ks_user_begin(struct ks_scratch *s)
{
	s->space = ks_hash2(s->proc_start, KS_KREAD(u64, ks_current_task() + KS_TASK_MM));
}

/* Finds the page that was wanted last: one place for all of a program's reads, whose text each would have else. */
static __always_inline void ks_user_turn(struct ks_scratch *s)
{
#if KS_USER_PAGES
	u64 address = KS_LOAD(s->page_wanted);

	if (address) {
		s->page_wanted = 0;
		ks_find_page(s, address);
	}
#endif
}

/* Copies `count` words, a constant; 0 where all could be read. */
static __always_inline int ks_user_words(struct ks_scratch *s, u64 *to, u32 count, u64 address)
{
#if KS_USER_PAGES
	struct ks_page *page;
	u64 from = ks_user_at(s, &page, address, count * 8);

	if (from) {
#pragma unroll
		for (u32 i = 0; i < count; i++)
			to[i] = KS_KREAD(u64, from + i * 8);
		if (ks_user_still(page))
			return 0;
	}
#endif
	return ks_read_user(to, count * 8, (void *)address);
}

/*
 * A hash of 128 bytes at the most, the last word filled up with zeros; what cannot be read is 0. v: 16 words of room. In four
 * lanes, since a multiplication waits for the one before.
 */
static __always_inline u64 ks_user_hash(struct ks_scratch *s, u64 address, u32 bytes, u64 *v)
{
	u64 lanes[4] = {}, word, from = 0;
#if KS_USER_PAGES
	struct ks_page *page;

	from = ks_user_at(s, &page, address, (bytes + 7) & ~7U);
#endif
	if (!from)
		ks_read_user(v, bytes < 128 ? bytes & 127 : 128, (void *)address);
#pragma clang loop unroll(disable)
	for (u32 at = 0; at < 128; at += 32) {
		u32 row = at / 8;

		KS_OPAQUE(row);
		row &= 12;
#pragma unroll
		for (u32 i = 0; i < 4; i++) {
			u32 left = bytes - at - i * 8;

			if (at + i * 8 >= bytes)
				break;
#if KS_USER_PAGES
			word = from ? KS_KREAD(u64, from + at + i * 8) : v[row + i];
#else
			word = v[row + i];
#endif
			if (left < 8)
				word &= (1ULL << left * 8) - 1;
			lanes[i] = ks_mix(lanes[i], word);
		}
	}
#if KS_USER_PAGES
	if (from && !ks_user_still(page))
		return 0;
#endif
	return ks_mix(ks_mix(ks_mix(lanes[0], lanes[1]), lanes[2]), lanes[3]);
}

/* A word; 0 where it cannot be read. */
static __always_inline u64 ks_user_word(struct ks_scratch *s, u64 address)
{
	u64 word;

#if KS_USER_PAGES
	struct ks_page *page;
	u64 from = ks_user_at(s, &page, address, 8);

	if (from) {
		word = KS_KREAD(u64, from);
		if (ks_user_still(page))
			return word;
	}
#endif
	ks_read_user(&word, 8, (void *)address);
	return word;
}
