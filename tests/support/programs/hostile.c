// SPDX-License-Identifier: Apache-2.0
/*
 * hostile SEED ROUNDS: claims to be CPython VERSION, and has made-up memory where an interpreter has its structures:
 * words that lead to each other, to themselves, to nothing, and to this very thread. Before each of its calls, another.
 * Before 3.11 the version is a text, TEXT; from 3.13 on the file has the offsets that such an interpreter publishes, PUBLISHED.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define WORDS 4096

uint64_t _PyRuntime[WORDS] __attribute__((section(".PyRuntime"), visibility("default"))) = {
#ifdef PUBLISHED
#include PUBLISHED
#endif
};
#ifdef TEXT
const char text[] = TEXT;
#else
const unsigned long Py_Version = VERSION;
#endif
uint64_t PyUnicode_Type[64], PyCode_Type[64], PyLong_Type[64], PyDict_Type[64];
static uint64_t arena[WORDS], state;

static uint64_t next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static uint64_t place(void)
{
	return (uint64_t)&arena[next() % (WORDS - 128)];
}

static uint64_t word(void)
{
	switch (next() % 16) {
	case 0:
	case 1:
	case 2:
		return (uint64_t)pthread_self();
	case 3:
		return next(); /* mostly no address at all */
	case 4:
		return next() % 4096;
	case 5:
		return 0;
	case 6:
		return place() + next() % 8;
	case 7:
		return ~0ull - next() % 4096;
	case 8:
		return (uint64_t)(next() % 2 ? PyUnicode_Type : PyCode_Type);
	default:
		return place();
	}
}

int main(int argc, char **argv)
{
	long rounds = argc > 2 ? atol(argv[2]) : 0;
	struct stat found;

	state = argc > 1 ? strtoull(argv[1], NULL, 10) | 1 : 1;
	for (int at = 0; at < WORDS; at++)
		_PyRuntime[at] = place(); /* so that there is always a way in */
	puts("ready");
	fflush(stdout);
	getchar();
	while (rounds--) {
		for (int at = 0; at < WORDS; at++)
			arena[at] = word();
		for (int at = 0; at < WORDS; at += 1 + next() % 64)
			_PyRuntime[at] = place();
		stat("/dev", &found);
	}
	return 0;
}
