# SPDX-License-Identifier: Apache-2.0
"""However it was started: as a module, from an archive, by its folder; and frames of frozen modules."""

import importlib


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("not_there"):
            read(9, M("frozen"))


def act(context):
    read(9, M(context))
    (lambda: read(9, M(context)))()


act("started")
sys.meta_path.insert(0, Finder())
for turn in range(3):
    try:
        importlib.import_module("not_there_%d" % turn)
    except ImportError:
        act("import")
finish()
