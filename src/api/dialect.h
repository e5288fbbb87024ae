/*
 * dialect.h
 *		Request bodies in the form that an account wants.
 */
#ifndef KAPTURE_DIALECT_H
#define KAPTURE_DIALECT_H

#include "postgres.h"

#include "utils/jsonb.h"

/*
 * An entry of a server's field names (field -> path) or of its constants (path ->
 * JSON).  Paths are as users write them, all is UTF-8.
 */
typedef struct KaptureDialectEntry
{
	char	   *key;			/* NULL: end of the list */
	char	   *value;
} KaptureDialectEntry;

extern KaptureDialectEntry *kapture_dialect_read_names(Jsonb *json, char **why);
extern KaptureDialectEntry *kapture_dialect_read_constants(Jsonb *json, char **why);
extern char *kapture_dialect_conflict(const KaptureDialectEntry *names, const KaptureDialectEntry *constants);
extern bool kapture_dialect_exists(const char *dialect);
extern const char *kapture_dialect_preset(const char *dialect, const char *option);
extern char *kapture_dialect_body(const KaptureDialectEntry *names, const KaptureDialectEntry *constants,
								  const char *body);
extern char *kapture_dialect_path(const KaptureDialectEntry *names, const char *field);
extern bool kapture_dialect_is_used(const KaptureDialectEntry *names, const char *name);
extern bool kapture_dialect_value(const KaptureDialectEntry *names, Jsonb *object,
								  const char *field, JsonbValue *value);

#endif							/* KAPTURE_DIALECT_H */
