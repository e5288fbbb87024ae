/*
 * condition.h
 *		Conditions over rows of attached tables that users give as text.
 */
#ifndef KAPTURE_CONDITION_H
#define KAPTURE_CONDITION_H

#include "postgres.h"

#include "utils/relcache.h"

extern void kapture_condition_check(const char *argument, const char *condition);
extern char *kapture_condition_sql(Relation rel, const char *condition, const char *alias);
extern void kapture_condition_explain(ErrorData *error, const char *argument);

#endif							/* KAPTURE_CONDITION_H */
