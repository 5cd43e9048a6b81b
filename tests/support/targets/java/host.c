// SPDX-License-Identifier: Apache-2.0
/*
 * A program with a JVM in it: LIBJVM CLASSPATH CLASS ARGUMENT... It calls the class's main in a thread of its own, and gives the
 * class, where it has it, the native method `through`, which calls `back` of the class.
 * Functions of JNI by their places in its table (Java Native Interface Specification, chapter 4), so that no header is needed.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void *(**env_t)();
struct option {
	char *text;
	void *more;
};
struct arguments {
	int version, count;
	struct option *options;
	char ignore;
};
struct method {
	const char *name, *signature;
	void *code;
};

static int (*create)(void **, env_t **, struct arguments *);
static char **words;
static int count;
static void *class, *back;

static void through(env_t *env, void *of, int levels)
{
	((void (*)(env_t *, void *, void *, ...))(*env)[141])(env, of, back, levels); /* CallStaticVoidMethod */
}

static void *run(void *unused)
{
	char path[4096];
	struct option option = { path, 0 };
	struct arguments arguments = { 0x00010008, 1, &option, 0 };
	struct method methods[] = { { "through", "(I)V", through } };
	void *vm, *main_method, *array;
	env_t *env;

	snprintf(path, sizeof(path), "-Djava.class.path=%s", words[2]);
	if (create(&vm, &env, &arguments))
		exit(3);
	class = (*env)[6](env, words[3]); /* FindClass */
	if (!class)
		exit(4);
	back = (*env)[113](env, class, "back", "(I)V"); /* GetStaticMethodID */
	(*env)[17](env); /* ExceptionClear */
	if (back)
		(*env)[215](env, class, methods, 1); /* RegisterNatives */
	main_method = (*env)[113](env, class, "main", "([Ljava/lang/String;)V");
	array = (*env)[172](env, count - 4, (*env)[6](env, "java/lang/String"), (void *)0); /* NewObjectArray */
	for (int i = 4; i < count; i++)
		(*env)[174](env, array, i - 4, (*env)[167](env, words[i])); /* SetObjectArrayElement, NewStringUTF */
	(*env)[141](env, class, main_method, array);
	(*env)[16](env); /* ExceptionDescribe */
	fflush(stdout);
	_Exit(0);
}

int main(int argc, char **argv)
{
	pthread_attr_t attributes;
	pthread_t thread;
	void *library = dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL);

	if (!library) {
		fprintf(stderr, "%s\n", dlerror());
		return 2;
	}
	create = dlsym(library, "JNI_CreateJavaVM");
	words = argv;
	count = argc;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 8 << 20);
	pthread_create(&thread, &attributes, run, 0);
	pthread_join(thread, 0);
	return 0;
}
