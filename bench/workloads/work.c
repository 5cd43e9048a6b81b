// SPDX-License-Identifier: Apache-2.0
/*
 * The workloads in C: reads "NAME COUNT [ARGUMENT]" a line, does it, answers "OPERATIONS NANOSECONDS CPU_NANOSECONDS"
 * of the timed part. A name it does not know answers "? name". Plain libc calls, so that a probe on libc's functions sees every one.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long clock_ns(clockid_t which)
{
	struct timespec t;

	clock_gettime(which, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static long now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static void must(long result, const char *what)
{
	if (result < 0) {
		fprintf(stderr, "work: %s: %s\n", what, strerror(errno));
		exit(1);
	}
}

static int null_fd, page_fd, echo_fd = -1, http_fd = -1;
static char folder[2][256]; /* in memory, on disk */
static int ports[3]; /* echo, accept, http */

static int dial(int port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	must(fd, "socket");
	must(connect(fd, (struct sockaddr *)&to, sizeof(to)), "connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

/* A static probe of two ints: the note that <sys/sdt.h> would write, which is not on every machine. */
#define PLACED(first, second)                                                                                          \
	__asm__ volatile("990: nop\n"                                                                                  \
			 ".pushsection .note.stapsdt,\"\",\"note\"\n"                                                  \
			 ".balign 4\n"                                                                                 \
			 ".4byte 992f-991f,994f-993f,3\n"                                                              \
			 "991: .asciz \"stapsdt\"\n"                                                                   \
			 "992: .balign 4\n"                                                                            \
			 "993: .8byte 990b,_.stapsdt.base,0\n"                                                         \
			 ".asciz \"bench\",\"placed\",\"-4@%0 -4@%1\"\n"                                               \
			 "994: .balign 4\n"                                                                            \
			 ".popsection\n"                                                                               \
			 ".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n"                       \
			 ".weak _.stapsdt.base\n"                                                                      \
			 ".hidden _.stapsdt.base\n"                                                                    \
			 "_.stapsdt.base: .space 1\n"                                                                  \
			 ".size _.stapsdt.base,1\n"                                                                    \
			 ".popsection" ::"r"(first),                                                                   \
			 "r"(second))

static __attribute__((noipa, used)) int rate_of(const char *currency)
{
	__asm__ volatile("" ::: "memory");
	return currency[0];
}

/* item * amount + rate_of(currency). As most functions do it calls another, and so begins with a push. It is what cc -O2
 * makes of that in C; written here so that its return has a name, for tools that probe instructions by symbols alone. */
int bench_quote(int item, int amount, const char *currency);
__asm__(".pushsection .text\n"
	".globl bench_quote\n"
	".type bench_quote,@function\n"
	"bench_quote:\n"
	"push %rbx\n"
	"mov %edi,%ebx\n"
	"mov %rdx,%rdi\n"
	"imul %esi,%ebx\n"
	"call rate_of\n"
	"add %ebx,%eax\n"
	"pop %rbx\n"
	".type bench_quote_ret,@function\n"
	"bench_quote_ret:\n"
	"ret\n"
	".size bench_quote_ret,.-bench_quote_ret\n"
	".size bench_quote,.-bench_quote\n"
	".popsection\n");

static long do_function(long count)
{
	volatile int sum = 0;

	for (long i = 0; i < count; i++)
		sum += bench_quote(i, 7, "a currency of some characters");
	return count;
}

static long do_static(long count)
{
	for (long i = 0; i < count; i++)
		PLACED((int)i, 7);
	return count;
}

static long do_getppid(long count)
{
	for (long i = 0; i < count; i++)
		getppid();
	return count;
}

static long do_write1(long count)
{
	for (long i = 0; i < count; i++)
		must(write(null_fd, "x", 1), "write");
	return count;
}

static long do_pread4k(long count)
{
	char page[4096];

	for (long i = 0; i < count; i++)
		must(pread(page_fd, page, sizeof(page), 0), "pread");
	return count;
}

/* One round of a file's life: open, write, fsync, close, open, read, close, unlink. */
static long files_in(const char *where, long count)
{
	char path[300], data[1024] = {1};

	for (long i = 0; i < count; i++) {
		int fd;

		snprintf(path, sizeof(path), "%s/f%ld", where, i % 64);
		must(fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600), "open");
		must(write(fd, data, sizeof(data)), "write");
		must(fsync(fd), "fsync");
		close(fd);
		must(fd = open(path, O_RDONLY), "open");
		must(read(fd, data, sizeof(data)), "read");
		close(fd);
		must(unlink(path), "unlink");
	}
	return count;
}

static long do_files_memory(long count)
{
	return files_in(folder[0], count);
}

static long do_files_disk(long count)
{
	return files_in(folder[1], count);
}

static long do_pingpong(long count)
{
	char message[64] = {1};

	if (echo_fd < 0)
		echo_fd = dial(ports[0]);
	for (long i = 0; i < count; i++) {
		must(send(echo_fd, message, sizeof(message), 0), "send");
		must(recv(echo_fd, message, sizeof(message), MSG_WAITALL), "recv");
	}
	return count;
}

static long do_connect(long count)
{
	char byte;

	for (long i = 0; i < count; i++) {
		int fd = dial(ports[1]);

		must(recv(fd, &byte, 1, 0), "recv"); /* the other end answers and closes: no backlog fills */
		close(fd);
	}
	return count;
}

static long do_http(long count)
{
	static const char request[] = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n";
	char answer[4096];

	if (http_fd < 0)
		http_fd = dial(ports[2]);
	for (long i = 0; i < count; i++) {
		long got = 0;

		must(send(http_fd, request, sizeof(request) - 1, 0), "send");
		do {
			long n = recv(http_fd, answer + got, sizeof(answer) - got, 0);

			must(n > 0 ? n : -1, "recv");
			got += n;
		} while (got < 1024 || !memmem(answer, got, "\r\n\r\n", 4));
	}
	return count;
}

static long do_dd(long count)
{
	char argument[64];
	pid_t child;
	int status;

	snprintf(argument, sizeof(argument), "count=%ld", count);
	child = fork();
	must(child, "fork");
	if (!child) {
		execlp("dd", "dd", "if=/dev/zero", "of=/dev/null", "bs=1", "status=none", argument, (char *)0);
		_exit(127);
	}
	must(waitpid(child, &status, 0), "waitpid");
	must(status ? -1 : 0, "dd");
	return count;
}

static long flood_rate, flood_threads;

/* Writes at a rate, in steps of a quarter of a millisecond; as fast as it can where it falls behind. */
static void *flood(void *each)
{
	long count = (long)each, begin = now_ns(), done = 0, rate = flood_rate / flood_threads;

	while (done < count) {
		long due = (now_ns() - begin) / 1000 * rate / 1000000;

		if (due > count)
			due = count;
		if (due <= done) {
			struct timespec nap = {0, 250000};

			nanosleep(&nap, 0);
			continue;
		}
		for (; done < due; done++)
			must(write(null_fd, "x", 1), "write");
	}
	return 0;
}

static long do_flood(long count)
{
	pthread_t threads[16];
	long each = count / flood_threads;

	for (long i = 0; i < flood_threads; i++)
		pthread_create(&threads[i], 0, flood, (void *)each);
	for (long i = 0; i < flood_threads; i++)
		pthread_join(threads[i], 0);
	return each * flood_threads;
}

static const struct {
	const char *name;
	long (*work)(long count);
} workloads[] = {
	{"getppid", do_getppid},
	{"function", do_function},
	{"returns", do_function}, /* probed there as well */
	{"static", do_static},
	{"write1", do_write1},
	{"pread4k", do_pread4k},
	{"files-memory", do_files_memory},
	{"files-disk", do_files_disk},
	{"pingpong", do_pingpong},
	{"connect", do_connect},
	{"http", do_http},
	{"dd", do_dd},
	{"flood", do_flood},
};

int main(int argc, char **argv)
{
	char line[256], name[64], path[300], page[4096] = {1};

	if (argc != 6) {
		fprintf(stderr, "usage: work MEMORY_FOLDER DISK_FOLDER ECHO_PORT ACCEPT_PORT HTTP_PORT\n");
		return 2;
	}
	snprintf(folder[0], sizeof(folder[0]), "%s", argv[1]);
	snprintf(folder[1], sizeof(folder[1]), "%s", argv[2]);
	for (int i = 0; i < 3; i++)
		ports[i] = atoi(argv[3 + i]);
	must(null_fd = open("/dev/null", O_WRONLY), "/dev/null");
	snprintf(path, sizeof(path), "%s/page", folder[0]);
	must(page_fd = open(path, O_CREAT | O_RDWR, 0600), path);
	must(pwrite(page_fd, page, sizeof(page), 0), path);
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		long count = 0, rate = 0, threads = 1, done = -1, began = 0, cpu = 0;

		if (sscanf(line, "%63s %ld %ld %ld", name, &count, &rate, &threads) < 2)
			continue;
		flood_rate = rate;
		flood_threads = threads < 1 ? 1 : threads > 16 ? 16 : threads;
		for (unsigned i = 0; i < sizeof(workloads) / sizeof(*workloads); i++)
			if (!strcmp(workloads[i].name, name)) {
				began = now_ns();
				cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
				done = workloads[i].work(count);
				cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
				began = now_ns() - began;
			}
		if (done < 0)
			printf("? %s\n", name);
		else
			printf("%ld %ld %ld\n", done, began, cpu);
		fflush(stdout);
	}
	return 0;
}
