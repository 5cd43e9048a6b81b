// SPDX-License-Identifier: Apache-2.0
/* A program that embeds PHP: embed LIBRARY SCRIPT ARGUMENT... A thread of its own asks for a file all the while. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static volatile int goes_on = 1;

static void *asks(void *nothing)
{
	struct stat status;

	while (goes_on) {
		stat("/kernelspan-thread", &status);
		usleep(1000);
	}
	return nothing;
}

int main(int argc, char **argv)
{
	void *library = dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL);
	int (*begin)(int, char **) = library ? dlsym(library, "php_embed_init") : NULL;
	int (*eval)(const char *, void *, const char *) = library ? dlsym(library, "zend_eval_string") : NULL;
	void (*end)(void) = library ? dlsym(library, "php_embed_shutdown") : NULL;
	pthread_t thread;
	char code[4096];

	if (!begin || !eval || !end) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	snprintf(code, sizeof(code), "$outermost = '{eval}'; include '%s';", argv[2]);
	pthread_create(&thread, NULL, asks, NULL);
	begin(argc - 2, argv + 2);
	eval(code, NULL, "embedded");
	end();
	goes_on = 0;
	pthread_join(thread, NULL);
	return 0;
}
