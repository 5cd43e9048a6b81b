/* SPDX-License-Identifier: Apache-2.0
 * Calls functions with the values at which reading goes wrong: the ends of types, of texts, of pages; addresses of nothing,
 * and of the kernel.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>
#include <fcntl.h>

#define FN __attribute__((noinline, noclone, noipa))
#define OPAQUE(x) __asm__ volatile("" : "+r"(x))

FN uint64_t word(uint64_t v)
{
	OPAQUE(v);
	return v;
}

FN const char *text(int number, const char *s)
{
	OPAQUE(s);
	return s + (number < 0);
}

FN long bytes(int number, const void *data)
{
	OPAQUE(data);
	return number;
}

FN long vector(int number, const struct iovec *data)
{
	OPAQUE(data);
	return number;
}

FN long address(int number, const struct sockaddr *to)
{
	OPAQUE(to);
	return number;
}

/* Two pages, of which the second cannot be read. */
static char *end_of_page(void)
{
	char *at = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	memset(at, 'e', 4096);
	mprotect(at + 4096, 4096, PROT_NONE);
	return at + 4096;
}

int main(int argc, char **argv)
{
	static const uint64_t edges[] = { 0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff,
					  0x100000000, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff };
	static char x[4097];
	char *end = end_of_page(), *absent;
	uint64_t kernel = argc > 1 ? strtoull(argv[1], 0, 16) : 0xffffffff81000000;

	for (unsigned i = 0; i < sizeof(edges) / sizeof(*edges); i++)
		word(edges[i]);

	memset(x, 'x', 4096);
	text(0, "");
	text(1, "a");
	text(2, x + 4096 - 127);
	text(3, x + 4096 - 128); /* the most that is read */
	text(4, x + 4096 - 129);
	text(5, "/etc/ssl/certs/ca.pem");
	end[-4] = 'o', end[-3] = 'n', end[-2] = 'e', end[-1] = 0;
	text(6, end - 4); /* ends where the page does */
	end[-1] = '!';
	text(7, end - 4); /* does not end where the page does */
	text(8, "\xff\xfe\x01 ok \xc3\xa9");
	text(9, 0);
	text(10, (const char *)1);
	text(11, (const char *)kernel);
	absent = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	text(12, absent); /* there, but not in memory */
	text(13, "%s%n${jndi:x}`id`;\n\"'\\");

	bytes(0, "0123456789abcdef");
	bytes(1, "0123456\0""89abcdef");
	bytes(2, end - 16);
	bytes(3, end - 15); /* the last byte cannot be read */
	bytes(4, (const void *)kernel);
	bytes(5, 0);

	struct iovec v = { "vectored", 8 }, none = { 0, 0 }, large = { x, 4096 }, bad = { (void *)kernel, 8 };
	vector(0, &v);
	vector(1, &none);
	vector(2, &large);
	vector(3, &bad);
	vector(4, 0);

	struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons(443) };
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons(65535) }, mapped = six;
	struct sockaddr_un local = { .sun_family = AF_UNIX }, abstract = { .sun_family = AF_UNIX };
	struct sockaddr other = { .sa_family = AF_VSOCK };
	inet_pton(AF_INET, "10.1.2.3", &four.sin_addr);
	inet_pton(AF_INET6, "fd00::1:2", &six.sin6_addr);
	inet_pton(AF_INET6, "::ffff:10.9.8.7", &mapped.sin6_addr);
	memset(local.sun_path, 'u', sizeof(local.sun_path)); /* as long as can be: no NUL */
	memcpy(abstract.sun_path, "\0name", 5);
	address(0, (struct sockaddr *)&four);
	address(1, (struct sockaddr *)&six);
	address(2, (struct sockaddr *)&mapped);
	address(3, (struct sockaddr *)&local);
	address(4, (struct sockaddr *)&abstract);
	address(5, &other);
	address(6, 0);
	address(7, (struct sockaddr *)(end - 1)); /* its family lies in two pages */
	four.sin_family = AF_INET;
	memcpy(end - 16, &four, 16);
	address(8, (struct sockaddr *)(end - 16));
	address(9, (struct sockaddr *)kernel);
	return 0;
}
