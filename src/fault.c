/*
 * fault.c
 *		Fault points: places where the tests have errors raised.
 *
 * Files in the data directory tell, and are told:
 *
 *	kapture_fault			a line "NAME once|always [KEY]": raise an error where
 *							NAME is reached, in a background process, with KEY, if
 *							given, as the row's key or among the statement's arguments
 *	kapture_fault_fired		a line for each error that was raised
 *	kapture_fault_reached	names of points that were reached, some twice
 *	kapture_fault_points	names of all points that there are
 *
 * A name is that of file, function, and label or line.
 */
#include "postgres.h"

#include "fault.h"

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

#include "compat.h"

/* The limits of the section that KAPTURE_FAULT_HERE() puts points into. */
extern const KaptureFaultPoint __start_kapture_faults[] __attribute__((visibility("hidden")));
extern const KaptureFaultPoint __stop_kapture_faults[] __attribute__((visibility("hidden")));

#define FAULT_MAX_POINTS	1024

static bool fault_reached[FAULT_MAX_POINTS];
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
	char		name[256];

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

/* A point that is armed: is it this one, and for which key (""; any)? */
static bool
fault_is_armed(const char *name, bool *once, char *key, Size size)
{
	FILE	   *file = fopen("kapture_fault", "r");
	char		armed[256] = "";
	char		how[16] = "";
	char		rest[64] = "";

	if (file == NULL)
		return false;
	(void) fscanf(file, "%255s %15s %63s", armed, how, rest);
	fclose(file);
	*once = strcmp(how, "once") == 0;
	strlcpy(key, rest, size);
	return strcmp(armed, name) == 0;
}

static void
fault_raise(const char *name, bool once)
{
	/* of two processes, one is to have it */
	if (once && unlink("kapture_fault") != 0)
		return;
	fault_append("kapture_fault_fired", name);
	ereport(ERROR,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("fault point \"%s\"", name)));
}

/* Notes that a point is reached; returns whether it is armed. */
static bool
fault_check(const KaptureFaultPoint *point, char *name, bool *once, char *key)
{
	int			i = point - __start_kapture_faults;

	if (!AmBackgroundWorkerProcess())
		return false;
	fault_list();
	fault_name(point, name, 256);
	if (i < FAULT_MAX_POINTS && !fault_reached[i])
	{
		fault_reached[i] = true;
		fault_append("kapture_fault_reached", name);
	}
	return fault_is_armed(name, once, key, 64);
}

/*
 * To be called where a point is, about a row with this key (NULL: about none).
 * Raises an error if it is armed.
 */
void
kapture_fault_reach(const KaptureFaultPoint *point, const char *row_key)
{
	char		name[256];
	char		key[64];
	bool		once;

	if (fault_check(point, name, &once, key) &&
		(key[0] == '\0' || (row_key && strcmp(key, row_key) == 0)))
		fault_raise(name, once);
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

/*
 * Likewise, about a statement with these arguments.
 */
void
kapture_fault_reach_statement(const KaptureFaultPoint *point, int nargs, const Oid *types,
							  const Datum *values, const char *nulls)
{
	char		name[256];
	char		key[64];
	bool		once;
	bool		hit;

	if (!fault_check(point, name, &once, key))
		return;
	hit = key[0] == '\0';
	for (int i = 0; i < nargs && !hit && values; i++)
		hit = (nulls == NULL || nulls[i] != 'n') && fault_argument_is(types[i], values[i], key);
	if (hit)
		fault_raise(name, once);
}

/*
 * Likewise, about a prepared statement, which is returned.
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
