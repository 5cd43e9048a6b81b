/* SPDX-License-Identifier: Apache-2.0 */
/* For a program in Rust. */
#include "said.h"

void said_start(char **arguments)
{
	said_begin(arguments);
}

void said_end(void)
{
	said_flush();
}
