/*
 * condition.h
 *		Conditions over rows of attached tables that users give as text.
 */
#ifndef KAPTURE_CONDITION_H
#define KAPTURE_CONDITION_H

#include "postgres.h"

extern void kapture_condition_check(const char *argument, const char *condition);

#endif							/* KAPTURE_CONDITION_H */
