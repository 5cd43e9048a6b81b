// SPDX-License-Identifier: Apache-2.0
/*
 * A program that is not Python, and runs a script by a libpython that it loads: embeds HOW LIBRARY SCRIPT ARGUMENTS...
 *
 *   main:   as the interpreter's own program would
 *   forked: by a child that it has as soon as the library is there, which it loads when a line has come
 *   states: in a thread, by a thread state that the main thread has made, which looks at files once the script writes into 7
 *
 * -DLINKED: by the one that it is linked with.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef LINKED
extern int Py_BytesMain(int argc, char **argv);
#endif

static void *library;
static char *script;

static void *python(const char *name)
{
	void *found = library ? dlsym(library, name) : NULL;

	if (!found) {
		fprintf(stderr, "%s\n", dlerror());
		exit(2);
	}
	return found;
}

static int run_main(int argc, char **argv)
{
#ifdef LINKED
	return Py_BytesMain(argc, argv);
#else
	return ((int (*)(int, char **))python("Py_BytesMain"))(argc, argv);
#endif
}

static void *run_thread(void *state)
{
	((void (*)(void *))python("PyEval_RestoreThread"))(state);
	((int (*)(FILE *, const char *))python("PyRun_SimpleFile"))(fopen(script, "r"), script);
	((void *(*)(void))python("PyEval_SaveThread"))();
	return NULL;
}

static void *begin(void *done)
{
	((void (*)(int))python("Py_InitializeEx"))(0);
	((void *(*)(void))python("PyEval_SaveThread"))();
	pthread_barrier_wait(done);
	pause(); /* else the next thread would have its place in memory, by which the interpreter tells threads apart */
	return NULL;
}

/* The interpreter is begun by another thread, so that this one has never been in it. */
static int run_states(void)
{
	void *interpreter, *state, *(*make)(void *);
	struct stat found;
	pthread_t thread;
	pthread_barrier_t done;
	int begun[2];
	char byte;

	pthread_barrier_init(&done, NULL, 2);
	pthread_create(&thread, NULL, begin, &done);
	pthread_barrier_wait(&done);
	make = (void *(*)(void *))python("PyThreadState_New");
	interpreter = ((void *(*)(void))python("PyInterpreterState_Main"))();
	make(interpreter);
	state = make(interpreter);
	if (pipe(begun) || dup2(begun[1], 7) < 0)
		return 3;
	pthread_create(&thread, NULL, run_thread, state);
	if (read(begun[0], &byte, 1) != 1)
		return 3;
	while (pthread_tryjoin_np(thread, NULL)) {
		stat("/kernelspan-truth/outside", &found);
		usleep(1000);
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *how = argv[1];
	struct stat found;
	char line[8];
	int status = 0;

	script = argv[3];
	if (!strcmp(how, "forked")) {
		stat("/kernelspan-truth/before", &found);
		if (!fgets(line, sizeof(line), stdin))
			return 3;
	}
#ifndef LINKED
	library = dlopen(argv[2], RTLD_NOW | RTLD_GLOBAL);
#endif
	if (!strcmp(how, "states"))
		return run_states();
	if (!strcmp(how, "forked") && fork()) {
		wait(&status);
		return WEXITSTATUS(status);
	}
	argv[2] = argv[0];
	return run_main(argc - 2, argv + 2);
}
