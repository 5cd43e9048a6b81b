// SPDX-License-Identifier: Apache-2.0
/*
 * The other end of the network workloads: echoes, answers a byte to every connection and ends it, serves HTTP. Prints its
 * three ports. One thread and one poll: it runs on the load's core, and nobody traces it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST 256
enum role { ECHO, ACCEPT, HTTP, NONE };

static int listen_any(void)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t size = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&at, size) || listen(fd, 1024) ||
	    getsockname(fd, (struct sockaddr *)&at, &size)) {
		perror("peer");
		_exit(1);
	}
	printf("%d ", ntohs(at.sin_port));
	return fd;
}

int main(void)
{
	static struct pollfd fds[MOST];
	static enum role roles[MOST];
	static char answer[1024], data[65536];
	int count = 3, one = 1;

	signal(SIGPIPE, SIG_IGN);
	memset(answer, 'x', sizeof(answer));
	memcpy(answer, "HTTP/1.1 200 OK\r\nContent-Length: 984\r\n\r\n", 40);
	for (int i = 0; i < 3; i++) {
		fds[i] = (struct pollfd){listen_any(), POLLIN, 0};
		roles[i] = i;
	}
	printf("\n");
	fflush(stdout);
	fds[count] = (struct pollfd){0, POLLIN, 0}; /* standard input's end is ours */
	roles[count++] = NONE;
	while (poll(fds, count, -1) > 0) {
		if (fds[3].revents)
			return 0;
		for (int i = 0; i < 3; i++) {
			int fd;

			if (!fds[i].revents)
				continue;
			fd = accept(fds[i].fd, 0, 0);
			if (fd < 0)
				continue;
			if (roles[i] == ACCEPT || count == MOST) {
				send(fd, "x", 1, 0);
				close(fd);
				continue;
			}
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
			fds[count] = (struct pollfd){fd, POLLIN, 0};
			roles[count++] = roles[i];
		}
		for (int i = 4; i < count; i++) {
			long n;

			if (!fds[i].revents)
				continue;
			n = recv(fds[i].fd, data, sizeof(data), 0);
			if (n <= 0) {
				close(fds[i].fd);
				fds[i] = fds[--count];
				roles[i--] = roles[count];
				continue;
			}
			if (roles[i] == HTTP)
				send(fds[i].fd, answer, sizeof(answer), 0);
			else
				send(fds[i].fd, data, n, 0);
		}
	}
	return 0;
}
