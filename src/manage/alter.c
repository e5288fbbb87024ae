/*
 * alter.c
 *		kapture_alter(): another mapping for an attached table.
 *
 * Arguments that are given replace what is there.  The rest stays: the attachment
 * with its number, its history, its failures, and its waiting changes.  A field keeps
 * its bit.  Waiting changes may name bits of fields that are dropped, so these bits
 * are not given to other fields before those changes are gone.
 *
 * Nothing is captured meanwhile: the table is locked against writers, and the session
 * that writes it next reads the attachment anew.  So does the worker, before it plans
 * changes that it claims after this is committed.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "api/argument.h"
#include "api/option.h"
#include "base/catalog.h"
#include "base/lock.h"
#include "base/owner_sql.h"
#include "follow/follow.h"
#include "mapping/attach_advice.h"
#include "mapping/field_map.h"
#include "mapping/source.h"
#include "table/attach.h"
#include "table/attach_find.h"
#include "table/attach_trigger.h"
#include "table/binding.h"
#include "table/capture.h"
#include "table/capture_buffer.h"
#include "table/row_io.h"
#include "table/row_sql.h"

PG_FUNCTION_INFO_V1(kapture_alter);

/* Arguments of kapture_alter(). */
typedef enum AlterArgument
{
	ALTER_RELATION,
	ALTER_COLUMNS,
	ALTER_SERVER,
	ALTER_FILTER,
	ALTER_SOURCE,
	ALTER_ON_DUPLICATE,
	ALTER_ON_CONFLICT,
	ALTER_PULL,
	ALTER_REPLICATED,
	ALTER_ON_LEAVE,
	ALTER_ON_DELETE,
	ALTER_KEEP_IDS,
	ALTER_RESET,
	ALTER_NAME
} AlterArgument;

static const char *const alter_names[] = {
	"relation", "columns", "server", "filter", "source", "on_duplicate", "on_conflict", "pull", "replicated",
	"on_leave", "on_delete", "keep_ids", "reset", "name"
};

typedef struct Alter
{
	FunctionCallInfo fcinfo;
	KaptureAttachment *att;		/* as it was before */
	Relation	rel;
	bool		reset[ALTER_RESET];
	List	   *added;			/* names of fields (char *) */
	List	   *dropped;
} Alter;

/* Is an argument given? */
static bool
alter_has(const Alter *alter, AlterArgument arg)
{
	return !alter->fcinfo->args[arg].isnull;
}

/* Does an argument change anything? */
static bool
alter_changes(const Alter *alter, AlterArgument arg)
{
	return alter_has(alter, arg) || alter->reset[arg];
}

/* Takes the names of arguments that go back to their defaults. */
static void
alter_take_reset(Alter *alter)
{
	Datum	   *names;
	bool	   *nulls;
	int			n;

	if (!alter_has(alter, ALTER_RESET))
		return;
	deconstruct_array(DatumGetArrayTypeP(alter->fcinfo->args[ALTER_RESET].value), TEXTOID, -1, false, TYPALIGN_INT,
					  &names, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		char	   *name = nulls[i] ? "NULL" : TextDatumGetCString(names[i]);
		int			arg = ALTER_COLUMNS;

		while (arg < ALTER_KEEP_IDS && strcmp(alter_names[arg], name) != 0)
			arg++;
		if (arg == ALTER_KEEP_IDS || arg == ALTER_SERVER)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("argument \"reset\" cannot take \"%s\" back to its default", name),
					 errhint("Valid names are columns, filter, source, on_duplicate, on_conflict, pull, replicated, on_leave and on_delete.")));
		if (alter_has(alter, arg))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("argument \"%s\" is given, and also named in argument \"reset\"", name),
					 errhint("Leave out one of the two.")));
		alter->reset[arg] = true;
	}
}

/* Updates the attachment by "assignment", in which $2 is "value" as text, or '' if that is NULL. */
static void
alter_set(const Alter *alter, const char *assignment, const char *value)
{
	Oid			types[2] = {INT4OID, TEXTOID};
	Datum		values[2] = {Int32GetDatum(alter->att->id), CStringGetTextDatum(value ? value : "")};

	(void) kapture_own_execute(psprintf("UPDATE @.kapture_attachment SET %s WHERE attachment_id = $1", assignment),
							   2, types, values);
}

/* ------------------------------------------------------------------------
 * Fields
 * ------------------------------------------------------------------------
 */

/* Bits that fields have, or that waiting changes name. */
static int64
alter_bits_in_use(const Alter *alter)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(alter->att->id)};
	char	   *waiting = kapture_own_text("SELECT coalesce(bit_or(m), 0) & 9223372036854775807 FROM"
										   " (SELECT changed AS m FROM @.kapture_outbox WHERE attachment_id = $1"
										   " UNION ALL SELECT changed | coalesce(again, 0) FROM @.kapture_delivery WHERE attachment_id = $1) AS w",
										   1, types, values);

	return pg_strtoint64(waiting) | alter->att->all_changed;
}

/* Returns a free bit, and adds it to those in use. */
static int
alter_free_bit(int64 *in_use)
{
	int			bit = kapture_mapping_free_bit(*in_use);

	if (bit < 0)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("no more fields can be mapped while changes of dropped fields wait to be sent"),
				 errhint("Try again when kapture_status shows that nothing waits.")));
	*in_use |= INT64CONST(1) << bit;
	return bit;
}

/* Clears the digests of a bit: what Kapture has for the field that gets it is not known. */
static void
alter_forget_digests(const Alter *alter, int bit)
{
	Oid			types[2] = {INT4OID, INT4OID};
	Datum		values[2] = {Int32GetDatum(alter->att->id), Int32GetDatum(bit * 8)};

	(void) kapture_own_execute("UPDATE @.kapture_row SET digests = overlay(digests PLACING int8send(0) FROM $2 + 1 FOR 8)"
							   " WHERE attachment_id = $1 AND octet_length(digests) >= $2 + 8", 2, types, values);
}

static void
alter_drop_field(const Alter *alter, const char *field)
{
	Oid			types[2] = {INT4OID, TEXTOID};
	Datum		values[2] = {Int32GetDatum(alter->att->id), CStringGetTextDatum(field)};

	(void) kapture_own_execute("DELETE FROM @.kapture_column WHERE attachment_id = $1 AND field = $2", 2, types, values);
}

/* Is a field fed by the same source as before? */
static bool
alter_is_same(const KaptureMappedColumn *col, const KaptureMapping *mapping)
{
	if (mapping->expression)
		return col->expression && strcmp(col->expression->text, mapping->expression->text) == 0;
	if (mapping->constant)
		return col->constant && strcmp(col->constant, mapping->constant) == 0;
	return col->name && strcmp(col->name, mapping->name) == 0;
}

/* Names of fields, for a message. */
static char *
alter_list(const List *names)
{
	StringInfoData list;
	ListCell   *lc;

	initStringInfo(&list);
	foreach(lc, names)
		appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "", (char *) lfirst(lc));
	return list.data;
}

/* Names of fields, as a literal of an array. */
static char *
alter_array(const List *names)
{
	Datum	   *elements = palloc(sizeof(Datum) * list_length(names));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, names)
		elements[n++] = CStringGetTextDatum(lfirst(lc));
	return quote_literal_cstr(OidOutputFunctionCall(F_ARRAY_OUT, PointerGetDatum(construct_array(elements, n, TEXTOID, -1, false, TYPALIGN_INT))));
}

/* Replaces the fields by these; a field that was there before keeps its bit. */
static void
alter_replace_fields(Alter *alter, List *mappings)
{
	int64		in_use = alter_bits_in_use(alter);
	bool	   *kept = palloc0(sizeof(bool) * Max(alter->att->ncolumns, 1));
	ListCell   *lc;

	foreach(lc, mappings)
	{
		KaptureMapping *mapping = lfirst(lc);
		int			bit = -1;

		for (int i = 0; i < alter->att->ncolumns; i++)
		{
			const KaptureMappedColumn *col = &alter->att->columns[i];

			if (strcmp(col->field, mapping->field) != 0)
				continue;
			kept[i] = true;
			bit = col->bit;
			if (!alter_is_same(col, mapping))
				alter->added = lappend(alter->added, mapping->field);
			alter_drop_field(alter, mapping->field);
		}
		if (bit < 0)
		{
			bit = alter_free_bit(&in_use);
			alter_forget_digests(alter, bit);
			alter->added = lappend(alter->added, mapping->field);
		}
		kapture_attach_store_mapping(alter->att->id, bit, mapping);
	}
	for (int i = 0; i < alter->att->ncolumns; i++)
	{
		if (kept[i])
			continue;
		alter_drop_field(alter, alter->att->columns[i].field);
		alter->dropped = lappend(alter->dropped, alter->att->columns[i].field);
	}
}

/* Changes the fields, and the view that they come from. */
static void
alter_mapping(Alter *alter)
{
	KaptureAttachment *att = alter->att;
	Jsonb	   *columns = alter_has(alter, ALTER_COLUMNS) ?
		DatumGetJsonbP(alter->fcinfo->args[ALTER_COLUMNS].value) : NULL;
	Oid			source = alter_has(alter, ALTER_SOURCE) ? DatumGetObjectId(alter->fcinfo->args[ALTER_SOURCE].value) :
		alter->reset[ALTER_SOURCE] ? InvalidOid : att->source;
	KaptureGivenSource *given;
	List	   *keys = NIL;
	Relation	view;

	if (!alter_changes(alter, ALTER_COLUMNS) && !alter_changes(alter, ALTER_SOURCE))
		return;
	if (!OidIsValid(source))
	{
		alter_replace_fields(alter, kapture_mapping_take(alter->rel, columns, att->id_column));
		alter_set(alter, "source = nullif($2, ''), source_keys = NULL, source_columns = NULL", NULL);
		return;
	}
	for (int i = 0; i < att->nkeys; i++)
		keys = lappend(keys, att->keys[i].name);
	view = kapture_source_open(alter->rel, source);
	given = kapture_source_take(alter->rel, view, keys);
	alter_replace_fields(alter, kapture_mapping_take_of_view(view, columns, given->keys));
	relation_close(view, NoLock);
	alter_set(alter, "source = $2, source_keys = key_columns", given->name);
	alter_set(alter, "source_columns = nullif($2, '')::name[]", kapture_expression_reads(&given->reads));
}

/* Changes the constants of on_leave or on_delete; "column" of the attachment has the argument's name. */
static void
alter_constants(const Alter *alter, AlterArgument arg, const char *column)
{
	Jsonb	   *constants = NULL;

	if (!alter_changes(alter, arg))
		return;
	if (alter_has(alter, arg))
		constants = kapture_mapping_take_constants(DatumGetJsonbP(alter->fcinfo->args[arg].value), column);
	alter_set(alter, psprintf("%s = nullif($2, '')::jsonb", column),
			  constants ? JsonbToCString(NULL, &constants->root, VARSIZE(constants)) : NULL);
}

/* Changes which rows go to Kapture, and what is sent for a row that leaves or is deleted. */
static void
alter_filter(Alter *alter)
{
	KaptureGivenExpression *filter = NULL;

	if (alter_has(alter, ALTER_FILTER))
		filter = kapture_expression_take(alter->rel, TextDatumGetCString(alter->fcinfo->args[ALTER_FILTER].value), NULL);
	if (alter_changes(alter, ALTER_FILTER))
	{
		alter_set(alter, "filter = nullif($2, '')", filter ? filter->text : NULL);
		alter_set(alter, "filter_columns = nullif($2, '')::name[]", filter ? kapture_expression_reads(filter) : NULL);
	}
	if (alter_has(alter, ALTER_ON_LEAVE) &&
		!(alter_changes(alter, ALTER_FILTER) ? alter_has(alter, ALTER_FILTER) : alter->att->filter != NULL) &&
		!(alter_changes(alter, ALTER_SOURCE) ? alter_has(alter, ALTER_SOURCE) : alter->att->source_name != NULL))
		kapture_attach_refuse_on_leave();
	alter_constants(alter, ALTER_ON_LEAVE, alter_names[ALTER_ON_LEAVE]);
	alter_constants(alter, ALTER_ON_DELETE, alter_names[ALTER_ON_DELETE]);
}

/* ------------------------------------------------------------------------
 * The rest
 * ------------------------------------------------------------------------
 */

/* A boolean argument; false if it is reset or not given. */
static bool
alter_bool(const Alter *alter, AlterArgument arg)
{
	return alter_has(alter, arg) && DatumGetBool(alter->fcinfo->args[arg].value);
}

static void
alter_options(Alter *alter)
{
	KaptureAttachment *att = alter->att;
	char	   *name = kapture_row_relation_name(att->root);

	if (alter_changes(alter, ALTER_ON_DUPLICATE))
		alter_set(alter, "on_duplicate = $2", alter->reset[ALTER_ON_DUPLICATE] ? "link" :
				  kapture_attach_choice(alter->fcinfo, ALTER_ON_DUPLICATE, "on_duplicate", "link", "link only", "fail"));
	if (alter_changes(alter, ALTER_ON_CONFLICT))
		alter_set(alter, "on_conflict = $2", alter->reset[ALTER_ON_CONFLICT] ? "local" :
				  kapture_attach_choice(alter->fcinfo, ALTER_ON_CONFLICT, "on_conflict", "local", "remote", NULL));
	if (alter_changes(alter, ALTER_PULL))
		alter_set(alter, "pull = $2::boolean", alter_bool(alter, ALTER_PULL) ? "true" : "false");
	if (alter_changes(alter, ALTER_REPLICATED))
	{
		const char *enable = alter_bool(alter, ALTER_REPLICATED) ? "ENABLE ALWAYS" : "ENABLE";

		alter_set(alter, "replicated = $2::boolean", alter_bool(alter, ALTER_REPLICATED) ? "true" : "false");
		kapture_attach_execute_ddl(psprintf("ALTER TABLE %s %s TRIGGER %s, %s TRIGGER %s", name,
											enable, kapture_capture_trigger(KAPTURE_TRIGGER, att->id, att->name),
											enable, kapture_capture_trigger(KAPTURE_TRUNCATE_TRIGGER, att->id, att->name)));
		kapture_attach_watch_partitions(att->root, att->root, att->id, att->name, alter_bool(alter, ALTER_REPLICATED));
	}
	if (alter_bool(alter, ALTER_PULL))
		kapture_attach_index_id_column(att->root, name, att->id_column);
}

/*
 * Is nothing of the table in flight or in doubt?  What counts is what is committed by
 * now, whatever the transaction's snapshot is.
 */
static bool
alter_is_idle(int32 attachment_id)
{
	Relation	rel = table_open(kapture_catalog_relid(KAPTURE_TABLE_DELIVERY), AccessShareLock);
	AttrNumber	state = get_attnum(RelationGetRelid(rel), "state");
	AttrNumber	in_doubt = get_attnum(RelationGetRelid(rel), "in_doubt");
	bool		idle = true;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;

	ScanKeyInit(&key, get_attnum(RelationGetRelid(rel), "attachment_id"), BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(attachment_id));
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 1, &key);
	while (idle && HeapTupleIsValid(tuple = systable_getnext(scan)))
		idle = strcmp(TextDatumGetCString(kapture_catalog_getattr(tuple, rel, state)), "sending") != 0 &&
			heap_attisnull(tuple, in_doubt, RelationGetDescr(rel));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return idle;
}

/*
 * Refuses to change the server while something may be on its way to the old one.  The
 * lock waits for a worker that is just taking up changes, and keeps it from beginning anew.
 */
static void
alter_check_idle(const Alter *alter)
{
	(void) kapture_lock_attachment(alter->att->id, ExclusiveLock, true);
	if (alter->att->paused && alter_is_idle(alter->att->id))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("requests of table \"%s\" to server \"%s\" may be in flight", get_rel_name(alter->att->root), alter->att->server),
			 errhint("Use kapture_pause(), and wait until kapture_status shows nothing in flight and nothing that is retried.")));
}

/* Makes the table's rows go to another server. */
static void
alter_server(Alter *alter)
{
	KaptureAttachment *att = alter->att;
	char	   *server;
	Oid			serverid;
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(att->id)};

	if (!alter_has(alter, ALTER_SERVER))
		return;
	server = NameStr(*DatumGetName(alter->fcinfo->args[ALTER_SERVER].value));
	serverid = kapture_binding_lock(server, alter->rel->rd_rel->relowner);
	if (serverid == att->serverid)
		return;
	alter_check_idle(alter);
	alter_set(alter, "(server, server_oid, server_owner) ="
			  " (SELECT s.srvname, s.oid, s.srvowner FROM pg_foreign_server AS s WHERE s.oid = $2::oid)", psprintf("%u", serverid));
	if (!alter_bool(alter, ALTER_KEEP_IDS))
	{
		/* ids that the extension keeps are deleted with the entries of rows */
		if (att->id_column &&
			kapture_row_count(att, false, psprintf("%s IS NOT NULL", quote_identifier(att->id_column))) > 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("rows of table \"%s\" have ids of customers of server \"%s\"", get_rel_name(att->root), att->server),
					 errhint("If they are customers of server \"%s\", too, use keep_ids => true. If not, use UPDATE %s SET %s = NULL first, and kapture_backfill() afterwards.",
							 server, kapture_row_relation_name(att->root), quote_identifier(att->id_column))));
		(void) kapture_own_execute("DELETE FROM @.kapture_row WHERE attachment_id = $1", 1, types, values);
		(void) kapture_own_execute("UPDATE @.kapture_delivery SET customer_id = NULL, sent_phone = NULL, sent_email = NULL, sent_code = NULL"
								   " WHERE attachment_id = $1", 1, types, values);
	}
	(void) kapture_own_execute("DELETE FROM @.kapture_inbox WHERE attachment_id = $1", 1, types, values);
	kapture_binding_depend(att->root, att->id, att->name, serverid);
}

/* Does any argument change anything? */
static bool
alter_changes_something(const Alter *alter)
{
	for (int arg = ALTER_COLUMNS; arg < ALTER_KEEP_IDS; arg++)
	{
		if (alter_changes(alter, (AlterArgument) arg))
			return true;
	}
	return false;
}

/* Reports what has changed, and the commands that apply it to rows that are there. */
static void
alter_say(const Alter *alter)
{
	const KaptureAttachment *att = alter->att;
	const char *name = kapture_catalog_title(att);

	if (alter->dropped != NIL)
		ereport(NOTICE,
				(errmsg("fields that are no longer sent for table %s: %s", name, alter_list(alter->dropped)),
				 errdetail("Kapture keeps the values that it has.")));
	if (alter_changes(alter, ALTER_FILTER) || alter_changes(alter, ALTER_SOURCE))
		ereport(NOTICE,
				(errmsg("other rows of table %s may go to Kapture from now on", name),
				 errdetail("Rows that come in, or leave, are noticed when they change."),
				 errhint("Use CALL kapture_resync(%s%s) to have those that come in sent now.", quote_literal_cstr(kapture_row_relation_name(att->root)),
						 att->name[0] == '\0' ? "" : psprintf(", name => %s", quote_literal_cstr(att->name)))));
	if (alter->added != NIL)
		ereport(NOTICE,
				(errmsg("fields of table %s that are new, or come from elsewhere: %s", name, alter_list(alter->added)),
				 errhint("Use CALL kapture_resync(%s, fields => %s%s) to have them sent for the rows that are there.",
						 quote_literal_cstr(kapture_row_relation_name(att->root)), alter_array(alter->added),
						 att->name[0] == '\0' ? "" : psprintf(", name => %s", quote_literal_cstr(att->name)))));
}

/* Reports that a call changes nothing. */
static void
alter_advise_idle(const Alter *alter)
{
	if (alter_changes_something(alter))
		return;
	ereport(NOTICE,
			(errmsg("nothing of how table %s is attached is changed", kapture_catalog_title(alter->att)),
			 alter_bool(alter, ALTER_KEEP_IDS) ?
			 errdetail("Argument \"%s\" is of no use without argument \"%s\".", "keep_ids", "server") :
			 errdetail("No argument says what."),
			 errhint("Give what is to be another, for example filter => 'city IS NOT NULL'. The view kapture_attachments shows how the table is attached, in the terms of the arguments.")));
}

/* Reports options that cannot have the effect that was asked for. */
static void
alter_advise(const Alter *alter)
{
	Relation	rel;

	if (alter_has(alter, ALTER_ON_CONFLICT))
		kapture_advice_on_conflict(TextDatumGetCString(alter->fcinfo->args[ALTER_ON_CONFLICT].value),
								   alter_changes(alter, ALTER_PULL) ? alter_bool(alter, ALTER_PULL) : alter->att->pull);
	if (!alter_changes(alter, ALTER_ON_DUPLICATE) && !alter_has(alter, ALTER_SERVER))
		return;
	rel = relation_open(alter->att->root, NoLock);
	kapture_advice_duplicates(kapture_catalog_attachment_by_id(rel, alter->att->id));
	relation_close(rel, NoLock);
}

/*
 * kapture_alter(relation regclass, columns jsonb, server name, filter text,
 *		source regclass, on_duplicate text, on_conflict text, pull boolean,
 *		replicated boolean, on_leave jsonb, on_delete jsonb, keep_ids boolean, reset text[],
 *		name text) returns void
 *
 * Errors: those of kapture_attach_find() and, for bad arguments, of
 * kapture_attach(); 55006 requests to the old server may be in flight; 55000 rows
 * have ids of the old server; 54000 no bits are free.
 */
Datum
kapture_alter(PG_FUNCTION_ARGS)
{
	Alter		alter = {.fcinfo = fcinfo};

	alter.att = kapture_attach_find(fcinfo, ALTER_NAME, ShareRowExclusiveLock);
	kapture_argument_check_null(fcinfo, ALTER_KEEP_IDS, "keep_ids");
	alter_take_reset(&alter);
	alter_advise_idle(&alter);
	/* changes that this transaction has captured have the old bits */
	kapture_notes_flush();
	alter.rel = relation_open(alter.att->root, NoLock);
	alter_server(&alter);
	alter_mapping(&alter);
	alter_filter(&alter);
	if (alter_bool(&alter, ALTER_PULL) || (alter.att->pull && alter_has(&alter, ALTER_SERVER)))
		kapture_attach_check_pull(alter.rel, alter.att->id, alter_has(&alter, ALTER_SERVER) ?
								  NameStr(*PG_GETARG_NAME(ALTER_SERVER)) : alter.att->server);
	relation_close(alter.rel, NoLock);	/* DDL refuses a table that is open here */
	alter_options(&alter);
	kapture_attach_try(alter.att->root, alter.att->id);
	kapture_attach_announce_one(alter.att->id);
	kapture_follow_view_changed(list_make1_oid(alter.att->root));	/* other columns of followed tables may matter now */
	alter_say(&alter);
	alter_advise(&alter);
	PG_RETURN_VOID();
}
