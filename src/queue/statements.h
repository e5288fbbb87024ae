/*
 * statements.h
 *		The SQL of the queue: statements on kapture_outbox and kapture_delivery, and
 *		on the tables that go with them.
 */
#ifndef KAPTURE_STATEMENTS_H
#define KAPTURE_STATEMENTS_H

#include "postgres.h"

#include "executor/spi.h"

#include "base/fault.h"

typedef enum KaptureStatement
{
	OUTBOX_RECOVER,
	OUTBOX_FORGET,
	OUTBOX_SNAPSHOT,
	OUTBOX_READ,
	OUTBOX_READ_KEYS,
	OUTBOX_REKEYS,
	OUTBOX_SORT_KEYS,
	OUTBOX_SORT_COMMAND,
	OUTBOX_END,
	OUTBOX_REMOVE,
	OUTBOX_SPLIT,
	OUTBOX_CLAIM,
	OUTBOX_PARK,
	OUTBOX_PARK_DUE,
	OUTBOX_CLAIM_DUE,
	OUTBOX_NOTE_ADDS,
	OUTBOX_NOTE_LINKS,
	OUTBOX_WITH_KEYS,
	OUTBOX_WITH_ANY_KEY,
	OUTBOX_LEAVE,
	OUTBOX_EVICT,
	OUTBOX_ARRIVE,
	OUTBOX_WAIT,
	OUTBOX_GONE,
	OUTBOX_REPORT_DELETED,
	OUTBOX_REPORT_NEW,
	OUTBOX_NEXT_DUE,
	OUTBOX_FINISH,
	OUTBOX_NOTE_ROWS,
	OUTBOX_FINISH_REST,
	OUTBOX_FAIL,
	OUTBOX_UNPARK,
	OUTBOX_RELEASE
} KaptureStatement;

#define OUTBOX_MAX_PARAMS	18

typedef struct KaptureStatementText
{
	const char *sql;			/* "@." stands for the extension's schema and a dot */
	int			nparams;
	Oid			types[OUTBOX_MAX_PARAMS];
} KaptureStatementText;

/* Keys, entries or changes that one statement handles, at most. */
#define OUTBOX_CHUNK		1000

/* Memory that an event of kapture_outbox takes while it is followed, in bytes, and how often its keys are copied. */
#define OUTBOX_EVENT_BYTES	2000
#define OUTBOX_KEY_COPIES	4

/* Runs a statement that sees all that has been done.  Each statement is a fault point. */
#define kapture_statement_execute(statement, values, nulls) \
	(KAPTURE_FAULT_ARGUMENTS(#statement, kapture_statements[statement].nparams, kapture_statements[statement].types, values, nulls), \
	 kapture_statement_run(statement, values, nulls, false))

extern const KaptureStatementText kapture_statements[];

extern SPIPlanPtr kapture_statement_plan(KaptureStatement query);
extern void kapture_statement_run(KaptureStatement query, Datum *values, const char *nulls, bool snapshot);
extern Portal kapture_statement_open(KaptureStatement query, Datum *values);
extern Datum kapture_statement_getattr(uint64 row, int col, bool *isnull);
extern Datum kapture_statement_array(Datum *values, bool *nulls, int n, Oid type);
extern Datum kapture_statement_text(const char *text, bool *isnull);

#endif							/* KAPTURE_STATEMENTS_H */
