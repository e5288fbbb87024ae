/*
 * record.h
 *		What arrived: a log of requests, and counters.
 */
#ifndef RECORD_H
#define RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "api.h"
#include "buf.h"

extern void record_connection(bool opened);
extern void record_unasked(void);
extern void record_begin(void);
extern void record_end(void);
extern void record_request(Api api, const Reply *reply, const char *fault, Buf *headers, Buf *body);

extern void record_reset(void);
extern void record_stats(Buf *out, size_t customers);
extern void record_log(Buf *out, int64_t since);

#endif
