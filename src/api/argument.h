/*
 * argument.h
 *		Checks of the arguments that SQL functions hand on to Kapture, and
 *		request bodies made of them.
 */
#ifndef KAPTURE_ARGUMENT_H
#define KAPTURE_ARGUMENT_H

#include "postgres.h"

#include "fmgr.h"
#include "storage/lock.h"
#include "utils/jsonb.h"
#include "utils/relcache.h"
#include "utils/timestamp.h"

#include "api/dialect.h"

extern void kapture_argument_check_null(FunctionCallInfo fcinfo, int argno,
										const char *name);
extern void kapture_argument_check_owner(Oid relid);
extern Relation kapture_argument_open(Oid relid, LOCKMODE lockmode, void (*check) (Oid relid));
extern Jsonb *kapture_argument_object(FunctionCallInfo fcinfo, int argno,
									  const char *name);
extern bool kapture_argument_is_given(const JsonbValue *value);
extern void kapture_argument_advise(Jsonb *object, bool searches, const KaptureDialectEntry *names);
extern void kapture_argument_check_criteria(Jsonb *criteria, bool documented);
extern char *kapture_argument_body(Jsonb *object);
extern void kapture_argument_range(FunctionCallInfo fcinfo, Timestamp *start,
								   Timestamp *end);
extern char *kapture_argument_key(FunctionCallInfo fcinfo, int argno);

#endif							/* KAPTURE_ARGUMENT_H */
