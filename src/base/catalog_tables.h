/*
 * catalog_tables.h
 *		Finds the extension's own tables, and which relations are attached.
 */
#ifndef KAPTURE_CATALOG_TABLES_H
#define KAPTURE_CATALOG_TABLES_H

#include "postgres.h"

#include "access/htup.h"
#include "nodes/pg_list.h"
#include "utils/relcache.h"

#define KAPTURE_EXTENSION	"kapture_sync"

typedef enum KaptureTable
{
	KAPTURE_TABLE_ATTACHMENT,
	KAPTURE_TABLE_COLUMN,
	KAPTURE_TABLE_OUTBOX,
	KAPTURE_TABLE_DELIVERY,
	KAPTURE_TABLE_HISTORY,
	KAPTURE_INDEX_OUTBOX_KEYS,
	KAPTURE_TABLE_FOLLOW,
	KAPTURE_TABLE_ROW
} KaptureTable;

#define KAPTURE_TABLE_COUNT	8

/* Column number in kapture_attachment, as in the install script. */
#define KAPTURE_ATTACHMENT_RELATION	2

extern bool kapture_catalog_extension_exists(void);
extern List *kapture_catalog_members(Oid extension, bool new);
extern char *kapture_catalog_schema(void);
extern char *kapture_catalog_qualify(const char *sql);
extern Oid	kapture_catalog_relid(KaptureTable table);
extern uint64 kapture_catalog_changes(void);
extern bool kapture_catalog_outbox_packs(void);
extern Datum kapture_catalog_getattr(HeapTuple tuple, Relation rel, AttrNumber attnum);
extern List *kapture_catalog_attached_relations(void);

#endif							/* KAPTURE_CATALOG_TABLES_H */
