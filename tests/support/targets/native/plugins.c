/* SPDX-License-Identifier: Apache-2.0 */
/* Loads one library after another, each into the place of the one before, and reads below its functions. */
#include "said.h"

typedef void enter(void (*)(void), int);
static volatile int zero, ended;

__attribute__((noinline)) static void by_plugin(const char *name, int n)
{
	void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);

	if (!library)
		abort();
	for (int i = 0; i < 4; i++) {
		((enter *)dlsym(library, "enter"))(said_read, n % 16);
		usleep(i == 1 && n % 4 ? 120000 : 100); /* it may be read by then what is mapped */
	}
	said_flush();
	dlclose(library);
	zero += n & 0;
}

static void *beside(void *name)
{
	while (!ended) {
		dlclose(dlopen(name, RTLD_NOW | RTLD_LOCAL));
		usleep(300);
	}
	return 0;
}

int main(int count, char **arguments)
{
	static const char *const names[] = { "./one.so", "./two.so", "./three.so", "./four.so" };
	int rounds = atoi(arguments[3]);
	unsigned seed = 7;
	pthread_t other;

	said_begin(arguments);
	pthread_create(&other, 0, beside, "./five.so");
	for (int i = 0; i < rounds; i++) {
		by_plugin(names[rand_r(&seed) % 4], i);
		usleep(rand_r(&seed) % 3000);
	}
	ended = 1;
	pthread_join(other, 0);
	return zero & count & 0;
}
