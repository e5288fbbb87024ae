/*
 * columns.c
 *		Customers and contacts of Kapture's answers as typed columns.
 *
 * Two tables, customer_columns and contact_columns, say everything about a
 * column: its name, the key of the answer it comes from, and how that is read.
 * The columns of the types kapture_customer and kapture_contact are found in
 * them by name.
 *
 * What Kapture sends is somebody else's data: a value that cannot be read is
 * NULL in its column and stays in "raw".  It must never fail a pull, so values
 * are checked before PostgreSQL's own input code sees them, or go through the
 * parts of it that return a code.
 *
 * Times carry no time zone; they are local times of the account.
 */
#include "postgres.h"

#include <ctype.h>

#include "catalog/pg_type.h"
#include "common/jsonapi.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "api/columns.h"
#include "api/local_time.h"
#include "base/compat.h"
#include "base/nearest.h"

#define CUSTOMER_MAX_NUMBER	1000	/* characters of a number given as text */

/* How a value is read. */
typedef enum ColumnKind
{
	COLUMN_BIGINT,
	COLUMN_BOOLEAN,
	COLUMN_NUMERIC,
	COLUMN_TEXT,
	COLUMN_TIME,
	COLUMN_JSONB,
	COLUMN_RAW					/* the whole object */
} ColumnKind;

typedef struct CustomerColumn
{
	const char *name;			/* of the column */
	const char *key;			/* of the answer's object, or "" */
	ColumnKind	kind;
	const char *contact_key;	/* of the primary contact, where "key" gives
								 * nothing; or NULL */
	const char *field;			/* of Add and Update, or NULL */
} CustomerColumn;

/*
 * From "kapture_customer_id" to "gender": columns for fields of Add whose names no
 * other column has; only foreign tables have these.  Kapture never returns those
 * with neither key nor contact_key.
 */

static const CustomerColumn customer_columns[] = {
	{"id", "id", COLUMN_BIGINT, .field = "kapture_customer_id"},
	{"name", "name", COLUMN_TEXT, .field = "customer_name"},
	{"phone", "companyPhone", COLUMN_TEXT, "phone", .field = "phone"},
	{"email", "", COLUMN_TEXT, "email", .field = "email_id"},
	{"generation_date", "generationDate", COLUMN_TIME},
	{"last_modification_time", "lastModificationTime", COLUMN_TIME},
	{"cm_id", "cmId", COLUMN_BIGINT},
	{"is_organization", "isOrganization", COLUMN_BOOLEAN},
	{"company_phone", "companyPhone", COLUMN_TEXT},
	{"website", "website", COLUMN_TEXT},
	{"address", "address", COLUMN_TEXT},
	{"locality", "locality", COLUMN_TEXT},
	{"city", "city", COLUMN_TEXT, .field = "city"},
	{"state", "state", COLUMN_TEXT, .field = "state"},
	{"country", "country", COLUMN_TEXT, .field = "country"},
	{"pin_code", "pinCode", COLUMN_TEXT},
	{"latitude", "latitude", COLUMN_NUMERIC},
	{"longitude", "longitude", COLUMN_NUMERIC},
	{"zone", "zone", COLUMN_BIGINT, .field = "zone"},
	{"current_status", "currentStatus", COLUMN_TEXT},
	{"company_status", "companyStatus", COLUMN_TEXT},
	{"classification", "classification", COLUMN_TEXT},
	{"customer_code", "customerCode", COLUMN_TEXT},
	{"customer_type", "customerType", COLUMN_TEXT},
	{"customer_sub_type", "customerSubType", COLUMN_TEXT},
	{"customer_level", "customerLevel", COLUMN_BIGINT},
	{"creator_id", "creatorId", COLUMN_BIGINT},
	{"creator_name", "creatorName", COLUMN_TEXT},
	{"assigned_to_id", "assignedToId", COLUMN_BIGINT},
	{"assigned_to_name", "assignedToName", COLUMN_TEXT},
	{"history_emp_id", "historyEmpId", COLUMN_BIGINT},
	{"channel_partner_id", "channelPartnerId", COLUMN_BIGINT},
	{"channel_partner_emp_id", "channelPartnerEmpId", COLUMN_BIGINT},
	{"is_channel_partner", "isChannelPartner", COLUMN_BOOLEAN},
	{"company_parent_id", "companyParentId", COLUMN_BIGINT},
	{"referral_id", "referralId", COLUMN_BIGINT},
	{"campaign_id", "campaignId", COLUMN_BIGINT},
	{"campaign_item_id", "campaignItemId", COLUMN_BIGINT},
	{"campaign_activity_id", "campaignActivityId", COLUMN_BIGINT},
	{"rate_plan_id", "ratePlanId", COLUMN_BIGINT},
	{"sales_admin_zone", "salesAdminZone", COLUMN_BIGINT},
	{"total_no_of_enquiries", "totalNoOfEnquiries", COLUMN_BIGINT},
	{"max_credit_amt", "maxCreditAmt", COLUMN_NUMERIC},
	{"max_credit_period", "maxCreditPeriod", COLUMN_BIGINT},
	{"out_standing_amount", "outStandingAmount", COLUMN_NUMERIC},
	{"city_potential", "cityPotential", COLUMN_BOOLEAN},
	{"feedback_on_customer", "feedbackOnCustomer", COLUMN_TEXT},
	{"remarks", "remarks", COLUMN_TEXT},
	{"cross_remarks", "crossRemarks", COLUMN_TEXT},
	{"image_reference_id", "imageReferenceId", COLUMN_TEXT},
	{"deleted", "deleted", COLUMN_BOOLEAN},
	{"is_existing_customer", "isExistingCustomer", COLUMN_BOOLEAN},
	{"is_existing_contact", "isExistingContact", COLUMN_BOOLEAN},
	{"is_api", "isApi", COLUMN_BOOLEAN},
	{"sync_status", "syncStatus", COLUMN_BOOLEAN},
	{"syncd_location_id", "syncdLocationId", COLUMN_TEXT},
	{"synced_step_number", "syncedStepNumber", COLUMN_BIGINT},
	{"attr1", "attr1", COLUMN_TEXT},
	{"attr2", "attr2", COLUMN_TEXT},
	{"attr3", "attr3", COLUMN_TEXT},
	{"attr4", "attr4", COLUMN_TEXT},
	{"attr5", "attr5", COLUMN_TEXT},
	{"attr6", "attr6", COLUMN_TEXT},
	{"attr7", "attr7", COLUMN_TEXT},
	{"attr8", "attr8", COLUMN_TEXT},
	{"attr9", "attr9", COLUMN_TEXT},
	{"attr10", "attr10", COLUMN_TEXT},
	{"attr11", "attr11", COLUMN_TEXT},
	{"attr12", "attr12", COLUMN_TEXT},
	{"attr13", "attr13", COLUMN_TEXT},
	{"attr14", "attr14", COLUMN_TEXT},
	{"attr15", "attr15", COLUMN_TEXT},
	{"kapture_customer_id", "id", COLUMN_BIGINT, .field = "kapture_customer_id"},
	{"customer_name", "name", COLUMN_TEXT, .field = "customer_name"},
	{"email_id", "", COLUMN_TEXT, "email", .field = "email_id"},
	{"zone_name", "", COLUMN_TEXT, .field = "zone"},
	{"campaign_name", "", COLUMN_TEXT, .field = "campaign_name"},
	{"secsource", "", COLUMN_TEXT, .field = "secSource"},
	{"tertsource", "", COLUMN_TEXT, .field = "tertSource"},
	{"customer_assign_emp_code", "", COLUMN_TEXT, .field = "customer_assign_emp_code"},
	{"customer_assign_emp_name", "assignedToName", COLUMN_TEXT, .field = "customer_assign_emp_name"},
	{"customer_assign_emp_email", "", COLUMN_TEXT, .field = "customer_assign_emp_email"},
	{"contact_id", "", COLUMN_BIGINT, "id", .field = "contact_id"},
	{"contact_person_name", "", COLUMN_TEXT, "contactPerson", .field = "contact_person_name"},
	{"contact_person_phone", "", COLUMN_TEXT, "phone", .field = "contact_person_phone"},
	{"contact_person_email", "", COLUMN_TEXT, "email", .field = "contact_person_email"},
	{"additional_contact_phone", "", COLUMN_TEXT, "additionalPhone", .field = "additional_contact_phone"},
	{"country_code", "", COLUMN_TEXT, "phoneCountryCode", .field = "country_code"},
	{"gender", "", COLUMN_TEXT, "gender", .field = "gender"},
	{"contacts", "contacts", COLUMN_JSONB},
	{"raw", "", COLUMN_RAW}
};

static const CustomerColumn contact_columns[] = {
	{"id", "id", COLUMN_BIGINT},
	{"customer_id", "leadId", COLUMN_BIGINT},
	{"contact_person", "contactPerson", COLUMN_TEXT},
	{"phone", "phone", COLUMN_TEXT},
	{"email", "email", COLUMN_TEXT},
	{"generation_date", "generationDate", COLUMN_TIME},
	{"cm_id", "cmId", COLUMN_BIGINT},
	{"title", "title", COLUMN_TEXT},
	{"designation", "designation", COLUMN_TEXT},
	{"designation_type", "designationType", COLUMN_TEXT},
	{"division", "division", COLUMN_TEXT},
	{"company_name", "companyName", COLUMN_TEXT},
	{"gender", "gender", COLUMN_TEXT},
	{"age", "age", COLUMN_BIGINT},
	{"marital_status", "maritalStatus", COLUMN_TEXT},
	{"phone_country_code", "phoneCountryCode", COLUMN_TEXT},
	{"additional_phone", "additionalPhone", COLUMN_TEXT},
	{"additional_email", "additionalEmail", COLUMN_TEXT},
	{"landline", "landline", COLUMN_TEXT},
	{"is_primary_contact", "isPrimaryContact", COLUMN_BOOLEAN},
	{"is_active", "isActive", COLUMN_BOOLEAN},
	{"is_guest", "isGuest", COLUMN_BOOLEAN},
	{"is_merge_enable", "isMergeEnable", COLUMN_BOOLEAN},
	{"is_mobile_masked", "isMobileMasked", COLUMN_BOOLEAN},
	{"is_email_masked", "isEmailMasked", COLUMN_BOOLEAN},
	{"parent_contact_id", "parentContactId", COLUMN_BIGINT},
	{"sub_office_id", "subOfficeId", COLUMN_BIGINT},
	{"creator_id", "creatorId", COLUMN_BIGINT},
	{"enquiry_id", "enquiryId", COLUMN_BIGINT},
	{"order_id", "orderId", COLUMN_BIGINT},
	{"raw", "", COLUMN_RAW}
};

/* The type of each kind of column. */
static const Oid column_types[] = {
	[COLUMN_BIGINT] = INT8OID,
	[COLUMN_BOOLEAN] = BOOLOID,
	[COLUMN_NUMERIC] = NUMERICOID,
	[COLUMN_TEXT] = TEXTOID,
	[COLUMN_TIME] = TIMESTAMPTZOID,
	[COLUMN_JSONB] = JSONBOID,
	[COLUMN_RAW] = JSONBOID
};

/* A column of the row type that a reader fills in. */
typedef struct ReaderColumn
{
	const CustomerColumn *def;
	int			key_len;		/* 0: no key */
	int			index;			/* in values and isnull */
} ReaderColumn;

struct KaptureReader
{
	pg_tz	   *zone;
	int			natts;
	int			ncolumns;
	ReaderColumn *columns;		/* in the order in which jsonb keeps keys */
};


/*
 * One value
 */

/* A value's text without blanks around it, palloc'ed; NULL if it has none. */
static char *
value_text(const JsonbValue *value)
{
	const char *start;
	const char *end;

	if (value->type == jbvNumeric)
		return DatumGetCString(DirectFunctionCall1(numeric_out,
												   NumericGetDatum(value->val.numeric)));
	if (value->type != jbvString)
		return NULL;
	start = value->val.string.val;
	end = start + value->val.string.len;
	while (start < end && (unsigned char) *start <= ' ')
		start++;
	while (start < end && (unsigned char) end[-1] <= ' ')
		end--;
	return start < end ? pnstrdup(start, end - start) : NULL;
}

/* A whole number, given as such or as text. */
static bool
read_bigint(const JsonbValue *value, int64 *result)
{
	char	   *text = value_text(value);
	char	   *end;

	if (text == NULL)
		return false;
	errno = 0;
	*result = strtoi64(text, &end, 10);
	if (errno != 0 || end == text)
		return false;
	/* 941.0 is a whole number, too */
	if (*end == '.' && end[1] != '\0')
		end += 1 + strspn(end + 1, "0");
	return *end == '\0';
}

static bool
read_boolean(const JsonbValue *value, bool *result)
{
	char	   *text;

	if (value->type == jbvBool)
	{
		*result = value->val.boolean;
		return true;
	}
	text = value_text(value);
	return text != NULL && parse_bool(text, result);
}

/* A number, perhaps with a fraction; if it is given as text, without an exponent. */
static bool
read_numeric(const JsonbValue *value, Datum *result)
{
	char	   *text;
	size_t		len;

	if (value->type == jbvNumeric)
	{
		*result = NumericGetDatum(value->val.numeric);
		return true;
	}
	text = value_text(value);
	if (text == NULL)
		return false;
	len = strlen(text);
	if (len > CUSTOMER_MAX_NUMBER || strpbrk(text, "eE") != NULL ||
		!IsValidJsonNumber(text, len))
		return false;
	*result = DirectFunctionCall3(numeric_in, CStringGetDatum(text),
								  ObjectIdGetDatum(InvalidOid),
								  Int32GetDatum(-1));
	return true;
}

/* Text as it is given; false if it is nothing but blanks. */
static bool
read_text(const JsonbValue *value, Datum *result)
{
	char	   *text;

	if (value->type == jbvBool)
		text = pstrdup(value->val.boolean ? "true" : "false");
	else
		text = value_text(value);
	if (text == NULL)
		return false;
	if (value->type == jbvString)
		*result = PointerGetDatum(cstring_to_text_with_len(value->val.string.val,
														   value->val.string.len));
	else
		*result = CStringGetTextDatum(text);
	pfree(text);
	return true;
}


/*
 * Times
 */

/*
 * A time as text: "Mar 14, 2021 2:21:11 PM", or another form that PostgreSQL
 * reads, with an offset or without.  Words such as "now" are no times here,
 * nor are names of time zones, whose meaning is a setting of the session.
 */
static bool
time_from_text(const char *text, pg_tz *zone, Datum *result)
{
	char		buffer[MAXDATELEN + MAXDATEFIELDS];
	char	   *field[MAXDATEFIELDS];
	int			ftype[MAXDATEFIELDS];
	int			nfields;
	int			dtype;
	int			offset = 0;
	bool		has_offset = false;
	struct pg_tm tm;
	fsec_t		fsec;
	DateTimeErrorExtra extra;
	Timestamp	when;

	if (ParseDateTime(text, buffer, sizeof(buffer), field, ftype,
					  MAXDATEFIELDS, &nfields) != 0)
		return false;
	for (int i = 0; i < nfields; i++)
	{
		int			value;

		if (ftype[i] == DTK_STRING && DecodeSpecial(i, field[i], &value) == RESERV)
			return false;
		has_offset |= ftype[i] == DTK_TZ;
	}
	for (int i = 0; has_offset && i < nfields; i++)
	{
		/* DecodeDateTime() would take such a field for a zone and raise an error */
		if (ftype[i] == DTK_DATE && !isdigit((unsigned char) field[i][0]))
			return false;
	}
	if (DecodeDateTime(field, ftype, nfields, &dtype, &tm, &fsec,
					   has_offset ? &offset : NULL, &extra) != 0 ||
		dtype != DTK_DATE)
		return false;
	if (!has_offset)
		return kapture_local_to_instant(&tm, fsec, zone, result);
	if (tm2timestamp(&tm, fsec, &offset, &when) != 0)
		return false;
	*result = TimestampTzGetDatum(when);
	return true;
}

/* A number of a calendar object. */
static bool
calendar_number(JsonbContainer *calendar, const char *key, int min, int max,
				int *result)
{
	JsonbValue	value;
	int64		number;

	if (getKeyJsonValueFromContainer(calendar, key, strlen(key), &value) == NULL ||
		!read_bigint(&value, &number) || number < min || number > max)
		return false;
	*result = (int) number;
	return true;
}

/* A calendar object, whose months count from 0. */
static bool
time_from_calendar(JsonbContainer *calendar, pg_tz *zone, Datum *result)
{
	struct pg_tm tm = {0};

	if (!calendar_number(calendar, "year", 1, 9999, &tm.tm_year) ||
		!calendar_number(calendar, "month", 0, MONTHS_PER_YEAR - 1, &tm.tm_mon) ||
		!calendar_number(calendar, "dayOfMonth", 1, 31, &tm.tm_mday) ||
		!calendar_number(calendar, "hourOfDay", 0, HOURS_PER_DAY - 1, &tm.tm_hour) ||
		!calendar_number(calendar, "minute", 0, MINS_PER_HOUR - 1, &tm.tm_min) ||
		!calendar_number(calendar, "second", 0, SECS_PER_MINUTE - 1, &tm.tm_sec))
		return false;
	tm.tm_mon++;
	if (ValidateDate(DTK_DATE_M, false, false, false, &tm) != 0)
		return false;
	return kapture_local_to_instant(&tm, 0, zone, result);
}

static bool
read_time(const JsonbValue *value, pg_tz *zone, Datum *result)
{
	char	   *text;

	if (value->type == jbvBinary)
		return JsonContainerIsObject(value->val.binary.data) &&
			time_from_calendar(value->val.binary.data, zone, result);
	if (value->type != jbvString)
		return false;
	text = value_text(value);
	return text != NULL && time_from_text(text, zone, result);
}


/*
 * One column
 */

/* Reads one value the way its column wants; false: NULL. */
static bool
read_value(const CustomerColumn *def, JsonbValue *value, pg_tz *zone, Datum *result)
{
	int64		number;
	bool		flag;

	switch (def->kind)
	{
		case COLUMN_BIGINT:
			if (!read_bigint(value, &number))
				return false;
			*result = Int64GetDatum(number);
			return true;
		case COLUMN_BOOLEAN:
			if (!read_boolean(value, &flag))
				return false;
			*result = BoolGetDatum(flag);
			return true;
		case COLUMN_NUMERIC:
			return read_numeric(value, result);
		case COLUMN_TEXT:
			return read_text(value, result);
		case COLUMN_TIME:
			return read_time(value, zone, result);
		case COLUMN_JSONB:
			if (value->type != jbvBinary)
				return false;
			*result = JsonbPGetDatum(JsonbValueToJsonb(value));
			return true;
		case COLUMN_RAW:
			break;
	}
	return false;
}


/*
 * Readers
 */

/* Compares keys the way jsonb sorts those of an object. */
static int
reader_compare_keys(const char *a, int a_len, const char *b, int b_len)
{
	if (a_len != b_len)
		return a_len < b_len ? -1 : 1;
	return memcmp(a, b, a_len);
}

static int
reader_compare_columns(const void *a, const void *b)
{
	const ReaderColumn *left = a;
	const ReaderColumn *right = b;

	return reader_compare_keys(left->def->key, left->key_len,
							   right->def->key, right->key_len);
}

/* Reports at "level" that customers or contacts have no such column. */
static void
column_report(int level, bool is_customer, Form_pg_attribute attr, const CustomerColumn *defs, int ndefs)
{
	const char *type = NULL;
	KaptureNearest state;

	kapture_nearest_begin(&state, NameStr(attr->attname));
	for (int i = 0; i < ndefs; i++)
	{
		kapture_nearest_try(&state, defs[i].name);
		if (strcmp(defs[i].name, NameStr(attr->attname)) == 0)
			type = format_type_be(column_types[defs[i].kind]);
	}
	ereport(level,
			(errcode(ERRCODE_FDW_INVALID_COLUMN_NAME),
			 errmsg("Kapture's %s have no column \"%s\" of type %s",
					is_customer ? "customers" : "contacts",
					NameStr(attr->attname),
					format_type_be(attr->atttypid)),
			 type ? errhint("Give the column the type %s.", type) :
			 state.nearest ? errhint("Perhaps you meant the column \"%s\".", state.nearest) :
			 errhint("See the types kapture_customer and kapture_contact.")));
}

/*
 * The column of customers or contacts with this name.  If there is none, or it has
 * another type, reports that at "level", as HV007, and returns NULL.
 */
static const CustomerColumn *
column_find(KaptureRowKind kind, Form_pg_attribute attr, int level)
{
	bool		is_customer = kind == KAPTURE_ROW_CUSTOMER;
	const CustomerColumn *defs = is_customer ? customer_columns : contact_columns;
	int			ndefs = is_customer ? lengthof(customer_columns) : lengthof(contact_columns);

	for (int i = 0; i < ndefs; i++)
	{
		if (strcmp(defs[i].name, NameStr(attr->attname)) == 0 &&
			column_types[defs[i].kind] == attr->atttypid)
			return &defs[i];
	}
	column_report(level, is_customer, attr, defs, ndefs);
	return NULL;
}

/* Are values of a column read?  PostgreSQL computes those of virtual generated columns itself. */
static bool
column_is_read(Form_pg_attribute attr)
{
	return !attr->attisdropped && attr->attgenerated != ATTRIBUTE_GENERATED_VIRTUAL;
}

/*
 * kapture_columns_check
 *		Reports at "level", as HV007, each column of a row type that customers or
 *		contacts do not have, or have with another type.
 */
void
kapture_columns_check(KaptureRowKind kind, TupleDesc desc, int level)
{
	for (int i = 0; i < desc->natts; i++)
	{
		if (column_is_read(TupleDescAttr(desc, i)))
			(void) column_find(kind, TupleDescAttr(desc, i), level);
	}
}

/*
 * kapture_reader_create
 *		Makes a reader of customers or contacts into rows of this type.
 *
 * "timezone" is the account's.  The reader and what it needs are palloc'ed in the
 * current context.  Errors: HV007 if the type has a column that is not in the
 * table above, or with another type.
 */
KaptureReader *
kapture_reader_create(KaptureRowKind kind, TupleDesc desc, const char *timezone)
{
	KaptureReader *reader = palloc(sizeof(KaptureReader));

	reader->zone = kapture_local_zone(timezone);
	reader->natts = desc->natts;
	reader->ncolumns = 0;
	reader->columns = palloc(sizeof(ReaderColumn) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);
		ReaderColumn *column;

		if (!column_is_read(attr))
			continue;
		column = &reader->columns[reader->ncolumns++];
		column->def = column_find(kind, attr, ERROR);
		column->key_len = strlen(column->def->key);
		column->index = i;
	}
	qsort(reader->columns, reader->ncolumns, sizeof(ReaderColumn),
		  reader_compare_columns);
	return reader;
}

/*
 * kapture_columns_sql
 *		All columns with their types, as CREATE TABLE takes them; palloc'ed.
 */
char *
kapture_columns_sql(KaptureRowKind kind)
{
	bool		is_customer = kind == KAPTURE_ROW_CUSTOMER;
	const CustomerColumn *defs = is_customer ? customer_columns : contact_columns;
	int			ndefs = is_customer ? lengthof(customer_columns) : lengthof(contact_columns);
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < ndefs; i++)
		appendStringInfo(&sql, "%s%s %s", i > 0 ? ", " : "",
						 quote_identifier(defs[i].name),
						 format_type_be_qualified(column_types[defs[i].kind]));
	return sql.data;
}

/* Does a statement name the column of a table "c"? */
static bool
column_is_named(const char *sql, const char *name)
{
	size_t		len = strlen(name);

	for (const char *p = strstr(sql, "c."); p != NULL; p = strstr(p + 2, "c."))
	{
		if (strncmp(p + 2, name, len) == 0 && p[2 + len] != '_' && !isalnum((unsigned char) p[2 + len]))
			return true;
	}
	return false;
}

/*
 * kapture_column_keys
 *		The keys of answers (const char *, in the current memory context) for the columns of
 *		customers that a statement names as "c.column", and always the key of the id.
 */
List *
kapture_column_keys(const char *sql)
{
	List	   *keys = list_make1("id");

	for (int i = 0; i < lengthof(customer_columns); i++)
	{
		const CustomerColumn *def = &customer_columns[i];

		if (!column_is_named(sql, def->name))
			continue;
		keys = lappend(keys, unconstify(char *, def->key));
		if (def->contact_key)
			keys = list_concat(keys, list_make2(unconstify(char *, def->contact_key), "isPrimaryContact"));
	}
	return keys;
}

/*
 * kapture_column_field
 *		The field of Add and Update that this column of customers feeds, or
 *		NULL.
 *
 * Errors: HV007 if customers have no such column.
 */
const char *
kapture_column_field(Form_pg_attribute attr)
{
	return column_find(KAPTURE_ROW_CUSTOMER, attr, ERROR)->field;
}

/* Fills in the columns whose keys this object has. */
static void
reader_read_keys(KaptureReader *reader, JsonbContainer *object, Datum *values,
				 bool *isnull)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	value;
	ReaderColumn *column = reader->columns;
	ReaderColumn *end = column + reader->ncolumns;

	/* both are sorted alike: walk along them together */
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		JsonbValue	key;

		if (token != WJB_KEY)
			continue;
		key = value;
		(void) JsonbIteratorNext(&it, &value, true);
		for (; column < end; column++)
		{
			int			order = reader_compare_keys(column->def->key, column->key_len,
													key.val.string.val, key.val.string.len);

			if (order > 0)
				break;
			if (order == 0 && column->key_len > 0)
				isnull[column->index] = !read_value(column->def, &value, reader->zone,
													&values[column->index]);
		}
	}
}

/* The contact that speaks for the customer: the first primary one, or the first. */
static JsonbContainer *
reader_primary_contact(const JsonbValue *customer)
{
	JsonbContainer *contacts = kapture_customer_contacts(customer);
	JsonbContainer *first = NULL;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	contact;

	if (contacts == NULL)
		return NULL;
	it = JsonbIteratorInit(contacts);
	while ((token = JsonbIteratorNext(&it, &contact, true)) != WJB_DONE)
	{
		static const char key[] = "isPrimaryContact";
		JsonbValue	value;
		bool		flag;

		if (token != WJB_ELEM || !kapture_is_object(&contact))
			continue;
		if (getKeyJsonValueFromContainer(contact.val.binary.data, key,
										 strlen(key), &value) != NULL &&
			read_boolean(&value, &flag) && flag)
			return contact.val.binary.data;
		if (first == NULL)
			first = contact.val.binary.data;
	}
	return first;
}

/* Fills in "raw", and from the primary contact the columns that the object itself left NULL. */
static void
reader_read_rest(KaptureReader *reader, JsonbValue *object, Datum *values,
				 bool *isnull)
{
	JsonbContainer *contact = NULL;
	bool		looked = false;

	for (int i = 0; i < reader->ncolumns; i++)
	{
		const CustomerColumn *def = reader->columns[i].def;
		int			index = reader->columns[i].index;
		JsonbValue	value;

		if (def->kind == COLUMN_RAW)
		{
			values[index] = JsonbPGetDatum(JsonbValueToJsonb(object));
			isnull[index] = false;
		}
		if (def->contact_key == NULL || !isnull[index])
			continue;
		if (!looked)
			contact = reader_primary_contact(object);
		looked = true;
		if (contact != NULL &&
			getKeyJsonValueFromContainer(contact, def->contact_key,
										 strlen(def->contact_key), &value) != NULL)
			isnull[index] = !read_value(def, &value, reader->zone, &values[index]);
	}
}

/*
 * kapture_reader_read
 *		Reads one customer or contact, which must be an object (see
 *		kapture_is_object()), into as many values as the type has columns.
 *
 * Values are palloc'ed or point into the object.  No errors but for lack of
 * memory: what cannot be read is NULL.
 */
void
kapture_reader_read(KaptureReader *reader, JsonbValue *object, Datum *values,
					bool *isnull)
{
	memset(values, 0, sizeof(Datum) * reader->natts);
	memset(isnull, true, sizeof(bool) * reader->natts);
	reader_read_keys(reader, object->val.binary.data, values, isnull);
	reader_read_rest(reader, object, values, isnull);
}

/*
 * kapture_reader_set_bigint
 *		Sets one column of a row that was read, if the type has it.
 */
void
kapture_reader_set_bigint(KaptureReader *reader, const char *name, int64 value,
						  Datum *values, bool *isnull)
{
	for (int i = 0; i < reader->ncolumns; i++)
	{
		const ReaderColumn *column = &reader->columns[i];

		if (strcmp(column->def->name, name) == 0)
		{
			values[column->index] = Int64GetDatum(value);
			isnull[column->index] = false;
		}
	}
}


/*
 * Looking into customers
 */

/*
 * kapture_is_object
 *		Is this part of a jsonb value an object?
 */
bool
kapture_is_object(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data);
}

/*
 * kapture_customer_id
 *		The id of a customer (an object); false if it has none that can be read.
 */
bool
kapture_customer_id(const JsonbValue *customer, int64 *id)
{
	JsonbValue	value;

	return getKeyJsonValueFromContainer(customer->val.binary.data, "id", 2,
										&value) != NULL &&
		read_bigint(&value, id);
}

/*
 * kapture_customer_contacts
 *		The array of a customer's contacts, or NULL.  It is part of the object.
 */
JsonbContainer *
kapture_customer_contacts(const JsonbValue *customer)
{
	static const char key[] = "contacts";
	JsonbValue	value;

	if (getKeyJsonValueFromContainer(customer->val.binary.data, key,
									 strlen(key), &value) == NULL ||
		value.type != jbvBinary || !JsonContainerIsArray(value.val.binary.data))
		return NULL;
	return value.val.binary.data;
}
