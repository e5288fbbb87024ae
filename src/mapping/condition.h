/*
 * condition.h
 *		Conditions over rows of attached tables that users give as text.
 */
#ifndef KAPTURE_CONDITION_H
#define KAPTURE_CONDITION_H

#include "postgres.h"

extern void kapture_condition_check(const char *argument, const char *condition);
extern void kapture_condition_explain(ErrorData *error, const char *argument, const char *condition, int offset);

#endif							/* KAPTURE_CONDITION_H */
