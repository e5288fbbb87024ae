/*
 * expression.h
 *		Expressions over the rows of attached tables.
 */
#ifndef KAPTURE_EXPRESSION_H
#define KAPTURE_EXPRESSION_H

#include "postgres.h"

#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"
#include "utils/relcache.h"

#include "base/catalog.h"

/* An expression that a user gave. */
typedef struct KaptureGivenExpression
{
	char	   *text;			/* as it is kept */
	bool		reads_all;
	List	   *reads;			/* names of columns (char *) */
	Oid			type;			/* of its value */
} KaptureGivenExpression;

extern KaptureGivenExpression *kapture_expression_take(Relation rel, const char *text, const char *field);
extern char *kapture_expression_reads(const KaptureGivenExpression *expression);
extern char *kapture_expression_problem(const KaptureAttachment *att);
extern void kapture_expression_recheck(const KaptureAttachment *att);
extern bool kapture_expression_is_any(const KaptureAttachment *att);
extern char *kapture_expression_sql(const KaptureAttachment *att, const KaptureExpression *expression);
extern Size kapture_expression_bytes(const KaptureAttachment *att, const char *name);
extern bool kapture_expression_is_understood(const KaptureAttachment *att, const char *name);
extern List *kapture_expression_before_rename(const char *name);
extern bool kapture_expression_after_rename(List *texts);
extern List *kapture_expression_relations(const char *name);
extern bool kapture_expression_may_use(ObjectType type);

#endif							/* KAPTURE_EXPRESSION_H */
