<?php
// SPDX-License-Identifier: Apache-2.0
// Functions, closures, classes and files of one shape, made, run once and dropped: their addresses are used again at once.

require __DIR__ . "/said.php";

Said::renew($argv[1]);
$count = (int)$argv[2];
ready();
for ($i = 0; $i < $count; $i++) {
    $name = sprintf("name_%06d", $i);
    $lines = str_repeat("\n", $i % 5);
    (eval("return function () {\n" . $lines . "fread(Said::\$file, M()); };"))();
    (eval("return new class { function $name() {\n" . $lines . "return fread(Said::\$file, M()); } };"))->$name();
    $make = eval("return fn() => function (\$x = '$name') {\n return (function () {\n fread(Said::\$file, M()); })(); };");
    $make()();
    unset($make);
    // A file of one name that is another every time, of the same length.
    $file = Said::$out . ".again.php";
    file_put_contents($file, "<?php\n" . $lines . "\$f = function (\$$name) {\n fread(Said::\$file, M()); };\n\$f(1);");
    include $file;
    unset($f);
    $file = sprintf("%s.%06d.php", Said::$out, $i);
    file_put_contents($file, "<?php\nreturn function () {\n fread(Said::\$file, M()); };");
    (include $file)();
}
file_put_contents(Said::$out . ".again.php", "");
Said::finish();
