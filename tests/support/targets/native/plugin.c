/* SPDX-License-Identifier: Apache-2.0 */
/* A library that is loaded in another's place: NAME is its functions' name, ROOM how large their frames are. */
#include <alloca.h>
#define JOIN(a, b) a##b
#define NAMED(a, b) JOIN(a, b)
#define NOINLINE __attribute__((noinline))

static volatile int zero;

NOINLINE void NAMED(NAME, _inner)(void (*act)(void), int n)
{
	volatile char room[ROOM];

	room[n] = 1;
#ifdef MOVING
	volatile char *more = alloca(n + 8);

	more[0] = 1;
#endif
	act();
	zero += room[n] & 0;
}

NOINLINE void enter(void (*act)(void), int n)
{
	volatile char room[ROOM / 2];

	room[n] = 1;
	NAMED(NAME, _inner)(act, n);
	zero += room[n] & 0;
}
