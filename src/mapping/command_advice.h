/*
 * command_advice.h
 *		What is reported to users whose command keeps attached tables from being sent.
 */
#ifndef KAPTURE_COMMAND_ADVICE_H
#define KAPTURE_COMMAND_ADVICE_H

#include "postgres.h"

#include "nodes/parsenodes.h"

/* An attached table that a command is about to change. */
typedef struct KaptureWatchedTable
{
	Oid			relid;			/* InvalidOid: there is none */
	bool		has_key;		/* the table has a primary key */
} KaptureWatchedTable;

extern KaptureWatchedTable kapture_advice_before(const AlterTableStmt *stmt);
extern void kapture_advice_after(KaptureWatchedTable table, const AlterTableStmt *stmt);
extern char *kapture_advice_address(const char *server);
extern void kapture_advice_readdressed(const char *server, const char *former);
extern void kapture_advice_unmapped(const char *server, Oid relid);

#endif							/* KAPTURE_COMMAND_ADVICE_H */
