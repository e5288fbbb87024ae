/*
 * dry_run.c
 *		kapture_dry_run(): what would be sent if a table were attached?
 *
 * Each row is handled as the worker does it: it is read as the table's owner, and
 * task.c decides what would be done.  Nothing is attached, noted or sent, and only a
 * reader's lock is taken; with "ask", Kapture is asked whether it has the customers.
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/formatting.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "api/argument.h"
#include "api/hint.h"
#include "api/identity.h"
#include "api/option.h"
#include "base/catalog.h"
#include "base/compat.h"
#include "base/version.h"
#include "fetch/ask.h"
#include "fetch/fetch.h"
#include "mapping/draft.h"
#include "mapping/field_map.h"
#include "mapping/source.h"
#include "observe/round.h"
#include "push/task.h"
#include "table/attach.h"
#include "table/row_io.h"

PG_FUNCTION_INFO_V1(kapture_dry_run);

/* Gets for a row: by its phone and by its email. */
#define DRY_RUN_GETS		2

/* The id column that kapture_attach() would add. */
#define DRY_RUN_ID_COLUMN	"kapture_customer_id"

/* The hash of a phone or an email, and the first row that has it. */
typedef struct DryRunContact
{
	uint64		hash;
	char	   *row_key;
} DryRunContact;

typedef struct DryRun
{
	MemoryContext context;
	KaptureAttachment *att;
	const KaptureAttachment *attached;	/* the table's present attachment to the server; NULL: none */
	Oid			owner;			/* of the table */
	char	   *timezone;
	bool		check_rows;
	bool		ask;
	HTAB	   *contacts;
	ReturnSetInfo *rsinfo;
} DryRun;

typedef struct DryRunItem
{
	KaptureDelivery delivery;
	KaptureTask task;
	const char *action;
	const char *problem;
	bool		wants_key;		/* the problem is about another row */
} DryRunItem;

/* The value of a field, without blanks around it; NULL: none. */
static char *
dry_run_value(const DryRun *run, const KaptureRow *row, const char *field)
{
	for (int i = 0; i < run->att->ncolumns; i++)
	{
		char	   *value = row->values[i];

		if (strcmp(run->att->columns[i].field, field) == 0 && value && value[strspn(value, " ")] != '\0')
			return value;
	}
	return NULL;
}

/* The key of an earlier row with this phone or email; NULL if there is none, then this row is noted. */
static char *
dry_run_first(DryRun *run, const KaptureRow *row, const char *field, const char *value)
{
	DryRunContact *contact;
	uint64		hash;
	bool		found;
	char	   *text;

	if (value == NULL)
		return NULL;
	text = psprintf("%s %s", field, value);
	hash = DatumGetUInt64(hash_any_extended((unsigned char *) text, strlen(text), 0));
	contact = hash_search(run->contacts, &hash, HASH_ENTER, &found);
	if (!found)
		contact->row_key = MemoryContextStrdup(run->context, row->row_key);
	return found ? contact->row_key : NULL;
}

/* Refuses a row whose phone or email an earlier row has, too. */
static void
dry_run_check_shared(DryRun *run, DryRunItem *item)
{
	const KaptureRow *row = &item->delivery.row;
	char	   *phone = dry_run_value(run, row, "phone");
	char	   *email = dry_run_value(run, row, "email_id");
	char	   *by_phone = dry_run_first(run, row, "phone", phone);
	char	   *by_email = dry_run_first(run, row, "email_id", email ? str_tolower(email, strlen(email), C_COLLATION_OID) : NULL);

	if (by_phone == NULL && by_email == NULL)
		return;
	item->action = "refuse";
	item->problem = psprintf("the row with key \"%s\" has the same %s", by_phone ? by_phone : by_email,
							 by_phone ? "phone" : "email");
	item->wants_key = true;
}

/* What the worker would do with a row. */
static void
dry_run_plan(DryRun *run, DryRunItem *item)
{
	KaptureTask *task = &item->task;

	task->delivery = &item->delivery;
	task->att = run->att;
	task->check_rows = run->check_rows;
	item->delivery.changed = run->att->all_changed;
	kapture_task_plan(task, GetCurrentTimestamp());
	switch (task->state)
	{
		case KAPTURE_TASK_SEND:
			item->action = task->step == KAPTURE_STEP_ADD ? "add" : "update";
			dry_run_check_shared(run, item);
			break;
		case KAPTURE_TASK_DONE:
			item->action = "skip";
			item->problem = !item->delivery.row.outside ? "it has nothing to send" :
				run->att->source_name ? "the filter leaves it out, or the view has no row for it" : "the filter leaves it out";
			break;
		case KAPTURE_TASK_FAILED:
			item->action = "refuse";
			item->problem = task->failed.error;
			break;
		case KAPTURE_TASK_RELEASE:
			item->action = "refuse";
			item->problem = "the table or a partition of it is locked";
			break;
	}
}

/* Asks Kapture for the customers of rows that would be added. */
static void
dry_run_ask(DryRun *run, List *items)
{
	List	   *searches = NIL;
	ListCell   *lc;

	foreach(lc, items)
	{
		DryRunItem *item = lfirst(lc);
		KaptureSearch *search;

		if (strcmp(item->action, "add") != 0)
			continue;
		search = palloc0(sizeof(KaptureSearch));
		search->phone = dry_run_value(run, &item->delivery.row, "phone");
		search->email = dry_run_value(run, &item->delivery.row, "email_id");
		search->item = item;
		searches = lappend(searches, search);
	}
	kapture_ask(run->att->server, run->owner, searches);
	foreach(lc, searches)
	{
		KaptureSearch *search = lfirst(lc);
		DryRunItem *item = search->item;

		if (search->by_phone && search->by_email && search->by_phone != search->by_email)
		{
			item->action = "refuse";
			item->problem = kapture_ask_conflict(search);
		}
		else if (search->by_phone || search->by_email)
			item->action = "link";
	}
}

static void
dry_run_put(DryRun *run, const DryRunItem *item)
{
	const KaptureTask *task = &item->task;
	const char *hint = NULL;
	Datum		values[5] = {0};
	bool		nulls[5] = {0};

	if (item->wants_key)
		hint = "two rows share this phone or email: correct one of them, or leave it out by a filter";
	else if (item->problem && strcmp(item->action, "refuse") == 0)
		hint = kapture_hint_find(item->problem, 0, "add");
	values[0] = CStringGetTextDatum(item->delivery.row.row_key);
	values[1] = CStringGetTextDatum(item->action);
	nulls[2] = item->problem == NULL;
	if (item->problem)
		values[2] = CStringGetTextDatum(item->problem);
	nulls[3] = hint == NULL;
	if (hint)
		values[3] = CStringGetTextDatum(hint);
	nulls[4] = task->body == NULL || strcmp(item->action, "refuse") == 0;
	if (!nulls[4])
	{
		size_t		len;
		char	   *body = kapture_message_body(kapture_server_get(run->att->server, run->owner), kapture_task_api(task),
												task->body, task->body_len, &len);

		values[4] = DirectFunctionCall1(jsonb_in, CStringGetDatum(pg_any_to_server(body, len, PG_UTF8)));
	}
	tuplestore_putvalues(run->rsinfo->setResult, run->rsinfo->setDesc, values, nulls);
}

/* Reads the rows with these keys; returns them as items, with what the worker would do. */
static List *
dry_run_read(void *arg, List *keys)
{
	DryRun	   *run = arg;
	List	   *items = NIL;
	List	   *rows = NIL;
	ListCell   *lc;

	foreach(lc, keys)
	{
		DryRunItem *item = palloc0(sizeof(DryRunItem));

		item->delivery.context = item->delivery.row.context = CurrentMemoryContext;
		item->delivery.row_key = lfirst(lc);
		item->delivery.row.row_key = lfirst(lc);
		items = lappend(items, item);
		rows = lappend(rows, &item->delivery.row);
	}
	kapture_row_read_all(run->att, run->timezone, rows);
	if (run->attached && run->attached->id_column == NULL)
		kapture_row_fill_ids(run->attached, rows);
	foreach(lc, items)
		dry_run_plan(run, lfirst(lc));
	return items;
}

/* Puts into the result what would become of these rows. */
static void
dry_run_report(DryRun *run, List *items)
{
	ListCell   *lc;

	if (run->ask)
		dry_run_ask(run, items);
	foreach(lc, items)
	{
		if (((DryRunItem *) lfirst(lc))->delivery.row.outcome != KAPTURE_ROW_GONE)
			dry_run_put(run, lfirst(lc));
	}
}

/* The names of the key's columns; errors out if the table has no primary key. */
static List *
dry_run_key_names(Relation rel)
{
	KaptureAttachment att = {.root = RelationGetRelid(rel)};
	List	   *names = NIL;

	kapture_catalog_read_key(&att, rel);
	for (int i = 0; i < att.nkeys; i++)
		names = lappend(names, att.keys[i].name);
	if (names == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no primary key", RelationGetRelationName(rel)),
				 errdetail("The worker finds a row again by its primary key.")));
	return names;
}

/* The attachment of the table to this server, which has the ids of its rows; NULL: there is none. */
static const KaptureAttachment *
dry_run_find_attached(Relation rel, const char *server)
{
	ListCell   *lc;

	foreach(lc, kapture_catalog_attachments(rel))
	{
		const KaptureAttachment *att = lfirst(lc);

		if (strcmp(att->server, server) == 0)
			return att;
	}
	return NULL;
}

/* The draft of the attachment that the arguments describe; sets run->attached. */
static KaptureAttachment *
dry_run_draft(DryRun *run, FunctionCallInfo fcinfo, const char *server)
{
	Oid			relid = PG_GETARG_OID(0);
	Relation	rel = kapture_argument_open(relid, AccessShareLock, kapture_argument_check_owner);
	Jsonb	   *columns = PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1);
	KaptureGivenExpression *filter = NULL;
	KaptureGivenSource *source = NULL;
	KaptureAttachment *att;
	const char *id_column = DRY_RUN_ID_COLUMN;
	List	   *mappings;

	if (rel->rd_rel->relkind == RELKIND_VIEW)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" cannot be attached to Kapture", RelationGetRelationName(rel)),
				 errdetail("Only tables can be attached."),
				 errhint("Name the table that the view shows, and the view as \"source\".")));
	kapture_attach_check_relation(rel);
	(void) kapture_server_get(server, kapture_catalog_owner(relid));
	run->attached = dry_run_find_attached(rel, server);
	if (run->attached && run->attached->id_column)
		id_column = run->attached->id_column;
	if (PG_ARGISNULL(3))
		mappings = kapture_mapping_take(rel, columns, id_column);
	else
	{
		Relation	view = kapture_source_open(rel, PG_GETARG_OID(3));

		source = kapture_source_take(rel, view, dry_run_key_names(rel));
		mappings = kapture_mapping_take_of_view(view, columns, source->keys);
		relation_close(view, NoLock);
	}
	if (!PG_ARGISNULL(2))
		filter = kapture_expression_take(rel, text_to_cstring(PG_GETARG_TEXT_PP(2)), NULL);
	att = kapture_draft_make(rel, server, id_column, mappings, filter, source);
	relation_close(rel, NoLock);
	return att;
}

/*
 * kapture_dry_run(relation regclass, columns jsonb, filter text, source regclass,
 *		server name, ask boolean)
 *		returns table(row_key text, action text, problem text, hint text, body jsonb)
 *
 * For the owner of the table.  Errors: those of kapture_attach() for bad arguments,
 * of reading the table as its owner, and, with "ask", of kapture_ask().
 */
Datum
kapture_dry_run(PG_FUNCTION_ARGS)
{
	DryRun		run = {.context = CurrentMemoryContext};
	HASHCTL		info = {.keysize = sizeof(uint64), .entrysize = sizeof(DryRunContact), .hcxt = CurrentMemoryContext};
	const KaptureServer *server;
	KaptureAttachment all;		/* run.att without filter, source and fields: has all keys */
	MemoryContext slice;
	KaptureRound round = {.att = &all,.read = dry_run_read,.arg = &run,.row = offsetof(DryRunItem, delivery.row)};
	const char *after = NULL;
	bool		more;

	kapture_version_require();
	kapture_argument_check_null(fcinfo, 0, "relation");
	kapture_argument_check_null(fcinfo, 4, "server");
	kapture_argument_check_null(fcinfo, 5, "ask");
	run.ask = PG_GETARG_BOOL(5);
	run.att = dry_run_draft(&run, fcinfo, NameStr(*PG_GETARG_NAME(4)));
	all = *run.att;
	all.filter = NULL;
	all.source_name = NULL;
	all.ncolumns = 0;
	all.computing = palloc0(sizeof(KaptureComputing));
	run.owner = kapture_catalog_owner(run.att->root);
	server = kapture_server_get(run.att->server, run.owner);
	run.timezone = pstrdup(server->timezone);
	run.check_rows = server->check_rows;
	run.contacts = hash_create("kapture_sync phones and emails", 1024, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	InitMaterializedSRF(fcinfo, 0);
	run.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	slice = AllocSetContextCreate(CurrentMemoryContext, "kapture_sync slice", ALLOCSET_DEFAULT_SIZES);
	do
	{
		MemoryContext old = MemoryContextSwitchTo(slice);

		/* without asking, there are no connections to keep busy */
		round.most = run.ask ? kapture_fetch_round(run.att->server, run.owner) / DRY_RUN_GETS : 0;
		dry_run_report(&run, kapture_round_next(&round, &after, &more));
		MemoryContextSwitchTo(old);
		if (more)
			after = pstrdup(after);
		MemoryContextReset(slice);
	} while (more);
	PG_RETURN_NULL();
}
