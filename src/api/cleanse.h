/*
 * cleanse.h
 *		Turns the bytes of an answer into JSON text that this database can hold.
 */
#ifndef KAPTURE_CLEANSE_H
#define KAPTURE_CLEANSE_H

#include "postgres.h"

#include "lib/stringinfo.h"

#define KAPTURE_MAX_JSONB	0x0FFFFFFF	/* bytes of one jsonb value */

extern char *kapture_cleanse(const char *bytes, size_t len, StringInfo marks, char **why);
extern bool kapture_cleanse_is_needed(const char *bytes, size_t len);
extern bool kapture_cleanse_is_needed_for_jsonb(const char *bytes, size_t len);
extern bool kapture_cleanse_number_fits(const char *number, size_t len);

#endif							/* KAPTURE_CLEANSE_H */
