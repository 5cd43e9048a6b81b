// SPDX-License-Identifier: Apache-2.0
/* What PHP's own headers say of what runtimes/php/layout.py says: one line of a name and a number each. */
#include <stddef.h>
#include <stdio.h>
#include "php.h"
#include "zend_compile.h"
#include "zend_generators.h"
#include "zend_globals.h"
#include "zend_modules.h"

#define SAY(name, value) printf("%s %zu\n", name, (size_t)(value))

int main(void)
{
	SAY("api", ZEND_MODULE_API_NO);
	SAY("current_execute_data", offsetof(zend_executor_globals, current_execute_data));
	SAY("before_exception", offsetof(zend_executor_globals, opline_before_exception));
	SAY("op_array_opcodes", offsetof(zend_op_array, opcodes));
	SAY("op_array_file", offsetof(zend_op_array, filename));
	SAY("line_start", offsetof(zend_op_array, line_start) - offsetof(zend_op_array, filename));
	SAY("line_end", offsetof(zend_op_array, line_end) - offsetof(zend_op_array, filename));
	SAY("generator_frame", offsetof(zend_generator, execute_data));
	SAY("generator_parent", offsetof(zend_generator, node.parent));
#ifdef ZEND_FRAMELESS_ICALL_0
	SAY("frameless", ZEND_FRAMELESS_ICALL_0);
#endif
	SAY("opline", offsetof(zend_execute_data, opline));
	SAY("func", offsetof(zend_execute_data, func));
	SAY("this", offsetof(zend_execute_data, This.value));
	SAY("this_type", offsetof(zend_execute_data, This.u1.type_info));
	SAY("previous", offsetof(zend_execute_data, prev_execute_data));
	SAY("FUNCTION_NAME", offsetof(zend_function, common.function_name));
	SAY("FUNCTION_CLASS", offsetof(zend_function, common.scope));
	SAY("CLASS_NAME", offsetof(zend_class_entry, name));
	SAY("STRING_HASH", offsetof(zend_string, h));
	SAY("STRING_LENGTH", offsetof(zend_string, len));
	SAY("STRING_TEXT", offsetof(zend_string, val));
	SAY("OBJECT_CLASS", offsetof(zend_object, ce));
	SAY("EXTENDED", offsetof(zend_op, extended_value));
	SAY("LINE", offsetof(zend_op, lineno));
	SAY("OPCODE", offsetof(zend_op, opcode));
	SAY("OBJECT_TYPE", IS_OBJECT);
	SAY("CALL_TOP", ZEND_CALL_TOP);
	SAY("HANDLE_EXCEPTION", ZEND_HANDLE_EXCEPTION);
	SAY("INTERNAL", ZEND_INTERNAL_FUNCTION);
	SAY("USER", ZEND_USER_FUNCTION);
	SAY("EVAL", ZEND_EVAL_CODE);
	return 0;
}
