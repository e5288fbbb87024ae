/*
 * catalog.h
 *		What is known of an attached table.
 */
#ifndef KAPTURE_CATALOG_H
#define KAPTURE_CATALOG_H

#include "postgres.h"

#include "access/attnum.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"
#include "utils/relcache.h"

#include "base/catalog_tables.h"

/* Statements that row_io.c prepares for a table. */
#define KAPTURE_ROW_STATEMENTS	6

/* As many mapped columns as fit into a mask of "changed" bits. */
#define KAPTURE_MAX_COLUMNS	63

/* In such a mask: what has changed is sent even if Kapture is known to have it. */
#define KAPTURE_CHANGED_FORCE	PG_INT64_MIN

typedef struct KaptureKeyColumn
{
	AttrNumber	attnum;
	char	   *name;
	Oid			type;
	int32		typmod;
	Oid			collation;
	Oid			compared_as;	/* type that the operators take */
	Oid			equals;			/* operators of the primary key; InvalidOid: the
								 * type has none */
	Oid			less;
	Oid			greater;
	FmgrInfo	output;
} KaptureKeyColumn;

typedef struct KaptureMappedColumn
{
	int			bit;
	char	   *field;			/* Kapture's name */
	AttrNumber	attnum;			/* InvalidAttrNumber: the column is gone */
	char	   *name;			/* the column's name now */
} KaptureMappedColumn;

/* Which version of its row in kapture_attachment something was read from. */
typedef struct KaptureAttachedVersion
{
	TransactionId xmin;
	ItemPointerData place;
} KaptureAttachedVersion;

/* An entry of the list of attached tables. */
typedef struct KaptureAttached
{
	int32		id;
	Oid			relid;
	KaptureAttachedVersion version;
} KaptureAttached;

/* An attached table, or a partition or counted child of one. */
typedef struct KaptureAttachment
{
	int32		id;
	KaptureAttachedVersion version;
	Oid			root;			/* the relation that was attached */
	char	   *server;
	Oid			serverid;		/* of that name when the table was attached */
	Oid			server_owner;	/* its owner then */
	bool		link_duplicates;
	bool		link_only;		/* and nothing is sent along */
	bool		paused;
	bool		pull;			/* pulled customers become rows */
	bool		remote_wins;	/* over changes that wait here */
	char	   *id_column;		/* its name */
	AttrNumber	id_attnum;		/* InvalidAttrNumber: the column is gone */
	List	   *former_key;		/* names of the key's columns when it was attached */
	int			nkeys;
	KaptureKeyColumn *keys;		/* in the order of the primary key */
	int			ncolumns;
	KaptureMappedColumn *columns;	/* in the order of their bits */
	int64		all_changed;	/* mask of all columns */

	/* row_io.c's own */
	struct _SPI_plan *plans[KAPTURE_ROW_STATEMENTS];
	bool		plans_owned;
} KaptureAttachment;

extern List *kapture_catalog_attached(void);
extern bool kapture_catalog_same_version(const KaptureAttachedVersion *a, const KaptureAttachedVersion *b);
extern Oid	kapture_catalog_attached_relation(int32 attachment_id);
extern bool kapture_catalog_is_paused(int32 attachment_id);
extern KaptureAttachment *kapture_catalog_attachment(Relation rel);
extern KaptureAttachment *kapture_catalog_with_former_key(const KaptureAttachment *att, Relation rel);
extern char *kapture_catalog_problem(const KaptureAttachment *att);
extern int64 kapture_catalog_fields(const KaptureAttachment *att, Datum fields);
extern Oid	kapture_catalog_owner(Oid relid);
extern int	kapture_catalog_text_settings(void);
extern char *kapture_catalog_pack_key(char **values, int nkeys);
extern char **kapture_catalog_unpack_key(const char *row_key, int nkeys);

#endif							/* KAPTURE_CATALOG_H */
