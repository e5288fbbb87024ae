/*
 * ask.c
 *		Asks Kapture which customers have the phones and emails of rows.
 */
#include "postgres.h"

#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "api/columns.h"
#include "api/reply.h"
#include "fetch/ask.h"
#include "fetch/fetch.h"

/* A Get by the phone or the email of a search. */
typedef struct AskGet
{
	KaptureSearch *search;
	bool		by_phone;
} AskGet;

/*
 * The customer of an answer; 0 if there is none.  A customer with another phone or
 * email, as a server that is out of step returns, does not count.
 */
static int64
ask_customer(const KaptureWindow *window, const AskGet *get)
{
	for (int i = 0; window->list && i < window->list->ncustomers; i++)
	{
		Jsonb	   *customer = kapture_message_customer_parts(window->list, i, kapture_message_wants_match, NULL);
		JsonbValue	object = {.type = jbvBinary};
		KaptureMatch phone;
		KaptureMatch email;
		int64		id;

		object.val.binary.data = &customer->root;
		object.val.binary.len = VARSIZE(customer) - VARHDRSZ;
		if (!JB_ROOT_IS_OBJECT(customer) || !kapture_customer_id(&object, &id))
			continue;
		kapture_message_match_found(customer, get->by_phone ? get->search->phone : NULL,
									get->by_phone ? NULL : get->search->email, &phone, &email);
		if (phone != KAPTURE_MATCH_NO && email != KAPTURE_MATCH_NO)
			return id;
	}
	return 0;
}

/*
 * Fills in the customers of searches (KaptureSearch), with the key that "userid" has
 * for the server, as many at a time as its options allow.  Errors as
 * kapture_fetch_next().
 */
void
kapture_ask(const char *server, Oid userid, List *searches)
{
	List	   *bodies = NIL;
	List	   *gets = NIL;
	MemoryContext scratch;		/* for one answer */
	MemoryContext old = CurrentMemoryContext;
	KaptureFetch *fetch;
	const KaptureWindow *window;
	ListCell   *lc;

	foreach(lc, searches)
	{
		KaptureSearch *search = lfirst(lc);

		for (int i = 0; i < 2; i++)
		{
			const char *value = i == 0 ? search->phone : search->email;
			AskGet	   *get;

			if (value == NULL)
				continue;
			get = palloc(sizeof(AskGet));
			get->search = search;
			get->by_phone = i == 0;
			gets = lappend(gets, get);
			bodies = lappend(bodies, kapture_fetch_get_body(0, i == 0 ? value : NULL, i == 0 ? NULL : value));
		}
	}
	if (bodies == NIL)
		return;
	fetch = kapture_fetch_gets(server, userid, bodies);
	scratch = AllocSetContextCreate(old, "kapture answer", ALLOCSET_DEFAULT_SIZES);
	while ((window = kapture_fetch_next(fetch)) != NULL)
	{
		AskGet	   *get = list_nth(gets, window->number);

		MemoryContextSwitchTo(scratch);
		*(get->by_phone ? &get->search->by_phone : &get->search->by_email) = ask_customer(window, get);
		MemoryContextSwitchTo(old);
		MemoryContextReset(scratch);
	}
	MemoryContextDelete(scratch);
}

/*
 * Returns a message about a search whose phone and email belong to two customers, in
 * the current memory context.
 */
char *
kapture_ask_conflict(const KaptureSearch *search)
{
	return psprintf("the phone belongs to Kapture customer " INT64_FORMAT ", the email to Kapture customer " INT64_FORMAT,
					search->by_phone, search->by_email);
}
