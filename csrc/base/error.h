/* Error: a code and a sentence. The first failure wins; later ones are dropped. */
#pragma once

typedef enum {
    FINE = 0, ERROR_CONFIG, ERROR_SHAPE, ERROR_DATA, ERROR_NAME, ERROR_NONFINITE, ERROR_MEMORY, ERROR_STATE,
    ERROR_CANCELLED
} ErrorCode;

typedef struct {
    ErrorCode code;
    char message[480];
} Error;

/* Keeps the first failure: does nothing when `e` already holds one. */
void error_set(Error *e, ErrorCode code, const char *format, ...) __attribute__((format(printf, 3, 4)));
