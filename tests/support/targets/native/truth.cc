/* SPDX-License-Identifier: Apache-2.0 */
/* Every kind of call that C++ has besides: held against what libgcc's unwinder says. */
#include "said.h"
#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#define NOINLINE __attribute__((noinline))

static volatile int zero;

namespace shop
{
struct Thing {
	virtual ~Thing()
	{
		said_read();
		zero += 0;
	}
	NOINLINE virtual void act(int n) = 0;
};

struct Book : Thing {
	NOINLINE void act(int n) override
	{
		said_read();
		zero += n & 0;
	}
};

template <typename T> struct Box {
	T value;

	template <typename U> NOINLINE T open(U by)
	{
		said_read();
		return value + by;
	}
};

NOINLINE static void throws(int n)
{
	if (n >= 0)
		throw std::runtime_error("it is so");
}

NOINLINE void unwound(int n)
{
	Book book; /* its destructor runs while the exception is on its way */

	throws(n);
	book.act(n);
}

NOINLINE void caught(int n)
{
	try {
		unwound(n);
	} catch (const std::exception &) {
		said_read();
	}
	zero += n & 0;
}

NOINLINE void again(int n)
{
	try {
		try {
			unwound(n);
		} catch (...) {
			said_read();
			throw;
		}
	} catch (...) {
		said_read();
	}
}
}

NOINLINE static void sorts(int)
{
	std::vector<std::string> names{ "one", "two", "three", "four", "five" };

	std::sort(names.begin(), names.end(), [](const std::string &a, const std::string &b) {
		if (a == "two")
			said_read();
		return a < b;
	});
	zero += 0;
}

NOINLINE static void calls(int n)
{
	std::function<void(int)> act = [n](int m) {
		said_read();
		zero += (n + m) & 0;
	};

	act(n);
	shop::Box<int>{ 1 }.open(n);
	shop::Box<double>{ 1 }.open(2.5);
	std::unique_ptr<shop::Thing> thing(new shop::Book);
	thing->act(n);
}

static void (*const acts[])(int) = { shop::caught, shop::again, sorts, calls };

NOINLINE static void recursive(int depth, int n)
{
	if (depth > 0)
		recursive(depth - 1, n);
	else
		acts[n % 4](n);
	zero += depth & 0;
}

int main(int, char **arguments)
{
	int rounds = atoi(arguments[3]);

	said_begin(arguments);
	std::thread other([rounds] {
		for (int i = 0; i < rounds; i++)
			recursive(i % 20, i);
	});
	for (int i = 0; i < rounds; i++)
		recursive(i % 30, i);
	other.join();
	said_flush();
	return 0;
}
