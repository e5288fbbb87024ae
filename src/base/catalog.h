/*
 * catalog.h
 *		Describes attached tables, and reads their descriptions.
 */
#ifndef KAPTURE_CATALOG_H
#define KAPTURE_CATALOG_H

#include "postgres.h"

#include "access/attnum.h"
#include "fmgr.h"
#include "lib/ilist.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"
#include "utils/relcache.h"

#include "base/catalog_tables.h"

/*
 * Sizes of a memory context for what is known of one attached table: there may be thousands
 * of them, of a few kilobytes each.
 */
#define KAPTURE_ATTACHMENT_SIZES	0, 1024, 2048

/* Statements that row_io.c prepares for a table. */
#define KAPTURE_ROW_STATEMENTS	7

/* As many mapped columns as fit into a mask of "changed" bits, as in version 1.0, */
#define KAPTURE_MAX_COLUMNS	63

/* and as many as can be mapped since one bit has another meaning. */
#define KAPTURE_MAX_MAPPED	(KAPTURE_MAX_COLUMNS - 1)

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

/*
 * This bit of a mask of changes says that columns of the filter have changed, so that
 * the row may have come into the filter or left it.  No mapped column has this bit.
 */
#define KAPTURE_CHANGED_FILTER	PG_INT64_MIN

/*
 * This bit says that what has changed is sent even if Kapture is known to have it.  No
 * column gets this bit any more.  A table with 63 columns that was attached with version 1.0
 * keeps it for the last one: that column is then sent along, and always when it has changed.
 */
#define KAPTURE_CHANGED_FORCE	(INT64CONST(1) << (KAPTURE_MAX_COLUMNS - 1))

/* An expression over the columns of a row. */
typedef struct KaptureExpression
{
	char	   *text;			/* as it is kept */
	bool		reads_all;		/* it reads the row as a whole */
	List	   *reads;			/* numbers of the columns that it reads */
	struct Node *node;			/* expression.c's own */
} KaptureExpression;

/* Whether the expressions of an attachment can be evaluated, as far as that is known. */
typedef struct KaptureComputing
{
	bool		parsed;
	char	   *problem;		/* NULL: none is known */
} KaptureComputing;

typedef struct KaptureMappedColumn
{
	int			bit;
	char	   *field;			/* Kapture's name */
	AttrNumber	attnum;			/* InvalidAttrNumber: the column is gone, or there is
								 * none */
	char	   *name;			/* the column's name now, that of the view if the
								 * values come from one; NULL: the value is computed */
	KaptureExpression *expression;	/* of a computed value, or NULL */
	char	   *constant;		/* the value for all rows, or NULL */
} KaptureMappedColumn;

/* A field of Kapture's and the value it gets, whatever the row. */
typedef struct KaptureFieldValue
{
	char	   *field;
	char	   *value;
} KaptureFieldValue;

/* The version of an attachment's row in kapture_attachment that something was read from. */
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
	char	   *name;			/* as in KaptureAttachment */
	KaptureAttachedVersion version;
} KaptureAttached;

/* An attached table, or a partition or counted child of one. */
typedef struct KaptureAttachment
{
	int32		id;				/* 0: a draft, see draft.c */
	char	   *name;			/* tells it from others of the table; empty: none was
								 * given */
	KaptureAttachedVersion version;
	Oid			root;			/* the relation that was attached */
	char	   *server;
	Oid			serverid;		/* of the server when the table was attached */
	Oid			server_owner;	/* its owner then */
	bool		link_duplicates;
	bool		link_only;		/* without sending the row's values then */
	bool		paused;
	bool		pull;			/* pulled customers become rows */
	bool		remote_wins;	/* pulled values, over changes that wait here */
	char	   *id_column;		/* its name; NULL: ids are kept in kapture_row */
	AttrNumber	id_attnum;		/* InvalidAttrNumber: the column is gone */
	List	   *former_key;		/* names of the key's columns when it was attached */
	int			nkeys;
	KaptureKeyColumn *keys;		/* in the order of the primary key */
	int			ncolumns;
	KaptureMappedColumn *columns;	/* in the order of their bits */
	int64		all_changed;	/* mask of all columns */
	KaptureExpression *filter;	/* NULL: all rows go to Kapture */
	char	   *source_name;	/* of the view that the values come from; NULL: from
								 * the table itself */
	Oid			source;			/* the view; InvalidOid: it is gone */
	List	   *source_keys;	/* names of the view's columns that are the key */
	KaptureExpression *source_reads;	/* columns of the table that the view reads */
	List	   *beside;			/* other relations that its statements may read */
	List	   *on_leave;		/* of KaptureFieldValue, for customers whose row
								 * has left the filter, */
	List	   *on_delete;		/* or was deleted */
	KaptureComputing *computing;
	bool		unfollowed;		/* it is known to follow no table */

	/* row_io.c's own */
	struct _SPI_plan *plans[KAPTURE_ROW_STATEMENTS];
	bool		reads_together; /* the view was last read for all rows of a batch together */
	bool		is_planned;		/* it has at least one plan */
	dlist_node	planned_node;
	bool		plans_owned;
} KaptureAttachment;

extern List *kapture_catalog_attached(void);
extern bool kapture_catalog_same_version(const KaptureAttachedVersion *a, const KaptureAttachedVersion *b);
extern bool kapture_catalog_is_present_version(const KaptureAttachedVersion *version);
extern Oid	kapture_catalog_attached_relation(int32 attachment_id);
extern char *kapture_catalog_title(const KaptureAttachment *att);
extern bool kapture_catalog_is_paused(int32 attachment_id);
extern List *kapture_catalog_attachments(Relation rel);
extern KaptureAttachment *kapture_catalog_attachment(Relation rel);
extern KaptureAttachment *kapture_catalog_attachment_by_id(Relation rel, int32 attachment_id);
extern KaptureAttachment *kapture_catalog_with_former_key(const KaptureAttachment *att, Relation rel);
extern void kapture_catalog_read_key(KaptureAttachment *att, Relation rel);
extern Oid	kapture_catalog_find_relation(const char *name);
extern char *kapture_catalog_problem(const KaptureAttachment *att);
extern const char *kapture_catalog_lost_key(const KaptureAttachment *att);
extern int64 kapture_catalog_fields(const List *attachments, const KaptureAttachment *att, Datum fields);
extern Oid	kapture_catalog_owner(Oid relid);
extern int	kapture_catalog_text_settings(void);
extern char *kapture_catalog_pack_key(char **values, int nkeys);
extern char **kapture_catalog_unpack_key(const char *row_key, int nkeys);

#endif							/* KAPTURE_CATALOG_H */
