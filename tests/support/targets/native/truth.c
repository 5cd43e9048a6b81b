/* SPDX-License-Identifier: Apache-2.0 */
/* Every kind of call that C has: held against what glibc's unwinder says. */
#include "said.h"
#include <alloca.h>
#include <search.h>
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

#define NOINLINE __attribute__((noinline, noclone))

static volatile int zero;
static jmp_buf out;
static ucontext_t outside, inside;
typedef void act(int);
static act *const acts[];

NOINLINE static void bottom(int n)
{
	said_read();
	zero += n & 0;
}

NOINLINE static int recursive(int depth, act *what)
{
	volatile char room[24];

	room[0] = depth;
	if (depth <= 0)
		what(depth);
	else
		recursive(depth - 1, what);
	return room[0];
}

NOINLINE static void with_alloca(int n)
{
	volatile char *room = alloca(16 + (n * 37 & 1023));

	room[0] = 1;
	bottom(n);
	zero += room[0] & 0;
}

NOINLINE static void with_array(int n)
{
	volatile double room[n % 50 + 1];

	room[n % 50] = n;
	with_alloca(n);
	zero += (int)room[0] & 0;
}

NOINLINE static void aligned(int n)
{
	volatile double room[8] __attribute__((aligned(64)));

	room[n & 7] = n;
	bottom(n);
	zero += (int)room[n & 7] & 0;
}

NOINLINE static void large(int n)
{
	volatile char room[100000];

	room[n] = 1;
	bottom(n);
	zero += room[n] & 0;
}

static int compare(const void *one, const void *other)
{
	if (*(const int *)one == 3)
		bottom(1);
	return *(const int *)one - *(const int *)other;
}

NOINLINE static void sorting(int n)
{
	int numbers[12] = { 5, 3, 9, 1, 12, 7, 3, 8, 2, 6, 4, 11 };

	qsort(numbers, 12, sizeof(int), compare);
	zero += numbers[0] & 0;
}

static void visit(const void *node, VISIT which, int depth)
{
	if (which == leaf)
		said_read();
	zero += depth & 0;
}

NOINLINE static void walking(int n)
{
	static int numbers[3] = { 2, 1, 3 };
	void *tree = 0;

	for (int i = 0; i < 3; i++)
		tsearch(numbers + i, &tree, compare);
	twalk(tree, visit);
	for (int i = 0; i < 3; i++)
		tdelete(numbers + i, &tree, compare);
}

static void handler(int number)
{
	bottom(number);
	zero += number & 0;
}

NOINLINE static void signalled(int n)
{
	raise(n & 1 ? SIGUSR1 : SIGUSR2); /* one of them has a stack of its own */
	zero += n & 0;
}

__attribute__((noreturn, noinline)) static void never(int n)
{
	bottom(n);
	longjmp(out, 1);
}

/* The call is the last instruction: it returns to another function. */
NOINLINE static void to_never(int n)
{
	never(n);
}

NOINLINE static void jumping(int n)
{
	if (!setjmp(out))
		to_never(n);
	zero += n & 0;
}

static void coroutine(void)
{
	bottom(1);
	swapcontext(&inside, &outside);
	bottom(2);
}

NOINLINE static void switching(int n)
{
	static char room[1 << 16];

	getcontext(&inside);
	inside.uc_stack.ss_sp = room;
	inside.uc_stack.ss_size = sizeof(room);
	inside.uc_link = &outside;
	makecontext(&inside, coroutine, 0);
	swapcontext(&outside, &inside);
	swapcontext(&outside, &inside);
	zero += n & 0;
}

NOINLINE static void many(int a, int b, int c, int d, int e, int f, int g, int h, int n)
{
	bottom(n);
	zero += (a + b + c + d + e + f + g + h) & 0;
}

NOINLINE static void with_many(int n)
{
	many(1, 2, 3, 4, 5, 6, 7, 8, n);
	zero += n & 0;
}

NOINLINE static void branching(int n)
{
	switch (n % 7) {
	case 0:
		bottom(n);
		break;
	case 1:
		with_array(n);
		break;
	case 2:
		aligned(n);
		break;
	default:
		acts[n % 5](n);
	}
	zero += n & 0;
}

static act *const acts[] = { bottom, with_alloca, with_array, aligned, with_many, sorting, walking,
			     signalled, jumping, switching, large, branching };
#define ACTS (int)(sizeof(acts) / sizeof(*acts))

static void *thread(void *argument)
{
	int rounds = (int)(intptr_t)argument;

	for (int i = 0; i < rounds; i++) /* what jumps, switches or sorts is not for several at once */
		recursive(i % 40, acts[i % 5]);
	return 0;
}

__attribute__((destructor)) static void at_end(void)
{
	said_flush();
}

int main(int count, char **arguments)
{
	int rounds = atoi(arguments[3]);
	stack_t own = { .ss_sp = malloc(1 << 16), .ss_size = 1 << 16 };
	struct sigaction action = { .sa_handler = handler };
	pthread_t threads[2];

	said_begin(arguments);
	sigaltstack(&own, 0);
	sigaction(SIGUSR1, &action, 0);
	action.sa_flags = SA_ONSTACK;
	sigaction(SIGUSR2, &action, 0);
	for (int i = 0; i < 2; i++)
		pthread_create(threads + i, 0, thread, (void *)(intptr_t)rounds);
	for (int i = 0; i < rounds; i++)
		recursive(i % 60, acts[i % ACTS]);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], 0);
	return zero & count & 0;
}
