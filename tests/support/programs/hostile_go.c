// SPDX-License-Identifier: Apache-2.0
/*
 * hostile_go SEED ROUNDS: bears a Go program's list of modules and table of functions, and has made-up memory where Go has
 * its goroutine: words that lead to each other, to themselves, to this very stack, into code and to nothing. Before each of
 * its calls, another, and another frame pointer.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define WORDS 4096

static __thread uint64_t g = 1; /* the only variable of the thread: it lies where Go has its own */
static uint64_t arena[WORDS], state;

static uint64_t next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static uint64_t word(void)
{
	uint64_t here = (uint64_t)__builtin_frame_address(0);

	switch (next() % 12) {
	case 0:
		return next();
	case 1:
		return 0;
	case 2:
		return ~0ull - next() % 4096;
	case 3:
	case 4:
	case 5:
		return here - 1024 + next() % 256 * 8;
	case 6:
	case 7:
		return 0x401000 + next() % 0x2000;
	case 8:
		return g;
	default:
		return (uint64_t)&arena[next() % (WORDS - 64)];
	}
}

__attribute__((noinline)) static long asks(uint64_t frame, uint64_t r12, struct stat *found)
{
	long result;

	asm volatile("push %%rbp\n\tpush %%r12\n\tmov %[frame], %%rbp\n\tmov %[r12], %%r12\n\tsyscall\n\t"
		     "pop %%r12\n\tpop %%rbp"
		     : "=a"(result)
		     : "a"(SYS_stat), "D"("/dev"), "S"(found), [frame] "r"(frame), [r12] "r"(r12)
		     : "rcx", "r11", "memory");
	return result;
}

int main(int argc, char **argv)
{
	long rounds = argc > 2 ? atol(argv[2]) : 0;
	struct stat found;

	state = argc > 1 ? strtoull(argv[1], NULL, 10) | 1 : 1;
	puts("ready");
	fflush(stdout);
	getchar();
	while (rounds--) {
		uint64_t *goroutine = &arena[next() % (WORDS - 64)];

		g = next() % 16 ? (uint64_t)goroutine : word();
		for (int at = 0; at < WORDS; at++)
			arena[at] = word();
		if (next() % 4) { /* so that there is a way in */
			goroutine[0] = next() % 3 ? (uint64_t)&found - 4096 : 0;
			goroutine[1] = next() % 3 ? (uint64_t)&found + 4096 : ~0ull;
		}
		asks(word(), word(), &found);
	}
	return 0;
}
