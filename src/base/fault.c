/*
 * fault.c
 *		Fault points: places where the tests have errors raised.
 *
 * Files in the data directory arm them and report them:
 *
 *	kapture_fault			a line "NAME once|always|leak [KEY]": raise an error where
 *							NAME is reached, in a background process, or have the
 *							current memory context grow by 64 MB.  With KEY, only
 *							if that is the row's key or among the statement's
 *							arguments; "#N" is the attachment with that id.
 *	kapture_fault_cause		a second file like that, for another point
 *	kapture_fault_fired		a line for each error that was raised
 *	kapture_fault_trace		"KEY #N": note the points that are reached in
 *	kapture_fault_reached	lines "NAME row|table|all": are they about KEY, or #N?
 *	kapture_fault_points	names of all points that there are
 *
 * A name is that of file, function, and label or line.
 */
#include "postgres.h"

#include "base/fault.h"

#ifdef KAPTURE_FAULT_POINTS

#undef SPI_execute
#undef SPI_execute_with_args
#undef SPI_prepare_cursor
#undef SPI_execute_plan
#undef SPI_cursor_open
#undef SPI_cursor_fetch

#include <unistd.h>

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "base/compat.h"

/* The limits of the section that KAPTURE_FAULT_HERE() puts points into. */
extern const KaptureFaultPoint __start_kapture_faults[] __attribute__((visibility("hidden")));
extern const KaptureFaultPoint __stop_kapture_faults[] __attribute__((visibility("hidden")));

#define FAULT_KEY_LEN	64
#define FAULT_NAME_LEN	256
#define FAULT_LEAK		(64 * 1024 * 1024)

/* What a point is about: a row, or a statement with its arguments. */
typedef struct FaultSubject
{
	const char *row_key;
	int			nargs;
	const Oid  *types;
	const Datum *values;
	const char *nulls;
} FaultSubject;

static bool fault_listed = false;

static void
fault_name(const KaptureFaultPoint *point, char *name, Size size)
{
	const char *file = strrchr(point->file, '/');

	file = file ? file + 1 : point->file;
	if (point->label)
		snprintf(name, size, "%s:%s:%s", file, point->function, point->label);
	else
		snprintf(name, size, "%s:%s:%d", file, point->function, (int) point->line);
	for (char *p = name; *p; p++)
	{
		if (*p == ' ')
			*p = '_';
	}
}

static void
fault_append(const char *path, const char *line)
{
	FILE	   *file = fopen(path, "a");

	if (file == NULL)
		return;
	fprintf(file, "%s\n", line);
	fclose(file);
}

/* Lists all points, once. */
static void
fault_list(void)
{
	FILE	   *file;
	char		name[FAULT_NAME_LEN];

	if (fault_listed)
		return;
	fault_listed = true;
	file = fopen("kapture_fault_points.new", "w");
	if (file == NULL)
		return;
	for (const KaptureFaultPoint *p = __start_kapture_faults; p < __stop_kapture_faults; p++)
	{
		fault_name(p, name, sizeof(name));
		fprintf(file, "%s\n", name);
	}
	fclose(file);
	(void) rename("kapture_fault_points.new", "kapture_fault_points");
}

/* Is a key among the elements of an array? */
static bool
fault_array_has(Datum array, Oid type, const char *key)
{
	Datum	   *elems;
	bool	   *nulls;
	int			n;
	bool		found = false;

	if (type == TEXTOID)
		deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &elems, &nulls, &n);
	else
		deconstruct_array(DatumGetArrayTypeP(array), INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &elems, &nulls, &n);
	for (int i = 0; i < n && !found; i++)
	{
		if (!nulls[i])
			found = type == TEXTOID ? strcmp(TextDatumGetCString(elems[i]), key) == 0 :
				DatumGetInt64(elems[i]) == strtoll(key, NULL, 10);
	}
	return found;
}

static bool
fault_argument_is(Oid type, Datum value, const char *key)
{
	switch (type)
	{
		case INT4OID:
			return key[0] == '#' && DatumGetInt32(value) == atoi(key + 1);
		case TEXTOID:
			return strcmp(TextDatumGetCString(value), key) == 0;
		case INT8OID:
			return DatumGetInt64(value) == strtoll(key, NULL, 10);
		case TEXTARRAYOID:
			return fault_array_has(value, TEXTOID, key);
		case INT8ARRAYOID:
			return fault_array_has(value, INT8OID, key);
		default:
			return false;
	}
}

/* Is a point about a row or attachment? */
static bool
fault_is_about(const FaultSubject *subject, const char *key)
{
	if (subject->row_key && strcmp(subject->row_key, key) == 0)
		return true;
	for (int i = 0; i < subject->nargs && subject->values; i++)
	{
		/* an attachment's id is the first argument */
		if ((i == 0 || key[0] != '#') && (subject->nulls == NULL || subject->nulls[i] != 'n') &&
			fault_argument_is(subject->types[i], subject->values[i], key))
			return true;
	}
	return false;
}

/* Reads up to three words of a file; returns how many there are. */
static int
fault_read(const char *path, char *a, char *b, char *c)
{
	FILE	   *file = fopen(path, "r");
	int			n;

	if (file == NULL)
		return 0;
	n = fscanf(file, "%255s %63s %63s", a, b, c);
	fclose(file);
	return n;
}

/* Notes that a point is reached. */
static void
fault_trace(const char *name, const FaultSubject *subject)
{
	char		key[FAULT_NAME_LEN];
	char		attachment[FAULT_KEY_LEN];
	char		unused[FAULT_KEY_LEN];

	if (fault_read("kapture_fault_trace", key, attachment, unused) < 2)
		return;
	fault_append("kapture_fault_reached",
				 psprintf("%s %s", name, fault_is_about(subject, key) ? "row" :
						  fault_is_about(subject, attachment) ? "table" : "all"));
}

/* Raises an error, or leaks, if a point is armed in a file. */
static void
fault_raise(const char *path, const char *name, const FaultSubject *subject)
{
	char		armed[FAULT_NAME_LEN];
	char		how[FAULT_KEY_LEN];
	char		key[FAULT_KEY_LEN];
	int			n = fault_read(path, armed, how, key);

	if (n < 2 || strcmp(armed, name) != 0 || (n > 2 && !fault_is_about(subject, key)))
		return;
	/* of two processes, only one is to raise the error */
	if (strcmp(how, "once") == 0 && unlink(path) != 0)
		return;
	fault_append("kapture_fault_fired", name);
	if (strcmp(how, "leak") == 0)
	{
		(void) palloc(FAULT_LEAK);
		return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("fault point \"%s\"", name)));
}

static void
fault_reach(const KaptureFaultPoint *point, const FaultSubject *subject)
{
	char		name[FAULT_NAME_LEN];

	if (!AmBackgroundWorkerProcess())
		return;
	fault_list();
	fault_name(point, name, sizeof(name));
	fault_trace(name, subject);
	fault_raise("kapture_fault", name, subject);
	fault_raise("kapture_fault_cause", name, subject);
}

/*
 * To be called where a point is, about a row with this key (NULL: about none).
 * Raises an error if it is armed.
 */
void
kapture_fault_reach(const KaptureFaultPoint *point, const char *row_key)
{
	FaultSubject subject = {.row_key = row_key};

	fault_reach(point, &subject);
}

/*
 * As kapture_fault_reach(), about a statement with these arguments.
 */
void
kapture_fault_reach_statement(const KaptureFaultPoint *point, int nargs, const Oid *types,
							  const Datum *values, const char *nulls)
{
	FaultSubject subject = {.nargs = nargs, .types = types, .values = values, .nulls = nulls};

	fault_reach(point, &subject);
}

/*
 * As kapture_fault_reach(), about a prepared statement, which is returned.
 */
SPIPlanPtr
kapture_fault_reach_plan(const KaptureFaultPoint *point, SPIPlanPtr plan,
						 const Datum *values, const char *nulls)
{
	Oid			types[FUNC_MAX_ARGS];
	int			nargs = SPI_getargcount(plan);

	for (int i = 0; i < nargs; i++)
		types[i] = SPI_getargtypeid(plan, i);
	kapture_fault_reach_statement(point, nargs, types, values, nulls);
	return plan;
}

#endif							/* KAPTURE_FAULT_POINTS */
