/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls by the 32-bit gate, with numbers that mean something else to a 64-bit caller: none of them is one of those.
 * Arguments are such that each is refused, or changes nothing.
 */
void _start(void)
{
	/* read, write, open, close, lseek, getpid, pipe, brk, setpgid, oldolduname, ustat; there: close, stat, fstat, lstat,
	 * readv, writev, connect, recvfrom, fork, execve, kill */
	static const long numbers[] = {3, 4, 5, 6, 19, 20, 42, 45, 57, 59, 62};

	for (int i = 0; i < 7; i++) {
		for (unsigned n = 0; n < sizeof(numbers) / sizeof(*numbers); n++) {
			long result;

			asm volatile("int $0x80" : "=a"(result) : "a"(numbers[n]), "b"(-1L), "c"(-1L), "d"(-1L) : "memory");
		}
	}
	asm volatile("syscall" : : "a"(231L), "D"(0L));
	__builtin_unreachable();
}
