<?php
// SPDX-License-Identifier: Apache-2.0
// A page of a web application: with every request its functions are made anew, unless opcache keeps them.

require __DIR__ . "/said.php";

Said::renew($_GET["out"]);

class Controller
{
    private $rows;

    public function __construct()
    {
        $this->rows = array_map(function ($x) {
            return fread(Said::$file, M());
        }, range(1, (int)$_GET["rows"]));
    }

    public function show($view)
    {
        return include $view;
    }

    public static function each(callable $do)
    {
        foreach (self::all() as $x) {
            $do($x);
        }
    }

    private static function all()
    {
        yield from self::some();
        fread(Said::$file, M());
    }

    private static function some()
    {
        yield fread(Said::$file, M());
        yield fread(Said::$file, M());
    }
}

// Which functions there are differs from request to request.
$number = (int)$_GET["number"];
for ($i = 0; $i < $number % 7 + 1; $i++) {
    $name = "dynamic_" . chr(97 + $number % 26) . $i;
    eval("function $name() { return\n fread(Said::\$file, M()); } $name();");
}
$controller = new Controller();
Controller::each(function ($x) {
    fread(Said::$file, M());
});
register_shutdown_function(function () {
    fread(Said::$file, M());
    Said::finish();
});
$controller->show(__DIR__ . "/included.php");
echo json_encode(["pid" => getmypid(), "number" => $number]);
