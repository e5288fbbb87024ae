/*
 * number.h
 *		Numbers for new entries of the extension's tables.
 */
#ifndef KAPTURE_NUMBER_H
#define KAPTURE_NUMBER_H

#include "postgres.h"

extern int64 kapture_number_next(void);
extern int32 kapture_number_take(Oid relid, const char *is_used, bool negative);

#endif							/* KAPTURE_NUMBER_H */
