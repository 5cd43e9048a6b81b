/* SPDX-License-Identifier: Apache-2.0
 * Processes that all call one function as fast as they can, more of them than there are CPUs: each is taken off its CPU at any
 * instruction, our programs' too. Arguments: how many, calls of each. Every value says whose it is and of which call.
 */
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define FN __attribute__((noinline, noclone, noipa))

FN long crowd(long who, long n)
{
	return who * 1000000 + n;
}

int main(int argc, char **argv)
{
	long processes = atol(argv[1]), calls = atol(argv[2]);
	int ok = argc == 3;

	for (long who = 1; who <= processes; who++) {
		if (fork())
			continue;
		for (long n = 0; n < calls; n++)
			ok &= crowd(who, n) == who * 1000000 + n;
		_exit(!ok);
	}
	for (long who = 1, status; who <= processes; who++) {
		int ended;

		status = wait(&ended) > 0 ? ended : 1;
		ok &= !status;
	}
	return !ok;
}
