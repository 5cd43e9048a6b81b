# SPDX-License-Identifier: Apache-2.0
"""A function whose line table is longer than the kernel copies."""

SPACE = {"__name__": "giant", "read": read, "M": M}
exec(compile("def giant(x):\n " + "x += 1\n " * 20000 + "return read(9, M())", "/giant.py", "exec"), SPACE)

ready()
for turn in range(50):
    SPACE["giant"](1)
finish()
os.read(0, 1)
