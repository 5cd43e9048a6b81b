<?php
// SPDX-License-Identifier: Apache-2.0
// Every kind of PHP frame there is, PHP 7.4 and later.

namespace App\Svc;

use function M;

require __DIR__ . "/said.php";

\Said::renew($argv[1]);
$rounds = (int)$argv[2];

function read($n = 0)
{
    fread(\Said::$file, M());
    if ($n) {
        read($n - 1);
        fread(\Said::$file, M());
    }
}

trait Counts
{
    public function count2()
    {
        return fread(\Said::$file, M());
    }

    public static function counted()
    {
        return array_map([static::class, "one"], [1, 2]);
    }
}

abstract class Base
{
    public function __construct()
    {
        fread(\Said::$file, M());
    }

    public static function one($x)
    {
        fread(\Said::$file, M());
        return $x;
    }

    abstract public function find($n);
}

class Repo extends Base implements \ArrayAccess, \IteratorAggregate, \JsonSerializable, \Countable
{
    use Counts;

    public function __construct()
    {
        parent::__construct();
        fread(\Said::$file, M());
    }

    public function find($n)
    {
        if ($n > 0) {
            return $this->find($n - 1);
        }
        return array_map(function ($x) {
            fread(\Said::$file, M());
            return self::deep(
                $x
            );
        }, [1, 2]);
    }

    public static function deep($x)
    {
        $sum = 0;
        foreach (gen($x) as $v) {
            $sum += fread(\Said::$file, M()) === "" ? (int)$v : 0;
        }
        usort($GLOBALS["list"], fn($a, $b) => [fread(\Said::$file, M()), $a <=> $b][1]);
        return $sum;
    }

    public function __get($name)
    {
        fread(\Said::$file, M());
        return $name;
    }

    public function __call($name, $arguments)
    {
        fread(\Said::$file, M());
        return $name;
    }

    public static function __callStatic($name, $arguments)
    {
        fread(\Said::$file, M());
        return $name;
    }

    public function __toString()
    {
        fread(\Said::$file, M());
        return "repo";
    }

    public function __invoke($x)
    {
        fread(\Said::$file, M());
        return $x;
    }

    #[\ReturnTypeWillChange]
    public function offsetExists($o) { fread(\Said::$file, M()); return true; }
    #[\ReturnTypeWillChange]
    public function offsetGet($o) { fread(\Said::$file, M()); return $o; }
    #[\ReturnTypeWillChange]
    public function offsetSet($o, $v) { fread(\Said::$file, M()); }
    #[\ReturnTypeWillChange]
    public function offsetUnset($o) { fread(\Said::$file, M()); }
    #[\ReturnTypeWillChange]
    public function count() { fread(\Said::$file, M()); return 3; }

    #[\ReturnTypeWillChange]
    public function getIterator()
    {
        fread(\Said::$file, M());
        yield fread(\Said::$file, M());
        return 4;
    }

    #[\ReturnTypeWillChange]
    public function jsonSerialize()
    {
        fread(\Said::$file, M());
        return 1;
    }

    public function __destruct()
    {
        fread(\Said::$file, M());
    }
}

function gen($x)
{
    fread(\Said::$file, M());
    $got = yield fread(\Said::$file, M());
    yield from gen2($x);
    try {
        yield 3;
    } finally {
        fread(\Said::$file, M());
    }
}

function gen2($x)
{
    yield from
        gen3($x);
    fread(\Said::$file, M());
    yield from new \ArrayIterator([fread(\Said::$file, M()), 2]);
}

function gen3($x)
{
    $r = include __DIR__ . "/included.php";
    fread(\Said::$file, M());
    yield $r;
    fread(\Said::$file, M());
}

function throwing($n)
{
    $guard = new Repo();
    if ($n) {
        throw new \RuntimeException("no");
    }
    return $guard;
}

function made($round)
{
    $function = "f_" . $round . "_" . bin2hex(random_bytes(4));
    eval("namespace Made;\n\nfunction $function() {\n  fread(\\Said::\$file, \\M()); }\n fread(\\Said::\$file, \\M());\n$function();");
    $closure = eval("return function () use (\$function) {\n\n return fread(\\Said::\$file, \\M()); };");
    $closure();
    $bound = \Closure::bind($closure, new Repo(), Repo::class);
    $bound();
    ($bound->bindTo(null))();
    unset($closure, $bound);
    $object = new class {
        public function run()
        {
            return fread(\Said::$file, M());
        }
    };
    $object->run();
    \Closure::fromCallable([$object, "run"])();
    call_user_func_array([$object, "run"], []);
    $file = \Said::$out . "." . $round . ".php";
    file_put_contents($file, "<?php\nfunction in_$function() {\n" . str_repeat("\n", $round) . "fread(Said::\$file, M()); }\nin_$function();\n");
    include $file;
    (new \ReflectionFunction("in_$function"))->invoke();
    ob_start(function ($text) {
        fread(\Said::$file, M());
        return $text;
    });
    ob_end_clean();
}

function fibers()
{
    if (!class_exists("Fiber")) {
        return;
    }
    $make = fn($name) => new \Fiber(function () use ($name) {
        fread(\Said::$file, M());
        for ($i = 0; $i < 3; $i++) {
            \Fiber::suspend($i);
            suspended();
        }
    });
    $all = [$make("a"), $make("b")];
    foreach ($all as $fiber) {
        $fiber->start();
    }
    while (!$all[0]->isTerminated()) {
        foreach ($all as $fiber) {
            $fiber->resume();
        }
    }
    fread(\Said::$file, M());
}

function suspended()
{
    fread(\Said::$file, M());
    foreach ((function () {
        yield from inner();
    })() as $x) {
        fread(\Said::$file, M());
    }
}

function inner()
{
    \Fiber::suspend(fread(\Said::$file, M()));
    yield fread(\Said::$file, M());
}

// The number is asked for on another line than the operation's: what that left of its line is not enough.
function apart($n, Repo $repo)
{
    $sum = 0;
    for ($i = 0; $i < $n; $i++) {
        $sum += $i;
        $number = M("", "fread", 2);
        $sum ^= $i * 3;
        $got = fread(\Said::$file, $number);
        $sum += $got === "" ? 1 : 2;
        if ($i % 2) {
            $number = M("", "file_exists", 2);
            $sum++;
            file_exists("/kernelspan-truth/" . \Said::$token . "/$number");
        } else {
            $sum += $repo[$i] + count([$i]);
            $number = M("", "is_dir", 2);
            $sum += strlen("x" . $i);
            is_dir("/kernelspan-truth/" . \Said::$token . "/$number");
        }
    }
    return $sum;
}

function deepest($n)
{
    return $n ? deepest($n - 1) : fread(\Said::$file, M());
}

function one_round($round)
{
    read(3);
    $repo = new Repo();
    $repo->find(2);
    $repo->missing;
    $repo->nothing();
    Repo::anything();
    Repo::counted();
    "$repo";
    $repo(1);
    array_map($repo, [1]);
    $repo["a"] = $repo["b"];
    isset($repo["c"]);
    unset($repo["d"]);
    count($repo);
    json_encode($repo);
    $repo->count2();
    foreach ($repo as $x) {
        fread(\Said::$file, M());
    }
    $generator = gen(1);
    $generator->current();
    $generator->send(2);
    $generator->next();
    unset($generator);
    try {
        throwing(1);
    } catch (\RuntimeException $e) {
        fread(\Said::$file, M());
    } finally {
        fread(\Said::$file, M());
    }
    made($round);
    fibers();
    file_exists("/kernelspan-truth/" . \Said::$token . "/" . M("", "file_exists"));
    preg_replace_callback("/x/", function ($m) {
        return fread(\Said::$file, M());
    }, "axb");
    spl_autoload_register($load = function ($class) {
        fread(\Said::$file, M());
    });
    class_exists("No\\Such$round");
    spl_autoload_unregister($load);
    set_error_handler(function () {
        fread(\Said::$file, M());
        return true;
    });
    trigger_error("nothing");
    $undefined = $GLOBALS["no such"];
    restore_error_handler();
    apart(10, $repo);
    deepest(20);
}

$list = [3, 1, 2];
ready();
for ($round = 0; $round < $rounds; $round++) {
    one_round($round);
    fread(\Said::$file, M());
}
deepest(200);
\Said::finish();
