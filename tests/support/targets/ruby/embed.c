// SPDX-License-Identifier: Apache-2.0
/* A program that embeds Ruby: embed LIBRARY SCRIPT ARGUMENT... A thread of its own asks for a file all the while. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static void *asks(void *nothing)
{
	struct stat status;

	for (;;) {
		stat("/kernelspan-thread", &status);
		usleep(1000);
	}
	return nothing;
}

int main(int argc, char **argv)
{
	void *library = dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL);
	int (*setup)(void) = library ? dlsym(library, "ruby_setup") : NULL;
	void *(*options)(int, char **) = library ? dlsym(library, "ruby_options") : NULL;
	int (*run)(void *) = library ? dlsym(library, "ruby_run_node") : NULL;
	void (*stack)(void *) = library ? dlsym(library, "ruby_init_stack") : NULL;
	pthread_t thread;
	void *here;

	if (!setup || !options || !run || !stack) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	stack(&here);
	pthread_create(&thread, NULL, asks, NULL);
	if (setup())
		return 2;
	return run(options(argc - 1, argv + 1));
}
