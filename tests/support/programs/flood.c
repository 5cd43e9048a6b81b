/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flood THREADS CALLS [FILE...]: each thread opens the files in turn, CALLS calls in all, as fast as it can; without a
 * file it asks for the state of a descriptor. Prints how many calls were made, as one line a thread.
 *
 * CALLS 0: until it is killed.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static long calls;
static int files;
static char **paths;

static void *flood(void *unused)
{
	long made = 0;
	char buffer[256];

	while (calls == 0 || made < calls) {
		syscall(SYS_newfstatat, AT_FDCWD, files ? paths[made % files] : "/", buffer, 0);
		made++;
	}
	return (void *)made;
}

int main(int argc, char **argv)
{
	pthread_t threads[64];
	int count = argc > 1 ? atoi(argv[1]) : 1;

	calls = argc > 2 ? atol(argv[2]) : 0;
	files = argc > 3 ? argc - 3 : 0;
	paths = argv + 3;
	if (count < 1 || count > 64)
		return 2;
	for (int i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, flood, NULL))
			return 3;
	for (int i = 0; i < count; i++) {
		void *made;

		pthread_join(threads[i], &made);
		printf("%ld\n", (long)made);
	}
	return 0;
}
