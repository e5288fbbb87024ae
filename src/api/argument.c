/*
 * argument.c
 *		Checks of the arguments that SQL functions hand on to Kapture, and
 *		request bodies made of them.
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "api/argument.h"
#include "api/dialect.h"
#include "api/field.h"
#include "api/local_time.h"
#include "api/option.h"
#include "api/reply.h"
#include "base/catalog.h"
#include "base/compat.h"

/*
 * kapture_argument_check_null
 *		Raises 22004 if the argument is NULL; "name" is what users call it.
 */
void
kapture_argument_check_null(FunctionCallInfo fcinfo, int argno, const char *name)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
}

/*
 * kapture_argument_check_owner
 *		For kapture_argument_open(): raises 42501 unless the relation is the caller's.
 */
void
kapture_argument_check_owner(Oid relid)
{
	if (!object_ownercheck(RelationRelationId, relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(get_rel_relkind(relid)), get_rel_name(relid));
}

/*
 * kapture_argument_open
 *		Opens a relation that an argument names; "check" raises an error unless the
 *		caller has the rights to it that are needed.
 *
 * "check" is called before the lock is taken, too, so that nobody without rights waits for
 * a lock and makes others wait behind.  Errors: 42P01 no such relation, and those of "check".
 */
Relation
kapture_argument_open(Oid relid, LOCKMODE lockmode, void (*check) (Oid relid))
{
	Relation	rel = NULL;

	if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
	{
		check(relid);
		rel = try_relation_open(relid, lockmode);
	}
	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	check(relid);				/* rights may have changed during the wait for the lock */
	return rel;
}

/*
 * kapture_argument_object
 *		An argument that must be a JSON object with something in it.
 *
 * Errors: 22004 it is NULL, 22023 it is something else.
 */
Jsonb *
kapture_argument_object(FunctionCallInfo fcinfo, int argno, const char *name)
{
	Jsonb	   *object;
	const char *example = strcmp(name, "customer") == 0 ?
		"'{\"customer_name\": \"Priya\", \"phone\": \"9874563725\"}'" : "'{\"phone\": \"9874563725\"}'";

	kapture_argument_check_null(fcinfo, argno, name);
	object = PG_GETARG_JSONB_P(argno);
	if (!JB_ROOT_IS_OBJECT(object))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must be a JSON object", name),
				 JB_ROOT_IS_SCALAR(object) ?
				 errhint("Write something like %s.", example) :
				 errhint("Call the function once for each object of the array; where Kapture wants an array, it is put around the object.")));
	if (JB_ROOT_COUNT(object) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must not be an empty object", name),
				 errhint("Write something like %s.", example)));
	return object;
}

/*
 * kapture_argument_is_given
 *		Does this value have content: neither null nor a string of nothing but spaces?
 */
bool
kapture_argument_is_given(const JsonbValue *value)
{
	if (value->type == jbvString)
	{
		for (int i = 0; i < value->val.string.len; i++)
		{
			if (value->val.string.val[i] != ' ')
				return true;
		}
		return false;
	}
	return value->type != jbvNull;
}

/* The field of Kapture's that an object's key names, or NULL. */
static const KaptureField *
argument_field(const JsonbValue *key)
{
	return kapture_field_find(key->val.string.val, key->val.string.len);
}

/*
 * kapture_argument_check_criteria
 *		Raises 22023 unless the object has something to search for.
 *
 * With "documented", it must be a criterion that Kapture's document names: a search
 * by anything else finds nobody, as if there were no such customer.
 */
void
kapture_argument_check_criteria(Jsonb *criteria, bool documented)
{
	JsonbIterator *it = JsonbIteratorInit(&criteria->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	bool		given = false;
	bool		counts = false;

	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			const KaptureField *field = argument_field(&value);

			counts = !documented || (field && field->is_searched);
		}
		else if (token == WJB_VALUE && kapture_argument_is_given(&value))
		{
			if (counts)
				return;
			given = true;
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 given ?
			 errmsg("argument \"%s\" has no criterion that Kapture searches by", "criteria") :
			 errmsg("argument \"%s\" has no criterion that is not empty", "criteria"),
			 errhint("Give at least one of \"kapture_customer_id\", \"customer_id\", \"phone\" and \"email_id\".")));
}

/* Raises a NOTICE for each field of an object that the account has another name for. */
static void
argument_advise_names(Jsonb *object, const KaptureDialectEntry *names)
{
	JsonbIterator *it = JsonbIteratorInit(&object->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		const char *path;
		char	   *name;

		if (token != WJB_KEY || argument_field(&value) == NULL)
			continue;
		name = pnstrdup(value.val.string.val, value.val.string.len);
		path = kapture_dialect_path(names, name);
		if (strcmp(path, name) != 0 && !kapture_dialect_is_used(names, name))
			ereport(NOTICE,
					(errmsg("\"%s\" is \"%s\" in requests to this server", name, path),
					 errdetail("It is sent as it is given; Kapture may ignore it."),
					 errhint("Write it as the account wants it: options \"dialect\" and \"field_names\" are for rows.")));
	}
}

/*
 * kapture_argument_advise
 *		Raises a NOTICE for each field of an object that Kapture does not document,
 *		or, with "searches", does not search by; if the account has "names" of its
 *		own (not NULL), for each field that has another name there instead.
 *
 * The field is sent all the same, as accounts have fields of their own; but Kapture
 * ignores unknown fields without an error.
 */
void
kapture_argument_advise(Jsonb *object, bool searches, const KaptureDialectEntry *names)
{
	JsonbIterator *it = JsonbIteratorInit(&object->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	if (names)
	{
		argument_advise_names(object, names);
		return;
	}
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		const KaptureField *field = token == WJB_KEY ? argument_field(&value) : NULL;
		const char *nearest;
		char	   *name;

		if (token != WJB_KEY || (searches ? field && field->is_searched : field != NULL))
			continue;
		name = pnstrdup(value.val.string.val, value.val.string.len);
		nearest = kapture_field_nearest(name);
		if (searches)
			ereport(NOTICE,
					(errmsg("\"%s\" is not a criterion that Kapture documents", name),
					 errdetail("Kapture may ignore it, and find no customer."),
					 errhint("Kapture searches by \"kapture_customer_id\", \"customer_id\", \"phone\" and \"email_id\".")));
		else
			ereport(NOTICE,
					(errmsg("\"%s\" is not a field that Kapture documents", name),
					 errdetail("It is sent all the same; Kapture may ignore it."),
					 nearest ? errhint("Perhaps you meant the field \"%s\".", nearest) : 0));
	}
}

/* Sets a value to a string. */
static void
argument_set_string(JsonbValue *value, char *text)
{
	value->type = jbvString;
	value->val.string.val = text;
	value->val.string.len = strlen(text);
}

/*
 * kapture_argument_body
 *		The body for an object, as JSON text in the database's encoding;
 *		palloc'ed.
 *
 * The body is the object as given, but null becomes "", as Kapture writes it,
 * and ids and phones given as numbers become strings, as Kapture takes them.
 */
char *
kapture_argument_body(Jsonb *object)
{
	JsonbIterator *it = JsonbIteratorInit(&object->root);
	JsonbIteratorToken token;
	JsonbInState state = {0};
	JsonbValue	value;
	Jsonb	   *body;
	bool		digits = false;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			const KaptureField *field = argument_field(&value);

			digits = field && field->is_digits;
		}
		else if (token != WJB_VALUE)
			continue;
		else if (value.type == jbvNull)
			argument_set_string(&value, "");
		else if (value.type == jbvNumeric && digits)
			argument_set_string(&value, DatumGetCString(DirectFunctionCall1(numeric_out,
																			NumericGetDatum(value.val.numeric))));
		pushJsonbValue(&state, token, &value);
	}
	pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	body = JsonbValueToJsonb(state.result);
	return JsonbToCString(NULL, &body->root, VARSIZE(body));
}

/* An instant as the local time to ask "from", or else up to, in the account of argument 2 (server). */
static Timestamp
argument_local(FunctionCallInfo fcinfo, TimestampTz when, bool from)
{
	pg_tz	   *zone;

	kapture_argument_check_null(fcinfo, 2, "server");
	zone = kapture_local_zone(kapture_server_get(NameStr(*PG_GETARG_NAME(2)), GetUserId())->timezone);
	return kapture_local_whole_seconds(from ? kapture_local_since(when, zone) : kapture_local_until(when, zone));
}

/*
 * A time of a pull, which must be finite, as the account's local time.  An
 * instant loses its parts of a second; *exact says whether it is an instant.
 */
static Timestamp
argument_time(FunctionCallInfo fcinfo, int argno, const char *name, bool *exact)
{
	Timestamp	result;
	bool		finite = true;

	kapture_argument_check_null(fcinfo, argno, name);
	*exact = false;
	switch (get_fn_expr_argtype(fcinfo->flinfo, argno))
	{
		case TEXTOID:
			result = DatumGetTimestamp(DirectFunctionCall3(timestamp_in,
														   CStringGetDatum(text_to_cstring(PG_GETARG_TEXT_PP(argno))),
														   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
			break;
		case DATEOID:
			result = DatumGetTimestamp(DirectFunctionCall1(date_timestamp, PG_GETARG_DATUM(argno)));
			break;
		case TIMESTAMPTZOID:
			*exact = true;
			finite = !TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMPTZ(argno));
			result = finite ? argument_local(fcinfo, PG_GETARG_TIMESTAMPTZ(argno), argno == 0) : 0;
			break;
		default:
			result = PG_GETARG_TIMESTAMP(argno);
			break;
	}
	if (!finite || TIMESTAMP_NOT_FINITE(result))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("argument \"%s\" must be finite", name)));
	return result;
}

/*
 * kapture_argument_range
 *		The range of a pull, from arguments 0 (start_date) and 1 (end_date), in
 *		the local time of the account of argument 2 (server).
 *
 * They are of type timestamp, date or text, which are local times, or instants
 * (timestamptz).  A local end_date at midnight means all of that day, as a date
 * without time does to Kapture.  Errors: 22004 one is NULL; 22007 text that is no
 * time; 22008 one is infinite or beyond four digits of a year; 22023 the end is
 * before the start; for instants, those of kapture_server_get().
 */
void
kapture_argument_range(FunctionCallInfo fcinfo, Timestamp *start, Timestamp *end)
{
	bool		exact;

	*start = argument_time(fcinfo, 0, "start_date", &exact);
	*end = argument_time(fcinfo, 1, "end_date", &exact);
	(void) kapture_message_date(*start);
	(void) kapture_message_date(*end);
	if (*end % USECS_PER_DAY == 0 && !exact)
		*end += USECS_PER_DAY - USECS_PER_SEC;
	if (*start > *end)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" is after \"%s\"",
						"start_date", "end_date"),
				 errdetail("The range would be from %s to %s.",
						   kapture_message_date(*start), kapture_message_date(*end)),
				 errhint("Give the earlier time first.")));
}

/*
 * kapture_argument_key
 *		The key of a row, palloc'ed, as outbox and deliveries know it: text as it
 *		is, a value of another type as capture writes it out.
 *
 * Errors: 42804 a composite value.
 */
char *
kapture_argument_key(FunctionCallInfo fcinfo, int argno)
{
	Oid			type = get_fn_expr_argtype(fcinfo->flinfo, argno);
	Oid			output;
	bool		is_varlena;
	char	   *result;
	int			nestlevel;

	if (!OidIsValid(type) || type == TEXTOID)
		return text_to_cstring(PG_GETARG_TEXT_PP(argno));
	if (type_is_rowtype(type))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("argument \"%s\" must not be a row", "row_key"),
				 errhint("Give a key of several columns as the text of an array, such as '{1,x}', in the order of the primary key.")));
	getTypeOutputInfo(type, &output, &is_varlena);
	nestlevel = kapture_catalog_text_settings();
	result = OidOutputFunctionCall(output, PG_GETARG_DATUM(argno));
	AtEOXact_GUC(true, nestlevel);
	return result;
}
