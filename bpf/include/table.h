/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What BPF_TABLE and its kin of bcc's declare, with two words in front.
 *
 * bcc makes of each table functions that write and read an element as text. Nobody here calls them, and of elements of a
 * thousand words they take longer to compile than all else. What it reads the types from is a table's first two members;
 * which the key is and which the element, it knows by their names.
 */
#pragma once

#undef BPF_F_TABLE
#define BPF_F_TABLE(kind, key_type, element_type, table, entries, table_flags)                                         \
	struct table##_table_t {                                                                                       \
		u32 in_place_of_key;                                                                                   \
		u32 in_place_of_element;                                                                               \
		key_type key;                                                                                          \
		element_type leaf;                                                                                     \
		element_type *(*lookup)(key_type *);                                                                   \
		int (*update)(key_type *, element_type *);                                                             \
		int (*insert)(key_type *, element_type *);                                                             \
		int (*delete)(key_type *);                                                                             \
		void (*call)(void *, int);                                                                             \
		u32 max_entries;                                                                                       \
		int flags;                                                                                             \
	};                                                                                                             \
	__attribute__((section("maps/" kind))) struct table##_table_t table = {                                        \
		.flags = (table_flags),                                                                                \
		.max_entries = (entries),                                                                              \
	}
