/*
 * field_advice.h
 *		What is reported to those who map columns to fields.
 */
#ifndef KAPTURE_FIELD_ADVICE_H
#define KAPTURE_FIELD_ADVICE_H

#include "postgres.h"

#include "utils/relcache.h"

extern void kapture_advice_mapped(Relation rel, const char *field, const char *column);
extern void kapture_advice_computed(const char *field, Oid type);
extern char *kapture_advice_no_column(Relation rel, const char *field, const char *column);

#endif							/* KAPTURE_FIELD_ADVICE_H */
