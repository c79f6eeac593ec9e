/* Error: the first failure, in words. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>

void error_set(Error *e, ErrorCode code, const char *format, ...) {
    if (e->code != FINE) return;
    va_list args;
    va_start(args, format);
    vsnprintf(e->message, sizeof e->message, format, args);
    va_end(args);
    e->code = code;
}
