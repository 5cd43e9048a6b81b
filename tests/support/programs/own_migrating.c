/* SPDX-License-Identifier: Apache-2.0
 * A coroutine that two threads take turns with, so that each call of a function begins in one of them and returns in the other.
 * Argument: how many calls.
 */
#include <pthread.h>
#include <stdlib.h>
#include <ucontext.h>

#define FN __attribute__((noinline, noclone, noipa))

static ucontext_t coroutine, threads[2];
static volatile int turn, over, wrong;
static long calls;
static char stack[65536];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;

/* Goes on in the other thread; noipa: which one, is looked up anew. */
FN static void yield(void)
{
	swapcontext(&coroutine, &threads[turn]);
}

FN long moves(long n)
{
	yield();
	return n * 1000;
}

static void body(void)
{
	for (long n = 0; n < calls; n++)
		wrong |= moves(n) != n * 1000;
	over = 1;
	yield();
}

static void *run(void *which)
{
	int mine = (int)(long)which;

	pthread_mutex_lock(&lock);
	while (!over) {
		while (turn != mine && !over)
			pthread_cond_wait(&turned, &lock);
		if (over)
			break;
		swapcontext(&threads[mine], &coroutine);
		turn = !mine;
		pthread_cond_broadcast(&turned);
	}
	pthread_mutex_unlock(&lock);
	return 0;
}

int main(int argc, char **argv)
{
	pthread_t each[2];

	calls = atol(argv[argc - 1]);
	getcontext(&coroutine);
	coroutine.uc_stack.ss_sp = stack;
	coroutine.uc_stack.ss_size = sizeof(stack);
	makecontext(&coroutine, body, 0);
	for (long i = 0; i < 2; i++)
		pthread_create(&each[i], 0, run, (void *)i);
	for (int i = 0; i < 2; i++)
		pthread_join(each[i], 0);
	return wrong;
}
