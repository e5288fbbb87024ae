/*
 * unit.c
 *		Runs the checks, and writes what they find as TAP to standard output.
 *
 * It is loaded together with the extension's objects into a single-user
 * backend: no server runs, and what is checked is the code as it is, with
 * PostgreSQL's own memory, JSON and time zones.
 */
#include "unit.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

PG_FUNCTION_INFO_V1(kapture_units);

static int	unit_number = 0;

/* One check. */
void
unit_ok(bool ok, const char *format,...)
{
	char		name[1024];
	va_list		args;

	va_start(args, format);
	vsnprintf(name, sizeof(name), format, args);
	va_end(args);
	printf("%s %d - %s\n", ok ? "ok" : "not ok", ++unit_number, name);
}

void
unit_is_int(int64 got, int64 expected, const char *name)
{
	unit_ok(got == expected, "%s", name);
	if (got != expected)
		printf("#   got " INT64_FORMAT ", expected " INT64_FORMAT "\n", got, expected);
}

void
unit_is_text(const char *got, const char *expected, const char *name)
{
	bool		same = got == expected || (got && expected && strcmp(got, expected) == 0);

	unit_ok(same, "%s", name);
	if (!same)
		printf("#   got \"%s\", expected \"%s\"\n", got ? got : "(null)", expected ? expected : "(null)");
}

/* A time without a zone, from its text. */
Timestamp
unit_time(const char *text)
{
	return DatumGetTimestamp(DirectFunctionCall3(timestamp_in, CStringGetDatum(text),
												 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

/* Are they the same, instants as UTC shows them? */
void
unit_is_time(int64 got, const char *expected, const char *name)
{
	char	   *text = DatumGetCString(DirectFunctionCall1(timestamp_out, TimestampGetDatum(got)));

	unit_is_text(text, expected, name);
}

/* kapture_units() returns void */
Datum
kapture_units(PG_FUNCTION_ARGS)
{
	unit_dialect();
	unit_digest();
	unit_duration();
	unit_identity();
	unit_keys();
	unit_limiter();
	unit_local_time();
	unit_pacing();
	unit_refusals();
	unit_reply();
	unit_request_pool();
	unit_rules();
	unit_share();
	unit_task();
	unit_url();
	unit_version();
	unit_watermark();
	printf("1..%d\n", unit_number);
	fflush(stdout);
	PG_RETURN_VOID();
}
