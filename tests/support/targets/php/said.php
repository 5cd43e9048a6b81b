<?php
// SPDX-License-Identifier: Apache-2.0
// The beginning of every PHP target, as said.py is of Python's: an operation is fread($file, M()) on one line. M() notes the
// stack of that line, as debug_backtrace has it, and gives a number; the read asks for so many bytes. PHP 7.4 and later.

class Said
{
    public static $file, $out, $token, $said = [], $stacks = [], $number = 0;

    public static function renew($out)
    {
        self::$out = $out;
        self::$token = bin2hex(random_bytes(6));
        self::$said = self::$stacks = [];
        self::$number = 0;
        self::$file = fopen("$out." . self::$token . ".reads", "c+");
        stream_set_read_buffer(self::$file, 0);
    }

    public static function finish()
    {
        $app = [];
        foreach (self::$stacks as $key => $place) {
            foreach (json_decode($key) as $row) {
                $file = preg_replace("/\\(\\d+\\) : eval\\(\\)'d code$/", "", $row[2]);
                $app[$row[2]] = $file !== "[internal function]" && strpos($file, "/vendor/") === false && is_file($file);
            }
        }
        $opcache = function_exists("opcache_get_status") ? opcache_get_status(false) : [];
        $stacks = array_map("json_decode", array_keys(self::$stacks));
        $found = ["pid" => getmypid(), "token" => self::$token, "app" => (object)$app, "stacks" => $stacks, "said" => self::$said];
        $found += ["opcache" => $opcache["opcache_enabled"] ?? false, "jit" => $opcache["jit"]["on"] ?? false];
        $name = self::$out . "." . self::$token;
        file_put_contents($name, json_encode($found, JSON_INVALID_UTF8_SUBSTITUTE));
        rename($name, "$name.json");
    }
}

// What was called with this entry of a backtrace.
function named($entry)
{
    $pseudo = ["include", "include_once", "require", "require_once"];
    if (!isset($entry["class"]) && in_array($entry["function"], $pseudo, true)) {
        return "{include}";
    }
    if (!isset($entry["class"]) && $entry["function"] === "eval") {
        return "{eval}";
    }
    $class = isset($entry["class"]) ? explode("\0", $entry["class"])[0] . "::" : "";
    return $class . $entry["function"];
}

// The number of an operation of the internal function $by on the line that calls this, or so many below it.
function M($context = "", $by = "fread", $below = 0)
{
    $trace = debug_backtrace(DEBUG_BACKTRACE_IGNORE_ARGS);
    $rows = $by === "" ? [] : [["", $by, "[internal function]", null]];
    foreach ($trace as $at => $entry) {
        $name = isset($trace[$at + 1]) ? named($trace[$at + 1]) : $GLOBALS["outermost"] ?? "{main}";
        if (!isset($trace[$at + 1]) && !isset($entry["file"])) {
            break; // called by PHP itself: a destructor, a function for the end
        }
        $rows[] = ["", $name, $entry["file"] ?? "[internal function]", isset($entry["line"]) ? $entry["line"] + ($at ? 0 : $below) : null];
    }
    $key = json_encode($rows, JSON_INVALID_UTF8_SUBSTITUTE);
    $place = Said::$stacks[$key] ?? Said::$stacks[$key] = count(Said::$stacks);
    Said::$said[] = [++Said::$number, $context, $place];
    return Said::$number;
}

function ready()
{
    fwrite(fopen("php://stdout", "w"), "ready\n");
    fread(fopen("php://stdin", "r"), 1);
}
