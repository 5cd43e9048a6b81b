/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Does one thing as fast as it can, or a hundred times a second, and knows how often it has.
 *
 *   busy read|malloc      says "ready"; each line of its input is answered with how often so far:
 *                         "fast", "slow", "stop" (does nothing), "end" (ends)
 *
 * Reads are of /dev/zero, of 1, 2, … 64 bytes in turn.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static long count;
static int zero;

static int once(int reads)
{
	char bytes[64];

	if (reads) {
		if (read(zero, bytes, 1 + count % 64) != 1 + count % 64)
			return 1;
	} else {
		void *volatile place = malloc(1 + count % 64);

		free(place);
	}
	count++;
	return 0;
}

int main(int argc, char **argv)
{
	int reads = argc > 1 && !strcmp(argv[1], "read");
	char line[16] = "stop\n", answer[32];
	struct pollfd input = {.fd = 0, .events = POLLIN};

	zero = open("/dev/zero", O_RDONLY);
	if (write(1, "ready\n", 6) != 6)
		return 1;
	for (;;) {
		int timeout = line[0] == 'f' ? 0 : line[1] == 'l' ? 10 : -1;

		if (poll(&input, 1, timeout) > 0) {
			memset(line, 0, sizeof(line));
			if (read(0, line, sizeof(line) - 1) <= 0 ||
			    write(1, answer, snprintf(answer, sizeof(answer), "%ld\n", count)) < 0)
				return 1;
			if (line[0] == 'e')
				return 0;
			continue;
		}
		for (int i = 0; i < (line[0] == 'f' ? 1000 : 1); i++)
			if (once(reads))
				return 2;
	}
}
