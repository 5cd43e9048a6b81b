<?php
// SPDX-License-Identifier: Apache-2.0
// Code of a file that another includes.

fread(Said::$file, M());

return array_sum(array_map(function ($x) {
    fread(Said::$file, M());
    return $x;
}, [1]));
