/*
 * dry_run.c
 *		kapture_dry_run(): what would be sent if a table were attached, or as it is?
 *
 * Each row is handled as the worker does it: it is read as the table's owner, and
 * task.c decides what would be done.  Nothing is attached, noted or sent, and only a
 * reader's lock is taken; with "ask", Kapture is asked whether it has the customers.
 *
 * Rows that have customers keep them.  So these rows come first, whatever their keys:
 * others that share a phone or email with them would be parked.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/formatting.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "api/argument.h"
#include "api/hint.h"
#include "api/option.h"
#include "base/catalog.h"
#include "base/owner_sql.h"
#include "base/version.h"
#include "fetch/ask.h"
#include "fetch/fetch.h"
#include "known/digest.h"
#include "known/row_state.h"
#include "observe/dry_draft.h"
#include "observe/round.h"
#include "push/task.h"
#include "queue/inbox.h"
#include "table/row_io.h"

PG_FUNCTION_INFO_V1(kapture_dry_run);

/* Gets for a row: by its phone and by its email. */
#define DRY_RUN_GETS		2

/* The hash of a phone or an email, and the row that gets it. */
typedef struct DryRunContact
{
	uint64		hash;
	char	   *row_key;
} DryRunContact;

/* A customer, and the row that is it. */
typedef struct DryRunCustomer
{
	int64		customer_id;
	char	   *row_key;
} DryRunCustomer;

typedef struct DryRun
{
	MemoryContext context;
	KaptureAttachment *att;
	int64		fresh;			/* bits of fields that it does not have yet */
	Oid			owner;			/* of the table */
	char	   *timezone;
	bool		check_rows;
	bool		ask;
	HTAB	   *contacts;
	HTAB	   *customers;
	ReturnSetInfo *rsinfo;
} DryRun;

typedef struct DryRunItem
{
	KaptureDelivery delivery;
	KaptureTask task;
	const char *action;
	const char *problem;
	const char *hint;			/* NULL: that of the problem */
} DryRunItem;

#define DRY_RUN_SHARED \
	"two rows share this phone or email: correct one of them, or leave it out by a filter"

#define DRY_RUN_REFUSED \
	"another customer has it: change it here, or attach with on_duplicate => 'link' to take its id"

/* The value of a field, without blanks around it; NULL: none. */
static char *
dry_run_value(const DryRun *run, const KaptureRow *row, const char *field)
{
	for (int i = 0; row->values && i < run->att->ncolumns; i++)
	{
		char	   *value = row->values[i];

		if (strcmp(run->att->columns[i].field, field) == 0 && value && value[strspn(value, " ")] != '\0')
			return value;
	}
	return NULL;
}

/*
 * Returns the key of the row that gets a phone or an email: this row, if no other one gets
 * it yet.  NULL: the row has no such value.
 */
static char *
dry_run_holder(DryRun *run, const KaptureRow *row, const char *field, const char *value)
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
	return contact->row_key;
}

static char *
dry_run_phone_holder(DryRun *run, const KaptureRow *row)
{
	return dry_run_holder(run, row, "phone", dry_run_value(run, row, "phone"));
}

static char *
dry_run_email_holder(DryRun *run, const KaptureRow *row)
{
	char	   *email = dry_run_value(run, row, "email_id");

	return dry_run_holder(run, row, "email_id", email ? str_tolower(email, strlen(email), C_COLLATION_OID) : NULL);
}

/* The key of the row that is a customer; if none is by now, this one is. */
static char *
dry_run_customer_holder(DryRun *run, const KaptureRow *row, int64 customer_id)
{
	bool		found;
	DryRunCustomer *customer = hash_search(run->customers, &customer_id, HASH_ENTER, &found);

	if (!found)
		customer->row_key = MemoryContextStrdup(run->context, row->row_key);
	return customer->row_key;
}

/* Is a field among those that a task is to send? */
static bool
dry_run_sends(const DryRun *run, const KaptureTask *task, const char *field)
{
	for (int i = 0; i < run->att->ncolumns; i++)
	{
		if (strcmp(run->att->columns[i].field, field) == 0)
			return (task->sending & (INT64CONST(1) << run->att->columns[i].bit)) != 0;
	}
	return false;
}

/* Refuses a row that is to send a phone or an email which another row has, too. */
static void
dry_run_check_shared(DryRun *run, DryRunItem *item)
{
	const KaptureRow *row = &item->delivery.row;
	char	   *by_phone = dry_run_phone_holder(run, row);
	char	   *by_email = dry_run_email_holder(run, row);
	bool		phone = by_phone && strcmp(by_phone, row->row_key) != 0 && dry_run_sends(run, &item->task, "phone");
	bool		email = by_email && strcmp(by_email, row->row_key) != 0 && dry_run_sends(run, &item->task, "email_id");

	if (!phone && !email)
		return;
	item->action = "refuse";
	item->problem = psprintf("the row with key \"%s\" has the same %s", phone ? by_phone : by_email, phone ? "phone" : "email");
	item->hint = DRY_RUN_SHARED;
}

/* Has a row anything that Kapture could be sent? */
static bool
dry_run_has_values(const DryRun *run, const KaptureRow *row)
{
	for (int i = 0; row->values && i < run->att->ncolumns; i++)
	{
		if (row->values[i] && row->values[i][0] != '\0')
			return true;
	}
	return false;
}

/* Why a row is outside. */
static const char *
dry_run_outside(const DryRun *run)
{
	return run->att->source_name ? "the filter leaves it out, or the view has no row for it" : "the filter leaves it out";
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
			if (item->delivery.row.outside)
			{
				item->problem = dry_run_outside(run);
				item->hint = "what on_leave says is sent when the row changes next, or by kapture_touch()";
			}
			break;
		case KAPTURE_TASK_DONE:
			item->action = "skip";
			item->problem = item->delivery.row.outside ? dry_run_outside(run) :
				dry_run_has_values(run, &item->delivery.row) ? "Kapture has its values already" : "it has nothing to send";
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
	if (task->state == KAPTURE_TASK_SEND || task->state == KAPTURE_TASK_DONE)
		dry_run_check_shared(run, item);
}

/* A row is found to be a customer who is there. */
static void
dry_run_link(DryRun *run, DryRunItem *item, int64 customer_id, const char *by)
{
	const char *holder;

	if (!run->att->link_duplicates)
	{
		item->action = "refuse";
		item->problem = psprintf("Kapture customer " INT64_FORMAT " has this %s already", customer_id, by);
		item->hint = DRY_RUN_REFUSED;
		return;
	}
	holder = dry_run_customer_holder(run, &item->delivery.row, customer_id);
	item->action = "link";
	if (strcmp(holder, item->delivery.row.row_key) == 0)
		return;
	item->action = "refuse";
	item->problem = psprintf("Kapture customer " INT64_FORMAT " belongs to the row with key \"%s\" already", customer_id, holder);
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
			dry_run_link(run, item, Max(search->by_phone, search->by_email), search->by_phone ? "phone" : "email");
	}
}

static void
dry_run_put(DryRun *run, const DryRunItem *item)
{
	const KaptureTask *task = &item->task;
	const char *hint = item->hint;
	bool		linked_only = run->att->link_only && strcmp(item->action, "link") == 0;
	Datum		values[5] = {0};
	bool		nulls[5] = {0};

	if (hint == NULL && item->problem && strcmp(item->action, "refuse") == 0)
		hint = kapture_hint_find(item->problem, 0, "add");
	values[0] = CStringGetTextDatum(item->delivery.row.row_key);
	values[1] = CStringGetTextDatum(item->action);
	nulls[2] = item->problem == NULL;
	if (item->problem)
		values[2] = CStringGetTextDatum(item->problem);
	nulls[3] = hint == NULL;
	if (hint)
		values[3] = CStringGetTextDatum(hint);
	nulls[4] = task->body == NULL || linked_only || strcmp(item->action, "refuse") == 0 || strcmp(item->action, "skip") == 0;
	if (!nulls[4])
	{
		size_t		len;
		char	   *body = kapture_message_body(kapture_server_get(run->att->server, run->owner), kapture_task_api(task),
												task->body, task->body_len, &len);

		values[4] = DirectFunctionCall1(jsonb_in, CStringGetDatum(pg_any_to_server(body, len, PG_UTF8)));
	}
	tuplestore_putvalues(run->rsinfo->setResult, run->rsinfo->setDesc, values, nulls);
}

/* What is known of rows, read as the owner of the extension. */
typedef struct DryRunKnown
{
	const DryRun *run;
	List	   *deliveries;
} DryRunKnown;

static void
dry_run_load(void *arg)
{
	DryRunKnown *known = arg;

	kapture_digest_load_key();
	kapture_row_state_load(known->deliveries);
}

/* The customers, of these rows, whom sessions have written past the sync: a list in text, with commas around each. */
static char *
dry_run_written(const DryRun *run, List *items)
{
	Oid			types[2] = {OIDOID, INT8ARRAYOID};
	Datum		values[2];
	Datum	   *ids = palloc(sizeof(Datum) * Max(list_length(items), 1));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, items)
		ids[n++] = Int64GetDatum(((DryRunItem *) lfirst(lc))->delivery.row.customer_id);
	values[0] = ObjectIdGetDatum(run->att->serverid);
	values[1] = PointerGetDatum(construct_array(ids, n, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	return kapture_own_text("SELECT ',' || pg_catalog.string_agg(customer_id::text, ',') || ',' FROM @.kapture_written"
							" WHERE server_oid = $1 AND customer_id = ANY ($2)", lengthof(types), types, values);
}

/* Fills in what Kapture is known to have of rows, as the worker would know it. */
static void
dry_run_fill_known(const DryRun *run, List *items)
{
	DryRunKnown known = {.run = run};
	char	   *written;
	ListCell   *lc;

	if (run->att->id == 0 || items == NIL)
		return;
	foreach(lc, items)
		known.deliveries = lappend(known.deliveries, &((DryRunItem *) lfirst(lc))->delivery);
	kapture_own_run(dry_run_load, &known);
	written = dry_run_written(run, items);
	foreach(lc, items)
	{
		KaptureDelivery *delivery = &((DryRunItem *) lfirst(lc))->delivery;

		if (written && strstr(written, psprintf("," INT64_FORMAT ",", delivery->row.customer_id)))
			delivery->digests = NULL;
		if (delivery->digests)
			kapture_digest_forget(delivery->digests, run->fresh);
	}
}

/*
 * Where the extension keeps the ids, a key may still be that of a row that was deleted, or has
 * another key now: rows with such keys have no customers yet.
 */
static void
dry_run_unsettle(const DryRun *run, List *keys, List *items)
{
	List	   *moving;
	ListCell   *lc;
	ListCell   *mc;

	if (run->att->id == 0 || run->att->id_column)
		return;
	moving = kapture_inbox_moving_keys(run->att->id, keys);
	foreach(lc, moving == NIL ? NIL : items)
	{
		KaptureRow *row = &((DryRunItem *) lfirst(lc))->delivery.row;

		foreach(mc, moving)
		{
			if (strcmp(lfirst(mc), row->row_key) == 0)
				row->customer_id = 0;
		}
	}
}

/* Reads the rows with these keys; returns them as items. */
static List *
dry_run_read_items(DryRun *run, List *keys)
{
	List	   *items = NIL;
	List	   *rows = NIL;
	ListCell   *lc;

	foreach(lc, keys)
	{
		DryRunItem *item = palloc0(sizeof(DryRunItem));

		item->delivery.context = item->delivery.row.context = CurrentMemoryContext;
		item->delivery.attachment_id = run->att->id;
		item->delivery.row_key = lfirst(lc);
		item->delivery.row.row_key = lfirst(lc);
		items = lappend(items, item);
		rows = lappend(rows, &item->delivery.row);
	}
	kapture_row_read_all(run->att, run->timezone, rows);
	dry_run_unsettle(run, keys, items);
	return items;
}

/* Reads the rows with these keys, of which those that have customers keep them. */
static List *
dry_run_read_linked(void *arg, List *keys)
{
	DryRun	   *run = arg;
	List	   *items = dry_run_read_items(run, keys);
	ListCell   *lc;

	foreach(lc, items)
	{
		const KaptureRow *row = &((DryRunItem *) lfirst(lc))->delivery.row;

		/* one that is outside has left its customer to others */
		if (row->outcome != KAPTURE_ROW_DONE || row->customer_id == 0 || row->outside)
			continue;
		(void) dry_run_customer_holder(run, row, row->customer_id);
		(void) dry_run_phone_holder(run, row);
		(void) dry_run_email_holder(run, row);
	}
	return items;
}

/* Reads the rows with these keys; returns them as items, with what the worker would do. */
static List *
dry_run_read(void *arg, List *keys)
{
	DryRun	   *run = arg;
	List	   *items = dry_run_read_items(run, keys);
	ListCell   *lc;

	dry_run_fill_known(run, items);
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

/* Goes through all rows, or those for which a condition holds: reads them, and reports on them. */
static void
dry_run_go(DryRun *run, KaptureRound *round, void (*report) (DryRun *run, List *items))
{
	MemoryContext slice = AllocSetContextCreate(CurrentMemoryContext, "kapture_sync slice", ALLOCSET_DEFAULT_SIZES);
	const char *after = NULL;
	bool		more;

	do
	{
		MemoryContext old = MemoryContextSwitchTo(slice);
		List	   *items;

		/* what is not asked for needs no connection */
		round->most = run->ask && report ? kapture_fetch_round(run->att->server, run->owner) / DRY_RUN_GETS : 0;
		items = kapture_round_next(round, &after, &more);
		if (report)
			report(run, items);
		MemoryContextSwitchTo(old);
		if (more)
			after = pstrdup(after);
		MemoryContextReset(slice);
	} while (more);
	MemoryContextDelete(slice);
}

/* Goes through the rows that have customers, if there may be any. */
static void
dry_run_go_linked(DryRun *run, KaptureRound *round)
{
	if (run->att->id_column ? run->att->id_attnum == InvalidAttrNumber : run->att->id == 0)
		return;
	round->read = dry_run_read_linked;
	round->condition = run->att->id_column ? psprintf("%s IS NOT NULL", quote_identifier(run->att->id_column)) : NULL;
	dry_run_go(run, round, NULL);
	round->condition = NULL;
}

static HTAB *
dry_run_make_table(const char *name, Size entrysize)
{
	HASHCTL		info = {.keysize = sizeof(uint64), .entrysize = entrysize, .hcxt = CurrentMemoryContext};

	return hash_create(name, 1024, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/*
 * kapture_dry_run(relation regclass, columns jsonb, filter text, source regclass,
 *		server name, ask boolean, name text)
 *		returns table(row_key text, action text, problem text, hint text, body jsonb)
 *
 * For the owner of the table.  Errors: those of kapture_dry_draft(), of reading the
 * table as its owner, and, with "ask", of kapture_ask().
 */
Datum
kapture_dry_run(PG_FUNCTION_ARGS)
{
	DryRun		run = {.context = CurrentMemoryContext};
	const KaptureServer *server;
	KaptureAttachment all;		/* run.att without filter, source and fields: has all keys */
	KaptureRound round = {.att = &all,.arg = &run,.row = offsetof(DryRunItem, delivery.row)};

	kapture_version_require();
	kapture_argument_check_null(fcinfo, DRY_RELATION, "relation");
	kapture_argument_check_null(fcinfo, DRY_ASK, "ask");
	run.ask = PG_GETARG_BOOL(DRY_ASK);
	run.att = kapture_dry_draft(fcinfo, &run.fresh);
	all = *run.att;
	all.filter = NULL;
	all.source_name = NULL;
	all.ncolumns = 0;
	all.computing = palloc0(sizeof(KaptureComputing));
	run.owner = kapture_catalog_owner(run.att->root);
	server = kapture_server_get(run.att->server, run.owner);
	run.timezone = pstrdup(server->timezone);
	run.check_rows = server->check_rows;
	run.contacts = dry_run_make_table("kapture_sync phones and emails", sizeof(DryRunContact));
	run.customers = dry_run_make_table("kapture_sync customers", sizeof(DryRunCustomer));
	InitMaterializedSRF(fcinfo, 0);
	run.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	dry_run_go_linked(&run, &round);
	round.read = dry_run_read;
	dry_run_go(&run, &round, dry_run_report);
	PG_RETURN_NULL();
}
