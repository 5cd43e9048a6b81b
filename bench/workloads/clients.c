// SPDX-License-Identifier: Apache-2.0
/*
 * Clients of a web application on 127.0.0.1, in one thread: clients PORT CONNECTIONS
 *
 * Prints "ready". Then for each line of input:
 *   rate SECONDS PER_SECOND   an open loop: a request is due each 1/PER_SECOND s, whatever became of those before; its latency is
 *                             counted from when it was due, so that one that waits for a connection has waited
 *   full SECONDS              a closed loop: every connection asks again as soon as it is answered
 * and prints: requests answered, those with another status than 200, p50 and p99 of latencies in ns, wall time in ns.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MOST_CONNECTIONS 256
#define MOST_REQUESTS (1 << 21)
#define ANSWER 65536

struct connection {
	int fd, busy;
	size_t length;
	long long due;
	char answer[ANSWER];
};

static struct connection connections[MOST_CONNECTIONS];
static long long latencies[MOST_REQUESTS];
static int count, port, poller, timer;
static long long answered, failed, sent;

static long long now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void open_one(struct connection *one)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = one };
	int yes = 1;

	one->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (one->fd < 0 || connect(one->fd, (struct sockaddr *)&to, sizeof(to)))
		die("connect");
	setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	if (epoll_ctl(poller, EPOLL_CTL_ADD, one->fd, &event))
		die("epoll_ctl");
	one->busy = 0;
}

static void ask(struct connection *one, long long due)
{
	char request[128];
	int length = snprintf(request, sizeof(request), "GET /page/%lld HTTP/1.1\r\nHost: shop\r\n\r\n", sent++ % 100);

	one->busy = 1;
	one->length = 0;
	one->due = due;
	if (send(one->fd, request, length, MSG_NOSIGNAL) != length)
		die("send");
}

/* Whether the answer is complete; then it is counted. */
static int take(struct connection *one)
{
	ssize_t got = recv(one->fd, one->answer + one->length, ANSWER - 1 - one->length, 0);
	char *end, *length;

	if (got <= 0)
		die("recv");
	one->length += got;
	one->answer[one->length] = 0;
	end = strstr(one->answer, "\r\n\r\n");
	if (!end)
		return 0;
	length = strcasestr(one->answer, "content-length:");
	if (!length || length > end) {
		fprintf(stderr, "an answer without its length\n");
		exit(1);
	}
	if (one->length < (size_t)(end + 4 - one->answer) + strtoul(length + 15, 0, 10))
		return 0;
	if (strncmp(one->answer, "HTTP/1.1 200", 12))
		failed++;
	if (answered < MOST_REQUESTS)
		latencies[answered++] = now() - one->due;
	one->busy = 0;
	return 1;
}

static int compare(const void *a, const void *b)
{
	long long x = *(const long long *)a, y = *(const long long *)b;

	return (x > y) - (x < y);
}

static void run(double seconds, double per_second)
{
	long long began = now(), end = began + seconds * 1e9, next = began, step = per_second ? 1e9 / per_second : 0;
	struct epoll_event events[64];
	struct itimerspec every = { { 0, step }, { 0, 1 } }, never = { 0 };
	int busy = 0;

	answered = failed = 0;
	if (step)
		timerfd_settime(timer, 0, &every, 0);
	for (;;) {
		long long at = now();

		for (int i = 0; i < count && at < end && (!step || next <= at); i++) {
			if (connections[i].busy)
				continue;
			ask(&connections[i], step ? next : at);
			next += step;
			busy++;
		}
		if (at >= end && !busy)
			break;
		int found = epoll_wait(poller, events, 64, 1000);

		for (int i = 0; i < found; i++) {
			if (!events[i].data.ptr) {
				unsigned long long ticks;

				if (read(timer, &ticks, sizeof(ticks)) < 0 && errno != EAGAIN)
					die("timerfd");
			} else if (take(events[i].data.ptr)) {
				busy--;
			}
		}
	}
	timerfd_settime(timer, 0, &never, 0);
	long long wall = now() - began;

	qsort(latencies, answered, sizeof(*latencies), compare);
	printf("%lld %lld %lld %lld %lld\n", answered, failed, answered ? latencies[answered / 2] : 0,
	       answered ? latencies[answered * 99 / 100] : 0, wall);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct epoll_event tick = { .events = EPOLLIN };
	char line[128];
	double seconds, per_second;

	if (argc != 3 || (count = atoi(argv[2])) < 1 || count > MOST_CONNECTIONS) {
		fprintf(stderr, "clients PORT CONNECTIONS\n");
		return 2;
	}
	port = atoi(argv[1]);
	poller = epoll_create1(EPOLL_CLOEXEC);
	timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (poller < 0 || timer < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, timer, &tick))
		die("epoll");
	for (int i = 0; i < count; i++)
		open_one(&connections[i]);
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "rate %lf %lf", &seconds, &per_second) == 2)
			run(seconds, per_second);
		else if (sscanf(line, "full %lf", &seconds) == 1)
			run(seconds, 0);
		else
			printf("? %s", line);
		fflush(stdout);
	}
	return 0;
}
