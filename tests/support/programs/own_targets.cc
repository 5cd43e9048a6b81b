// SPDX-License-Identifier: Apache-2.0
// Functions with mangled names, passed by exceptions that a probe must not stand in the way of.
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#define FN __attribute__((noinline, noclone))

extern "C" FN long thrower(long n)
{
	if (__builtin_expect(n % 3 == 2, 0))
		throw std::runtime_error("third");
	return n * 1000;
}

namespace shop
{
struct Engine {
	FN long quote(long n, const char *who);
	template <typename T> FN T total(T n);
};

long Engine::quote(long n, const char *who)
{
	std::vector<long> room(n + 1); // has a destructor: an exception runs code here
	room[n] = thrower(n);
	return room[n] + (*who ? 0 : 1);
}

template <typename T> T Engine::total(T n)
{
	std::string text(static_cast<size_t>(n) + 30, 'x');
	return n + static_cast<T>(text.size());
}
} // namespace shop

int main(int, char **argv)
{
	long n = std::atol(argv[1]), caught = 0;
	shop::Engine engine;

	for (long i = 0; i < n; i++) {
		try {
			engine.quote(i, "who");
		} catch (const std::exception &) {
			caught++;
		}
		engine.total<int>(static_cast<int>(i));
		engine.total<long>(i);
	}
	std::printf("%ld\n", caught);
}
