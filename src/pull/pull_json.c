/*
 * pull_json.c
 *		kapture_pull(): a pull as Kapture's own JSON, of any length.
 *
 * A range of one window is one request, whose answer is returned as it is.  The
 * customers of a longer range are put together as if one answer had held them.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "api/argument.h"
#include "api/direct_call.h"
#include "api/error.h"
#include "api/option.h"
#include "api/reply.h"
#include "base/compat.h"
#include "fetch/fetch.h"

/* Customers of several windows put together. */
typedef struct PullMerge
{
	JsonbInState state;
	bool		somebody;
} PullMerge;

PG_FUNCTION_INFO_V1(kapture_pull);

/* Sets a value to a string. */
static void
pull_set_string(JsonbValue *value, char *text)
{
	value->type = jbvString;
	value->val.string.val = text;
	value->val.string.len = strlen(text);
}

static void
pull_merge_begin(PullMerge *merge)
{
	JsonbValue	key;

	memset(merge, 0, sizeof(*merge));
	pushJsonbValue(&merge->state, WJB_BEGIN_OBJECT, NULL);
	pull_set_string(&key, "message");
	pushJsonbValue(&merge->state, WJB_KEY, &key);
	pushJsonbValue(&merge->state, WJB_BEGIN_ARRAY, NULL);
}

/* Takes over the customers of a window that have not come before. */
static void
pull_merge_window(PullMerge *merge, const KaptureWindow *window)
{
	for (int i = 0; i < window->list->ncustomers; i++)
	{
		Jsonb	   *customer = kapture_window_customer(window, i);
		JsonbValue	value;

		if (customer == NULL)
			continue;
		if (JB_ROOT_IS_SCALAR(customer))
			(void) JsonbExtractScalar(&customer->root, &value);
		else
		{
			value.type = jbvBinary;
			value.val.binary.data = &customer->root;
			value.val.binary.len = VARSIZE(customer) - VARHDRSZ;
		}
		pushJsonbValue(&merge->state, WJB_ELEM, &value);
	}
	merge->somebody = true;
}

static Jsonb *
pull_merge_end(PullMerge *merge)
{
	JsonbValue	value;

	pushJsonbValue(&merge->state, WJB_END_ARRAY, NULL);
	pull_set_string(&value, "status");
	pushJsonbValue(&merge->state, WJB_KEY, &value);
	pull_set_string(&value, "success");
	pushJsonbValue(&merge->state, WJB_VALUE, &value);
	pushJsonbValue(&merge->state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(merge->state.result);
}

/*
 * Fetches all windows, and puts them together.  Windows share the second
 * between them, so that nobody is lost there; customers that come twice are
 * taken once.  If no window has customers, the last window's answer is returned;
 * a refusal ends the pull and is returned as it is.
 */
static Jsonb *
pull_windows(const char *server, Timestamp start, Timestamp end)
{
	KaptureFetch *fetch = kapture_fetch_pull(server, GetUserId(), start, end);
	const KaptureWindow *window;
	PullMerge	merge;
	Jsonb	   *nobody = NULL;

	kapture_fetch_keep_answers(fetch);
	pull_merge_begin(&merge);
	while ((window = kapture_fetch_next(fetch)) != NULL)
	{
		if (window->list)
		{
			if (window->list->naltered > 0)
				kapture_complaint_altered(server, window->list->altered, window->list->naltered);
			pull_merge_window(&merge, window);
			continue;
		}
		if (nobody)
			pfree(nobody);
		nobody = DatumGetJsonbPCopy(JsonbPGetDatum(window->answer));
		if (window->refused)
			return nobody;
	}
	return merge.somebody ? pull_merge_end(&merge) : nobody;
}

/*
 * kapture_pull(start_date timestamp, end_date timestamp, server name)
 *		returns jsonb
 *
 * Times are the account's local time.  An end_date at midnight means all of
 * that day, as a date without time does to Kapture.  Errors: 22004, 22008 and
 * 22023 bad arguments; those of kapture_server_get(), kapture_call_post() and
 * kapture_fetch_next().
 */
Datum
kapture_pull(PG_FUNCTION_ARGS)
{
	Timestamp	start;
	Timestamp	end;
	const char *name;
	const KaptureServer *server;

	kapture_argument_range(fcinfo, &start, &end);
	kapture_argument_check_null(fcinfo, 2, "server");
	name = NameStr(*PG_GETARG_NAME(2));
	server = kapture_server_get(name, GetUserId());
	if (server->pull_paged || end - start > server->pull_window * USECS_PER_SEC)
		PG_RETURN_JSONB_P(pull_windows(name, start, end));
	PG_RETURN_JSONB_P(kapture_call_post(server, KAPTURE_API_PULL, kapture_fetch_pull_body(start, end), NULL));
}
