/*
 * row_sql.h
 *		The text of statements over the rows of attached tables.
 */
#ifndef KAPTURE_ROW_SQL_H
#define KAPTURE_ROW_SQL_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "base/catalog.h"

/* Statements over rows that are given by their keys. */
typedef enum KaptureRowStatement
{
	KAPTURE_SQL_READ,			/* values, except large ones */
	KAPTURE_SQL_READ_TOGETHER,	/* the same, with a view that is evaluated once for all rows */
	KAPTURE_SQL_MEASURE,		/* values as they are stored */
	KAPTURE_SQL_READ_LARGE,		/* values of any size */
	KAPTURE_SQL_LOCK,
	KAPTURE_SQL_WRITE,
	KAPTURE_SQL_LOOK			/* does the row exist at all? */
} KaptureRowStatement;

StaticAssertDecl(KAPTURE_SQL_LOOK + 1 == KAPTURE_ROW_STATEMENTS, "a plan for each statement");

extern char *kapture_row_relation_name(Oid relid);
extern char *kapture_row_source(const KaptureAttachment *att);
extern char *kapture_row_keys(const KaptureAttachment *att);
extern void kapture_row_append_match(StringInfo sql, const KaptureAttachment *att,
									 const char *prefix, int first);
extern void kapture_row_append_has_id(StringInfo sql, const KaptureAttachment *att, const char *id);
extern bool kapture_row_key_is_exact(const KaptureKeyColumn *key);
extern char *kapture_row_view_sql(const KaptureAttachment *att);
extern char *kapture_row_value_sql(const KaptureAttachment *att, int i);
extern bool kapture_row_may_be_large(const KaptureAttachment *att, int i);
extern char *kapture_row_sql(const KaptureAttachment *att, KaptureRowStatement statement);
extern char *kapture_row_selection(const KaptureAttachment *att, bool without_id, const char *condition);
extern char *kapture_row_list_sql(const KaptureAttachment *att, const char *selection, bool after);
extern char *kapture_row_rekey_sql(const KaptureAttachment *from, const KaptureAttachment *to);

#endif							/* KAPTURE_ROW_SQL_H */
