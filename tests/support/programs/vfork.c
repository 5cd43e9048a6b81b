/* SPDX-License-Identifier: Apache-2.0 */
/* vfork N PROGRAM: children in turn exit with their number, or exec the program; prints their pids. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int count = argc > 2 ? atoi(argv[1]) : 0;

	for (int i = 0; i < count; i++) {
		pid_t pid = vfork();

		if (pid == 0) {
			if (i % 2)
				execv(argv[2], argv + 2);
			_exit(i);
		}
		waitpid(pid, NULL, 0);
		dprintf(1, "%d\n", pid);
	}
	return 0;
}
