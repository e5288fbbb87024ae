/*
 * unit.h
 *		Checks of the modules that do no I/O, with tables of cases.
 */
#ifndef UNIT_H
#define UNIT_H

#include "postgres.h"

#include "utils/timestamp.h"

extern void unit_ok(bool ok, const char *format,...) pg_attribute_printf(2, 3);
extern void unit_is_int(int64 got, int64 expected, const char *name);
extern void unit_is_text(const char *got, const char *expected, const char *name);
extern void unit_is_time(int64 got, const char *expected, const char *name);
extern Timestamp unit_time(const char *text);

extern void unit_dialect(void);
extern void unit_digest(void);
extern void unit_duration(void);
extern void unit_identity(void);
extern void unit_keys(void);
extern void unit_limiter(void);
extern void unit_local_time(void);
extern void unit_pacing(void);
extern void unit_refusals(void);
extern void unit_reply(void);
extern void unit_request_pool(void);
extern void unit_rules(void);
extern void unit_share(void);
extern void unit_task(void);
extern void unit_url(void);
extern void unit_version(void);
extern void unit_watermark(void);

#endif							/* UNIT_H */
