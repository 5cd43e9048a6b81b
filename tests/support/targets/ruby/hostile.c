// SPDX-License-Identifier: Apache-2.0
/*
 * A program that has Ruby's library, and in place of its structures noise that mostly leads to more of it: hostile LIBRARY ROUNDS.
 * Each round asks for a file that is not there.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORDS 65536
static uint64_t noise[WORDS];
static uint64_t state = 88172645463325252ULL;

static uint64_t next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static uint64_t word(void)
{
	static const uint64_t flags[] = {2, 3, 5, 7, 0x2005, 0x2007, 26 | 6 << 12, 26 | 2 << 12, 0x55550003, 0x11110003, 0x22220001, 0x1002};

	switch (next() % 8) {
	case 0:
		return next();
	case 1:
		return next() % 1024;
	case 2:
		return flags[next() % (sizeof(flags) / sizeof(*flags))];
	default:
		return (uint64_t)&noise[next() % WORDS];
	}
}

int main(int argc, char **argv)
{
	void *library = dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL);
	uint64_t **context = library ? dlsym(library, "ruby_current_ec") : NULL; /* this thread's */
	struct stat status;
	char byte;

	if (!context) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	for (int i = 0; i < WORDS; i++)
		noise[i] = word();
	puts("ready");
	fflush(stdout);
	read(0, &byte, 1);
	for (int round = atoi(argv[2]); round; round--) {
		uint64_t *ec = &noise[next() % (WORDS - 1024)];

		for (int i = 0; i < 64; i++)
			noise[next() % WORDS] = word();
		if (round % 8) { /* else all of it is noise */
			ec[0] = (uint64_t)noise;
			ec[1] = WORDS;
			ec[2] = (uint64_t)&noise[next() % WORDS];
		}
		*context = ec;
		stat("/kernelspan-hostile", &status);
	}
	return 0;
}
