/* SPDX-License-Identifier: Apache-2.0 */
/* A 32-bit program without a library: exits with 0. */
void _start(void)
{
	asm volatile("int $0x80" : : "a"(1), "b"(0));
	__builtin_unreachable();
}
