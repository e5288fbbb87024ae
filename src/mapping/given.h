/*
 * given.h
 *		SQL that users give in arguments.
 */
#ifndef KAPTURE_GIVEN_H
#define KAPTURE_GIVEN_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "base/compat.h"

extern void kapture_given_locate(const char *text);
extern char *kapture_given_deparse(Node *node, List *context, bool prefix);
extern void kapture_given_explain(ErrorData *error, const char *what, const char *hint);
pg_noreturn extern void kapture_given_rethrow(MemoryContext context, const char *what, const char *hint);

#endif							/* KAPTURE_GIVEN_H */
