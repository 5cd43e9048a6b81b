/* SPDX-License-Identifier: Apache-2.0 */
/* Says where each of its reads is done: glibc's own walk (backtrace(3), libgcc's unwinder), just before it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SAID_FRAMES 120
#define SAID_WORDS (1 << 21)

extern char __ehdr_start[];
static int said_fd;
static FILE *said_out;
static uintptr_t said_words[SAID_WORDS];
static size_t said_used;
static int said_number;
static pthread_mutex_t said_lock = PTHREAD_MUTEX_INITIALIZER;

static inline void said_write(const uintptr_t *words)
{
	fprintf(said_out, "%d", (int)words[0]);
	for (uintptr_t i = 0; i < words[1]; i++) {
		void *at = (void *)words[2 + i];
		Dl_info info;

		if (dladdr(at, &info) && info.dli_fname)
			fprintf(said_out, " %s:%lx", info.dli_fname, (char *)at - (char *)info.dli_fbase);
		else
			fprintf(said_out, " :%lx", (char *)at - __ehdr_start);
	}
	fputc('\n', said_out);
}

/* Reads nothing, of a number of bytes that nobody else reads. */
__attribute__((noinline)) void said_read(void)
{
	static __thread void *frames[SAID_FRAMES];
	static char nothing[1 << 20];
	uintptr_t words[SAID_FRAMES + 2];
	int count = backtrace(frames, SAID_FRAMES), number;

	pthread_mutex_lock(&said_lock);
	words[0] = number = ++said_number;
	words[1] = count;
	memcpy(words + 2, frames, count * sizeof(*frames));
	if (said_used + count + 2 > SAID_WORDS)
		abort();
	memcpy(said_words + said_used, words, (count + 2) * sizeof(*words));
	said_used += count + 2;
	pthread_mutex_unlock(&said_lock);
	if (read(said_fd, nothing, number) != 0)
		abort();
	asm volatile("" ::: "memory");
}

/* Of the code that is going to be unloaded, too: it is to be called before. */
static void said_flush(void)
{
	for (size_t at = 0; at < said_used; at += said_words[at + 1] + 2)
		said_write(said_words + at);
	said_used = 0;
	fflush(said_out);
}

/* The file that is read, and the one to write to; ready when a line has come. */
static void said_begin(char **arguments)
{
	char line[8];
	void *frame;

	said_fd = open(arguments[1], O_RDONLY);
	said_out = fopen(arguments[2], "w");
	if (said_fd < 0 || !said_out)
		abort();
	backtrace(&frame, 1); /* loads what it needs */
	puts("ready");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		abort();
}
