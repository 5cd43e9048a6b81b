/* SPDX-License-Identifier: Apache-2.0
 * Functions for probes of one's own, called in every way that can make a call and its return hard to tell: by recursion,
 * jumps out, signals, threads and processes that end inside, other stacks. Prints a line for what a test cannot work out.
 */
#define _GNU_SOURCE
#include <alloca.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define FN __attribute__((noinline, noclone, noipa))
#define OPAQUE(x) __asm__ volatile("" : "+r"(x))

/* A static probe as sys/sdt.h makes them: a nop, and a note that says where it is and where its arguments are. */
#define USDT(name, semaphore, fmt, ...)                                                                                \
	__asm__ volatile("990: nop\n"                                                                                  \
			 ".pushsection .note.stapsdt,\"\",\"note\"\n .balign 4\n"                                      \
			 ".4byte 992f-991f, 994f-993f, 3\n"                                                            \
			 "991: .asciz \"stapsdt\"\n992: .balign 4\n"                                                   \
			 "993: .8byte 990b, _.stapsdt.base, " semaphore "\n"                                          \
			 ".asciz \"shop\"\n .asciz \"" name "\"\n .asciz \"" fmt "\"\n994: .balign 4\n .popsection\n"      \
			 ".ifndef _.stapsdt.base\n"                                                                    \
			 ".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n"                         \
			 ".weak _.stapsdt.base\n .hidden _.stapsdt.base\n_.stapsdt.base: .space 1\n"                    \
			 ".size _.stapsdt.base,1\n .popsection\n.endif\n" ::__VA_ARGS__)
volatile unsigned short shop_order_semaphore __attribute__((section(".probes"), used));

static long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static long inside;

/* --- in order ------------------------------------------------------------------------------------------------------ */

FN long plain(int a, long b, const char *c, unsigned d, short e, signed char f, long seventh, int eighth)
{
	long began = now_ns();

	OPAQUE(a);
	if (a % 10 == 0)
		usleep(200);
	inside = now_ns() - began;
	return a * 3L + b - seventh + eighth + (d > 7) + e + f + (c ? 1 : 0);
}

static FN int hidden(int a)
{
	OPAQUE(a);
	return a + 7;
}

static void in_order(int n)
{
	char text[64];
	long outside, result;

	for (int i = 0; i < n; i++) {
		snprintf(text, sizeof(text), "order %d", i);
		outside = now_ns();
		result = plain(-i, 1L << 40 | i, text, 4000000000U + i, -i, -(i % 100), i * 11L, -i * 2);
		outside = now_ns() - outside;
		printf("plain %d %ld %ld %ld\n", i, inside, outside, result);
	}
	for (int i = 0; i < n; i++)
		hidden(i);
}

/* --- recursion ----------------------------------------------------------------------------------------------------- */

FN long odd(long n);
FN long even(long n)
{
	OPAQUE(n);
	long below = n ? odd(n - 1) : 0;
	OPAQUE(below);
	return n * 1000 + below % 1000;
}

FN long odd(long n)
{
	OPAQUE(n);
	long below = n ? even(n - 1) : 0;
	OPAQUE(below);
	return n * 1000 + below % 1000;
}

/* Ends in another function: its return is not its own, so it takes a uretprobe, of which 64 at once can be open. */
FN long leaf(long n)
{
	OPAQUE(n);
	return n * 1000;
}

FN long deep(long n)
{
	OPAQUE(n);
	if (n) {
		long below = deep(n - 1);
		OPAQUE(below);
		if (below >= 0)
			return n * 1000;
	}
	return leaf(n);
}

/* --- left by a jump ------------------------------------------------------------------------------------------------ */

static jmp_buf out;

FN long jumper(long n, int leaves)
{
	OPAQUE(n);
	if (leaves == 1)
		longjmp(out, 1);
	long below = leaves > 1 ? jumper(n + 1, leaves - 1) : 0;
	OPAQUE(below);
	return n * 1000;
}

static void jumps(int n)
{
	for (volatile int i = 0; i < n; i++) {
		if (!setjmp(out))
			jumper(100 + i, 5); /* five calls that never return */
		jumper(-1 - i, 0); /* at the same places; filtered where it begins */
		jumper(1000 + i, 0);
	}
}

/* --- signals ------------------------------------------------------------------------------------------------------- */

FN long signalled(long n)
{
	OPAQUE(n);
	if (n < 1000)
		raise(SIGUSR1);
	return n * 1000;
}

static volatile int signals;
static sigjmp_buf back;

static void handler(int number)
{
	(void)number;
	int i = signals++;

	signalled(1000 + i);
	if (i % 5 == 4)
		siglongjmp(back, 1); /* out of the handler and of the function it interrupted */
}

static void signals_inside(int n)
{
	stack_t stack = { .ss_sp = malloc(1 << 16), .ss_size = 1 << 16 };
	struct sigaction action = { .sa_handler = handler };

	sigaltstack(&stack, 0);
	for (volatile int i = 0; i < n; i++) {
		action.sa_flags = i % 2 ? SA_ONSTACK : 0;
		sigaction(SIGUSR1, &action, 0);
		if (!sigsetjmp(back, 1))
			signalled(i);
	}
}

/* --- threads ------------------------------------------------------------------------------------------------------- */

FN long threaded(long n, int ends)
{
	OPAQUE(n);
	if (ends)
		pthread_exit(0);
	return n * 1000;
}

static void *thread(void *argument)
{
	long n = (long)argument;

	threaded(n, n % 7 == 3);
	return 0;
}

/* One after another, each with the number of the one before where the kernel lets us: an ended call's thread is back. */
static void threads(int n)
{
	int tid = 0, last = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC), reused = 0;
	char text[16];

	for (long i = 0; i < n; i++) {
		pthread_t made;

		if (last >= 0 && tid) {
			int length = snprintf(text, sizeof(text), "%d", tid - 1);

			if (pwrite(last, text, length, 0) < 0)
				last = -1;
		}
		if (pthread_create(&made, 0, thread, (void *)i))
			abort();
		int given = *(int *)((char *)made + 720); /* glibc's struct pthread: tid; a guess, for the count alone */
		reused += given == tid;
		tid = given;
		pthread_join(made, 0);
	}
	printf("threads reused %d\n", reused);
}

/* --- processes ----------------------------------------------------------------------------------------------------- */

FN long ends_inside(long n, const char *self)
{
	OPAQUE(n);
	if (n % 2)
		_exit(0);
	execl(self, self, "nothing", (char *)0);
	return n * 1000;
}

FN long forks_inside(long n)
{
	OPAQUE(n);
	pid_t pid = n % 2 ? fork() : vfork();

	if (!pid && n % 2 == 0)
		_exit(0);
	return pid ? n * 1000 : -n; /* a forked child returns as well */
}

static void processes(int n, const char *self)
{
	for (long i = 0; i < n; i++) {
		pid_t pid = fork();

		if (!pid) {
			ends_inside(i, self);
			_exit(1);
		}
		waitpid(pid, 0, 0);
	}
	for (long i = 0; i < n; i++) {
		if (forks_inside(i) < 0)
			_exit(0);
		while (waitpid(-1, 0, 0) > 0)
			;
	}
}

/* --- other stacks -------------------------------------------------------------------------------------------------- */

FN long allocates(long n)
{
	char *room = alloca(n * 16 + 16);

	memset(room, 1, n * 16 + 16);
	OPAQUE(room);
	return n * 1000 + room[3] - 1;
}

#define COROUTINES 7
static ucontext_t scheduler, coroutines[COROUTINES];
static int running;

FN long yields(long n)
{
	OPAQUE(n);
	int mine = running;

	for (int i = 0; i < 3; i++)
		swapcontext(&coroutines[mine], &scheduler);
	return n * 1000;
}

static void coroutine(int number)
{
	for (int i = 0; i < 5; i++)
		yields(number * 100 + i);
}

static void stacks(int n)
{
	int left = 1;

	for (long i = 0; i < n; i++)
		allocates(i);
	for (int i = 0; i < COROUTINES; i++) {
		getcontext(&coroutines[i]);
		coroutines[i].uc_stack.ss_sp = malloc(1 << 16);
		coroutines[i].uc_stack.ss_size = 1 << 16;
		coroutines[i].uc_link = &scheduler;
		makecontext(&coroutines[i], (void (*)(void))coroutine, 1, i);
	}
	for (int turn = 0; left && turn < 16; turn++)
		for (running = 0; running < COROUTINES; running++)
			swapcontext(&scheduler, &coroutines[running]);
}

/* --- static probes ------------------------------------------------------------------------------------------------- */

static void static_probes(int n)
{
	for (long i = 0; i < n; i++) {
		int small = -(int)i;
		char text[32];

		snprintf(text, sizeof(text), "item %ld", i);
		if (shop_order_semaphore)
			USDT("order", "shop_order_semaphore", "8@%0 -4@%1 8@%2 4@$77", "r"(i), "r"(small), "r"(text));
		USDT("begin", "0", "8@%0", "r"(i));
		if (i % 3 == 2)
			continue; /* begins and does not end */
		USDT("end", "0", "8@%0", "r"(i));
	}
}

/* --- calls of the kernel ------------------------------------------------------------------------------------------- */

static void system_calls(int n)
{
	for (int i = 0; i < n; i++) {
		errno = 0;
		syscall(SYS_getpriority, i % 2 ? PRIO_PROCESS : 99, 0);
		syscall(SYS_getpgid, i % 3 ? 0 : 0x7fffffff);
	}
}

static void says_semaphore(int number)
{
	(void)number;
	dprintf(1, "semaphore %d\n", shop_order_semaphore);
}

/* Until it is killed. */
static void for_ever(void)
{
	signal(SIGUSR2, says_semaphore);
	printf("ready\n");
	for (long i = 0;; i++) {
		if (shop_order_semaphore)
			USDT("order", "shop_order_semaphore", "8@%0 -4@%1 8@%2 4@$77", "r"(i), "r"((int)-i), "r"("item"));
		hidden(i);
		if (i % 64 == 0)
			usleep(1000);
	}
}

int main(int argc, char **argv)
{
	int n = argc > 2 ? atoi(argv[2]) : 0;
	const char *what = argc > 1 ? argv[1] : "";

	setvbuf(stdout, 0, _IOLBF, 0);
	if (!strcmp(what, "all") || !strcmp(what, "in-order"))
		in_order(n);
	if (!strcmp(what, "all")) {
		for (long i = 0; i < 3; i++)
			even(50);
		deep(100);
		deep(40);
		jumps(n);
		signals_inside(n);
		processes(n, argv[0]);
		stacks(n);
		static_probes(n);
		system_calls(n);
	}
	if (!strcmp(what, "for-ever"))
		for_ever();
	if (!strcmp(what, "threads"))
		threads(n);
	fflush(stdout);
	return 0;
}
