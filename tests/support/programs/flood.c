/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flood THREADS CALLS [FILE...]: waits for a byte, then each thread asks for the state of the files in turn (of / without
 * any), CALLS calls in all, as fast as it can; CALLS 0: until it is killed. Says how many calls each thread made.
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
	char byte, line[32];
	int count = argc > 1 ? atoi(argv[1]) : 1;

	calls = argc > 2 ? atol(argv[2]) : 0;
	files = argc > 3 ? argc - 3 : 0;
	paths = argv + 3;
	if (count < 1 || count > 64)
		return 2;
	if (read(0, &byte, 1) != 1)
		return 4;
	for (int i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, flood, NULL))
			return 3;
	for (int i = 0; i < count; i++) {
		void *made;

		pthread_join(threads[i], &made);
		if (write(1, line, snprintf(line, sizeof(line), "%ld\n", (long)made)) < 0)
			return 5;
	}
	return 0;
}
